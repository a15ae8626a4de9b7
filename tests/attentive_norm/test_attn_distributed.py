"""Two processes on CPUs (gloo): together they are one process on the whole batch."""

import pytest
import torch

from helpers.tool import job
from paca_mm.checkpoint import read_checkpoint

#: Three images and one, of different sizes: the statistics are those of all positions, and the
#: attention's norm would refuse the single image by itself.
UNEVEN = """
import torch
import torch.distributed as dist
from paca_mm.models import AttnBN, AttnSyncBN

dist.init_process_group('gloo')
rank = dist.get_rank()
torch.manual_seed(0)
x = torch.randn(4, 6, 5, 4, dtype=torch.float64)
whole = AttnBN(6, 3).double()
norm = AttnSyncBN(6, 3).double()
norm.load_state_dict(whole.state_dict())
part = slice(0, 3) if rank == 0 else slice(3, 4)

full = x.clone().requires_grad_()
expected = whole(full)
expected.pow(3).sum().backward()
own = x[part].clone().requires_grad_()
found = norm(own)
found.pow(3).sum().backward()
torch.testing.assert_close(found, expected[part])
torch.testing.assert_close(own.grad, full.grad[part])
for (key, p), q in zip(norm.named_parameters(), whole.parameters()):
    dist.all_reduce(p.grad)
    torch.testing.assert_close(p.grad, q.grad, msg=key)
for key, value in norm.state_dict().items():
    torch.testing.assert_close(value, whole.state_dict()[key], msg=key)

sizes = torch.randn(2, 6, 5 + 3 * rank, 4, dtype=torch.float64)
gathered = [torch.empty(2, 6, 5 + 3 * r, 4, dtype=torch.float64) for r in range(2)]
dist.all_gather_object(gathered, sizes)
values = torch.cat([g.transpose(0, 1).flatten(1) for g in gathered], 1)
norm.reset_running_stats()
norm.momentum = 1.0
norm(sizes)
torch.testing.assert_close(norm.running_mean, values.mean(1))
torch.testing.assert_close(norm.running_var, values.var(1))
"""

#: The Runner's usual conversion, ``sync_bn='torch'``, and DDP, whose gradients are averages.
STEP = """
import sys
import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, MODELS
from paca_mm.engine.distributed import prepare_cpu
from paca_mm.engine.runner import SafeRunner
from paca_mm.models import AttnBN, AttnSyncBN

@MODELS.register_module()
class Square(BaseModel):
    def __init__(self):
        super().__init__()
        self.body = torch.nn.Sequential(
            torch.nn.Conv2d(3, 8, 3, 2), AttnBN(8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 4, 3))
    def forward(self, inputs, data_samples=None, mode='tensor'):
        return {'loss': (self.body(inputs) ** 2).mean()}

@DATASETS.register_module()
class Images(torch.utils.data.Dataset):
    def __init__(self):
        self.images = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    def __len__(self):
        return 4
    def __getitem__(self, i):
        return dict(inputs=self.images[i])

launcher, work_dir, batch = sys.argv[1], sys.argv[2], int(sys.argv[3])
cfg = Config(dict(
    model=dict(type='Square'), work_dir=work_dir, launcher=launcher, sync_bn='torch',
    train_dataloader=dict(batch_size=batch, num_workers=0, dataset=dict(type='Images'),
                          sampler=dict(type='DefaultSampler', shuffle=False),
                          collate_fn=dict(type='default_collate')),
    train_cfg=dict(by_epoch=True, max_epochs=3),
    optim_wrapper=dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.1)),
    randomness=dict(seed=0), default_hooks=dict(checkpoint=dict(type='paca_mm.SafeCheckpointHook')),
))
prepare_cpu(cfg, launcher)
runner = SafeRunner.from_cfg(cfg)
norms = [type(m) for m in runner.model.modules() if isinstance(m, AttnBN)]
assert norms == [AttnSyncBN if launcher == 'pytorch' else AttnBN], norms
runner.train()
"""


@pytest.mark.slow
def test_uneven_batches_of_two_processes_are_one_batch(tmp_path):
    (tmp_path / 'uneven.py').write_text(UNEVEN)
    done = job(2, 'uneven.py', cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
def test_training_by_two_processes_is_training_by_one(tmp_path):
    (tmp_path / 'step.py').write_text(STEP)
    done = job(2, 'step.py', 'pytorch', 'two', 2, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    done = job(1, 'step.py', 'none', 'one', 4, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = (
        read_checkpoint(tmp_path / name / 'epoch_3.pth')['state_dict'] for name in ('one', 'two')
    )
    assert one.keys() == two.keys()
    for key, value in one.items():
        torch.testing.assert_close(two[key], value, rtol=1e-4, atol=1e-6, msg=key)
