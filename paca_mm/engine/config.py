"""Configs as the tools take them: found or missed by name, and turned to the embedded dataset."""

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.fileio import load

from paca_mm.bases import circle_in_bases, fault_in_bases
from paca_mm.errors import UserError
from paca_mm.paths import assets_root, configs, find_config

from .data_checks import heads_of
from .options import merge
from .tasks import scope_of_model, task_for
from .walk import leave_weights_out, type_name

__all__ = ['configs', 'default_work_dir', 'is_lazy', 'load_config', 'use_shapes']


def load_config(path: str, options: dict | None = None, shapes: bool = False) -> Config:
    """Load a config file.

    Args:
        path: A file; of ours also as :func:`~paca_mm.paths.find_config` finds it from any folder.
        options: What ``--cfg-options`` holds; it wins over everything.
        shapes: Turn the config to the embedded dataset (see :func:`use_shapes`).

    Raises:
        UserError: There is no such config, it cannot be parsed, or an option does not fit it.
    """
    file = find_config(path)
    if circle := circle_in_bases(file):
        raise UserError(circle)
    try:
        cfg = Config.fromfile(file)
    except Exception as e:
        if fault := fault_in_bases(file) or _fault_of_kind(file):
            raise UserError(fault) from e
        raise UserError(f'{file} cannot be read as a config: {type(e).__name__}: {e}') from e
    if cfg.get('model') and not cfg.get('default_scope') and (scope := scope_of_model(cfg.model)):
        cfg.default_scope = scope  # lazy configs have none, but their texts are of a host's too
    if shapes:
        use_shapes(cfg)
    if options:
        merge(cfg, options)
    return cfg


def _fault_of_kind(file: Path) -> str | None:
    """What is wrong with a JSON or YAML file that holds something else than settings by name."""
    if file.suffix == '.py':
        return None
    with suppress(Exception):  # no such format, or a fault of it
        content = load(file)
        if not isinstance(content, dict):
            return (
                f'{file} holds a {type(content).__name__}, where a config has settings by name.\n'
                '  to fix it: put what it holds under a name, such as {"train_pipeline": ...}.'
            )
    return None


def default_work_dir(config: str, shapes: bool) -> str:
    """Where what is made with a config goes, if nobody says where."""
    return os.path.join('work_dirs', Path(config).stem + ('_on_shapes' if shapes else ''))


def is_lazy(file: Path) -> bool:
    """Whether a config is one of Python's imports (``read_base``), rather than a text."""
    return Config._is_lazy_import(str(file))


def use_shapes(cfg: Config) -> None:
    """Turn any config of ours to the embedded shapes dataset, in place.

    Dataset, evaluation and schedule become those of the task's ``*_shapes.py`` config, every head
    that learns the dataset's classes has its class count, and weights that would have to be
    downloaded are left out, a teacher of other classes with them. Weights are not averaged: the mean
    over a long training would be that of a short one's beginning. The task may suit more of it to
    images that are small (:meth:`~.tasks.Task.suit_shapes`); the rest of the model stays as it is. A
    config may say what else it needs, as ``on_shapes=dict(...)``: a smaller learning rate, say.
    """
    task = task_for(cfg)
    if cfg.model.get('teacher') is not None:
        cfg.model.teacher = None
    if cfg.get('custom_hooks'):
        cfg.custom_hooks = [hook for hook in cfg.custom_hooks if type_name(hook) != 'EMAHook']
    judged = cfg.get('val_evaluator')
    base = assets_root() / 'configs' / task.name / '_base_'
    overlaid: dict[str, Any] = {}
    for overlay in ('datasets/shapes.py', 'schedules/schedule_shapes.py'):
        overlaid.update(Config.fromfile(base / overlay).items())
    for key, value in overlaid.items():
        cfg[key] = value
    if 'tta_pipeline' not in overlaid:  # the one that there may be is for images of other sizes
        cfg.pop('tta_pipeline', None)
    cfg.merge_from_dict(cfg.pop('on_shapes', {}))
    for head in [*task.heads(cfg.model), *heads_of(cfg.get('data_preprocessor'))]:
        head.node['num_classes'] = len(task.shapes_classes)
    leave_weights_out(cfg.model)
    task.suit_shapes(cfg.model)
    task.judge_as(cfg, judged)
    cfg.load_from = None
