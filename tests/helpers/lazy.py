"""A text config as a pure-Python one: every ``type`` that a registry knows becomes the class itself."""

from mmengine import registry as registries
from mmengine.config import Config
from mmengine.registry import DefaultScope

#: Where a type is looked up, by the setting that it stands in.
_PLACES = {
    'model': ('WEIGHT_INITIALIZERS', 'MODELS', 'TASK_UTILS'),
    'tta_model': ('MODELS',),
    'data_preprocessor': ('MODELS',),
    'dataloader': ('DATASETS', 'DATA_SAMPLERS', 'FUNCTIONS', 'TRANSFORMS'),
    'pipeline': ('TRANSFORMS',),
    'evaluator': ('METRICS',),
    'hooks': ('HOOKS',),
    'optim_wrapper': ('OPTIM_WRAPPERS', 'OPTIMIZERS'),
    'param_scheduler': ('PARAM_SCHEDULERS',),
    'train_cfg': ('LOOPS',),
    'val_cfg': ('LOOPS',),
    'test_cfg': ('LOOPS',),
    'visualizer': ('VISUALIZERS', 'VISBACKENDS'),
    'vis_backends': ('VISBACKENDS',),
    'log_processor': ('LOG_PROCESSORS',),
}


def as_lazy(cfg: Config) -> str:
    """The text of a pure-Python config with the settings of ``cfg``; it has no ``default_scope``."""
    imports: dict[str, str] = {}

    def found(name, places):
        with DefaultScope.overwrite_default_scope(cfg.default_scope):
            for place in places:
                with getattr(registries, place).switch_scope_and_registry(None) as registry:
                    kind = registry.get(name)
                if kind is not None and '<locals>' not in kind.__qualname__:
                    return kind
        return None

    def text(node, places):
        if isinstance(node, dict):
            items = [f'{key!r}: {of_key(key, value, places)}' for key, value in node.items()]
            return f'{{{", ".join(items)}}}'
        if isinstance(node, (list, tuple)):
            inner = ', '.join(text(child, places) for child in node)
            return f'[{inner}]' if isinstance(node, list) else f'({inner}{"," if node else ""})'
        return repr(node)

    def of_key(key, value, places):
        kind = found(value, places) if key == 'type' and isinstance(value, str) else None
        if kind is None:
            return text(value, places)
        alias = f'{kind.__name__}_{len(imports)}'
        return imports.setdefault(f'from {kind.__module__} import {kind.__name__} as ', alias)

    lines = []
    for key, value in cfg.items():
        if key in ('default_scope', 'runner_type') or not _is_setting(key):
            continue
        place = next((places for name, places in _PLACES.items() if key.endswith(name)), ())
        lines.append(f'{key} = {text(value, place)}')
    lines.append('runner_type = SafeRunner')
    head = [f'{line}{alias}' for line, alias in imports.items()]
    head.append('from paca_mm.engine.runner import SafeRunner')
    return '\n'.join([*head, 'default_scope = None', *lines, ''])


def _is_setting(key):
    """Whether a Runner reads it; the others are helpers of the text."""
    ends = (*_PLACES, 'env_cfg', 'log_level', 'load_from', 'resume', 'work_dir', 'randomness')
    return key.endswith(ends)
