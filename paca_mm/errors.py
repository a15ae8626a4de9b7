"""The one exception that a user is meant to read, and the words that its messages share."""

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(ValueError):
    """A mistake that the user can fix.

    The message names what was found, what was expected and the cure. The command lines in
    ``tools/`` print it without a traceback and exit with code 2. It is built from the message
    alone, because mmengine's registries and torch's data loader workers re-create exceptions so.
    """


def some_of(names: Iterable[object], most: int = 6) -> str:
    """The first few of some names, and how many more there are: ``'a, b, ... 7 more'``."""
    words = [str(name) for name in names]
    more = f', ... {len(words) - most} more' if len(words) > most else ''
    return ', '.join(words[:most]) + more


def did_you_mean(name: str, known: Iterable[str], most: int = 1, cutoff: float = 0.6) -> str:
    """The end of a sentence: ``'; did you mean a, b?'`` with the nearest names, or ``'.'``."""
    near = get_close_matches(name, list(known), n=most, cutoff=cutoff)
    return f'; did you mean {", ".join(near)}?' if near else '.'
