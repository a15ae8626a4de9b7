"""Going through a config."""

from collections.abc import Iterator, Mapping
from typing import Any

from mmengine.registry import DATASETS

from paca_mm.type_names import scope_name, type_name

__all__ = [
    'dataset_class',
    'leave_weights_out',
    'places',
    'scope_name',
    'test_dataset',
    'type_name',
    'walk',
    'weights_of',
]


def walk(node: Any) -> Iterator[dict]:
    """Every dict in a config, from the outside in."""
    if isinstance(node, dict):
        yield node
        node = list(node.values())
    if isinstance(node, (list, tuple)):
        for child in node:
            yield from walk(child)


def places(node: Any, above: str = '') -> Iterator[tuple[str, Any]]:
    """Every setting below a node of a config, with where it stands: ``'train_dataloader.dataset'``."""
    items: Any = node.items() if hasattr(node, 'items') else enumerate(node)
    for name, value in items:
        place = f'{above}.{name}' if above else str(name)
        yield place, value
        if isinstance(value, (Mapping, list, tuple)):
            yield from places(value, place)


def test_dataset(cfg: Any) -> Any:
    """The settings of the dataset that is tested, below its wrappers."""
    dataset = cfg['test_dataloader']['dataset']
    while 'pipeline' not in dataset:
        dataset = dataset['dataset']
    return dataset


def dataset_class(dataset: Mapping[str, Any]) -> Any:
    """What a dataset's ``type`` stands for, be it a word or the class itself; None if nobody knows."""
    kind = dataset.get('type') or ''
    if not isinstance(kind, str):
        return kind
    with DATASETS.switch_scope_and_registry(None) as registry:
        return registry.get(kind)


def _inits_of(node: Mapping[str, Any]) -> list[dict]:
    """What stands in the ``init_cfg`` of a module, which may be one, several or none."""
    init = node.get('init_cfg')
    return list(init) if isinstance(init, (list, tuple)) else [init] if init else []


def weights_of(node: Mapping[str, Any]) -> list[dict]:
    """What a module loads when it is initialised: the ``Pretrained`` in its ``init_cfg``."""
    return [init for init in _inits_of(node) if type_name(init) == 'Pretrained']


def leave_weights_out(cfg: Any) -> None:
    """Let no module of a config load a checkpoint when it is initialised, in place."""
    for node in walk(cfg):
        if weights := weights_of(node):
            node['init_cfg'] = [init for init in _inits_of(node) if init not in weights] or None
        if node.get('pretrained'):  # a file, or True for what a library knows the address of
            node['pretrained'] = False if node['pretrained'] is True else None
