"""What every config promises, whatever its family and task."""

import re

import pytest
from mmengine.config import Config
from mmengine.registry import init_default_scope

from helpers.configs import ROOT, task_of
from paca_mm.engine.arguments import check_arguments
from paca_mm.engine.config import configs, load_config
from paca_mm.engine.tasks import TASKS, task_for
from paca_mm.engine.walk import walk, weights_of
from paca_mm.families import families
from paca_mm.paths import assets_root


def name(path):
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize('path', configs(), ids=name)
def test_runs_are_set_up_alike(path):
    cfg = load_config(str(path))
    assert task_for(cfg) is TASKS[task_of(path)]
    assert cfg.runner_type == 'paca_mm.SafeRunner'
    assert cfg.default_hooks.checkpoint.type == 'paca_mm.SafeCheckpointHook'
    backends = [[backend.type for backend in x.vis_backends] for x in (cfg, cfg.visualizer)]
    assert backends == [['LocalVisBackend']] * 2
    assert cfg.model.backbone.type.startswith('paca_mm.')
    pytest.importorskip(cfg.default_scope)
    init_default_scope(cfg.default_scope)
    check_arguments(cfg, ['train', 'val', 'test'])  # what works is no mistake


@pytest.mark.parametrize('path', configs(), ids=name)
def test_any_config_runs_on_the_shapes(path):
    cfg = load_config(str(path), shapes=True)
    task = TASKS[task_of(path)]
    assert cfg.train_dataloader.dataset.data_root == 'data/shapes/'
    assert cfg.model.get('teacher') is None
    assert cfg.model.backbone.get('init_cfg') is None
    assert not any(weights_of(node) for node in walk(cfg.model))
    assert not [hook for hook in cfg.get('custom_hooks', []) if hook.type == 'EMAHook']
    keys = ('num_classes', 'num_things_classes')
    counts = {node[key] for node in walk(cfg.model) for key in keys if key in node}
    assert counts == {len(task.shapes_classes)} == {7 if task.name == 'seg' else 6}


@pytest.mark.parametrize('path', sorted(ROOT.glob('*/_base_/models/*.py')), ids=name)
def test_a_base_model_has_no_backbone(path):
    assert 'backbone' not in Config.fromfile(path).model


@pytest.mark.parametrize('path', sorted(ROOT.rglob('*.py')), ids=name)
def test_bases_load_on_every_stack(path):
    """Recipes are a host's configs with our backbone; mmseg's do not load on every stack."""
    others = set(re.findall(r'(\w+)::', path.read_text()))
    assert others <= ({'mmdet', 'mmpretrain'} if path.parent.name == 'recipes' else set())


def test_every_published_row_has_its_config():
    for family in families().values():
        if family.catalogue is None:
            continue
        for kind in family.catalogue.kinds:
            for row in family.catalogue.published.get(kind, family.catalogue.rows):
                config = family.catalogue.config(kind, row)
                assert (assets_root() / config).is_file(), config
