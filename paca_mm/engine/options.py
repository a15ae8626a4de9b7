"""``--cfg-options`` and a config: what fits it, and what anybody reads."""

import inspect
from collections.abc import Mapping
from typing import Any

from mmengine.config import Config
from mmengine.utils import import_modules_from_strings

from paca_mm.errors import UserError, did_you_mean, some_of

from .distributed import say
from .walk import places

#: What is read of a config beside the arguments of mmengine's Runner, and by whom.
READ = {
    'runner_type': 'whoever builds the runner',
    'custom_imports': 'mmengine, when the config is loaded',
    'model_wrapper_cfg': 'the Runner, in a distributed run',
    'find_unused_parameters': 'the Runner, in a distributed run',
    'sync_bn': 'the Runner, in a distributed run',
    'activation_checkpointing': 'the Runner',
    'efficient_conv_bn_eval': 'the Runner',
    'compile': 'the Runner',
    'strategy': "mmengine's FlexibleRunner",
    'init_weights_for_test_or_val': "mmengine's FlexibleRunner",
    'tta_model': 'a test with augmentation',
    'tta_pipeline': 'a test with augmentation',
    'fallback_dir': 'paca_mm.SafeRunner',
    'max_skipped': 'paca_mm.SafeRunner',
    'wait_for_room': 'paca_mm.SafeRunner',
    'on_shapes': 'paca-mm, with --shapes',
}

#: Arguments of the Runner that are dicts, of which an option sets a part.
_DICTS = (
    'model',
    'optim_wrapper',
    'default_hooks',
    'env_cfg',
    'randomness',
    'auto_scale_lr',
    'log_processor',
    'visualizer',
    *(f'{phase}_{of}' for phase in ('train', 'val', 'test') for of in ('cfg', 'dataloader')),
)


def read_names() -> set[str]:
    """The names at the top of a config that something reads."""
    from mmengine.runner import Runner

    return {*inspect.signature(Runner.__init__).parameters} - {'self', 'cfg'} | READ.keys()


def merge(cfg: Config, options: Mapping[str, Any]) -> None:
    """Set the options of a command line in a config, in place.

    A new name below a known part is allowed, as in every project of this ecosystem
    (``model.backbone.with_cp=True``); who builds the part knows whether it takes it.

    Args:
        cfg: The config.
        options: What to set, by names with dots.

    Raises:
        UserError: An option leads nowhere: below a number, behind the end of a list, to a name at the
            top that neither the config has nor anything reads; or two options contradict each other.
    """
    read = read_names()
    for key, value in options.items():
        parts = key.split('.')
        if not all(parts):
            raise UserError(
                f'--cfg-options {key}=...: a name between two dots is missing.\n'
                '  to fix it: names with one dot between them, such as train_cfg.max_epochs=3.'
            )
        if parts[0] not in cfg and parts[0] not in read:
            known = {*cfg.keys()} | read
            raise UserError(
                f'--cfg-options {key}: the config has no {parts[0]!r}, and nothing would read it'
                f'{did_you_mean(parts[0], sorted(known))}\n'
                '  to fix it: correct the name; a setting of your own must have a value in the config.'
            )
        if any(other != key and other.startswith(f'{key}.') for other in options):
            raise UserError(
                f'--cfg-options {key} is given beside options for its parts.\n'
                '  to fix it: the one or the others.'
            )
        _check_way(cfg, parts, value)
    cfg.merge_from_dict(dict(options))
    tops = {key.partition('.')[0] for key in options}
    for name in sorted(tops - read):
        say(
            f'note: --cfg-options {name} changes a variable of the config that no runner reads: parts '
            f'that were made of it stay as they are{_instead(cfg, name)}'
        )
    if 'custom_imports' in tops:  # after the config was loaded, which is when they take place
        import_modules_from_strings(**cfg.custom_imports)


def _check_way(cfg: Config, parts: list[str], value: Any) -> None:
    """Every step of an option leads somewhere, or to a new name."""
    node: Any = cfg
    for count, part in enumerate(parts):
        above = '.'.join(parts[:count])
        whole = f'--cfg-options {".".join(parts)}'
        if isinstance(node, list):
            if not part.isdigit() or int(part) >= len(node):
                raise UserError(
                    f'{whole}: {above} is a list of {len(node)}, which has no {part!r}.\n'
                    f'  to fix it: a number from 0 to {len(node) - 1}, or the complete list.'
                    if node
                    else f'{whole}: {above} is an empty list.\n  to fix it: give the complete list.'
                )
            node = node[int(part)]
        elif isinstance(node, (Mapping, Config)):
            if part not in node:
                return
            node = node[part]
        else:
            given = 'None' if node is None else f'{node!r} ({type(node).__name__})'
            raise UserError(
                f'{whole}: {above} is {given}, and has no parts.\n'
                f'  to fix it: {above}=VALUE sets it as a whole.'
            )
    if (
        len(parts) == 1
        and parts[0] in _DICTS
        and not isinstance(value, (Mapping, list, type(None)))
    ):
        held = f', which has {some_of(node)}' if isinstance(node, Mapping) else ''
        raise UserError(
            f'--cfg-options {parts[0]}={value}: {parts[0]} is a dict{held}.\n'
            f'  to fix it: set a part of it, {parts[0]}.NAME={value}.'
        )


def _instead(cfg: Config, name: str) -> str:
    """Where the value of a variable went, as the end of a sentence."""
    found = [
        place
        for place, _ in places(cfg)
        if place.partition('.')[0] != name and place.rpartition('.')[2] in _same(name)
    ]
    return f' ({some_of(found, 3)}).' if found else '.'


def _same(name: str) -> tuple[str, ...]:
    """What an argument is called that is given the variable ``name`` by custom."""
    return (name, 'pipeline') if name.endswith('_pipeline') else (name,)
