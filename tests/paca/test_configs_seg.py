"""Every segmentation config loads, builds, counts, follows the recipe and runs one shrunk step."""

import numpy as np
import pytest
import torch

from helpers.rows import MINI, MINI_TEACHER, ROWS
from helpers.small import two_images

pytest.importorskip('mmseg')

from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope

from paca_mm.engine.config import configs, load_config, use_shapes

ALL = [p for p in configs() if p.parent.name == 'seg']
PACA = {row: f'configs/seg/paca_head_paca_{row}_ade20k.py' for row in ROWS}
UPERNET = {row: f'configs/seg/upernet_paca_{row}_ade20k.py' for row in ('tiny', 'small', 'base')}
PATHS = [*PACA.values(), *UPERNET.values()]

#: Parameters on ADE20K (specs 1.7): of the backbone with 200 clusters, of the whole model in millions.
SIZES = {
    PACA['tiny']: (11_876_480, 13.33),
    PACA['small']: (21_713_504, 23.16),
    PACA['small_mlp']: (22_495_768, 23.95),
    PACA['base']: (46_465_504, 47.96),
    PACA['small_teacher']: (20_789_664, 22.24),
    PACA['base_teacher']: (47_264_992, 48.76),
    PACA['small_c2']: (21_713_504, 23.16),
    PACA['small_c49']: (21_713_504, 23.16),
    PACA['small_c49_100']: (21_959_648, 23.41),
    PACA['small_c100_49']: (21_959_648, 23.41),
    PACA['small_c100']: (21_959_648, 23.41),
    PACA['small_c100_blockwise']: (24_328_544, 25.78),
    UPERNET['tiny']: (11_876_480, 41.56),
    UPERNET['small']: (21_713_504, 51.40),
    UPERNET['base']: (46_465_504, 77.18),
}
PACA_HEAD = {'small': 1_450_284, 'base': 1_499_436}

TEN, NO_DECAY = 10 * 6e-5, 0.0


def build(cfg, device='cpu'):
    from mmseg.registry import MODELS

    init_default_scope('mmseg')
    with torch.device(device):
        return MODELS.build(cfg.model)


def row_of(path):
    return path.rpartition('paca_')[2].removesuffix('_ade20k.py')


def test_there_is_a_config_for_every_row_and_no_other():
    names = {path.split('/')[-1] for path in PATHS}
    assert {p.name for p in ALL} == {*names, 'paca_head_paca_shapes.py'}


@pytest.mark.parametrize('path', PATHS)
def test_backbone_is_the_row_with_200_clusters_wherever_it_had_some(path):
    row = row_of(path)
    kwargs, *_ = ROWS[row]
    backbone = dict(load_config(path).model.backbone)
    init = backbone.pop('init_cfg')
    assert backbone.pop('type') == 'paca_mm.PaCaViT'
    had = kwargs.get('num_clusters', (100,) * 4 if 'teacher' in row else (100, 100, 100, 0))
    strong = path in (PACA['base'], PACA['base_teacher'])
    assert backbone.pop('num_clusters') == [200 if m else 0 for m in had]
    assert backbone.pop('drop_path_rate') == (0.5 if strong else 0.1)
    assert {**backbone, 'num_clusters': kwargs.get('num_clusters')} == {
        'arch': 'small', 'num_clusters': None, **kwargs,
    }  # fmt: skip
    # The ImageNet weights are those of the detector of the row.
    det = 'mask_rcnn_paca' + ('' if row == 'small' else f'_{row}')
    assert init == load_config(f'configs/det/{det}.py').model.backbone.init_cfg


@pytest.mark.parametrize('path', PATHS)
def test_parameters(path):
    model = build(load_config(path), 'meta')
    count = {n: sum(p.numel() for p in m.parameters()) for n, m in model.named_children()}
    total = sum(count.values())
    backbone, millions = SIZES.get(path, (None, None))
    if path == PACA['tiny_teacher']:  # nothing published
        assert total == 13_648_556
        return
    assert count['backbone'] == backbone
    assert f'{total / 1e6:.2f}' == f'{millions:.2f}'
    if path in PACA.values():
        assert count['decode_head'] == PACA_HEAD['base' if 'base' in path else 'small']
    else:
        assert f'{count["auxiliary_head"] / 1e6:.3f}' == ('0.924' if 'base' in path else '0.776')


@pytest.mark.parametrize('path', PATHS)
def test_the_recipe(path):
    cfg = load_config(path)
    wrapper = cfg.optim_wrapper
    optimizer = wrapper.optimizer
    assert (wrapper.type, optimizer.type) == ('OptimWrapper', 'AdamW')
    assert (optimizer.lr, optimizer.weight_decay) == (6e-5, 0.01)
    warm_up, poly = cfg.param_scheduler
    assert (warm_up.type, warm_up.start_factor, warm_up.begin, warm_up.end) == (
        'LinearLR', 1e-6, 0, 1500,
    )  # fmt: skip
    assert (poly.type, poly.power, poly.eta_min, poly.begin, poly.end) == (
        'PolyLR', 1.0, 0.0, 1500, 160000,
    )  # fmt: skip
    assert (cfg.train_cfg.max_iters, cfg.train_cfg.val_interval) == (160000, 16000)
    assert (cfg.train_dataloader.batch_size, cfg.auto_scale_lr.base_batch_size) == (2, 16)
    steps = {step.type: step for step in cfg.train_dataloader.dataset.pipeline}
    assert steps['RandomCrop'].crop_size == steps['Pad'].size == (512, 512)
    assert steps['RandomResize'].scale == (2048, 512)
    head = cfg.model.decode_head
    assert head.norm_cfg.type == 'SyncBN'
    assert head.num_classes == 150
    assert cfg.model.test_cfg.mode == 'whole'
    if path in PACA.values():
        assert (head.channels, head.cluster_loss_weight, head.dropout_ratio) == (256, 0.4, 0.1)
        assert 'auxiliary_head' not in cfg.model
    else:
        assert (head.channels, head.pool_scales) == (512, (1, 2, 3, 6))
        assert cfg.model.auxiliary_head.loss_decode.loss_weight == 0.4


def rules(cfg):
    """Of every parameter: its module, its learning rate, its weight decay."""
    model = build(cfg, 'meta')
    groups = build_optim_wrapper(model, cfg.optim_wrapper).optimizer.param_groups
    found = {
        id(p): (group['lr'], group['weight_decay']) for group in groups for p in group['params']
    }
    return [
        (f'{name}.{n}', module, *found[id(p)])
        for name, module in model.named_modules()
        for n, p in module.named_parameters(recurse=False)
    ]


def is_norm(module):
    return isinstance(module, (torch.nn.LayerNorm, torch.nn.modules.batchnorm._BatchNorm))


@pytest.mark.parametrize(
    ('row', 'clusterings'),
    [('tiny', 3), ('small_mlp', 3), ('small_teacher', 4), ('small_c100_blockwise', 19)],
)
def test_multipliers_of_every_parameter(row, clusterings):
    anew = set()
    head_norms = set()
    for name, module, lr, decay in rules(load_config(PACA[row])):
        last = name.split('.')[-2].startswith('to_clusters')
        in_head = name.startswith('decode_head.')
        if last:
            anew.add(name.rpartition('.')[0])
        if in_head and is_norm(module):
            head_norms.add(name.rpartition('.')[0])
        assert lr == pytest.approx(TEN if last or in_head else 6e-5), name
        assert decay == (NO_DECAY if is_norm(module) else 0.01), name
    assert len(anew) == clusterings
    assert len(head_norms) == 9


def test_multipliers_of_upernet():
    seen = set()
    for name, module, lr, decay in rules(load_config(UPERNET['tiny'])):
        assert lr == pytest.approx(6e-5), name
        assert decay == (NO_DECAY if is_norm(module) else 0.01), name
        seen |= {name.split('.')[0]} if is_norm(module) else set()
    assert seen == {'backbone', 'decode_head', 'auxiliary_head'}


KEYS = 'optim_wrapper.paramwise_cfg.custom_keys'
OFFICIAL = {
    'tiny': {f'{KEYS}.decode_head.lr_mult': 10.0},
    'small_mlp': {f'{KEYS}.decode_head.lr_mult': 10.0, f'{KEYS}.to_clusters.lr_mult': 1.0},
    'small_teacher': {
        f'{KEYS}.decode_head.lr_mult': 10.0,
        f'{KEYS}.to_clusters.lr_mult': 1.0,
        f'{KEYS}.teacher.decay_mult': 1.0,
    },
}


@pytest.mark.parametrize('row', OFFICIAL)
def test_the_switch_to_the_literal_official_recipe(row):
    """As the official keys "norm", "clustering.4" and "head" decide on the official names."""
    for name, module, lr, decay in rules(load_config(PACA[row], OFFICIAL[row])):
        in_head = name.startswith('decode_head.')
        in_teacher = name.startswith('backbone.teacher.')
        conv = row == 'tiny' and '.to_clusters.' in name
        assert lr == pytest.approx(TEN if conv or in_head else 6e-5), name
        no_decay = is_norm(module) and not in_head and not in_teacher
        assert decay == (NO_DECAY if no_decay else 0.01), name


def test_the_switch_to_the_literal_official_recipe_of_upernet():
    literal = {'optim_wrapper.paramwise_cfg.norm_decay_mult': 1.0, f'{KEYS}.norm.decay_mult': 0.0}
    for name, module, lr, decay in rules(load_config(UPERNET['tiny'], literal)):
        assert lr == pytest.approx(6e-5), name
        no_decay = is_norm(module) and name.startswith('backbone.')
        assert decay == (NO_DECAY if no_decay else 0.01), name


@pytest.fixture(scope='module')
def shapes(tmp_path_factory):
    from paca_mm.datasets.shapes import ensure_shapes

    return ensure_shapes(tmp_path_factory.mktemp('data') / 'shapes', num_train=4, num_val=2)


@pytest.mark.parametrize('path', ALL, ids=lambda p: p.stem)
@pytest.mark.slow
def test_one_shrunk_step(path, shapes):
    """The config's own model and pipeline, with fewer channels, on images of the shapes."""
    cfg = Config.fromfile(path)
    pipeline = cfg.train_dataloader.dataset.pipeline
    use_shapes(cfg)
    shrink(cfg)
    model = revert_sync_batchnorm(build(cfg)).train()
    batch = two_images(cfg, shapes, [smaller(step) for step in pipeline])
    data = model.data_preprocessor(batch, True)
    losses = model(**data, mode='loss')
    total, _ = model.parse_losses(losses)
    total.backward()
    assert torch.isfinite(total)
    expected = {'decode.loss_ce', 'decode.acc_seg'}
    if 'upernet' in path.stem:
        expected |= {'aux.loss_ce', 'aux.acc_seg'}
    else:
        expected |= {'decode.cluster_loss_ce', 'decode.cluster_acc_seg'}
    assert losses.keys() == expected
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
    with torch.no_grad():
        result = model.eval()(**model.data_preprocessor(batch), mode='predict')
    assert len(result) == 2
    assert result[0].pred_sem_seg.data.max() < 7


def shrink(cfg):
    """Keep the structure of a config's model, with few channels."""
    backbone = cfg.model.backbone
    arch = backbone.arch if isinstance(backbone.arch, str) else ''
    backbone.arch = MINI_TEACHER if 'teacher' in arch else MINI
    backbone.num_clusters = [min(m, 5) for m in backbone.num_clusters]
    cfg.model.decode_head.update(in_channels=list(MINI['embed_dims']), channels=16)
    if 'auxiliary_head' in cfg.model:
        cfg.model.auxiliary_head.update(in_channels=MINI['embed_dims'][2], channels=16)


def smaller(step):
    """A transform of the ADE20K pipeline at an eighth of its sizes."""
    if isinstance(step, (list, tuple)):
        if len(step) == 2 and all(isinstance(n, int) for n in step):
            return tuple(n // 8 for n in step)
        return step
    return {k: smaller(v) for k, v in step.items()} if isinstance(step, dict) else step


@pytest.mark.parametrize('size', [(200, 800), (300, 1000), (512, 512), (31, 40)], ids=str)
def test_images_of_any_size_train_at_512(size, tmp_path):
    """What is smaller than the crop is padded with the mean colour and with "no label"."""
    import cv2
    from mmcv.transforms import Compose

    cv2.imwrite(str(tmp_path / 'a.png'), np.full((*size, 3), 200, np.uint8))
    cv2.imwrite(str(tmp_path / 'mask.png'), np.full(size, 3, np.uint8))
    cfg = load_config(PACA['tiny'])
    model = build(cfg, 'meta')
    init_default_scope('mmseg')
    done = Compose(cfg.train_dataloader.dataset.pipeline)(
        dict(
            img_path=str(tmp_path / 'a.png'),
            seg_map_path=str(tmp_path / 'mask.png'),
            reduce_zero_label=True,
            label_map=None,
            seg_fields=[],
        )
    )
    assert done['inputs'].shape == (3, 512, 512)
    labels = done['data_samples'].gt_sem_seg.data
    assert labels.shape == (1, 512, 512)
    assert set(labels.unique().tolist()) <= {2, 255}
    padding = done['inputs'][:, labels[0] == 255]
    if padding.numel():
        mean = torch.tensor(cfg.model.data_preprocessor.mean)[[2, 1, 0]]
        assert (padding.float().mean(1) - mean).abs().max() < 0.5
    assert type(model.data_preprocessor).__name__ == 'SegDataPreProcessor'


@pytest.mark.parametrize('path', [PACA['small_mlp'], UPERNET['base']])
def test_any_config_runs_on_the_shapes(path):
    cfg = load_config(path, shapes=True)
    assert cfg.train_dataloader.dataset.data_root == 'data/shapes/'
    assert cfg.model.decode_head.num_classes == 7
    assert cfg.model.get('auxiliary_head', cfg.model.decode_head).num_classes == 7
    assert cfg.model.backbone.init_cfg is None
    assert cfg.param_scheduler[-1].end == cfg.train_cfg.max_iters
    assert cfg.train_cfg.max_iters % cfg.train_cfg.val_interval == 0
