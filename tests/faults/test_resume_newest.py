"""``--resume`` takes the newest checkpoint that is good, and says why it passes over the others."""

import os
import re
import shutil
from typing import ClassVar

import pytest
import torch
import torch.nn as nn
from mmengine.model import BaseModel
from torch.utils.data import Dataset

from helpers.tool import forget_runs
from paca_mm.checkpoint import read_checkpoint
from paca_mm.checkpoint.latest import read_latest
from paca_mm.checkpoint.run import check_optimizer
from paca_mm.engine.newest import go_on_from_newest
from paca_mm.engine.runner import SafeRunner
from paca_mm.errors import UserError


class Data(Dataset):
    metainfo: ClassVar = dict(classes=('cat', 'dog'))

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return (torch.full((3,), float(index)),)


class Model(BaseModel):
    def __init__(self, width=2):
        super().__init__()
        self.layer = nn.Linear(3, width)

    def forward(self, inputs, mode='tensor'):
        return dict(loss=self.layer(inputs).square().mean())


def runner(folder, epochs=3, width=2, classes=None, **settings):
    """A run that is built and not yet started."""
    forget_runs()
    loader = dict(
        dataset=Data(),
        batch_size=2,
        num_workers=0,
        sampler=dict(type='DefaultSampler', shuffle=True),
        collate_fn=dict(type='default_collate'),
    )
    made = SafeRunner(
        model=Model(width),
        work_dir=str(folder),
        train_dataloader=loader,
        train_cfg=dict(by_epoch=True, max_epochs=epochs),
        default_hooks=dict(checkpoint=dict(type='paca_mm.SafeCheckpointHook', interval=1)),
        experiment_name=str(folder).replace('/', '_'),
        **{'randomness': dict(seed=7), 'optim_wrapper': adam(), **settings},
    )
    if classes:
        made.cfg.train_dataloader = dict(dataset=dict(type='x', metainfo=dict(classes=classes)))
    return made


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp('trained')
    runner(folder).train()
    return folder


@pytest.fixture
def work(trained, tmp_path):
    """Its three checkpoints, in a folder of their own."""
    folder = tmp_path / 'work'
    folder.mkdir()
    for epoch in (1, 2, 3):
        shutil.copy2(trained / f'epoch_{epoch}.pth', folder)
        os.utime(folder / f'epoch_{epoch}.pth', (epoch, epoch))
    (folder / 'last_checkpoint').write_text(str(folder / 'epoch_3.pth'))
    return folder


def rewritten(file, change):
    """The checkpoint, with a change made to what it holds."""
    content = torch.load(file, weights_only=False)
    torch.save(change(content) or content, file)


def cut(file):
    file.write_bytes(file.read_bytes()[:-100])


def without_directory(file):
    """A zip archive whose list of contents is no list."""
    file.write_bytes(file.read_bytes().replace(b'PK\x01\x02', b'PK\x00\x00'))


def folder_instead(file):
    file.unlink()
    file.mkdir()


def part(name, value):
    """A change that puts a value in place of a part, ``'meta.iter'`` say."""

    def change(content):
        *path, last = name.split('.')
        for key in path:
            content = content[key]
        content[last] = value

    return lambda file: rewritten(file, change)


def ruined(name):
    def change(content):
        found = content[name] if name == 'state_dict' else content[name]['state'][0]
        key = next(key for key, value in found.items() if value.dim())
        found[key] = found[key].clone()
        found[key].view(-1)[0] = float('nan')

    return lambda file: rewritten(file, change)


def other_model(file):
    torch.save(read_checkpoint(file) | {'state_dict': Model(5).state_dict()}, file)


@pytest.mark.parametrize(
    ('damage', 'why'),
    [
        (cut, 'is torn: .* the end of the archive is missing'),
        (lambda file: file.write_bytes(b''), 'is empty'),
        (without_directory, 'cannot be read as a checkpoint'),
        (folder_instead, 'is a folder'),
        (lambda file: torch.save(None, file), 'holds weights only'),
        (lambda file: torch.save([1], file), 'holds weights only'),
        (lambda file: torch.save({'state_dict': Model().state_dict()}, file), 'weights only'),
        (part('meta', None), 'its meta is missing'),
        (part('meta', [1]), 'its meta is of the kind list'),
        (part('meta.iter', 'six'), 'its meta.iter is of the kind str'),
        (part('meta.epoch', -1), 'its meta.epoch is of the kind int'),
        (part('meta.seed', 'x'), 'its meta.seed is of the kind str'),
        (part('meta.data', {'done': None}), 'its meta.data is of the kind dict'),
        (part('message_hub', 3), 'its message_hub is of the kind int'),
        (part('message_hub.log_scalars', None), 'its message_hub.log_scalars is missing'),
        (part('optimizer', 'Adam'), 'its optimizer is of the kind str'),
        (part('optimizer', {}), 'its optimizer is of the kind dict'),
        (part('optimizer.param_groups', None), 'its optimizer is of the kind dict'),
        (part('param_schedulers', 4), 'its param_schedulers is of the kind int'),
        (part('state_dict', 4), 'its state_dict is of the kind int'),
        (part('state_dict', {}), 'no state dict'),
        (other_model, r'is not for this model.*layer.weight \(5, 3\) for \(2, 3\)'),
        (ruined('state_dict'), '1 of its 2 tensors holds NaN'),
        (
            ruined('optimizer'),
            r'1 tensors of its optimizer hold NaN or infinity \(optimizer.state.0',
        ),
    ],
)
def test_what_is_no_good_is_passed_over_and_the_one_before_it_taken(work, damage, why):
    damage(work / 'epoch_3.pth')
    made = runner(work)
    said = []
    made.logger.warning = said.append
    go_on_from_newest(made)
    assert (made._load_from, made._resume) == (str(work / 'epoch_2.pth'), True)
    assert len(said) == 1
    assert re.match(rf'passed over: {work}/epoch_3\.pth .*{why}', said[0]), said
    assert '\n' not in said[0]


@pytest.mark.parametrize(
    ('content', 'why'),
    [
        (None, None),
        (b'', 'it is empty'),
        (b'\xff\xfe\x00', "'utf-8' codec can't decode"),
        (b'a/epoch_9.pth\nepoch_8.pth', 'which is not there'),
        (b'x' * 10000, 'which is not there'),
        (b'epoch_2\0.pth', 'which is not there'),
        ('folder', 'it is no file'),
        ('pipe', 'it is no file'),
        (b'/elsewhere/epoch_3.pth\n\n', None),
    ],
)
@pytest.mark.timeout(60)  # who opens the pipe waits for ever
def test_an_odd_last_checkpoint_is_named_and_the_newest_taken(work, content, why):
    named = work / 'last_checkpoint'
    named.unlink()
    if content == 'folder':
        named.mkdir()
    elif content == 'pipe':
        os.mkfifo(named)
    elif content is not None:
        named.write_bytes(content)
    found = read_latest(work)
    assert found.file == work / 'epoch_3.pth'
    assert found.refused == []
    assert (why in found.odd) if why else found.odd == ''


def test_a_resumed_run_trains_on_and_is_the_one_that_was_never_stopped(work, trained, capfd):
    cut(work / 'epoch_3.pth')
    resumed = runner(work, resume=True)  # as a host's train.py --resume has it
    resumed.train()
    assert resumed.epoch == 3
    assert f'going on from {work}/epoch_2.pth' in capfd.readouterr().out
    expected = read_checkpoint(trained / 'epoch_3.pth')['state_dict']
    found = read_checkpoint(work / 'epoch_3.pth')['state_dict']
    assert all(torch.equal(found[key], value) for key, value in expected.items())


def test_a_longer_schedule_is_the_same_run(work):
    made = runner(work, epochs=5)
    go_on_from_newest(made)
    assert made._load_from == str(work / 'epoch_3.pth')


def test_the_seed_of_the_run_is_taken_where_the_config_has_none(work):
    made = runner(work, randomness=dict(seed=None))
    go_on_from_newest(made)
    assert made.seed == 7


def test_other_classes_are_another_run(work):
    made = runner(work, classes=('dog', 'cat'))
    with pytest.raises(UserError, match='trained on the classes cat, dog; the config has dog, cat'):
        go_on_from_newest(made)
    go_on_from_newest(runner(work, classes=('cat', 'dog')))


def test_no_run_is_begun_over_checkpoints_of_another(work):
    message = (
        r'(?s)none of the checkpoints in .* can be resumed:.*epoch_3.*epoch_2.*epoch_1.*--work-dir'
    )
    with pytest.raises(UserError, match=message):
        go_on_from_newest(runner(work, width=5))


@pytest.mark.parametrize('odd', [False, True])
def test_without_any_checkpoint_the_run_begins(tmp_path, capfd, odd):
    if odd:
        (tmp_path / 'last_checkpoint').write_bytes(b'\xff')
    made = runner(tmp_path, load_from='weights.pth')
    go_on_from_newest(made)
    assert (made._resume, made._load_from) == (False, 'weights.pth')
    assert 'nothing to resume in' in capfd.readouterr().out


def test_a_hook_with_a_folder_of_its_own(work, tmp_path):
    elsewhere = tmp_path / 'elsewhere'
    elsewhere.mkdir()
    for file in work.glob('*.pth'):
        shutil.move(file, elsewhere / file.name)
    (work / 'last_checkpoint').write_text(str(elsewhere / 'epoch_3.pth'))
    cut(elsewhere / 'epoch_3.pth')
    assert read_latest(work).file == elsewhere / 'epoch_2.pth'


def test_another_folder_of_the_run_may_have_a_later_one(work, tmp_path):
    other = tmp_path / 'other'
    other.mkdir()
    shutil.move(work / 'epoch_3.pth', other / 'epoch_3.pth')
    assert read_latest(work, elsewhere=[other]).file == other / 'epoch_3.pth'
    assert read_latest(other, elsewhere=[work, tmp_path]).file == other / 'epoch_3.pth'
    cut(other / 'epoch_3.pth')
    found = read_latest(work, elsewhere=[other])
    assert (found.file, len(found.refused)) == (work / 'epoch_2.pth', 1)


@pytest.mark.parametrize(('last', 'newer'), [('iter_57', 'epoch_3'), ('epoch_2', 'iter_9')])
def test_epochs_and_iterations_in_one_folder_go_by_their_time(tmp_path, last, newer):
    for seconds, name in enumerate((last, newer)):
        torch.save({'state_dict': Model().state_dict()}, tmp_path / f'{name}.pth')
        os.utime(tmp_path / f'{name}.pth', (10 * seconds, 10 * seconds))
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / f'{last}.pth'))
    os.utime(tmp_path / 'last_checkpoint', (5, 5))
    assert read_latest(tmp_path).file.stem == newer


def sgd(**settings):
    return dict(optimizer=dict(type='SGD', lr=0.01, momentum=0.9), **settings)


def adam(**settings):
    return dict(optimizer=dict(type='Adam', lr=0.01), **settings)


@pytest.mark.parametrize(
    ('optimizer', 'message'),
    [
        (
            sgd(),
            'its optimizer is of another kind: it has the settings amsgrad, betas, eps, and that of the '
            'config dampening, momentum, nesterov',
        ),
        (
            adam(paramwise_cfg=dict(bias_lr_mult=2)),
            'its optimizer has 1 group(s) of parameters, and that of the config 2',
        ),
    ],
)
@pytest.mark.parametrize('named', [True, False])
def test_another_optimizer(work, optimizer, message, named):
    """PyTorch's ValueError does not say what to do; of another kind it fails in the first step."""
    source = dict(load_from=str(work / 'epoch_3.pth')) if named else {}
    before = sorted(work.glob('*.pth'))
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        runner(work, epochs=4, optim_wrapper=optimizer, resume=True, **source).train()
    assert '--cfg-options load_from=' in str(caught.value)
    assert sorted(work.glob('*.pth')) == before


def test_optimizers_that_differ_by_the_version_of_torch():
    """What one version of torch has and another has not is no other optimizer."""
    layer = nn.Linear(3, 2)
    built = torch.optim.Adam(layer.parameters()).state_dict()
    older = dict(built, param_groups=[dict(group) for group in built['param_groups']])
    older['param_groups'][0].pop('foreach')
    older['param_groups'][0]['initial_lr'] = 0.1
    check_optimizer(older, built, 'run.pth')
    check_optimizer(built, older, 'run.pth')
    check_optimizer(dict(a=older), dict(a=built), 'run.pth')
    with pytest.raises(UserError, match=r'one optimizer, and the config builds several'):
        check_optimizer(older, dict(a=built), 'run.pth')
    with pytest.raises(UserError, match=r'no optimizer for b\.'):
        check_optimizer(dict(a=older), dict(a=built, b=built), 'run.pth')
    shorter = torch.optim.Adam(layer.parameters()).state_dict()
    shorter['param_groups'][0]['params'] = [0]
    with pytest.raises(UserError, match=r'group 0 of its optimizer has 1 parameters, and that of'):
        check_optimizer(shorter, built, 'run.pth')
