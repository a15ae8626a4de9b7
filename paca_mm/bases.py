"""Configs that take up ours from any folder.

A ``_base_`` is a path beside the file, or ``<package>::<path>`` for the packages of a list that
mmengine keeps, which knows the hosts only. It is also an expression that mmengine evaluates, on both
stacks, with nothing but Python's builtins. So a line that asks this package for the path works in any
project, with any host's tools, in whatever place ``paca_mm`` is installed.
"""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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
    found = _statement(ast.parse(text))
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


def circle_in_bases(file: Path, above: tuple[Path, ...] = ()) -> str | None:
    """Where a config takes itself up, and how to fix it; None if it does not.

    mmengine would go round until Python stops it, which takes a while.

    Args:
        file: The config.
        above: The files that took it up, the outermost first.
    """
    chain = (*above, file.resolve())
    for base, line in _bases_of(file):
        path = (file.parent / base).resolve() if isinstance(base, str) else None
        if path is None or not path.is_file():
            continue
        if path in chain:
            circle = '\n  -> '.join(map(str, [*chain[chain.index(path) :], path]))
            return (
                f'{_place(file, line)}: _base_ = {base!r} leads back to a config that takes this one '
                f'up:\n     {circle}\n  to fix it: take that line out of one of them.'
            )
        if fault := circle_in_bases(path, chain):
            return fault
    return None


def fault_in_bases(file: Path) -> str | None:
    """What is wrong with the bases of a config, and how to fix it; None if they are all there."""
    for base, line in _bases_of(file):
        if not isinstance(base, str):
            return (
                f'{_place(file, line)}: _base_ holds {base!r}, where the path of a config must be.\n'
                "  to fix it: _base_ = 'the/path.py', or a list of paths."
            )
        outside = '::' in base
        path = file.parent / base
        if outside and not base.startswith('paca_mm::'):
            continue
        if not outside and path.is_file():
            if fault := fault_in_bases(path):
                return fault
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
        return f'{_place(file, line)} takes up _base_ = {base!r}, {why}.\n  to fix it: {cure}'
    return None


def _place(file: Path, line: int | None) -> str:
    return f'{file}, line {line}' if line else str(file)


def _bases_of(file: Path) -> Iterator[tuple[Any, int | None]]:
    """What is written as a config's bases, each with its line; another expression is none of them.

    Of a pure-Python config these are the relative imports below ``read_base``, as paths.
    """
    try:
        if file.suffix != '.py':
            bases = _loaded(file).get('_base_', [])
            yield from ((base, None) for base in (bases if isinstance(bases, list) else [bases]))
            return
        module = ast.parse(file.read_text())
        found = _statement(module)
        if found is not None:
            for node in _elements(found.value):
                if isinstance(node, ast.Constant):
                    yield node.value, node.lineno
        yield from _read_bases(module)
    except (OSError, ValueError, SyntaxError):
        return


def _read_bases(module: ast.Module) -> Iterator[tuple[str, int]]:
    for node in module.body:
        if isinstance(node, ast.With) and 'read_base' in ast.unparse(node.items[0]):
            for taken in node.body:
                if isinstance(taken, ast.ImportFrom) and taken.level and taken.module:
                    up = '../' * (taken.level - 1)
                    yield f'{up}{taken.module.replace(".", "/")}.py', taken.lineno


def _loaded(file: Path) -> dict[str, Any]:
    """The content of a JSON or YAML config; none if it is no mapping."""
    from mmengine.fileio import load

    try:
        content = load(file)
    except Exception:  # each format has its own; mmengine's words are better
        return {}
    return content if isinstance(content, dict) else {}


def _title(path: Path) -> str:
    name = path.resolve().relative_to(assets_root().resolve()).as_posix()
    return f'{name} of paca_mm {__version__}'


def _statement(module: ast.Module) -> ast.Assign | None:
    """The statement that sets ``_base_``."""
    for node in module.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == '_base_':
            return node
    return None


def _elements(value: ast.expr) -> list[ast.expr]:
    return value.elts if isinstance(value, (ast.List, ast.Tuple)) else [value]


def _literals(value: ast.expr) -> list[str]:
    """The bases that are written out; another expression is none."""
    nodes = _elements(value)
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
