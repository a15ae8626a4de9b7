"""What every config promises, whatever its family and task."""

import pytest
from mmengine.config import Config

from paca_mm.engine.config import configs, load_config
from paca_mm.engine.tasks import TASKS, task_for
from paca_mm.families import families
from paca_mm.paths import assets_root

ROOT = assets_root() / 'configs'


def name(path):
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize('path', configs(), ids=name)
def test_runs_are_set_up_alike(path):
    cfg = load_config(str(path))
    assert task_for(cfg) is TASKS[path.relative_to(ROOT).parts[0]]
    assert cfg.runner_type == 'paca_mm.SafeRunner'
    assert cfg.default_hooks.checkpoint.type == 'paca_mm.SafeCheckpointHook'
    assert cfg.visualizer.vis_backends == cfg.vis_backends
    assert cfg.model.backbone.type.startswith('paca_mm.')


@pytest.mark.parametrize('path', sorted(ROOT.glob('*/_base_/models/*.py')), ids=name)
def test_a_base_model_has_no_backbone(path):
    assert 'backbone' not in Config.fromfile(path).model


@pytest.mark.parametrize('path', sorted(ROOT.rglob('*.py')), ids=name)
def test_bases_are_our_own(path):
    """Configs of other packages do not load on every stack, so none is inherited from."""
    assert '::' not in path.read_text()


def test_every_published_row_has_its_config():
    for family in families().values():
        if family.catalogue is None:
            continue
        for kind in family.catalogue.kinds:
            for row in family.catalogue.published.get(kind, family.catalogue.rows):
                config = family.catalogue.config(kind, row)
                assert (assets_root() / config).is_file(), config
