"""What the clusters are made of and who reads them, against the numbers that the layers apply."""

import copy

import pytest
import torch

from helpers import golden, rows
from helpers.rows import MINI, MINIS
from paca_mm.analysis.cluster_maps import (
    class_clusters,
    cluster_maps,
    clustering_backbone,
    mass,
    partition,
    seen_through,
)
from paca_mm.errors import UserError

CLUSTERED = [name for name in MINIS if name != 'plain']


def mini(name='conv', **arguments):
    return rows.mini(name, **arguments).double()


def image(*size):
    return golden.image(2, *size).double()


@pytest.mark.parametrize('name', CLUSTERED)
def test_the_attention_is_what_the_layer_applies(name):
    """softmax(q k) v through the projection is the layer's own output, for an image of odd size."""
    model = mini(name)
    outputs = {}
    for i in range(4):
        for j, block in enumerate(model.get_submodule(f'stage{i + 1}')):
            block.attn.register_forward_hook(
                lambda module, args, out, at=(i, j): outputs.update({at: (module, *args, *out)})
            )
    found = cluster_maps(model, image(37, 50))
    clustered = [
        (i, j)
        for i, depth in enumerate(model.depths)
        for j in range(depth)
        if model.num_clusters[i]
    ]
    assert [(m.stage, m.block) for m in found] == clustered
    for m in found:
        layer, x, _, out, z = outputs[m.stage, m.block]
        batch, height, width, channels = x.shape
        torch.testing.assert_close(m.assignment.flatten(2), z, rtol=0, atol=0)
        assert m.assignment.shape[2:] == (height, width)
        clusters = layer.cluster_norm(torch.einsum('bmn,bnc->bmc', z, x.flatten(1, 2)))
        values = layer.v(clusters).unflatten(2, (layer.num_heads, -1))
        read = torch.einsum('bhyxm,bmhd->byxhd', m.attention, values)
        expected = layer.proj(read.reshape(batch, height, width, channels))
        torch.testing.assert_close(expected, out, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(m.attention.sum(4), torch.ones_like(m.attention[..., 0]))


def test_watching_changes_nothing():
    model = mini()
    before = model(image(64, 96))
    cluster_maps(model, image(64, 96))
    for a, b in zip(model(image(64, 96)), before, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_the_plain_reading_shows_the_same():
    from paca_mm.models.paca.plain import PlainPaCaViT

    model = mini('teacher')
    plain = copy.copy(model)
    plain.__class__ = PlainPaCaViT
    for a, b in zip(
        cluster_maps(model, image(37, 50)), cluster_maps(plain, image(37, 50)), strict=True
    ):
        torch.testing.assert_close(a.assignment, b.assignment)
        torch.testing.assert_close(a.attention, b.attention)


def test_stages_and_blocks_are_chosen():
    model = mini(arch={**MINI, 'depths': (2, 1, 3, 1)}, cluster_every=1)
    every = cluster_maps(model, image(64, 64))
    assert [(m.stage, m.block) for m in every] == [(0, 0), (0, 1), (1, 0), (2, 0), (2, 1), (2, 2)]
    some = cluster_maps(model, image(64, 64), stages=[0, 2], blocks=[-1, 0])
    assert [(m.stage, m.block) for m in some] == [(0, 0), (0, 1), (2, 0), (2, 2)]
    torch.testing.assert_close(some[-1].attention, every[-1].attention, rtol=0, atol=0)


def test_mass_partition_and_what_is_seen_through_the_clusters():
    """By loops over positions and clusters."""
    found = cluster_maps(mini(), image(40, 56))[0]
    _, heads, height, width, number = found.attention.shape
    shares = mass(found.attention)
    parts = partition(found.assignment)
    for m in range(number):
        total = sum(
            found.attention[1, h, y, x, m]
            for h in range(heads)
            for y in range(height)
            for x in range(width)
        )
        assert shares[1, m] == pytest.approx(float(total) / (heads * height * width))
    weights = found.assignment[1, :, 3, 5].tolist()
    assert parts[1, 3, 5] == weights.index(max(weights))
    seen = seen_through(found.attention[1, 0, 3, 5], found.assignment[1])
    by_hand = sum(found.attention[1, 0, 3, 5, m] * found.assignment[1, m] for m in range(number))
    torch.testing.assert_close(seen, by_hand)
    assert seen.sum() == pytest.approx(1)


def test_models_without_clusters_say_so():
    with pytest.raises(
        UserError, match=r"(?s)is Conv2d, .*name a config with .*'paca_mm\.PaCaViT'"
    ) as e:
        clustering_backbone(torch.nn.Conv2d(3, 8, 3))
    assert 'RapidNet' not in str(e.value)
    with pytest.raises(UserError, match='no stage of this PaCaViT has clusters'):
        clustering_backbone(mini('plain'))


def test_the_class_clusters_are_what_the_head_applies():
    pytest.importorskip('mmseg')
    from torch import nn

    from paca_mm.models import PaCaHead

    head = PaCaHead([16, 24, 32, 40], 8, num_classes=5).double().eval()
    for module in head.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    sizes = [(9, 14), (5, 7), (3, 4), (2, 2)]
    maps = [torch.randn(2, c, *s).double() for c, s in zip((16, 24, 32, 40), sizes, strict=True)]
    found = head.class_clusters(maps)
    logits, scores = head._forward(maps)
    torch.testing.assert_close(found.assignment.flatten(2), scores.flatten(2).softmax(2))
    levels = [layer(x) for layer, x in zip(head.convs, maps, strict=True)]
    resized = [nn.functional.interpolate(x, sizes[0], mode='bilinear') for x in levels]
    x = torch.cat(resized, 1).flatten(2)
    clusters = torch.einsum('bln,bcn->blc', found.assignment.flatten(2), x)
    read = torch.einsum('byxl,bld->bdyx', found.attention[:, 0], head.v(clusters))
    torch.testing.assert_close(head.conv_seg(head.proj(read)), logits)

    class Segmentor(nn.Module):
        def __init__(self):
            super().__init__()
            self.decode_head = head

        def extract_feat(self, inputs):
            return maps

    same = class_clusters(Segmentor(), torch.zeros(2, 3, 36, 56))
    torch.testing.assert_close(same.attention, found.attention)
    assert class_clusters(nn.Sequential(nn.ReLU()), torch.zeros(2, 3, 36, 56)) is None
