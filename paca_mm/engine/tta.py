"""Test-time augmentation of a config: the model is wrapped, the test's pipeline makes views."""

import copy

from mmengine.config import Config, ConfigDict

from paca_mm.type_names import full_name

from .tasks import Task
from .walk import test_dataset, type_name, walk


def use_tta(cfg: Config, task: Task) -> None:
    """Test with augmentation, in place: as the config says, or as its task does it.

    ``tta_model`` and ``tta_pipeline`` of the config are taken where they are; see
    :meth:`~.tasks.Task.tta_model` and :meth:`~.tasks.Task.tta_pipeline`.
    """
    dataset = test_dataset(cfg)
    own = dataset['pipeline']
    pipeline = cfg.get('tta_pipeline') or task.tta_pipeline(copy.deepcopy(list(own)))
    _tell_classes(own, pipeline)
    wrapper = cfg.get('tta_model') or task.tta_model(cfg.model)
    dataset['pipeline'] = pipeline
    cfg.model = ConfigDict({**wrapper, 'module': cfg.model})
    # The names of classes, not the classes: mmengine 0.10.7 writes no config that holds one.
    for node in (cfg.model, *walk(dataset['pipeline'])):
        if 'type' in node:
            node['type'] = full_name(node)


def _tell_classes(own: list[dict], pipeline: list[dict]) -> None:
    """Let ``paca_mm.CheckLabels`` of the views know what that of the test was told."""
    told = [step for step in walk(own) if type_name(step) == 'CheckLabels']
    for step in walk(pipeline):
        if told and type_name(step) == 'CheckLabels':
            step.setdefault('num_classes', told[0].get('num_classes'))
            step.setdefault('ignore_index', told[0].get('ignore_index', 255))
