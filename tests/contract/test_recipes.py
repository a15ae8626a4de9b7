"""Every recipe is a host's head on our backbone that learns: shrunk, one step and one prediction."""

import pytest
import torch
from mmengine.optim import build_optim_wrapper

from helpers.configs import ROOT, build, task_of
from helpers.rows import MINI
from paca_mm.analysis.toy_inputs import annotations
from paca_mm.engine.config import configs, load_config
from paca_mm.engine.walk import walk
from paca_mm.families import family_of
from paca_mm.models.common.norms import revert_sync_batchnorm

RECIPES = [path for path in configs() if path.parent.name == 'recipes']
BORROWED = {
    'det': 'atss cascade_mask_rcnn deformable_detr detr dino faster_rcnn mask2former retinanet rtmdet',
    'seg': 'pspnet segformer semantic_fpn',
    'cls': 'csra linear_head linear_probe',
}

#: The channels of a ResNet-18, which stands in for the host's own backbone.
RESNET = (64, 128, 256, 512)


def name(path):
    return f'{task_of(path)}-{path.stem}'


def test_there_is_a_recipe_for_every_head():
    for task, heads in BORROWED.items():
        found = [path.stem.partition('_paca')[0] for path in RECIPES if task_of(path) == task]
        assert found == heads.split()


def shrunk(path):
    """The recipe on the embedded dataset, narrow and shallow behind a small backbone.

    The channels that its neck and heads read are the ones of its arch, or this fails.
    """
    cfg = load_config(str(path), shapes=True)
    backbone = cfg.model.backbone
    widths = dict(zip(family_of(backbone.type).widths(backbone), MINI['embed_dims'], strict=True))
    backbone.update(arch=MINI, drop_path_rate=0.0, num_clusters=(5, 5, 5, 0))
    shallow(cfg.model, [*backbone.get('out_indices', range(4))], widths)
    return cfg


def shallow(model, stages, widths):
    """Put the widths of other stages into what reads them, and leave most layers out, in place."""
    readers = {key: model[key] for key in model if key.endswith(('neck', 'head')) and model[key]}
    if model.get('neck') and 'in_channels' in model.neck:  # then no head reads the backbone
        readers = {'neck': model.neck}
    read = set()
    for reader in readers.values():
        channels = reader.get('in_channels')
        if isinstance(channels, (list, tuple)):
            assert [*channels] == [[*widths][stage] for stage in stages]
            reader.in_channels = [widths[c] for c in channels]
            read.add(True)
        elif channels is not None:
            assert channels == [*widths][stages[reader.get('in_index', -1)]]
            reader.in_channels = widths[channels]
            read.add(True)
    assert read
    most = dict(num_layers=2, feedforward_channels=32, num_csp_blocks=1, fc_out_channels=32)
    most |= dict(conv_out_channels=16, max_per_img=50)  # boxes, of which each has a mask
    for node in walk(model):
        node.update({key: min(node[key], most[key]) for key in most if key in node})


def step(cfg, task):
    """A step and a prediction of a config's model; the losses, the parameters, the predictions."""
    torch.manual_seed(0)
    cfg.model.setdefault('data_preprocessor', cfg.get('data_preprocessor'))
    model = revert_sync_batchnorm(build(cfg)).train()
    model.init_weights()  # of some parameters of DETR's kin a constructor makes room only
    images = torch.randn(2, 3, 128, 128)
    losses = model(images, annotations(model, task, 2, 128, 128), mode='loss')
    total, _ = model.parse_losses(losses)
    total.backward()
    samples = annotations(model, task, 2, 128, 128)
    with torch.no_grad():
        predicted = model.eval()(images, samples, mode='predict')
    return total, dict(model.named_parameters()), predicted


@pytest.mark.slow
@pytest.mark.parametrize('path', RECIPES, ids=name)
def test_one_shrunk_step(path):
    """All that learns under the host's own backbone learns under ours, and our backbone does."""
    pytest.importorskip({'det': 'mmdet', 'seg': 'mmseg', 'cls': 'mmpretrain'}[task_of(path)])
    task = task_of(path)
    cfg = shrunk(path)
    backbone = cfg.model.backbone
    total, parameters, predicted = step(cfg, task)
    assert torch.isfinite(total)
    assert len(predicted) == 2
    for sample in predicted:
        assert torch.isfinite(scores_of(sample)).all()
    frozen = backbone.get('frozen_stages') == 4
    for key, parameter in parameters.items():
        if key.startswith('backbone.'):
            assert (parameter.grad is None) == frozen, key

    stages = backbone.get('out_indices', (0, 1, 2, 3))
    other = shrunk(path)
    other.model.backbone = dict(type='ResNet', depth=18, out_indices=stages)
    other.model.backbone['frozen_stages'] = 4 if frozen else -1
    other.model.init_cfg = None
    wider = dict(zip(MINI['embed_dims'], RESNET, strict=True))
    shallow(other.model, [*stages], wider)
    _, hosts, _ = step(other, task)

    def idle(found):
        return {
            key for key, p in found.items() if p.grad is None and not key.startswith('backbone.')
        }

    assert idle(parameters) == idle(hosts)
    assert parameters.keys() - hosts.keys() == {k for k in parameters if k.startswith('backbone.')}


def scores_of(sample):
    """What a prediction is sure of: of a detector's boxes, a segmentor's or a classifier's classes."""
    if 'pred_instances' in sample:
        return sample.pred_instances.scores
    return sample.seg_logits.data if 'seg_logits' in sample else sample.pred_score


def test_a_mask2former_on_the_shapes_counts_their_classes():
    cfg = load_config('configs/det/recipes/mask2former_paca.py', shapes=True)
    for head in (cfg.model.panoptic_head, cfg.model.panoptic_fusion_head):
        assert (head.num_things_classes, head.num_stuff_classes) == (6, 0)
    assert cfg.model.panoptic_head.loss_cls.class_weight == [1.0] * 6 + [0.1]
    assert cfg.model.data_preprocessor.batch_augments is None


def test_dino_needs_no_large_image_on_the_shapes():
    """128 x 128 pixels have 340 positions."""
    assert load_config('configs/det/recipes/dino_paca.py', shapes=True).model.num_queries == 100
    assert load_config('configs/det/recipes/dino_paca.py').model.num_queries == 900


@pytest.mark.parametrize(
    ('recipe', 'metrics'), [('retinanet', ['bbox']), ('mask2former', ['bbox', 'segm'])]
)
def test_a_detector_without_masks_is_judged_by_boxes(recipe, metrics):
    """And it is given none: RTMDet would take them for another kind."""
    cfg = load_config(f'configs/det/recipes/{recipe}_paca.py', shapes=True)
    assert cfg.val_evaluator.metric == cfg.test_evaluator.metric == metrics
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        (load,) = (x for x in loader.dataset.pipeline if x.type == 'LoadAnnotations')
        assert load.with_mask == ('segm' in metrics)


def test_a_preprocessor_beside_the_model_counts_the_classes_of_the_shapes():
    cfg = load_config('configs/cls/recipes/linear_head_paca_in1k.py', shapes=True)
    assert cfg.data_preprocessor.num_classes == cfg.model.head.num_classes == 6


#: Of a recipe: the rate and decay of the backbone's weights, of its norms, of the other weights.
RATES = {
    'det/recipes/retinanet_paca.py': ((1e-4, 0.05), (1e-4, 0.0), (1e-4, 0.05)),
    'det/recipes/atss_paca.py': ((1e-4, 0.05), (1e-4, 0.0), (1e-4, 0.05)),
    'det/recipes/rtmdet_paca.py': ((4e-3, 0.05), (4e-3, 0.0), (4e-3, 0.05)),
    'det/recipes/detr_paca.py': ((1e-5, 1e-4), (1e-5, 1e-4), (1e-4, 1e-4)),
    'det/recipes/dino_paca.py': ((1e-5, 1e-4), (1e-5, 1e-4), (1e-4, 1e-4)),
    'det/recipes/mask2former_paca.py': ((1e-5, 0.05), (1e-5, 0.0), (1e-4, 0.05)),
    'seg/recipes/segformer_paca_ade20k.py': ((6e-5, 0.01), (6e-5, 0.0), (6e-4, 0.01)),
    'seg/recipes/pspnet_paca_ade20k.py': ((6e-5, 0.01), (6e-5, 0.0), (6e-5, 0.01)),
    'cls/recipes/linear_head_paca_in1k.py': ((1e-3, 0.05), (1e-3, 0.0), (1e-3, 0.05)),
    'cls/recipes/csra_paca_voc07.py': ((1e-5, 0.05), (1e-5, 0.0), (1e-4, 0.05)),
}


@pytest.mark.slow
@pytest.mark.parametrize(('path', 'expected'), RATES.items())
def test_rates_and_decays(path, expected):
    cfg = load_config(str(ROOT / path))
    cfg.model.backbone.pop('init_cfg', None)
    cfg.model.setdefault('data_preprocessor', cfg.get('data_preprocessor'))
    with torch.device('meta'):
        model = build(cfg)
    wrapper = {**cfg.optim_wrapper, 'type': 'OptimWrapper'}
    groups = build_optim_wrapper(model, wrapper).optimizer.param_groups
    found = {id(p): (g['lr'], g['weight_decay']) for g in groups for p in g['params']}
    kinds = {True: set(), False: set(), 'head': set()}
    for module_name, module in model.named_modules():
        for key, parameter in module.named_parameters(recurse=False):
            if module_name.startswith('backbone.'):
                norm = isinstance(module, torch.nn.LayerNorm)
                if norm or parameter.ndim > 1:
                    kinds[norm].add(found[id(parameter)])
            elif key == 'weight' and isinstance(module, (torch.nn.Conv2d, torch.nn.Linear)):
                kinds['head'].add(found[id(parameter)])
    weights, norms, head = expected
    assert {tuple(round(x, 9) for x in pair) for pair in kinds[False]} == {weights}
    assert {tuple(round(x, 9) for x in pair) for pair in kinds[True]} == {norms}
    assert head in {tuple(round(x, 9) for x in pair) for pair in kinds['head']}
