"""``.pt2`` files and torch.compile: the numbers of the model, at sizes other than the exported one."""

import inspect

import pytest
import torch
import torch.nn as nn

from helpers import golden
from helpers.rows import mini
from helpers.tiny import tiny
from paca_mm.analysis.build import build
from paca_mm.errors import UserError
from paca_mm.export.pt2 import Plain, export_pt2, read_metadata
from paca_mm.families import families, load_member

MANY_SIZES = 'dynamic_shapes' in inspect.signature(torch.export.export).parameters
FAMILIES = {name: family for name, family in families().items() if family.backbone and family.toy}
HOSTS = {'cls': 'mmpretrain', 'seg': 'mmseg', 'det': 'mmdet'}


def toy(name):
    family = FAMILIES[name]
    return golden.fill(load_member(family.backbone)(**family.toy)).eval()


def loaded(file):
    return torch.export.load(str(file)).module()


def equal(found, expected):
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize('name', FAMILIES)
def test_the_backbone_of_every_family(name, tmp_path):
    model = toy(name)
    settings = FAMILIES[name].toy
    size = (settings['img_size'],) * 2 if 'img_size' in settings else (64, 96)
    dynamic = False
    if MANY_SIZES:
        dynamic = 'batch' if 'img_size' in settings or name == 'vittm' else True
    checked = export_pt2(model, tmp_path / 'a.pt2', size, dynamic=dynamic, check_sizes=[(97, 131)])
    assert checked.difference < 1e-4
    assert 'largest difference' in str(checked)
    image = golden.image(3 if dynamic else 1, *((45, 83) if dynamic is True else size))
    with torch.no_grad():
        equal(loaded(tmp_path / 'a.pt2')(image), model(image))
    assert model.training is False
    assert any(p.requires_grad for p in model.parameters())  # the model stays as it is


@pytest.mark.slow
@pytest.mark.parametrize('task', HOSTS)
def test_a_model_of_every_host(task, tmp_path):
    pytest.importorskip(HOSTS[task])
    model = build(tiny(task, tmp_path / 'tiny.py')).eval()
    checked = export_pt2(model, tmp_path / 'a.pt2', (96, 160), dynamic=MANY_SIZES,
                         check_sizes=[(160, 96)], metadata={'classes': ['a', 'b']})  # fmt: skip
    count = 2 if MANY_SIZES else 1
    assert checked.outputs[0] == {
        'cls': (count, 6), 'seg': (count, 7, 24, 40), 'det': (count, 8, 24, 40),
    }[task]  # fmt: skip
    assert len(checked.outputs) == (5 if task == 'det' else 1)  # of the neck
    image = golden.image(1, *((133, 91) if MANY_SIZES else (96, 160)))
    with torch.no_grad():
        equal(loaded(tmp_path / 'a.pt2')(image), Plain(model)(image))
    assert read_metadata(tmp_path / 'a.pt2')['classes'] == ['a', 'b']


@pytest.mark.slow
@pytest.mark.parametrize('task', HOSTS)
def test_a_model_of_every_host_compiles_as_one_graph(task, tmp_path):
    pytest.importorskip(HOSTS[task])
    if task == 'seg' and not MANY_SIZES:
        pytest.skip("torch 2.1 cannot look into mmengine's stand-in for SyncBatchNorm")
    plain = Plain(build(tiny(task, tmp_path / 'tiny.py'))).eval()
    compiled = torch.compile(plain, backend='eager', fullgraph=True)
    with torch.no_grad():
        image = golden.image(1, 64, 96)
        equal(compiled(image), plain(image))
    torch._dynamo.reset()


def test_wrong_calls_are_one_message(tmp_path):
    model = mini('conv')
    with pytest.raises(UserError, match=r'must end in \.pt2'):
        export_pt2(model, tmp_path / 'a.onnx')
    with pytest.raises(UserError, match="must be True, False or 'batch'"):
        export_pt2(model, tmp_path / 'a.pt2', dynamic='size')
    if not MANY_SIZES:
        with pytest.raises(UserError, match='exports for one size only: dynamic=False'):
            export_pt2(model, tmp_path / 'a.pt2')
    small = nn.Conv2d(3, 2, 1)
    (tmp_path / 'file').write_text('x')
    with pytest.raises(UserError, match='cannot be written'):
        export_pt2(small, tmp_path / 'file/a.pt2', (8, 8), dynamic=False)


@pytest.mark.skipif(not MANY_SIZES, reason='this torch exports for one size only')
def test_a_model_of_one_size_says_so(tmp_path):
    class OneSize(nn.Module):
        def forward(self, x):
            return x + torch.ones(1, 1, 64, 64)

    with pytest.raises(UserError, match=r"images of every size.*(?s:.*)dynamic='batch'"):
        export_pt2(OneSize(), tmp_path / 'a.pt2', (64, 64))
    assert export_pt2(OneSize(), tmp_path / 'a.pt2', (64, 64), dynamic='batch').difference == 0


def test_a_program_that_gives_something_else_is_not_written(tmp_path):
    class Moody(nn.Module):
        def forward(self, x):
            return x + 1 if torch.compiler_is_exporting() else x

    exporting = [True]
    torch.compiler_is_exporting = lambda: exporting.pop() if exporting else False
    try:
        with pytest.raises(RuntimeError, match='differs from the model by 1'):
            export_pt2(Moody(), tmp_path / 'a.pt2', (8, 8), dynamic=False)
    finally:
        del torch.compiler_is_exporting
    assert not (tmp_path / 'a.pt2').exists()
