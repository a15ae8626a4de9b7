"""What a config got wrong, told by the error that building from it has raised.

A user's mistake is told apart from a bug by where and how the error came about, never by its kind
alone: a class was called with a name that its signature does not have, or without one that it needs;
a constructor refused a value on purpose, by ``raise`` or ``assert`` of its own; or it stumbled over a
text where its signature has a number. Anything else is a bug, or may be one, and stays as it is.
"""

import inspect
import linecache
import re
import types
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dis import opmap
from typing import Any, NamedTuple

from mmengine.config import Config

from paca_mm.errors import UserError

from .arguments import refusal
from .signatures import takes
from .walk import places, type_name

#: What constructors refuse a value with.
_REFUSALS = (ValueError, TypeError, AssertionError, NotImplementedError)


@contextmanager
def explained(cfg: Config) -> Iterator[None]:
    """Turn the errors that a mistake in a config causes while it is built into messages.

    Raises:
        UserError: It was one; the error that it was told by is its cause.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if message := mistake_behind(error, cfg):
            raise UserError(message) from error
        raise


def mistake_behind(error: Exception, cfg: Config) -> str | None:
    """The message about the mistake in a config that an error tells of; None if it may be a bug."""
    steps = _steps(error)
    made = next((step for step in reversed(steps) if step.made_by is not None), None)
    if made is None:
        return _refused_by_runner(error, steps)
    place = _place_of(cfg, made.node, made.made_by)
    return (
        _wrong_name(error, made, place)
        or _lacking(error, made, place)
        or _text_for_number(error, made, place)
        or _refused(error, made, place, steps)
    )


class _Step(NamedTuple):
    """A call on the way to an error.

    Attributes:
        frame: It.
        at: The instruction that was carried out.
        line: Of the file, likewise.
        made_by: The class or function that was called for a dict of the config, if it is one.
        node: That dict.
        given: The arguments that were made of it.
    """

    frame: types.FrameType
    at: int
    line: int
    made_by: Any = None
    node: Mapping[str, Any] = {}
    given: Mapping[str, Any] = {}

    @property
    def name(self) -> str:
        return self.frame.f_code.co_name

    @property
    def module(self) -> str:
        return self.frame.f_globals.get('__name__', '')


def _steps(error: BaseException) -> list[_Step]:
    """The calls on the way to an error, from the outside in."""
    steps = []
    at = error.__traceback__
    while at is not None:
        names = at.tb_frame.f_locals
        made: tuple[Any, Any, Any] = (None, {}, {})
        match at.tb_frame.f_code.co_name:
            case 'build_from_cfg' if 'obj_cls' in names:
                made = (names['obj_cls'], names['cfg'], names['args'])
            case 'build_scheduler_from_cfg' if 'scheduler_cls' in names:
                made = (names['scheduler_cls'], names['cfg'], names['args'])
            case 'build_dataloader' if 'init_fn' in names and 'sampler' in names:
                from torch.utils.data import DataLoader

                made = (DataLoader, names['dataloader'], names['dataloader_cfg'])
        steps.append(_Step(at.tb_frame, at.tb_lasti, at.tb_lineno, *made))
        at = at.tb_next
    return steps


def _wrong_name(error: Exception, made: _Step, place: str) -> str | None:
    """A name that no signature of the class has."""
    found = re.search(r"got an unexpected keyword argument '(\w+)'", str(error))
    if not isinstance(error, TypeError) or found is None or found[1] not in made.given:
        return None
    taken = takes(made.made_by)
    if found[1] in taken.names or found[1] not in made.node:
        return None
    return refusal(place, made.made_by, found[1], taken)


def _lacking(error: Exception, made: _Step, place: str) -> str | None:
    """A name that the signature of the class needs."""
    if not isinstance(error, TypeError) or 'missing' not in str(error):
        return None
    named = re.findall(r"'(\w+)'", str(error).partition('argument')[2])
    lacking = [name for name in takes(made.made_by).needed if name not in made.given]
    if not named or not {*named} <= {*lacking}:
        return None
    words = ', '.join(named)
    return (
        f'{_what(made, place)} needs {words}, which the config does not give.\n'
        f'  to fix it: {f"{place}.{named[0]}" if place else named[0]}=...'
    )


def _text_for_number(error: Exception, made: _Step, place: str) -> str | None:
    """A text where the signature of the class has a number."""
    if not isinstance(error, (TypeError, ValueError)):
        return None
    called = made.made_by.__init__ if inspect.isclass(made.made_by) else made.made_by
    try:
        parameters = inspect.signature(called).parameters
    except (TypeError, ValueError):
        return None
    for name, value in made.given.items():
        if isinstance(value, str) and name in parameters and _is_number(parameters[name]):
            return (
                f'{f"{place}.{name}" if place else name}={value!r}: a number is expected.\n'
                f'  to fix it: a number ({_what(made, place)} says: {_first_line(error)}).'
            )
    return None


def _is_number(parameter: inspect.Parameter) -> bool:
    default, kind = parameter.default, parameter.annotation
    return (isinstance(default, (int, float)) and not isinstance(default, bool)) or kind in (
        int,
        float,
        'int',
        'float',
    )


def _refused(error: Exception, made: _Step, place: str, steps: list[_Step]) -> str | None:
    """A value that a constructor has refused on purpose, and that no code of ours was behind."""
    inside = steps[steps.index(made) + 1 :]
    on_purpose = isinstance(error, _REFUSALS) and inside and _raises(inside[-1])
    if not on_purpose or any(step.module.partition('.')[0] == 'paca_mm' for step in inside):
        return None
    return (
        f'{_what(made, place)} cannot be made as the config says: {_words(error, inside[-1])}\n'
        f'  to fix it: correct {place or "the settings that the message is about"}.'
    )


def _refused_by_runner(error: Exception, steps: list[_Step]) -> str | None:
    """What the Runner refuses about the parts of a config, on purpose."""
    last = steps[-1]
    builds = re.match(
        r'_?(build|register)_|(__init__|_check_scheduler_cfg|train|val|test)$', last.name
    )
    if (
        isinstance(error, (*_REFUSALS, RuntimeError))
        and last.module in ('mmengine.runner.runner', 'mmengine.runner._flexible_runner')
        and builds
        and _raises(last)
    ):
        words = _words(error, last)
        words = words if len(words) < 300 else f'{words[:300]} ...'
        return (
            f"mmengine's Runner does not take the config: {words}\n"
            '  to fix it: correct what the message names.'
        )
    return None


def _what(made: _Step, place: str) -> str:
    name = getattr(made.made_by, '__name__', str(made.made_by))
    return f'{place} ({name})' if place else name


def _raises(step: _Step) -> bool:
    """Whether a call ended at a ``raise`` or ``assert`` of its own."""
    return step.frame.f_code.co_code[step.at] == opmap['RAISE_VARARGS']


def _words(error: Exception, last: _Step) -> str:
    """What an error says; of a bare ``assert`` the line itself."""
    if text := str(error).strip():
        return text
    line = linecache.getline(last.frame.f_code.co_filename, last.line).strip()
    return line or type(error).__name__


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _place_of(cfg: Config, node: Mapping[str, Any], made_by: Any) -> str:
    """Where a dict that something was built of stands in a config; ``''`` if that is not clear.

    Builders add to the dicts that they hand on, so it is the one of its type with most in common.
    """
    best, most = '', 0
    name = getattr(made_by, '__name__', '')
    for place, found in places(cfg):
        if not isinstance(found, Mapping):
            continue
        if 'type' in found or 'type' in node:
            same_kind = type_name(found) in (type_name(node), name)
        else:
            same_kind = True
        common = sum(key in node and _equal(node[key], value) for key, value in found.items())
        if same_kind and common > most:
            best, most = place, common
    return best


def _equal(one: Any, other: Any) -> bool:
    try:
        return bool(one == other)
    except Exception:  # arrays, and whatever else a config may hold
        return one is other
