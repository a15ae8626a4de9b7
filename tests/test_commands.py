"""The command line ``paca-mm``: what it knows, what it imports, what it says one should type."""

import argparse
import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.tool import tool
from paca_mm import __version__, paths
from paca_mm.checkpoint.convert import TASK_NAMES
from paca_mm.cli import main
from paca_mm.commands.options import cfg_options
from paca_mm.datasets.shapes import DEFAULT_DIR, ShapesSpec
from paca_mm.engine.tasks import TASKS
from paca_mm.errors import UserError
from paca_mm.families import families, names
from paca_mm.paths import COMMANDS, assets_root, command_line

HEAVY = ('torch', 'mmengine', 'mmcv', 'mmdet', 'mmseg', 'mmpretrain', 'numpy', 'cv2', 'PIL', 'yaml')


def module_of(name):
    return importlib.import_module(f'paca_mm.commands.{name.replace("-", "_")}')


def parsed(name, *words):
    parser = argparse.ArgumentParser()
    module_of(name).add_arguments(parser)
    return parser.parse_args(words)


def code_of(*words):
    try:
        main(list(words))
    except SystemExit as e:
        return e.code or 0
    return 0


@pytest.mark.parametrize(
    'words', [['train', 'x.py'], ['export', 'x.py'], ['clusters', 'a', 'x.py']]
)
def test_an_environment_without_the_packages_is_explained(words):
    """In a process that sees the standard library and this package, and no other."""
    root = str(Path(paths.__file__).parents[1])
    code = (
        f'import sys; sys.path.insert(0, {root!r}); from paca_mm.cli import main; main({words!r})'
    )
    command = [sys.executable, '-S', '-c', code]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    said = (
        rf"error: .* {words[0]} needs the package '\w+', which is not installed.*doctor(\.py)? says"
    )
    assert re.search(said, done.stderr, re.DOTALL), done.stderr


@pytest.mark.parametrize(
    ('words', 'where', 'code'),
    [
        ('train nothing.py', '>/dev/full 2>&1', 2),
        ('no_command', '2>/dev/full', 2),
        ('--help', '| head -n 1', 141),
    ],
)
@pytest.mark.parametrize('unbuffered', ['', '1'])
def test_an_output_that_cannot_be_written_changes_no_exit_code(words, where, code, unbuffered):
    """A log on a full disk, or a reader that has seen enough; and no traceback."""
    line = f'{sys.executable} -m paca_mm {words} {where}; echo ${{PIPESTATUS[0]}}'
    environ = {**os.environ, 'PYTHONUNBUFFERED': unbuffered}
    done = subprocess.run(['bash', '-c', line], capture_output=True, text=True, env=environ)
    printed = done.stdout.splitlines()[-1]
    # Of a pipe that holds all of it, the writer does not know that nobody reads on.
    assert printed == str(code) or (code == 141 and printed == '0')
    assert done.stderr == ''


def test_a_module_of_ours_that_is_missing_is_no_mistake_of_the_users(monkeypatch):
    def run(args):
        raise ModuleNotFoundError("No module named 'paca_mm.lost'", name='paca_mm.lost')

    monkeypatch.setattr(module_of('doctor'), 'run', run)
    with pytest.raises(ModuleNotFoundError):
        main(['doctor'])


def test_every_help_has_an_example_and_imports_nothing_heavy():
    """In a process of its own, and all of them in one: starting Python is most of it."""
    code = f"""
        import contextlib, io, json, sys
        from paca_mm.cli import main
        before, said = set(sys.modules), {{}}
        for words in [['--help'], ['--version'], *([name, '--help'] for name in {list(COMMANDS)!r})]:
            with contextlib.redirect_stdout(io.StringIO()) as out:
                with contextlib.suppress(SystemExit):
                    main(words)
            said[words[0]] = out.getvalue()
        heavy = [name for name in {HEAVY!r} if name in sys.modules]
        print(json.dumps([said, heavy]))
    """
    lines = [line[8:] for line in code.splitlines()]
    done = subprocess.run([sys.executable, '-c', '\n'.join(lines)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said, heavy = json.loads(done.stdout)
    assert heavy == []
    assert all(f'\n  {name} ' in said['--help'] for name in COMMANDS)
    for name in COMMANDS:
        assert f' {name}' in said[name].partition('example:\n')[2], name
        assert said[name].startswith('usage: ')


def test_every_tool_is_a_command_and_the_other_way_round():
    tools = {path.stem for path in (assets_root() / 'tools').glob('*.py')}
    assert tools == set(COMMANDS.values()) - {None}
    modules = {
        p.stem.replace('_', '-') for p in Path(module_of('train').__file__).parent.glob('*.py')
    }
    assert modules - {'--init--', 'options'} == set(COMMANDS)
    assert all(callable(tool(name).main) for name in tools)


def test_a_tool_takes_what_its_command_takes(capsys):
    with pytest.raises(SystemExit):
        tool('get_flops').main(['--help'])
    said = capsys.readouterr().out
    assert said.startswith('usage: get_flops.py ')
    assert '--shape' in said


def test_an_unknown_command_and_none(capsys):
    assert code_of('trian') == 2
    assert "no command 'trian'; did you mean train?" in capsys.readouterr().err
    assert code_of() == 2
    assert 'Evaluate a checkpoint' in capsys.readouterr().out
    assert code_of('--version') == 0
    assert capsys.readouterr().out == f'paca_mm {__version__}\n'


@pytest.fixture
def started(monkeypatch, tmp_path):
    """Sets how the process was started, from where, and whether ``paca-mm`` is installed."""

    def start(argv0, folder, installed):
        monkeypatch.setattr(sys, 'argv', [str(argv0)])
        monkeypatch.chdir(folder)
        monkeypatch.setattr(paths, '_is_installed', lambda: installed)

    return start


def test_what_to_type_is_what_works_here(started, tmp_path):
    root = assets_root()
    words = ('test', 'my config.py', 'a.pth')
    started(root / 'tools' / 'train.py', root, True)
    assert command_line(*words) == "python tools/test.py 'my config.py' a.pth"
    assert command_line('config') == 'paca-mm config'  # which is no tool
    started(root / 'tools' / 'train.py', root / 'docs', True)
    assert command_line(*words) == "paca-mm test 'my config.py' a.pth"
    started(root / 'tools' / 'train.py', tmp_path, False)
    assert command_line(*words) == "python -m paca_mm test 'my config.py' a.pth"
    (tmp_path / 'tools').mkdir()  # of another project
    (tmp_path / 'tools' / 'test.py').touch()
    assert command_line('test') == 'python -m paca_mm test'


def test_who_typed_the_command_reads_it_again(started):
    started('/usr/bin/paca-mm', assets_root(), False)
    assert command_line('test') == 'paca-mm test'
    started(paths.PACKAGE / '__main__.py', assets_root(), True)
    assert command_line('test') == 'python -m paca_mm test'


@pytest.mark.parametrize(
    'words',
    [
        ['a.b=1', 'a.c=1e-3', 'd=text', 'e=True', 'f=None'],
        ['a=[1,2,3]', 'b=(1,2)', 'c=[(a,b),(c,d)]', 'd=1,2'],
        ['a=1', 'a=2'],
        ["a=[{'type':'mmengine.EMAHook'}]", 'b=x=y', 'c='],
    ],
)
def test_options_are_what_mmengine_makes_of_them(words):
    from mmengine.config import DictAction

    parser = argparse.ArgumentParser()
    parser.add_argument('--cfg-options', nargs='+', action=DictAction)
    expected = parser.parse_args(['--cfg-options', *words]).cfg_options
    given = parsed('train', 'c.py', '--cfg-options', words[0], '--cfg-options', *words[1:])
    assert given.cfg_options == words
    assert cfg_options(given.cfg_options) == expected


def test_options_that_are_none_are_named():
    assert cfg_options(None) is None
    with pytest.raises(UserError, match=r'--cfg-options 5\): it must be KEY=VALUE'):
        cfg_options(['a=(1,', '5)'][1:])
    with pytest.raises(UserError, match=r"--cfg-options a=\[\(1,2\]: 1 '\(' and 0 '\)'"):
        cfg_options(['a=[(1,2]'])


def test_numbers_and_names_in_the_help_are_the_true_ones():
    """They stand there as they are: what defines them would take seconds to import."""
    spec = ShapesSpec()
    help_of = module_of('shapes')
    parser = argparse.ArgumentParser()
    help_of.add_arguments(parser)
    text = {action.dest: action.help for action in parser._actions}
    assert parsed('shapes').out == DEFAULT_DIR
    for name, value in dict(
        seed=spec.seed, train=spec.num_train, val=spec.num_val, size=spec.size
    ).items():
        assert f'(default: {value})' in text[name]
    for name, option, values in [
        ('convert', 'task', TASK_NAMES),
        ('demo', 'task', TASKS),
        ('families', 'tasks', TASKS),
        ('families', 'families', families()),
    ]:
        parser = argparse.ArgumentParser()
        module_of(name).add_arguments(parser)
        (action,) = (a for a in parser._actions if a.dest == option)
        assert list(action.choices) == list(values), (name, option)
    assert names() == list(families())
