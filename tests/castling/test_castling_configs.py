"""The configs of Castling-ViT: sizes, recipe, what is quoted, a step of each."""

import pytest
import torch

pytest.importorskip('mmpretrain')

from mmengine.registry import MODELS, DefaultScope

from helpers.small import two_images
from paca_mm.analysis.recount import count_macs, count_parameters
from paca_mm.datasets.shapes import ensure_shapes
from paca_mm.engine.config import load_config, use_shapes
from paca_mm.models import CastlingAttention
from paca_mm.zoo.metafiles import read_metafile

#: config: channels, quoted top-1.
CONFIGS = {
    'deit_tiny_castling_in1k': (192, 76.0),
    'deit_small_castling_in1k': (384, None),
    'deit_base_castling_in1k': (768, 84.2),
}
#: Tokens of a 224 x 224 image, with the class token; layers; taps; channels of a head.
TOKENS, LAYERS, TAPS, HEAD = 197, 12, 9, 64


def config(name):
    return load_config(f'configs/cls/castling/{name}.py')


def macs_of(channels, branch):
    """In closed form: the layers of a ViT, and instead of its attention what is linear in N."""
    linear = 2 * TOKENS * channels * HEAD + TAPS * TOKENS * channels
    softmax = 2 * TOKENS**2 * channels if branch else 0
    layer = 12 * TOKENS * channels**2 + linear + softmax
    patches = (TOKENS - 1) * 16 * 16 * 3 * channels
    return LAYERS * layer + patches + 1000 * channels


@pytest.mark.parametrize('name', CONFIGS)
def test_parameters_are_those_of_deit_and_the_kernels(name):
    """A DeiT of C channels, and 9 taps for each of its C / 64 heads in 12 layers."""
    channels, _ = CONFIGS[name]
    layer = 12 * channels**2 + 13 * channels
    deit = LAYERS * layer + (768 + 1 + 1 + TOKENS + 2 + 1000) * channels + 1000
    assert count_parameters(config(name)) == deit + LAYERS * TAPS * channels // HEAD


@pytest.mark.slow
@pytest.mark.parametrize('branch', [True, False])
def test_macs_with_the_branch_and_without(branch):
    cfg = config('deit_tiny_castling_in1k')
    cfg.model.backbone.softmax_branch = branch
    assert count_macs(cfg, 224, 224) == macs_of(192, branch)


def test_the_metafile_says_what_is_counted_and_what_is_quoted():
    found = {entry.name: entry for entry in read_metafile('cls/castling')}
    assert found.keys() == CONFIGS.keys()
    for name, entry in found.items():
        channels, top1 = CONFIGS[name]
        assert entry.metrics.get('Top 1 Accuracy') == top1
        assert entry.metadata['FLOPs'] == macs_of(channels, True)
        assert entry.metadata['Inference FLOPs'] == macs_of(channels, False)
        assert any('quoted by a third party' in note for note in entry.notes) == bool(top1)


def test_the_recipe_is_that_of_deit():
    for name, (channels, _) in CONFIGS.items():
        cfg = config(name)
        optimizer = cfg.optim_wrapper.optimizer
        assert (optimizer.type, optimizer.lr, optimizer.weight_decay) == ('AdamW', 1e-3, 0.05)
        assert cfg.auto_scale_lr.base_batch_size == 8 * cfg.train_dataloader.batch_size == 1024
        assert cfg.train_cfg.max_epochs == 300
        assert cfg.optim_wrapper.clip_grad.max_norm == 5
        keys = cfg.optim_wrapper.paramwise_cfg.custom_keys
        assert {key for key, value in keys.items() if value.decay_mult == 0} == {
            '.cls_token', '.pos_embed',
        }  # fmt: skip
        warm_up, cosine = cfg.param_scheduler
        assert (warm_up.end, cosine.begin, cosine.end) == (20, 20, 300)
        assert cfg.model.head.in_channels == channels
        base = name.startswith('deit_base')
        assert cfg.model.backbone.vit.get('drop_path_rate', 0.0) == (0.1 if base else 0.0)
        kinds = ['paca_mm.CastlingHook'] + ['EMAHook'] * base
        assert [hook.type for hook in cfg.custom_hooks] == kinds
        for loader in (cfg.val_dataloader, cfg.test_dataloader):
            assert [s.get('scale') for s in loader.dataset.pipeline] == [None, 256, None, None]


@pytest.mark.slow
@pytest.mark.parametrize('name', [*CONFIGS, 'deit_castling_shapes'])
def test_one_shrunk_step(name, tmp_path):
    """The config's own model with few channels, its own pipeline at 64 x 64, a step and a test."""
    cfg = config(name)
    pipeline = cfg.train_dataloader.dataset.pipeline
    if name in CONFIGS:
        pipeline[1].scale = 64
        use_shapes(cfg)
        assert [hook.type for hook in cfg.custom_hooks] == ['paca_mm.CastlingHook']
    cfg.model.backbone.vit.update(
        arch=dict(embed_dims=24, num_layers=2, num_heads=3, feedforward_channels=48),
        img_size=64,
        patch_size=16,
    )
    cfg.model.head.in_channels = 24
    shapes = ensure_shapes(tmp_path / 'shapes', num_train=4, num_val=2)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        batch = two_images(cfg, shapes, pipeline)
        model = MODELS.build(cfg.model)
        model.init_weights()
        torch.nn.init.normal_(model.head.layers.head.weight)  # zero at first: no gradient behind it
        model.train()
        assert len([m for m in model.modules() if isinstance(m, CastlingAttention)]) == 2
        data = model.data_preprocessor(batch, True)
        total, _ = model.parse_losses(model(**data, mode='loss'))
        total.backward()
        assert total.isfinite()
        for key, parameter in model.named_parameters():
            assert parameter.grad is not None, key
            assert parameter.grad.abs().max() > 0, key
        model.eval()
        with torch.no_grad():
            result = model(**model.data_preprocessor(batch), mode='predict')
        assert [len(sample.pred_score) for sample in result] == [6, 6]
