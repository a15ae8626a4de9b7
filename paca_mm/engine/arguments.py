"""The arguments that a config gives, against those that its classes take, before anything is built.

Building the data of a large config takes minutes, and a name that is wrong in the schedule would come
up behind it. Looked at is what mmengine's Runner hands on as it stands; the model is built in seconds
and says itself what it does not take (:mod:`.mistakes`).
"""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from mmengine import registry as registries
from mmengine.config import Config
from mmengine.registry import Registry
from torch.utils.data import DataLoader

from paca_mm.errors import UserError, did_you_mean, some_of

from .signatures import Takes, takes
from .walk import type_name

#: What a registry takes out of every dict, or what merging left in it.
_ALWAYS = ('type', '_scope_', '_delete_')


class Part(NamedTuple):
    """A dict of a config that something is made of.

    Attributes:
        place: Where it stands, ``'default_hooks.checkpoint'`` say.
        node: The dict.
        registry: Where its type is looked up.
        default: Its type where it names none.
        also: Arguments that whoever builds it takes out.
    """

    place: str
    node: Mapping[str, Any]
    registry: Registry
    default: Any = None
    also: tuple[str, ...] = ()

    def made_by(self) -> Any:
        """The class or function that its type stands for; None if nobody knows."""
        kind = self.node.get('type', self.default)
        if not isinstance(kind, str):
            return kind
        with (
            self.registry.switch_scope_and_registry(self.node.get('_scope_')) as registry,
            warnings.catch_warnings(),
        ):
            # A host tells of optional packages when it is imported, before the message about the config.
            warnings.simplefilter('ignore', UserWarning)
            try:
                return registry.get(kind)
            except ImportError:  # a package that is missing: who builds it says which
                return None


def check_arguments(cfg: Config, phases: Sequence[str]) -> None:
    """Check the names of the arguments that a config gives.

    Args:
        cfg: The config; its ``default_scope`` is in force.
        phases: Of ``'train'``, ``'val'``, ``'test'``: whose data and loops are looked at.

    Raises:
        UserError: A class does not take one of its arguments.
    """
    for part in _parts(cfg, phases):
        made_by = part.made_by()
        if made_by is None or not callable(made_by):
            continue
        taken = takes(made_by)
        given = [name for name in part.node if name not in (*_ALWAYS, *part.also)]
        if refused := taken.refused(given):
            raise UserError(refusal(part.place, made_by, refused[0], taken, part.also))


def refusal(place: str, made_by: Any, name: str, taken: Takes, also: Sequence[str] = ()) -> str:
    """The message about an argument that a class does not take.

    Args:
        place: Where the settings of the class stand in the config.
        made_by: The class, or a function.
        name: The argument.
        taken: What it takes.
        also: What whoever calls it takes.
    """
    known = [n for n in dict.fromkeys((*taken.names, *also)) if not n.startswith('_')]
    called = getattr(made_by, '__name__', str(made_by))
    return (
        f'{f"{place}.{name}" if place else name}: {called} has no argument {name!r}'
        f'{did_you_mean(name, known)}\n'
        f'  it takes: {some_of(known, 20)}\n'
        '  to fix it: correct the name, or leave it out.'
    )


def _parts(cfg: Config, phases: Sequence[str]) -> Iterator[Part]:
    """What the Runner makes of a config, but for the model."""
    yield from hook_parts(cfg)
    if 'train' in phases:
        yield from _optimizer(cfg.get('optim_wrapper'))
        yield from _schedulers(cfg.get('param_scheduler'), 'param_scheduler')
    for phase in phases:
        yield from _loop(cfg.get(f'{phase}_cfg'), phase)
        yield from _loader(cfg.get(f'{phase}_dataloader'), f'{phase}_dataloader')
        yield from _evaluators(cfg.get(f'{phase}_evaluator'), f'{phase}_evaluator')
    yield from _visualizer(cfg.get('visualizer'))
    yield from _runner(cfg)


def _listed(node: Any, place: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The dicts of what may be one, or a list of them."""
    if isinstance(node, Mapping):
        yield place, node
    elif isinstance(node, (list, tuple)):
        for i, child in enumerate(node):
            yield from _listed(child, f'{place}.{i}')


def hook_parts(cfg: Config) -> Iterator[Part]:
    """The hooks of a config."""
    named = cfg.get('default_hooks') or {}
    nodes = [(f'default_hooks.{name}', hook) for name, hook in named.items()]
    nodes += _listed(cfg.get('custom_hooks'), 'custom_hooks')
    for place, node in nodes:
        if isinstance(node, Mapping):
            yield Part(place, node, registries.HOOKS, also=('priority',))


def _optimizer(node: Any) -> Iterator[Part]:
    if not isinstance(node, Mapping):
        return
    # Another constructor may take what it likes out of the wrapper.
    if type_name(node.get('constructor')) in _CONSTRUCTORS and 'optimizer' in node:
        yield Part(
            'optim_wrapper',
            node,
            registries.OPTIM_WRAPPERS,
            'OptimWrapper',
            ('constructor', 'paramwise_cfg'),
        )
        if type_name(node.get('constructor')) != 'LayerDecayOptimWrapperConstructor':
            paramwise = node.get('paramwise_cfg')
            if isinstance(paramwise, Mapping):
                # mmengine passes over what it does not know, and so does a config that works: only what
                # is nearly a name of its own is a slip.
                known = takes(paramwise_cfg).names
                near = {k: v for k, v in paramwise.items() if did_you_mean(k, known) != '.'}
                yield Part('optim_wrapper.paramwise_cfg', near, registries.FUNCTIONS, paramwise_cfg)
        if isinstance(node['optimizer'], Mapping):
            yield Part('optim_wrapper.optimizer', node['optimizer'], registries.OPTIMIZERS)


#: The constructors of optimizer wrappers that build the wrapper as it stands; ``''`` is mmengine's.
_CONSTRUCTORS = ('', 'DefaultOptimWrapperConstructor', 'LayerDecayOptimWrapperConstructor')


def paramwise_cfg(
    bias_lr_mult: Any,
    bias_decay_mult: Any,
    norm_decay_mult: Any,
    flat_decay_mult: Any,
    dwconv_decay_mult: Any,
    dcn_offset_lr_mult: Any,
    bypass_duplicate: Any,
    custom_keys: Any,
) -> None:
    """What ``paramwise_cfg`` may have for mmengine's constructor, as a signature."""


def _schedulers(node: Any, place: str) -> Iterator[Part]:
    if isinstance(node, Mapping) and 'type' not in node:  # of several optimizers, by name
        for name, child in node.items():
            yield from _schedulers(child, f'{place}.{name}')
        return
    also = ('convert_to_iter_based', 'begin', 'end', 'by_epoch', 'epoch_length')
    for where, child in _listed(node, place):
        yield Part(where, child, registries.PARAM_SCHEDULERS, also=also)


def _loop(node: Any, phase: str) -> Iterator[Part]:
    if not isinstance(node, Mapping):
        return
    default = {'val': 'ValLoop', 'test': 'TestLoop'}.get(
        phase, 'EpochBasedTrainLoop' if node.get('by_epoch') else 'IterBasedTrainLoop'
    )
    if phase == 'train' and not {'type', 'by_epoch'} & node.keys():
        raise UserError(
            'train_cfg does not say whether it counts epochs or iterations.\n'
            '  to fix it: train_cfg.type=EpochBasedTrainLoop, or IterBasedTrainLoop.'
        )
    also = () if 'type' in node else ('by_epoch',)
    yield Part(f'{phase}_cfg', node, registries.LOOPS, default, also)


#: What the Runner takes out of a data loader's settings before torch gets them.
_LOADER = ('dataset', 'num_batch_per_epoch', 'disable_subprocess_warning')


def _loader(node: Any, place: str) -> Iterator[Part]:
    if not isinstance(node, Mapping) or 'type' in node:
        return
    yield Part(place, node, registries.FUNCTIONS, DataLoader, _LOADER)
    for name in ('sampler', 'batch_sampler'):
        if isinstance(node.get(name), Mapping):
            yield Part(f'{place}.{name}', node[name], registries.DATA_SAMPLERS)
    yield from _datasets(node.get('dataset'), f'{place}.dataset')


def _datasets(node: Any, place: str) -> Iterator[Part]:
    for where, dataset in _listed(node, place):
        if 'type' not in dataset:
            continue
        yield Part(where, dataset, registries.DATASETS)
        for name in ('dataset', 'datasets'):
            yield from _datasets(dataset.get(name), f'{where}.{name}')
        yield from _transforms(dataset.get('pipeline'), f'{where}.pipeline')


def _transforms(node: Any, place: str) -> Iterator[Part]:
    for where, transform in _listed(node, place):
        if 'type' not in transform:
            continue
        part = Part(where, transform, registries.TRANSFORMS)
        yield part
        if _holds_transforms(part.made_by()):
            yield from _transforms(transform.get('transforms'), f'{where}.transforms')


def _holds_transforms(cls: Any) -> bool:
    """Whether ``transforms`` of a transform are ours to look up: Albumentations has its own."""
    return isinstance(cls, type) and any(
        base.__module__ == 'mmcv.transforms.wrappers' or base.__name__ == 'TestTimeAug'
        for base in cls.__mro__
    )


def _evaluators(node: Any, place: str) -> Iterator[Part]:
    for where, evaluator in _listed(node, place):
        if 'metrics' in evaluator:
            yield Part(where, evaluator, registries.EVALUATOR, 'Evaluator')
            for below, metric in _listed(evaluator['metrics'], f'{where}.metrics'):
                yield Part(below, metric, registries.METRICS)
        elif 'type' in evaluator:
            yield Part(where, evaluator, registries.METRICS)


def _visualizer(node: Any) -> Iterator[Part]:
    if isinstance(node, Mapping):
        yield Part('visualizer', node, registries.VISUALIZERS, also=('name',))
        for where, backend in _listed(node.get('vis_backends'), 'visualizer.vis_backends'):
            yield Part(where, backend, registries.VISBACKENDS)


def _runner(cfg: Config) -> Iterator[Part]:
    """What the Runner calls functions and methods of its own with."""
    from mmengine.runner import Runner
    from mmengine.utils.dl_utils import set_multi_processing

    workers = (cfg.get('env_cfg') or {}).get('mp_cfg')
    for place, node, function in (
        ('env_cfg.mp_cfg', workers, set_multi_processing),
        ('randomness', cfg.get('randomness'), Runner.set_randomness),
    ):
        if isinstance(node, Mapping):
            yield Part(place, node, registries.FUNCTIONS, function)
    if isinstance(cfg.get('log_processor'), Mapping):
        yield Part('log_processor', cfg.log_processor, registries.LOG_PROCESSORS, 'LogProcessor')
