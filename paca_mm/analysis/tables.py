"""Tables of text, as wide as they need to be, wherever they are printed."""

from collections.abc import Sequence
from io import StringIO

from rich.box import Box
from rich.console import Console
from rich.table import Table
from rich.text import Text

#: A rule under the heads and nothing else, in ASCII, which every terminal and file takes.
_RULE = Box('    \n    \n -- \n' + 5 * '    \n', ascii=True)


def columns(lines: Sequence[Sequence[str]]) -> str:
    """Aligned columns: the first to the left, the others to the right, a rule under the heads.

    Args:
        lines: The heads, then the cells of every line, all of the same number.
    """
    table = Table(box=_RULE, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for i, head in enumerate(lines[0]):
        table.add_column(Text(head), justify='right' if i else 'left', no_wrap=True)
    for line in lines[1:]:
        table.add_row(*map(Text, line))  # a Text, so that brackets stay what they are
    # No terminal is asked: its width would cut the columns, its colours would end up in files.
    console = Console(file=StringIO(), width=10_000, color_system=None, force_terminal=False)
    with console.capture() as captured:
        console.print(table)
    return '\n'.join(line.rstrip() for line in captured.get().splitlines())
