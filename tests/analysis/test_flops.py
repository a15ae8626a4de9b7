"""Counted MACs against the closed forms and the published table."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from helpers import closed_form
from helpers.rows import MINI, MINI_TEACHER, ROWS
from helpers.tool import run
from paca_mm.analysis import flops
from paca_mm.analysis.flops import count
from paca_mm.models import PaCaViT

#: ImageNet classifiers at 224 x 224, without the head; billions.
PUBLISHED = {
    'tiny': 3.219, 'small': 5.501, 'base': 9.537, 'small_mlp': 5.864, 'small_teacher': 5.482,
    'base_teacher': 9.771, 'tiny_teacher': 3.424, 'small_c2': 4.640, 'small_c49': 5.053,
    'small_c49_100': 5.273, 'small_c100_49': 5.336, 'small_c100': 5.568,
    'small_c100_blockwise': 6.103,
}  # fmt: skip


def backbone_macs(model, height, width):
    return count(model.eval(), lambda m: m(torch.zeros(1, 3, height, width))).macs


@pytest.mark.parametrize('row', ROWS)
@pytest.mark.slow
def test_the_published_rows(row):
    macs = backbone_macs(PaCaViT(**ROWS[row][0]), 224, 224)
    assert macs == closed_form.backbone_macs(224, 224, **ROWS[row][0])
    assert macs / 1e9 == pytest.approx(PUBLISHED[row], rel=5e-3)


@pytest.mark.parametrize('size', [(64, 64), (45, 83)])
@pytest.mark.parametrize('arch', [MINI, MINI_TEACHER], ids=['plain', 'teacher'])
def test_any_size(arch, size):
    kwargs = dict(arch=arch, num_clusters=(7, 5, 3, 2))
    assert backbone_macs(PaCaViT(**kwargs), *size) == closed_form.backbone_macs(*size, **kwargs)


def test_the_cost_of_the_clustered_stages_grows_with_the_patches():
    def stages(side):
        model = PaCaViT(arch=MINI, num_clusters=(7, 5, 3, 0))
        cost = count(model.eval(), lambda m: m(torch.zeros(1, 3, side, side)))
        return sum(cost.children[f'stage{i}'].macs for i in (1, 2, 3))

    # k and v of the clusters do not grow at all, so the ratio stays a little below 4.
    assert 3.9 < stages(256) / stages(128) <= 4


class Products(TorchDispatchMode):
    """Multiply-accumulates of what reaches the kernels; no layer is told of it, so fast forms stay."""

    def __init__(self):
        super().__init__()
        self.macs, self.seen = 0, set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        self.seen.add(name)
        if name in ('mm', 'bmm', 'addmm', 'addmm_'):
            a, b = args[-2:]
            self.macs += a.numel() * b.shape[-1]
        elif name == 'convolution':
            self.macs += out.numel() * args[1][0].numel()
        elif 'attention' in name:
            query, key, value = args[:3]
            self.macs += query.numel() * key.shape[-2] + query[..., 0].numel() * value[0, 0].numel()
        return out


def test_a_fast_form_takes_the_products_that_are_counted():
    """Counting lets the fast forms give way; what they would have taken is the same."""
    model = PaCaViT(arch=MINI, num_clusters=(7, 5, 3, 2)).eval()
    with torch.no_grad(), Products() as products:
        model(torch.zeros(1, 3, 64, 64))
    assert 'addmm_' in products.seen  # the feed-forward network in pieces
    assert products.macs == backbone_macs(model, 64, 64)


def test_the_table_is_whole_and_plain():
    cost = flops.Cost(2 * 10**9, 10**6, {'[odd]' + 100 * 'x': flops.Cost(10**9, 0)})
    lines = cost.table().splitlines()
    assert lines[-1].split() == ['[odd]' + 100 * 'x', '0.000', '1.000', '50.0%']
    assert set(lines[1]) == {'-'}
    assert all(line.isascii() and line.isprintable() for line in lines)


def test_the_tool_counts_a_detector(capsys):
    pytest.importorskip('mmdet')
    assert run('get_flops', 'configs/det/mask_rcnn_paca_shapes.py', '--shape', '64', '96') == 0
    out = capsys.readouterr().out
    for module in ('MaskRCNN', 'backbone', 'stage3', 'neck', 'rpn_head', 'roi_head'):
        assert module in out
    assert 'Warning' not in out


def test_an_image_too_small_to_count(capsys):
    assert run('get_flops', 'configs/det/mask_rcnn_paca_shapes.py', '--shape', '8') == 2
    assert 'each at least 32' in capsys.readouterr().err
