"""Configs as the tools take them: found or missed by name, and turned to the embedded dataset."""

from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from mmengine.config import Config

from paca_mm.errors import UserError
from paca_mm.paths import assets_root

#: What a config of each task has as default_scope.
TASKS = {'mmdet': 'det', 'mmseg': 'seg', 'mmpretrain': 'cls'}


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
    return sorted(p for p in root.glob('*/*.py') if p.parent.name in TASKS.values())


def task_of(cfg: Config) -> str:
    """``'det'``, ``'seg'`` or ``'cls'``.

    Raises:
        UserError: The config has no ``default_scope`` of the three.
    """
    scope = cfg.get('default_scope')
    if scope not in TASKS:
        raise UserError(
            f'default_scope={scope!r} in the config: it must be one of {", ".join(TASKS)}, so that '
            'it is known whether to detect, segment or classify.'
        )
    return TASKS[scope]


def use_shapes(cfg: Config) -> None:
    """Turn any config of ours to the embedded shapes dataset, in place.

    Dataset, evaluation and schedule become those of the task's ``*_shapes.py`` config, every
    ``num_classes`` of the model its class count, and weights that would have to be downloaded are
    left out. The rest of the model stays as it is.
    """
    from paca_mm.datasets.shapes import CLASSES, SEG_CLASSES

    task = task_of(cfg)
    base = assets_root() / 'configs' / task / '_base_'
    for overlay in ('datasets/shapes.py', 'schedules/schedule_shapes.py'):
        for key, value in Config.fromfile(base / overlay).items():
            cfg[key] = value
    num_classes = len(SEG_CLASSES if task == 'seg' else CLASSES)
    for node in walk(cfg.model):
        if 'num_classes' in node:
            node['num_classes'] = num_classes
        if (node.get('init_cfg') or {}).get('type') == 'Pretrained':
            node['init_cfg'] = None
    cfg.load_from = None


def walk(node: Any) -> Iterator[dict]:
    """Every dict in a config, from the outside in."""
    if isinstance(node, dict):
        yield node
        node = list(node.values())
    if isinstance(node, (list, tuple)):
        for child in node:
            yield from walk(child)
