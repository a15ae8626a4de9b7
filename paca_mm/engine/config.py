"""Configs as the tools take them: found or missed by name, and turned to the embedded dataset."""

from difflib import get_close_matches
from pathlib import Path

from mmengine.config import Config

from paca_mm.errors import UserError
from paca_mm.paths import assets_root

from .tasks import TASKS, task_for
from .walk import leave_weights_out, walk


def load_config(path: str, options: dict | None = None, shapes: bool = False) -> Config:
    """Load a config file.

    Args:
        path: A file, as given or relative to the project (``configs/det/mask_rcnn_paca.py`` works
            from any working directory).
        options: What ``--cfg-options`` holds; it wins over everything.
        shapes: Turn the config to the embedded dataset (see :func:`use_shapes`).

    Raises:
        UserError: There is no such config, or it cannot be parsed.
    """
    file = Path(path).expanduser()
    if not file.is_file() and (assets_root() / path).is_file():
        file = assets_root() / path
    if not file.is_file():
        known = {str(p.relative_to(assets_root())): p.name for p in configs()}
        near = get_close_matches(file.name, known.values(), n=3, cutoff=0.5)
        hints = ''.join(f'\n  {name}' for name in known if Path(name).name in near)
        raise UserError(
            f'there is no config {path!r} (looked in {Path.cwd()} and in {assets_root()}).'
            + (f' Did you mean:{hints}' if hints else ' The configs are in configs/{det,seg,cls}/.')
        )
    try:
        cfg = Config.fromfile(file)
    except Exception as e:
        raise UserError(f'{file} cannot be read as a config: {type(e).__name__}: {e}') from e
    if shapes:
        use_shapes(cfg)
    if options:
        cfg.merge_from_dict(options)
    return cfg


def configs() -> list[Path]:
    """All config files of this project that can be run (the bases cannot)."""
    root = assets_root() / 'configs'
    files = (file for task in TASKS for file in (root / task).rglob('*.py'))
    return sorted(file for file in files if '_base_' not in file.relative_to(root).parts)


def use_shapes(cfg: Config) -> None:
    """Turn any config of ours to the embedded shapes dataset, in place.

    Dataset, evaluation and schedule become those of the task's ``*_shapes.py`` config, every
    ``num_classes`` of the model (and of a data preprocessor beside it) its class count, and weights
    that would have to be downloaded are left out, a teacher of other classes with them. Weights are not
    averaged: the mean over a long training would be that of a short one's beginning. The task may suit
    more of it to images that are small (:meth:`~.tasks.Task.suit_shapes`); the rest of the model stays
    as it is.
    """
    task = task_for(cfg)
    if cfg.model.get('teacher') is not None:
        cfg.model.teacher = None
    if cfg.get('custom_hooks'):
        cfg.custom_hooks = [hook for hook in cfg.custom_hooks if hook.type != 'EMAHook']
    judged = cfg.get('val_evaluator')
    base = assets_root() / 'configs' / task.name / '_base_'
    for overlay in ('datasets/shapes.py', 'schedules/schedule_shapes.py'):
        for key, value in Config.fromfile(base / overlay).items():
            cfg[key] = value
    for node in walk([cfg.model, cfg.get('data_preprocessor')]):
        if 'num_classes' in node:
            node['num_classes'] = len(task.shapes_classes)
    leave_weights_out(cfg.model)
    task.suit_shapes(cfg.model)
    task.judge_as(cfg, judged)
    cfg.load_from = None
