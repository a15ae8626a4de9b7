"""Loading weights: reports, refusals, and files that are not what they should be."""

import json
import os
import pickle
import struct
import subprocess
import sys

import pytest
import torch

from helpers.rows import MINI
from paca_mm.checkpoint import load_pretrained, read_checkpoint, rename_to_official
from paca_mm.errors import UserError
from paca_mm.models import PaCaViT


@pytest.fixture
def model():
    return PaCaViT(arch=MINI, num_clusters=(7, 5, 3, 0))


def official(model, **extra):
    state = model.state_dict()
    rename_to_official(state)
    return {**state, **extra}


def test_a_classification_checkpoint_loads_with_a_report(model, tmp_path):
    file = tmp_path / 'imagenet.pth'
    head = {'head.weight': torch.zeros(10, 40), 'head.bias': torch.zeros(10)}
    torch.save({'state_dict': official(model, **head), 'epoch': 300}, file)
    other = PaCaViT(arch=MINI, num_clusters=(20, 20, 20, 0))
    before = other.stage1[0].attn.clustering.to_clusters.weight.clone()
    report = load_pretrained(other, file)
    assert set(report.unexpected) == {'head.weight', 'head.bias'}
    assert [key for key, *_ in report.reset] == [
        f'stage{i}.0.attn.clustering.to_clusters.weight' for i in (1, 2, 3)
    ]
    assert len(report.loaded) == len(model.state_dict()) - 3
    assert not report.missing
    assert torch.equal(other.stage1[0].attn.clustering.to_clusters.weight, before)
    assert torch.equal(other.stage3[1].attn.q.weight, model.stage3[1].attn.q.weight)
    text = str(report)
    assert '3 start again' in text
    assert '(7, 16, 1, 1) in the file, (20, 16, 1, 1) here' in text
    assert '2 not used: head.weight, head.bias' in text


@pytest.mark.parametrize('prefix', ['backbone.', 'module.backbone.', 'module.'])
def test_the_backbone_is_found_inside_a_detector(model, tmp_path, prefix):
    file = tmp_path / 'detector.pth'
    state = {prefix + k: v for k, v in official(model).items()}
    if 'backbone' in prefix:
        state[prefix.replace('backbone.', 'neck.weight')] = torch.ones(1)
    torch.save(state, file)
    other = PaCaViT(arch=MINI, num_clusters=(7, 5, 3, 0))
    load_pretrained(other, file)
    assert torch.equal(other.stage4[0].attn.k.weight, model.stage4[0].attn.k.weight)


def test_init_weights_loads_once_and_nothing_overwrites_it(model, tmp_path):
    file = tmp_path / 'small.pth'
    torch.save(official(model), file)
    init = dict(type='Pretrained', checkpoint=str(file))
    other = PaCaViT(arch=MINI, num_clusters=(7, 5, 3, 0), init_cfg=init)
    other.init_weights()
    assert torch.equal(other.stage1[0].attn.q.weight, model.stage1[0].attn.q.weight)
    with torch.no_grad():
        other.stage1[0].attn.q.weight.zero_()
    other.init_weights()
    assert not other.stage1[0].attn.q.weight.any()


def test_weights_of_another_arch_are_refused(model, tmp_path):
    file = tmp_path / 'tiny.pth'
    torch.save(official(PaCaViT('tiny', clustering='mlp')), file)
    with pytest.raises(UserError) as e:
        load_pretrained(model, file)
    assert "looks like arch='tiny', clustering='mlp', num_clusters=(100, 100, 100, 0)" in str(
        e.value
    )
    assert "clustering='conv', num_clusters=(7, 5, 3, 0)" in str(e.value)


def test_a_deeper_checkpoint_is_refused_though_all_of_the_model_would_be_filled(tmp_path):
    file = tmp_path / 'small.pth'
    torch.save(official(PaCaViT('small')), file)
    with pytest.raises(UserError, match=r"looks like arch='small'.*model is arch='tiny'"):
        load_pretrained(PaCaViT('tiny'), file)


def test_a_missing_key_is_an_error_that_names_it(model, tmp_path):
    file = tmp_path / 'cut.pth'
    state = official(model)
    del state['stage2.1.attn.q.weight']
    torch.save(state, file)
    with pytest.raises(UserError, match=r'missing in the file: stage2\.1\.attn\.q\.weight'):
        load_pretrained(model, file)


def test_safetensors(model, tmp_path):
    safetensors = pytest.importorskip('safetensors.torch', reason='safetensors is not installed')
    file = tmp_path / 'small.safetensors'
    safetensors.save_file({k: v.contiguous() for k, v in official(model).items()}, file)
    load_pretrained(PaCaViT(arch=MINI, num_clusters=(7, 5, 3, 0)), file)
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(UserError, match='torn or no safetensors'):
        read_checkpoint(file)


@pytest.mark.parametrize(
    'header',
    [
        2**64 - 1,  # bytes, as the file says
        {'w': {'dtype': 'F32', 'shape': [2**62, 2**62], 'data_offsets': [0, 24]}},
        {'w': {'dtype': 'F32', 'shape': [2, 3], 'data_offsets': [0, 2400]}},
        {'w': {'dtype': 'Q9', 'shape': [2, 3], 'data_offsets': [0, 24]}},
        [1],
    ],
)
def test_safetensors_that_lie(tmp_path, header):
    pytest.importorskip('safetensors', reason='safetensors is not installed')
    text = b'{}' if isinstance(header, int) else json.dumps(header).encode()
    size = header if isinstance(header, int) else len(text)
    (tmp_path / 'a.safetensors').write_bytes(struct.pack('<Q', size) + text + bytes(24))
    with pytest.raises(UserError, match='torn or no safetensors'):
        read_checkpoint(tmp_path / 'a.safetensors')


def test_a_missing_file_names_its_neighbours(tmp_path):
    torch.save({}, tmp_path / 'paca_small.pth')
    with pytest.raises(UserError, match=r'there is no checkpoint .*did you mean paca_small\.pth'):
        read_checkpoint(tmp_path / 'paca_smal.pth')
    with pytest.raises(UserError, match='does not exist either'):
        read_checkpoint(tmp_path / 'nowhere' / 'x.pth')
    with pytest.raises(UserError, match=r"is a folder; name a checkpoint in it: \['paca_small"):
        read_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (b'', 'is empty'),
        (b'<!DOCTYPE html><html>', 'text that stands for one'),
        (b'version https://git-lfs.github.com/spec/v1\n', 'text that stands for one'),
        (b'garbage' * 100, 'cannot be read as a checkpoint'),
    ],
)
def test_files_that_are_no_checkpoints(tmp_path, content, message):
    file = tmp_path / 'x.pth'
    file.write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_checkpoint(file)


@pytest.mark.parametrize('zipped', [True, False])
@pytest.mark.parametrize('share', [0.1, 0.5, 0.99])
def test_torn_files(model, tmp_path, zipped, share):
    file = tmp_path / 'torn.pth'
    torch.save(model.state_dict(), file, _use_new_zipfile_serialization=zipped)
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(UserError, match='torn'):
        read_checkpoint(file)


class Hostile:
    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


class Sneaky:
    """Asks for eval, which lives in builtins like the harmless list."""

    def __init__(self, code):
        self.code = code

    def __reduce__(self):
        return eval, (self.code,)


@pytest.mark.parametrize('save', ['torch', 'torch_legacy', 'pickle'])
@pytest.mark.parametrize('kind', [Hostile, Sneaky])
def test_a_hostile_file_does_not_run(tmp_path, save, kind):
    trace = tmp_path / 'was_run'
    command = f'touch {trace}' if kind is Hostile else f'open({str(trace)!r}, "w")'
    file = tmp_path / 'hostile.pth'
    content = {'state_dict': {'x': torch.zeros(1)}, 'payload': kind(command)}
    if save == 'pickle':  # no checkpoint at all
        file.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, file, _use_new_zipfile_serialization=save == 'torch')
    # A bare pickle is refused before it is read: it has not even the form of a checkpoint.
    message = 'would call (posix.system|builtins.eval)|cannot be read as a checkpoint'
    with pytest.raises(UserError, match=message):
        read_checkpoint(file)
    assert not trace.exists()


def test_a_torchscript_program_is_refused(tmp_path):
    file = tmp_path / 'script.pth'
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(file))
    with pytest.raises(UserError, match='TorchScript'):
        read_checkpoint(file)


def test_bookkeeping_of_other_libraries_is_read_over(tmp_path):
    import argparse
    from pathlib import PurePosixPath

    file = tmp_path / 'timm.pth'
    torch.save({'state_dict': {'x': torch.ones(2)}, 'args': argparse.Namespace(lr=1),
                'path': PurePosixPath('a')}, file)  # fmt: skip
    assert torch.equal(read_checkpoint(file)['state_dict']['x'], torch.ones(2))


def test_no_network(tmp_path, monkeypatch):
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    with pytest.raises(UserError, match=r'cannot be downloaded .*put it at .*small\.\w{12}\.pth'):
        read_checkpoint('http://localhost:9/small.pth')
    assert not any(tmp_path.rglob('*.pth'))


@pytest.mark.slow
def test_reading_needs_neither_hosts_nor_compiled_ops():
    """The backbone, its checkpoints included, where only torch, mmengine and op-less mmcv are."""
    code = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        blocked = ('mmdet', 'mmseg', 'mmpretrain', 'mmcv.ops', 'mmcv._ext')
        if name in blocked or name.partition('.')[0] in blocked:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Block())
import torch
from mmengine.registry import MODELS
model = MODELS.build(dict(type='paca_mm.PaCaViT', arch='tiny'))
print([tuple(o.shape) for o in model.eval()(torch.zeros(1, 3, 64, 64))])
assert not {'mmdet', 'mmseg', 'mmpretrain', 'mmcv.ops'} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert '(1, 96, 16, 16)' in done.stdout
