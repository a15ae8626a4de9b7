"""Configs that take up ours from any folder.

A ``_base_`` is a path beside the file, or ``<package>::<path>`` for the packages of a list that
mmengine keeps, which knows the hosts only. It is also an expression that mmengine evaluates, on both
stacks, with nothing but Python's builtins. So a line that asks this package for the path works in any
project, with any host's tools, in whatever place ``paca_mm`` is installed.
"""

import ast
from pathlib import Path

from paca_mm import __version__
from paca_mm.paths import assets_root


def expression(path: Path) -> str:
    """What to write behind ``_base_ =`` for a file of our ``configs/``."""
    name = path.resolve().relative_to(assets_root().resolve() / 'configs').as_posix()
    return f"__import__('paca_mm.paths').paths.config({name!r})"


def derived(path: Path) -> str:
    """A config of few lines that takes up one of ours."""
    return (
        f'# Everything that is not set here is as in {_title(path)}.\n'
        f'_base_ = {expression(path)}\n\n'
        '# Settings that win over it, such as:\n'
        '# train_dataloader = dict(batch_size=4)\n'
    )


def copied(path: Path) -> str:
    """The text of one of our configs; its bases are ours, wherever the text is saved."""
    text = path.read_text()
    found = _statement(text)
    if found is None:
        return text
    lines = [
        repr(base) if '::' in base else expression(path.parent / base)  # a host's stays as it is
        for base in _literals(found.value)
    ]
    value = lines[0] if len(lines) == 1 else '[\n' + ''.join(f'    {x},\n' for x in lines) + ']'
    rows = text.splitlines()
    end = found.end_lineno or found.lineno
    return '\n'.join([*rows[: found.lineno - 1], f'_base_ = {value}', *rows[end:]]) + '\n'


def complete(path: Path) -> str:
    """A config with every setting of one of ours, which needs no other file."""
    from mmengine.config import Config

    return f'# Complete: {_title(path)}.\n{Config.fromfile(path).pretty_text}'


def cure_for_missing_base(file: Path) -> str | None:
    """What is wrong with the bases of a config, and how to fix it; None if they are all there."""
    try:
        found = _statement(file.read_text())
        bases = [] if found is None else _literals(found.value)
    except (OSError, ValueError, SyntaxError):
        return None
    for base in bases:
        outside = '::' in base
        path = file.parent / base
        if outside and not base.startswith('paca_mm::'):
            continue
        if not outside and path.is_file():
            if cure := cure_for_missing_base(path):
                return cure
            continue
        ours = _ours(base.partition('::')[2] if outside else base)
        cure = (
            '\n  or '.join(f'_base_ = {expression(path)}' for path in ours) or 'correct the path.'
        )
        why = (
            'mmengine looks there for its own packages only'
            if outside
            else f'which would be {path.resolve()}, and is not there'
        )
        return f'{file} takes up _base_ = {base!r}, {why}.\n  to fix it: {cure}'
    return None


def _title(path: Path) -> str:
    name = path.resolve().relative_to(assets_root().resolve()).as_posix()
    return f'{name} of paca_mm {__version__}'


def _statement(text: str) -> ast.Assign | None:
    """The statement that sets ``_base_``."""
    for node in ast.parse(text).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == '_base_':
            return node
    return None


def _literals(value: ast.expr) -> list[str]:
    """The bases that are written out; another expression is none."""
    nodes = value.elts if isinstance(value, (ast.List, ast.Tuple)) else [value]
    return [n.value for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str)]


def _ours(base: str) -> list[Path]:
    """The files of our configs that a path ends like."""
    parts = [part for part in Path(base).parts if part not in ('.', '..')]
    root = assets_root() / 'configs'
    while parts:
        same = [p for p in root.rglob(parts[-1]) if p.parts[-len(parts) :] == tuple(parts)]
        if same:
            return sorted(same)
        parts = parts[1:]
    return []
