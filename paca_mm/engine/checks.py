"""Checks of data and weights that run before training starts.

:func:`check_config` goes through the data and the weights that a config names and raises a
:class:`~paca_mm.errors.UserError` with the cure for the first thing that is missing or does not fit.
What a dataset must be is its task's knowledge.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.config import Config
from mmengine.registry import init_default_scope

from paca_mm.datasets.faults import Fault, raise_fatal
from paca_mm.datasets.glance import Glance
from paca_mm.environment import require
from paca_mm.errors import UserError

from .arguments import check_arguments
from .data_checks import datasets_of, make_named_shapes
from .distributed import is_first_of_machine, say
from .tasks import Task, task_for
from .walk import scope_name, type_name, walk, weights_of


def check_config(cfg: Config, phases: Sequence[str], task: Task | None = None) -> None:
    """Check the data and weights of a config; make the embedded dataset if it is the one named.

    Args:
        cfg: The config.
        phases: Of ``'train'``, ``'val'``, ``'test'``: whose dataloaders are checked.
        task: Its task, if that is known already.

    Raises:
        UserError: Something is missing or does not fit; the message names it and the cure.
    """
    task = task or task_for(cfg)
    require(task.scope)
    init_default_scope(cfg.default_scope)
    check_arguments(cfg, phases)
    if 'train' in phases:
        for node in walk(cfg.get('model') or {}):
            for init in weights_of(node):
                _check_weights(init.get('checkpoint'), 'init_cfg.checkpoint')
            _check_pretrained(node)
    if cfg.get('load_from'):
        _check_weights(cfg.load_from, 'load_from' if 'train' in phases else 'the command line')
    for phase in phases:
        faults: list[Fault] = []
        for dataset, place in datasets_of(cfg.get(f'{phase}_dataloader'), f'{phase}_dataloader'):
            make_named_shapes(dataset)
            task.complete_dataset(cfg, dataset)
            if is_first_of_machine():  # the others would read the same files again
                faults += task.check_dataset(cfg, dataset, place, Glance())
                faults += task.check_evaluators(cfg, f'{phase}_evaluator', dataset)
        raise_fatal(faults)
        for fault in faults:
            say(f'warning: {fault}')


def _check_pretrained(node: Mapping[str, Any]) -> None:
    """The ``pretrained`` of a backbone of ours, or of the model around it, which hands it on.

    What a host's own module makes of the word is the host's matter; a file must exist all the same.
    """
    given, backbone = node.get('pretrained'), node.get('backbone')
    inner = backbone if isinstance(backbone, Mapping) else {}
    ours = (
        node if scope_name(node) == 'paca_mm' else inner if scope_name(inner) == 'paca_mm' else None
    )
    if not isinstance(given, str):
        return
    if ours is None:
        if given.endswith(WEIGHTS):
            _check_weights(given, 'pretrained')
        return
    name = type_name(ours)
    scheme = given.partition('://')[0] if '://' in given else ''
    if scheme not in ('', 'http', 'https'):
        raise UserError(
            f'pretrained={given!r} in the model names weights of another backbone, which do not fit '
            f'{name}.\n  to fix it: --cfg-options model.pretrained=None, or a checkpoint of {name} '
            '(a file or an http(s) URL).'
        )
    others = [init.get('checkpoint') for init in weights_of(ours)]
    others += [ours['pretrained']] if ours is not node and ours.get('pretrained') else []
    if differing := [other for other in others if other != given]:
        raise UserError(
            f'the weights of {name} are named twice, and differently: pretrained={given!r} and '
            f'{differing[0]!r} in the backbone.\n'
            '  to fix it: one of them: --cfg-options model.pretrained=None, or init_cfg=None in the '
            'backbone.'
        )
    _check_weights(given, 'pretrained')


#: What the names of weight files end in.
WEIGHTS = ('.pth', '.pt', '.pkl', '.ckpt', '.bin', '.safetensors')


def _check_weights(path: str | None, place: str) -> None:
    """A local file must exist; what is in it is checked when it is read, before training."""
    if path and '://' not in path and not os.path.isfile(os.path.expanduser(path)):
        cures = {
            'init_cfg.checkpoint': 'correct it, or leave it out to start from scratch '
            '(--cfg-options model.backbone.init_cfg=None).',
            'pretrained': 'correct it, or leave it out to start from scratch '
            '(--cfg-options model.pretrained=None).',
            'load_from': 'correct it, or leave it out (--cfg-options load_from=None).',
        }
        cure = cures.get(
            place, 'correct the path; what was trained is in work_dirs/ or --work-dir.'
        )
        raise UserError(
            f'the weights that {place} names do not exist: {os.path.abspath(path)}\n'
            f'  to fix it: {cure}'
        )
