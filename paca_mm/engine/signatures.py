"""What a class or function takes by name."""

import ast
import functools
import inspect
import textwrap
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple


class Takes(NamedTuple):
    """What something takes by name.

    Attributes:
        names: The arguments.
        needed: Those without which it cannot be called.
        any: Whether it may take other names too: what becomes of its ``**kwargs`` is not known.
    """

    names: tuple[str, ...]
    needed: tuple[str, ...]
    any: bool

    def refused(self, given: Iterable[str]) -> list[str]:
        """Those of some names that it does not take."""
        return [] if self.any else [name for name in given if name not in self.names]


@functools.cache
def takes(called: Callable[..., Any]) -> Takes:
    """The arguments of a class or a function.

    Where ``__init__`` hands its ``**kwargs`` on to that of the base class, and does nothing else with
    them, those of the base class belong to it. In any other case nobody knows, as with what is
    written in C or wrapped by a decorator.
    """
    if not inspect.isclass(called):
        return _followed([called])
    made_otherwise = any('__new__' in vars(cls) for cls in called.__mro__[:-1])
    if made_otherwise or type(called).__call__ is not type.__call__:
        return Takes((), (), True)
    return _followed([vars(c)['__init__'] for c in called.__mro__ if '__init__' in vars(c)])


def _followed(functions: list[Any]) -> Takes:
    """The arguments of the first function, and of each next one that takes over its ``**kwargs``."""
    names: list[str] = []
    needed: list[str] = []
    for function in functions:
        if function is object.__init__:
            return Takes(tuple(dict.fromkeys(names)), tuple(needed), False)
        parameters = _parameters(function)
        if parameters is None:
            return Takes(tuple(names), tuple(needed), True)
        for parameter in parameters:
            if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
                names.append(parameter.name)
                if parameter.default is parameter.empty:
                    needed.append(parameter.name)
        rest = next((p.name for p in parameters if p.kind is p.VAR_KEYWORD), None)
        if rest is None:
            return Takes(tuple(dict.fromkeys(names)), tuple(needed), False)
        if not _only_handed_on(function, rest):
            break
    return Takes(tuple(dict.fromkeys(names)), tuple(needed), True)


def _parameters(function: Any) -> list[inspect.Parameter] | None:
    """The parameters as they are written, without ``self``; None where nobody says."""
    if not inspect.isfunction(function) or hasattr(function, '__wrapped__'):
        return None
    parameters = list(inspect.signature(function).parameters.values())
    return parameters[1:] if parameters and parameters[0].name == 'self' else parameters


@functools.cache
def _only_handed_on(function: Any, rest: str) -> bool:
    """Whether a function uses ``**rest`` in calls of the base class's function of its name only."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError):
        return False
    used = sum(isinstance(node, ast.Name) and node.id == rest for node in ast.walk(tree))
    handed = [
        keyword
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == function.__name__
        and ast.unparse(node.func.value).startswith('super(')
        for keyword in node.keywords
        if keyword.arg is None and isinstance(keyword.value, ast.Name) and keyword.value.id == rest
    ]
    return used == len(handed) > 0
