"""The configs of Attentive Normalization: published sizes and recipes, a step of each."""

import pytest
import torch

pytest.importorskip('mmdet')
pytest.importorskip('mmpretrain')

from mmengine.registry import DefaultScope

from helpers.configs import build
from helpers.small import two_images
from paca_mm.analysis.recount import count_parameters
from paca_mm.datasets.shapes import ensure_shapes
from paca_mm.engine.config import load_config, use_shapes
from paca_mm.models import AttnBN, AttnGN
from paca_mm.zoo.metafiles import read_metafile

#: config: counted, published parameters in millions.
CLS = {
    'resnet50_an_in1k': (25_755_420, 25.755),
    'resnet101_an_in1k': (45_000_644, 45.001),
    'mobilenet_v2_an_in1k': (3_672_760, 3.673),
}
DET = {
    'mask_rcnn_r50_an': (45_905_444, 45.91),
    'mask_rcnn_r101_an': (65_150_668, 65.15),
    'mask_rcnn_r50_an_head': (45_953_632, 45.96),
    'mask_rcnn_r101_an_head': (65_198_856, 65.20),
}
#: The authors' heads have a box (4 x 1025) and a mask (257) for the background too.
BACKGROUND = 4 * 1025 + 257


def cls_config(name):
    return load_config(f'configs/cls/attentive_norm/{name}.py')


def det_config(name):
    return load_config(f'configs/det/attentive_norm/{name}.py')


@pytest.mark.slow
@pytest.mark.parametrize('name', CLS)
def test_classifiers_have_the_published_size(name):
    counted, published = CLS[name]
    assert count_parameters(cls_config(name)) == counted
    assert round(counted / 1e6, 3) == published
    # Every mixture adds 3KC - 2C + 2K parameters to its norm.
    module = build(cls_config(name)).backbone
    extra = 0
    for norm in module.modules():
        if isinstance(norm, AttnBN):
            k, c = norm.weight_.shape
            assert sum(p.numel() for p in norm.parameters()) == 3 * k * c + 2 * k
            extra += 3 * k * c - 2 * c + 2 * k
    assert (
        extra
        == {'resnet50': 198_388, 'resnet101': 451_484, 'mobilenet': 167_888}[name.partition('_')[0]]
    )


@pytest.mark.slow
@pytest.mark.parametrize('name', DET)
def test_detectors_have_the_published_size(name):
    counted, published = DET[name]
    assert count_parameters(det_config(name)) == counted
    # R101 has 65.155 M and is published as 65.15.
    assert abs((counted + BACKGROUND) / 1e6 - published) < 0.0051


def test_published_figures_are_in_the_metafiles():
    found = {e.name: e for e in read_metafile('cls/attentive_norm')}
    errors = {name: entry.metrics['Top 1 Error'] for name, entry in found.items()}
    assert errors == dict(zip(CLS, (21.59, 20.61, 26.67), strict=True))
    for entry in found.values():
        assert entry.metrics['Top 1 Accuracy'] == round(100 - entry.metrics['Top 1 Error'], 2)
        assert entry.metadata['Published Parameters (M)'] == CLS[entry.name][1]
    found = {e.name: e for e in read_metafile('det/attentive_norm')}
    results = {n: (e.metrics['box AP'], e.metrics['mask AP']) for n, e in found.items()}
    assert results == {
        'mask_rcnn_r50_an': (40.8, 36.4),
        'mask_rcnn_r50_an_head': (41.6, 37.4),
        'mask_rcnn_r101_an': (43.1, 38.2),
        'mask_rcnn_r101_an_head': (43.2, 38.8),
    }


def test_the_recipes():
    for name, (epochs, lr, decay) in {
        'resnet50_an_in1k': (120, 0.4, 1e-4),
        'resnet101_an_in1k': (120, 0.4, 1e-4),
        'mobilenet_v2_an_in1k': (150, 0.2, 4e-5),
    }.items():
        cfg = cls_config(name)
        optimizer = cfg.optim_wrapper.optimizer
        assert (optimizer.type, optimizer.momentum) == ('SGD', 0.9)
        assert (optimizer.lr, optimizer.weight_decay) == (lr, decay)
        assert cfg.train_cfg.max_epochs == epochs
        warm_up, cosine = cfg.param_scheduler
        assert (warm_up.end, cosine.begin, cosine.end, cosine.T_max) == (5, 5, epochs, epochs - 5)
        assert cfg.auto_scale_lr.base_batch_size == 8 * cfg.train_dataloader.batch_size == 1024
        kinds = [step.type for step in cfg.train_dataloader.dataset.pipeline]
        assert kinds == ['LoadImageFromFile', 'RandomResizedCrop', 'RandomFlip', 'PackInputs']
        for loader in (cfg.val_dataloader, cfg.test_dataloader):
            assert loader.dataset.pipeline[1].scale == 256
        assert cfg.model.head.loss.type == 'CrossEntropyLoss'
    for name in DET:
        cfg = det_config(name)
        optimizer = cfg.optim_wrapper.optimizer
        assert (optimizer.type, optimizer.lr, optimizer.weight_decay) == ('SGD', 0.02, 1e-4)
        assert cfg.optim_wrapper.clip_grad.max_norm == 35
        assert cfg.train_cfg.max_epochs == 24
        assert cfg.param_scheduler[1].milestones == [16, 22]
        module = cfg.model.backbone.module
        assert (module.frozen_stages, module.norm_eval) == (1, True)
        assert f'resnet{module.depth}_an' in module.init_cfg.checkpoint
        resize = cfg.train_dataloader.dataset.pipeline[2]
        assert (resize.type, resize.scale) == ('Resize', (1333, 800))


@pytest.mark.parametrize('name', ['mask_rcnn_r50_an_head', 'mask_rcnn_r101_an_head'])
def test_the_head_has_mixtures_of_10_10_20_20(name):
    cfg = det_config(name)
    cfg.model.backbone = dict(type='ResNet', depth=18)
    cfg.model.neck.in_channels = [64, 128, 256, 512]
    head = build(cfg).roi_head.bbox_head
    norms = [m for m in head.modules() if isinstance(m, AttnGN)]
    assert [m.num_mixtures for m in norms] == [10, 10, 20, 20]
    assert {(m.num_groups, m.attention) for m in norms} == {(32, 'conv_hsigmoid')}


@pytest.mark.slow
@pytest.mark.parametrize('name', CLS)
def test_one_shrunk_step_of_a_classifier(name, tmp_path):
    """The config's own model with few channels, its own pipeline at 64 x 64, a step and a test."""
    cfg = cls_config(name)
    pipeline = cfg.train_dataloader.dataset.pipeline
    pipeline[1].scale = 64
    use_shapes(cfg)
    module = cfg.model.backbone.module
    if module.type == 'ResNet':
        module.base_channels = 8
        cfg.model.head.in_channels = 256
    else:
        module.widen_factor = 0.25
    shapes = ensure_shapes(tmp_path / 'shapes', num_train=4, num_val=2)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        batch = two_images(cfg, shapes, pipeline)
        model = build(cfg).train()
        data = model.data_preprocessor(batch, True)
        total, _ = model.parse_losses(model(**data, mode='loss'))
        total.backward()
        assert total.isfinite()
        for key, parameter in model.named_parameters():
            assert parameter.grad is not None, key
        model.eval()
        with torch.no_grad():
            result = model(**model.data_preprocessor(batch), mode='predict')
        assert [len(sample.pred_score) for sample in result] == [6, 6]


def shrink(model):
    """Keep the structure of a detector, with few channels and few proposals."""
    model.backbone.module.base_channels = 8
    model.neck.update(in_channels=[32, 64, 128, 256], out_channels=32)
    model.rpn_head.update(in_channels=32, feat_channels=32)
    roi_head = model.roi_head
    roi_head.bbox_roi_extractor.out_channels = roi_head.mask_roi_extractor.out_channels = 32
    box = roi_head.bbox_head.get('module', roi_head.bbox_head)
    assert box.num_classes == 6
    box.update(in_channels=32, conv_out_channels=32, fc_out_channels=32)
    roi_head.mask_head.update(in_channels=32, conv_out_channels=32)
    model.train_cfg.rpn_proposal.max_per_img = model.test_cfg.rpn.max_per_img = 30


@pytest.mark.slow
@pytest.mark.parametrize('name', DET)
def test_one_shrunk_step_of_a_detector(name, tmp_path):
    """The config's own model with few channels, its own pipeline at 128, a step and a test."""
    cfg = det_config(name)
    pipeline = cfg.train_dataloader.dataset.pipeline
    pipeline[2].scale = (128, 128)
    use_shapes(cfg)
    shrink(cfg.model)
    assert cfg.model.backbone.module.init_cfg is None
    shapes = ensure_shapes(tmp_path / 'shapes', num_train=4, num_val=2)
    with DefaultScope.overwrite_default_scope('mmdet'):
        batch = two_images(cfg, shapes, pipeline)
        model = build(cfg)
        model.train()
        data = model.data_preprocessor(batch, True)
        losses = model(**data, mode='loss')
        total, _ = model.parse_losses(losses)
        total.backward()
        assert total.isfinite()
        assert {'loss_rpn_cls', 'loss_cls', 'loss_bbox', 'loss_mask'} <= losses.keys()
        for key, parameter in model.named_parameters():
            frozen = key.startswith(('backbone.conv1', 'backbone.bn1', 'backbone.layer1'))
            assert parameter.requires_grad != frozen, key
            assert (parameter.grad is None) == frozen, key
        model.eval()
        with torch.no_grad():
            result = model(**model.data_preprocessor(batch), mode='predict')
        assert 'masks' in result[0].pred_instances


def test_a_row_is_a_contestant_of_the_benchmark():
    from paca_mm.analysis.speed.contestants import known, variants
    from paca_mm.errors import UserError
    from paca_mm.models.attentive_norm.contestants import backbone
    from paca_mm.models.attentive_norm.rows import ROWS

    assert {*ROWS} <= {*known()}
    assert {'plain', 'bn'} <= variants().keys()
    arguments = dict(ROWS['mobilenet_v2_an'].backbone)
    arguments['module'] = {**arguments['module'], 'widen_factor': 0.25}
    models = {name: backbone(arguments, [name] if name else []) for name in ('', 'plain', 'bn')}
    models['plain'].load_state_dict(models[''].state_dict())
    x = torch.randn(4, 3, 64, 64, dtype=torch.float64)
    outs = {name: model.double()(x)[-1] for name, model in models.items()}
    torch.testing.assert_close(outs['plain'], outs[''], rtol=1e-6, atol=1e-6)
    assert not any(isinstance(m, AttnBN) for m in models['bn'].modules())
    torch.testing.assert_close(
        dict(models['plain'].named_buffers()), dict(models[''].named_buffers())
    )
    with pytest.raises(UserError, match='do not go together'):
        backbone(arguments, ['plain', 'bn'])
    with pytest.raises(UserError, match="no variant 'blocks'"):
        backbone(arguments, ['blocks'])
