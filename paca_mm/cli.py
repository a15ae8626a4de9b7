"""What every command line shares: a user's mistake ends in one message and exit code 2."""

import functools
import re
import sys
from collections.abc import Callable
from typing import Any

from paca_mm.errors import UserError


def command(main: Callable[..., Any]) -> Callable[..., None]:
    """Wrap a tool's ``main`` so that a :class:`UserError` is printed without a traceback.

    The error may have travelled through mmengine's registry or a data loader's worker, which put
    their own words (and the worker's traceback) before the message; those are cut off.
    """

    @functools.wraps(main)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            main(*args, **kwargs)
        except UserError as e:
            print(f'\nerror: {plain_message(e)}', file=sys.stderr)
            raise SystemExit(2) from None
        except KeyError as e:  # mmengine's word for a type that nobody registered
            if not (unknown := re.search(r'([\w.]+) is not in the ([\w:. ]+ registry)', str(e))):
                raise
            print(
                f'\nerror: the config names type={unknown[1]!r}, which is not in the {unknown[2]}.\n'
                '  to fix it: correct its spelling; for a class of your own, name its module: '
                "custom_imports=dict(imports=['my_module']).",
                file=sys.stderr,
            )
            raise SystemExit(2) from None
        except KeyboardInterrupt:
            print('\nstopped.', file=sys.stderr)
            raise SystemExit(130) from None

    return run


def plain_message(error: BaseException) -> str:
    """The error's own message, without what mmengine and torch put before it."""
    message = str(error).rpartition('paca_mm.errors.UserError: ')[2]
    while match := re.match(r'class `\w+` in [\w/.]+: ', message):
        message = message[match.end() :]
    return message.strip()
