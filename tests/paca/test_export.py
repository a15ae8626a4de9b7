"""Models that leave: ONNX by both exporters, tracing, torch.export, make_fx; mmcv's fuse_conv_bn."""

import copy
import inspect
import io

import pytest
import torch
import torch.nn as nn
from mmcv.cnn import fuse_conv_bn

from helpers import golden
from helpers.rows import MINI, mini

#: A pyramid of two stages: export takes seconds a block.
LOW = {key: sizes[:2] for key, sizes in dict(MINI, depths=(1, 1)).items()}
#: Every kind of block; ``plain`` attends to all patches in one of its stages.
MODELS = {
    'conv_and_plain': dict(name='conv', arch=LOW, num_clusters=(7, 0), out_indices=(0, 1)),
    'mlp': dict(name='mlp', arch=LOW, num_clusters=(7, 5), out_indices=(0, 1)),
    'linear': dict(name='linear', arch=LOW, num_clusters=(7, 5), out_indices=(0, 1)),
    'blockwise': dict(
        name='blockwise', arch=dict(LOW, depths=(2, 1)), num_clusters=(7, 5), out_indices=(0, 1)
    ),
    'teacher': dict(
        name='teacher',
        arch=dict(LOW, teacher_depths=(1, 1)),
        num_clusters=(7, 5),
        out_indices=(0, 1),
    ),
}
TRACED, OTHER = (2, 64, 96), (3, 45, 83)  # batch, height and width when exported, and when run
HAS_DYNAMO = 'dynamo' in inspect.signature(torch.onnx.export).parameters


class Head(nn.Module):
    """The head behind a backbone, which takes an image of any size."""

    def __init__(self):
        super().__init__()
        head = pytest.importorskip('paca_mm.models.paca.head', reason='mmseg is not installed')
        self.backbone = mini(**MODELS['conv_and_plain'])
        widths = list(LOW['embed_dims'])
        self.head = golden.fill(head.PaCaHead(widths, 16, num_classes=5))

    def forward(self, x):
        return (self.head(self.backbone(x)),)


def build(name):
    model = Head() if name == 'head' else mini(**MODELS[name])
    return model.eval().requires_grad_(False)


def equal(found, expected):
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(torch.as_tensor(a), b, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('dynamo', [False, True], ids=['torchscript', 'dynamo'])
@pytest.mark.parametrize('name', [*MODELS, 'head'])
def test_onnx_at_another_size(name, dynamo, tmp_path):
    pytest.importorskip('onnx', reason='onnx is not installed')
    runtime = pytest.importorskip('onnxruntime', reason='onnxruntime is not installed')
    model = build(name)
    file = str(tmp_path / 'model.onnx')
    image = golden.image(*TRACED)
    options = dict(input_names=['image'], opset_version=18 if dynamo else 17)
    if dynamo:
        if not HAS_DYNAMO:
            pytest.skip(f'torch {torch.__version__} has one exporter only')
        pytest.importorskip('onnxscript', reason='onnxscript is not installed')
        dims = {
            i: torch.export.Dim(name) for i, name in ((0, 'batch'), (2, 'height'), (3, 'width'))
        }
        options |= dict(dynamo=True, dynamic_shapes=(dims,))
    else:
        options |= dict(dynamic_axes={'image': {0: 'batch', 2: 'height', 3: 'width'}})
        options |= dict(dynamo=False) if HAS_DYNAMO else {}
    torch.onnx.export(model, (image,), file, **options)
    session = runtime.InferenceSession(file, providers=['CPUExecutionProvider'])
    with torch.no_grad():
        for size in (TRACED, OTHER):
            image = golden.image(*size)
            equal(session.run(None, {'image': image.numpy()}), model(image))


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('name', ['conv_and_plain', 'teacher', 'head'])
def test_traced_and_saved(name):
    model = build(name)
    with torch.no_grad():
        traced = torch.jit.trace(model, golden.image(*TRACED))
        file = io.BytesIO()
        torch.jit.save(traced, file)
        file.seek(0)
        image = golden.image(*TRACED).flip(3)
        equal(torch.jit.load(file)(image), model(image))


@pytest.mark.parametrize('name', ['conv_and_plain', 'teacher', 'head'])
@pytest.mark.slow
def test_exported_and_recorded(name):
    from torch.fx.experimental.proxy_tensor import make_fx

    model = build(name)
    image, other = golden.image(*TRACED), golden.image(*TRACED).flip(3)
    with torch.no_grad():
        equal(make_fx(model)(image)(other), model(other))
        exported = torch.export.export(model, (image,))
        run = exported.module() if hasattr(exported, 'module') else exported
        equal(run(other), model(other))


@pytest.mark.parametrize('name', [*MODELS, 'head'])
def test_fuse_conv_bn_changes_no_feature(name):
    """mmcv pairs a BatchNorm with the convolution before it; the teacher has a GELU between them."""
    model = build(name).double()
    image = golden.image(*OTHER).double()
    expected = model(image)
    fused = fuse_conv_bn(copy.deepcopy(model))
    for a, b in zip(fused(image), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_the_teacher_keeps_its_order_but_for_fusing():
    teacher = mini(**MODELS['teacher']).teacher
    unit = teacher.stage1[0]
    assert list(unit._modules) == ['dwconv', 'norm1', 'pwconv', 'norm2']
    assert [k.partition('.')[0] for k in unit.state_dict()][::7] == ['dwconv', 'pwconv']
    assert [name for name, _ in unit.named_children()] == ['norm1', 'norm2', 'dwconv', 'pwconv']
