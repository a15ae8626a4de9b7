"""What tests ask about config files."""

from mmengine.registry import MODELS, init_default_scope

from paca_mm.paths import assets_root

ROOT = assets_root() / 'configs'


def task_of(path):
    """The task that a config file lies under, ``'det'`` say."""
    return path.relative_to(ROOT).parts[0]


def build(cfg):
    """The model of a config, in the scope of its host, which stays."""
    init_default_scope(cfg.default_scope)
    return MODELS.build(cfg.model)
