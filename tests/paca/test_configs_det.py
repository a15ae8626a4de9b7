"""Every detection config loads, builds, counts and runs one shrunk step."""

import pytest
import torch

from helpers.rows import MINI, MINI_TEACHER, ROWS
from helpers.small import shrink_mask_rcnn, two_images

pytest.importorskip('mmdet')

from mmengine.config import Config
from mmengine.registry import init_default_scope

from paca_mm.engine.config import configs, load_config, use_shapes

ALL = [p for p in configs() if p.parent.name == 'det']
NAMES = {'small': 'mask_rcnn_paca', **{r: f'mask_rcnn_paca_{r}' for r in ROWS if r != 'small'}}


def build(cfg):
    from mmdet.registry import MODELS

    init_default_scope('mmdet')
    return MODELS.build(cfg.model)


def test_there_is_a_config_for_every_row_and_no_other():
    assert {p.stem for p in ALL} == {*NAMES.values(), 'mask_rcnn_paca_shapes'}


@pytest.mark.parametrize('row', ROWS)
def test_backbone_and_size_are_the_published_ones(row):
    kwargs, _, _, expected = ROWS[row]
    cfg = load_config(f'configs/det/{NAMES[row]}.py')
    backbone = {k: v for k, v in cfg.model.backbone.items() if k not in ('type', 'init_cfg')}
    for key in ('num_clusters', 'cluster_every'):
        if isinstance(backbone.get(key), list):
            backbone[key] = tuple(backbone[key])
    assert backbone == {'arch': 'small', 'drop_path_rate': 0.1, **kwargs}
    with torch.device('meta'):
        total = sum(p.numel() for p in build(cfg).parameters())
    assert expected is None or total == expected


@pytest.mark.parametrize('row', ROWS)
def test_the_recipe(row):
    cfg = load_config(f'configs/det/{NAMES[row]}.py')
    optimizer = cfg.optim_wrapper.optimizer
    assert (optimizer.type, optimizer.lr, optimizer.weight_decay) == ('AdamW', 1e-4, 0.05)
    assert cfg.optim_wrapper.type == 'AmpOptimWrapper'
    assert cfg.optim_wrapper.paramwise_cfg.custom_keys == dict(norm=dict(decay_mult=0.0))
    warm_up, steps = cfg.param_scheduler
    assert (warm_up.end, warm_up.start_factor, steps.milestones) == (500, 0.001, [8, 11])
    assert cfg.train_cfg.max_epochs == 12
    assert cfg.auto_scale_lr.base_batch_size == 16
    assert cfg.train_dataloader.batch_size == 2


@pytest.mark.slow
def test_no_norm_decays_and_everything_else_does():
    from mmengine.optim import build_optim_wrapper

    cfg = load_config('configs/det/mask_rcnn_paca_small_teacher.py')
    wrapper = {**cfg.optim_wrapper, 'type': 'OptimWrapper'}
    wrapper.pop('loss_scale')
    model = build(cfg)
    groups = build_optim_wrapper(model, wrapper).optimizer.param_groups
    decays = {id(p): group['weight_decay'] for group in groups for p in group['params']}
    norms = (torch.nn.LayerNorm, torch.nn.BatchNorm2d)
    for name, module in model.named_modules():
        for parameter in module.parameters(recurse=False):
            assert decays[id(parameter)] == (0 if isinstance(module, norms) else 0.05), name


@pytest.mark.parametrize('path', ALL, ids=lambda p: p.stem)
@pytest.mark.slow
def test_one_shrunk_step(path, tmp_path, monkeypatch):
    """The config's own model and pipeline, with fewer channels, on one image of its dataset."""
    from paca_mm.datasets.shapes import ensure_shapes

    cfg = Config.fromfile(path)
    shapes = ensure_shapes(tmp_path / 'shapes', num_train=4, num_val=2)
    pipeline = cfg.train_dataloader.dataset.pipeline
    use_shapes(cfg)
    shrink(cfg)
    model = build(cfg).train()
    batch = two_images(cfg, shapes, [smaller(step) for step in pipeline])
    data = model.data_preprocessor(batch, True)
    losses = model(**data, mode='loss')
    total, _ = model.parse_losses(losses)
    total.backward()
    assert torch.isfinite(total)
    assert {'loss_rpn_cls', 'loss_rpn_bbox', 'loss_cls', 'loss_bbox', 'loss_mask'} <= losses.keys()
    for name, parameter in model.backbone.named_parameters():
        assert parameter.grad is not None, name
    with torch.no_grad():
        result = model.eval()(**model.data_preprocessor(batch), mode='predict')
    assert len(result) == 2
    assert 'masks' in result[0].pred_instances


def test_the_embedded_dataset_takes_fewer_candidates():
    cfg = load_config('configs/det/mask_rcnn_paca.py', shapes=True)
    train, test = cfg.model.train_cfg, cfg.model.test_cfg
    assert (train.rpn_proposal.nms_pre, train.rpn_proposal.max_per_img) == (500, 200)
    assert (test.rpn.nms_pre, test.rpn.max_per_img, test.rcnn.max_per_img) == (500, 200, 100)
    assert (train.rcnn.sampler.num, train.rpn.sampler.num) == (16, 256)

    stages = load_config('configs/det/mask_rcnn_paca.py')
    stages.model.train_cfg.rcnn = [stages.model.train_cfg.rcnn] * 2  # as in a Cascade R-CNN
    use_shapes(stages)
    assert [stage.sampler.num for stage in stages.model.train_cfg.rcnn] == [16, 16]

    one_stage = load_config('configs/det/mask_rcnn_paca.py')
    one_stage.model.update(train_cfg=None, test_cfg=dict(nms_pre=1000, nms=dict(type='nms')))
    use_shapes(one_stage)
    assert one_stage.model.test_cfg.nms_pre == 500


def shrink(cfg):
    """Keep the structure of a config's model, with few channels."""
    backbone = cfg.model.backbone
    arch = backbone.arch if isinstance(backbone.arch, str) else ''
    backbone.arch = MINI_TEACHER if 'teacher' in arch else MINI
    if 'num_clusters' in backbone:
        backbone.num_clusters = [min(m, 5) for m in backbone.num_clusters]
    shrink_mask_rcnn(cfg.model, MINI['embed_dims'])


def smaller(step):
    """A transform of the COCO pipeline at a tenth of its sizes."""
    if isinstance(step, (list, tuple)):
        if len(step) == 2 and all(isinstance(n, int) for n in step):
            return tuple(max(n // 8, 32) for n in step)
        return [smaller(s) for s in step]
    return {k: smaller(v) for k, v in step.items()} if isinstance(step, dict) else step


def test_any_config_runs_on_the_shapes():
    cfg = load_config('configs/det/mask_rcnn_paca.py', shapes=True)
    assert cfg.train_dataloader.dataset.data_root == 'data/shapes/'
    assert cfg.model.roi_head.bbox_head.num_classes == cfg.model.roi_head.mask_head.num_classes == 6
    assert cfg.model.backbone.init_cfg is None
    assert cfg.model.backbone.arch == 'small'


def test_an_official_detector_checkpoint_fills_the_whole_model():
    from paca_mm.checkpoint import load_whole, rename_to_official
    from paca_mm.errors import UserError

    cfg = load_config('configs/det/mask_rcnn_paca_tiny_teacher.py')
    shrink(cfg)
    donor, model = build(cfg), build(cfg)
    state = donor.state_dict()
    rename_to_official(state, 'backbone.')
    model.load_state_dict(state, strict=True)
    report = load_whole(build(cfg), {'state_dict': state, 'meta': {}}, 'official.pth', strict=True)
    assert not report.missing
    assert not report.unexpected
    assert not report.reset
    for key, value in donor.state_dict().items():
        assert torch.equal(model.state_dict()[key], value), key

    cfg.model.roi_head.bbox_head.num_classes = cfg.model.roi_head.mask_head.num_classes = 3
    report = load_whole(build(cfg), state, 'official.pth', strict=False)  # to start a training
    assert {key for key, *_ in report.reset} == {
        f'roi_head.{layer}.{kind}'
        for layer in ('bbox_head.fc_cls', 'bbox_head.fc_reg', 'mask_head.conv_logits')
        for kind in ('weight', 'bias')
    }
    with pytest.raises(UserError, match=r'of another shape: roi_head\.bbox_head\.fc_cls'):
        load_whole(build(cfg), state, 'official.pth', strict=True)  # to test
