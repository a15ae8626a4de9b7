"""The configs of Castling-ViT: counted sizes, their recipe, one shrunk step of each."""

import pytest
import torch

pytest.importorskip('mmpretrain')

from mmengine.registry import HOOKS, DefaultScope

from helpers.configs import build
from helpers.small import two_images
from paca_mm.analysis.recount import count_macs, count_parameters, problems_of
from paca_mm.datasets.shapes import ensure_shapes
from paca_mm.engine.config import configs, load_config, use_shapes
from paca_mm.models.castling.attention import castling_attentions
from paca_mm.zoo.metafiles import read_metafile

ALL = [path for path in configs() if path.parent.name == 'castling']
#: DeiT's published sizes (5,717,416 and so on) and one kernel of 9 a head and layer; width, heads.
SIZES = {
    'tiny': (5_717_416, 192, 3),
    'small': (22_050_664, 384, 6),
    'base': (86_567_656, 768, 12),
}
QUOTED = {'tiny': 76.0, 'small': None, 'base': 84.2}


def config(size):
    return load_config(f'configs/cls/castling/deit_{size}_castling_in1k.py')


def macs_of(size, branch):
    """Of one 224 x 224 image, in closed form: 12 layers, heads of 64 channels, 197 tokens."""
    _, width, _ = SIZES[size]
    tokens = 14 * 14 + 1
    layer = 12 * tokens * width**2  # q, k, v, proj and a feed-forward network of 4 times the width
    layer += 2 * tokens * width * 64  # k^T v and its product with q
    layer += 9 * tokens * width
    layer += 2 * tokens**2 * width if branch else 0
    return 14 * 14 * 16 * 16 * 3 * width + 12 * layer + 1000 * width


def test_these_are_all():
    names = {f'deit_{size}_castling_in1k' for size in SIZES}
    assert {path.stem for path in ALL} == {*names, 'deit_castling_shapes'}


@pytest.mark.parametrize('size', SIZES)
def test_parameters_are_deits_and_the_kernels(size):
    deit, width, heads = SIZES[size]
    cfg = config(size)
    assert count_parameters(cfg) == deit + 12 * 9 * heads
    with torch.device('meta'):
        assert {(a.embed_dims, a.num_heads) for a in castling_attentions(build(cfg))} == {
            (width, heads)
        }


def test_the_metafile():
    assert list(problems_of('cls/castling', macs=False)) == []
    for entry in read_metafile('cls/castling'):
        size = entry.name.split('_')[1]
        assert entry.metadata['FLOPs'] == macs_of(size, branch=True)
        assert entry.metadata['Inference FLOPs'] == macs_of(size, branch=False)
        assert entry.metrics.get('Top 1 Accuracy') == QUOTED[size]
        assert any(f'{macs_of(size, False) / 1e9:.2f} G when' in note for note in entry.notes)
        assert bool(QUOTED[size]) == any('third party' in note for note in entry.notes)
        assert entry.weights is None


@pytest.mark.slow
@pytest.mark.parametrize('branch', [True, False])
def test_macs_that_are_counted_agree_with_the_closed_form(branch):
    cfg = config('tiny')
    cfg.model.backbone.softmax_branch = branch
    assert count_macs(cfg, 224, 224) == macs_of('tiny', branch)


@pytest.mark.parametrize('size', SIZES)
def test_the_recipe_is_mmpretrains_of_deit(size):
    cfg = config(size)
    optimizer = cfg.optim_wrapper.optimizer
    assert (optimizer.type, optimizer.lr, optimizer.weight_decay) == ('AdamW', 1e-3, 0.05)
    assert cfg.optim_wrapper.clip_grad.max_norm == 5
    assert cfg.auto_scale_lr.base_batch_size == 8 * cfg.train_dataloader.batch_size == 1024
    warm_up, cosine = cfg.param_scheduler
    assert (warm_up.begin, warm_up.end, warm_up.start_factor) == (0, 20, 1e-3)
    assert (cosine.begin, cosine.end, cosine.eta_min) == (20, 300, 1e-5)
    assert cfg.train_cfg.max_epochs == 300
    assert cfg.model.backbone.vit.get('drop_path_rate', 0) == (0.1 if size == 'base' else 0)
    kinds = [hook.type for hook in cfg.custom_hooks]
    assert kinds == ['paca_mm.CastlingHook', *(['EMAHook'] if size == 'base' else [])]
    keys = cfg.optim_wrapper.paramwise_cfg.custom_keys
    assert all(keys[f'.{token}'].decay_mult == 0 for token in ('cls_token', 'pos_embed'))
    for loader in (cfg.val_dataloader, cfg.test_dataloader):
        assert loader.dataset.pipeline[1].scale == 256


@pytest.mark.parametrize('size', SIZES)
def test_on_the_embedded_dataset_the_hook_stays_and_its_schedule_fits(size):
    cfg = config(size)
    use_shapes(cfg)
    (hook,) = cfg.custom_hooks
    assert HOOKS.build(hook).end == 0.8
    assert cfg.train_cfg.max_epochs == 25
    assert cfg.model.head.num_classes == cfg.model.data_preprocessor.num_classes == 6


@pytest.fixture(scope='module')
def shapes(tmp_path_factory):
    return ensure_shapes(tmp_path_factory.mktemp('data') / 'shapes', num_train=4, num_val=2)


@pytest.mark.parametrize('path', ALL, ids=lambda path: path.stem)
def test_one_shrunk_step(path, shapes):
    """The config's own model with few channels, its own pipeline at 64 x 64, a step and a test."""
    cfg = load_config(str(path))
    pipeline = cfg.train_dataloader.dataset.pipeline
    if path.stem != 'deit_castling_shapes':
        pipeline[1].scale = 64
        use_shapes(cfg)
    vit = cfg.model.backbone.vit
    vit.arch = dict(embed_dims=24, num_layers=2, num_heads=3, feedforward_channels=48)
    cfg.model.head.in_channels = 24
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        batch = two_images(cfg, shapes, pipeline)
        model = build(cfg)
        model.init_weights()
        assert model.backbone.layers[0].attn.qkv.weight.std() < 0.03  # init_cfg of the classifier
        torch.nn.init.normal_(model.head.layers.head.weight)  # it begins with zeros
        model.train()
        total, _ = model.parse_losses(model(**model.data_preprocessor(batch, True), mode='loss'))
        total.backward()
        assert total.isfinite()
        for key, parameter in model.named_parameters():
            assert parameter.grad is not None, key
            assert parameter.grad.abs().max() > 0, key
        model.eval()
        with torch.no_grad():
            result = model(**model.data_preprocessor(batch), mode='predict')
        assert [len(sample.pred_score) for sample in result] == [6, 6]
