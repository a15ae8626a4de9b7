"""``.pt2`` files and torch.compile: the numbers of the model, at sizes other than the exported one."""

import os
import subprocess
import sys

import pytest
import torch
import torch.nn as nn

from helpers import golden
from helpers.rows import mini
from helpers.tiny import tiny, write_config
from helpers.tool import run
from paca_mm.analysis.build import build
from paca_mm.engine.config import load_config
from paca_mm.errors import UserError
from paca_mm.export.check import NotTheModel
from paca_mm.export.command import write
from paca_mm.export.model import Part, in_hand, leaving
from paca_mm.export.pt2 import one_shape_only, read_meta, runner
from paca_mm.families import families, load_member

FAMILIES = {name: family for name, family in families().items() if family.backbone and family.toy}
HOSTS = {'cls': 'mmpretrain', 'seg': 'mmseg', 'det': 'mmdet'}
many_sizes = pytest.mark.skipif(one_shape_only(), reason='this torch exports for one size only')


def toy(name):
    family = FAMILIES[name]
    return golden.fill(load_member(family.backbone)(**family.toy)).eval()


def equal(found, expected):
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(torch.as_tensor(a), b, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize('name', FAMILIES)
def test_the_backbone_of_every_family(name, tmp_path):
    model = toy(name)
    bound = FAMILIES[name].toy.get('img_size')
    size = [bound, bound] if bound else [64, 96] if one_shape_only() else None
    said = []
    write(in_hand(model, size), tmp_path / 'a.pt2', say=said.append)
    assert 'largest difference' in said[-1]
    step = read_meta(tmp_path / 'a.pt2').multiple
    sides = size or [-(-side // step) * step for side in (45, 83)]
    image = golden.image(1 if one_shape_only() else 3, *sides)
    with torch.no_grad():
        equal(runner(tmp_path / 'a.pt2')(image), model(image))
    assert any(p.requires_grad for p in model.parameters())  # the model stays as it is


@pytest.mark.slow
@pytest.mark.parametrize('task', HOSTS)
def test_a_model_of_every_host_compiles_as_one_graph(task, tmp_path):
    pytest.importorskip(HOSTS[task])
    if task == 'seg' and one_shape_only():
        pytest.skip("torch 2.1 cannot look into mmengine's stand-in for SyncBatchNorm")
    model = build(tiny(task, tmp_path / 'tiny.py'))
    of_a_detector = ('neck', 'det', 'maps')
    part = Part(model, *(of_a_detector if task == 'det' else ('model', task, 'logits'))).eval()
    compiled = torch.compile(part, backend='eager', fullgraph=True)
    with torch.no_grad():
        image = golden.image(1, 64, 96)
        equal(compiled(image), part(image))
    torch._dynamo.reset()


#: A small config of each task, what it is exported with, and what it gives for two images of 72x98.
LINES = {
    'cls': ('cls/rapidnet/rapidnet_shapes', ['--normalize'], [(2, 6)]),
    'seg': ('seg/paca_head_paca_shapes', ['--output', 'labels'], [(2, 72, 98)]),
    'det': (
        'det/mask_rcnn_paca_shapes',
        [],
        [(2, 64, 18, 25), (2, 64, 9, 13), (2, 64, 5, 7), (2, 64, 3, 4), (2, 64, 2, 2)],
    ),
}


@many_sizes
@pytest.mark.parametrize(
    'task', ['cls', *(pytest.param(task, marks=pytest.mark.slow) for task in ('seg', 'det'))]
)
def test_a_file_runs_by_the_lines_that_the_command_prints(task, tmp_path, capsys):
    pytest.importorskip(HOSTS[task])
    config, words, shapes = LINES[task]
    file = tmp_path / 'a.pt2'
    assert run('export_onnx', f'configs/{config}.py', '--out', file, *words) == 0
    said = capsys.readouterr().out
    assert said.count('largest difference') == 3
    coarsest = 64 if task == 'det' else 32
    assert f'note: height and width must be above {coarsest} pixels' in said
    lines = [line.strip() for line in said.splitlines()[-2:]]
    names = {'torch': torch, 'images': torch.zeros(2, 3, 72, 98)}
    exec('\n'.join(lines), names)
    outputs = lines[1].partition(' = ')[0].strip(',').split(', ')
    assert [tuple(names[output].shape) for output in outputs] == shapes
    meta = read_meta(file)
    assert (meta.task, meta.exporter, meta.opset, meta.size) == (task, 'torch.export', 0, None)
    assert meta.output == {'cls': 'logits', 'seg': 'labels', 'det': 'maps'}[task]
    assert meta.normalises == (task == 'cls')
    assert 'crescent' in meta.classes
    assert b'site-packages' not in file.read_bytes()  # no lines of code of this machine


@many_sizes
@pytest.mark.slow
def test_norms_with_attention_leave_for_any_batch(tmp_path):
    pytest.importorskip('mmpretrain')
    model = leaving(load_config('configs/cls/attentive_norm/resnet_an_shapes.py'), None)
    said = []
    write(model, tmp_path / 'a.pt2', say=said.append)
    assert [line.split()[0] for line in said[-3:]] == ['1', '2', '3']


@pytest.mark.slow
def test_a_file_needs_torch_alone(tmp_path):
    """In a process that has neither this package nor a host."""
    file = tmp_path / 'a.pt2'
    write(in_hand(mini('conv'), [64, 64]), file, say=lambda line: None)
    code = f"""if True:
        import sys
        sys.path = [folder for folder in sys.path if folder not in ('', {os.getcwd()!r})]
        import json, torch
        facts = {{'paca_mm': ''}}
        program = torch.export.load({str(file)!r}, extra_files=facts).module()
        print(len(program(torch.zeros(1, 3, 64, 64))), json.loads(facts['paca_mm'])['size'])
        print([name for name in ('paca_mm', 'mmengine', 'mmcv') if name in sys.modules])
    """
    words = [sys.executable, '-c', code]
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ['4 [64, 64]', '[]']


def test_options_that_are_no_choice_of_pt2_are_one_message(tmp_path, capsys):
    pytest.importorskip('mmpretrain')
    config = write_config(tmp_path / 'c.py', 'cls')

    def said(*words):
        assert run('export_onnx', config, *words) == 2
        err = capsys.readouterr().err
        assert 'Traceback' not in err
        return err

    for words in (['--exporter', 'dynamo'], ['--opset', '17'], ['--int8', 'dynamic'],
                  ['--calibrate', 'images'], ['--num-images', '4'], ['--max-drop', '2']):  # fmt: skip
        assert f'{words[0]} is for ONNX' in said('--format', 'pt2', *words)
    assert '.onnx or .pt2' in said('--out', tmp_path / 'a.pb')
    assert 'must end in .pt2, as --format says' in said('--out', 'a.onnx', '--format', 'pt2')
    assert 'must end in .onnx, as --format says' in said('--out', 'a.pt2', '--format', 'onnx')
    assert 'must end in .pt2' in said('--out', 'a', '--format', 'pt2')
    (tmp_path / 'file').write_text('x')
    assert 'cannot be written' in said('--out', tmp_path / 'file/a.pt2')
    if not one_shape_only():
        assert 'takes sides above 32' in said('--out', tmp_path / 'a.pt2', '--size', '32')
    assert not (tmp_path / 'a.pt2').exists()


def test_a_torch_of_one_size_says_fixed(monkeypatch, tmp_path):
    monkeypatch.setattr('paca_mm.export.pt2.one_shape_only', lambda: True)
    with pytest.raises(UserError, match=r'one size only\.\n  to fix it: --fixed, with --size'):
        write(in_hand(mini('conv')), tmp_path / 'a.pt2', say=lambda line: None)


@many_sizes
def test_a_model_of_one_size_says_so(tmp_path):
    class OneSize(nn.Module):
        def forward(self, x):
            return 2 * x if x.shape[2] > 100 else x

    with pytest.raises(UserError, match=r'every size: .* height (?s:.*)--fixed, with --size H W'):
        write(in_hand(OneSize()), tmp_path / 'a.pt2', say=lambda line: None)
    said = []
    write(in_hand(OneSize(), [32, 64]), tmp_path / 'a.pt2', say=said.append)
    assert 'any batch, 32x64' in said[0]
    assert [line.split(':')[0] for line in said[1:]] == [f'  {n} x 32x64' for n in (1, 2, 3)]
    meta = read_meta(tmp_path / 'a.pt2')
    assert (meta.size, meta.config, meta.row) == ([32, 64], 'OneSize', '')
    with pytest.raises(UserError, match=r'must end in \.onnx or \.pt2'):
        write(in_hand(OneSize(), [64, 64]), tmp_path / 'a.pt')


def test_a_program_that_is_not_the_model_is_not_written(tmp_path):
    model = in_hand(nn.Conv2d(3, 2, 1), [8, 8])
    with torch.no_grad():
        model.module.model.weight.mul_(1.01)
    with pytest.raises(NotTheModel, match=r'is not the model: .* largest difference(?s:.*)report'):
        write(model, tmp_path / 'a.pt2', say=lambda line: None)
    assert [*tmp_path.iterdir()] == []
