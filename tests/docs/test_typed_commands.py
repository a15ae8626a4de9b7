"""Every command of the documents can be typed: its options, its files; those of the first hour run."""

import argparse
import re
from pathlib import Path

import pytest

from helpers.documents import DOCUMENTS, ROOT, commands, name, settled
from helpers.tool import run, script
from paca_mm.datasets.shapes import ensure_shapes

#: What is somebody else's to explain.
NOT_OURS = ('.', 'pip', 'apt', 'export', 'cd', 'ln', 'git')


class Parsed(Exception):
    """A command line was accepted."""


@pytest.fixture
def only_parse(monkeypatch):
    """Every ``main`` ends when its command line has been accepted."""
    parse = argparse.ArgumentParser.parse_args

    def accept(self, argv=None, namespace=None):
        parse(self, argv, namespace)
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, 'parse_args', accept)


@pytest.mark.parametrize('path', DOCUMENTS, ids=name)
def test_every_command_can_be_typed(path, only_parse):
    for words in commands(settled(path)):
        while re.fullmatch(r'[A-Z_]+=\S+', words[0]):
            words = words[1:]
        check(words)


def check(words):
    program, *rest = words
    for word in rest:
        if word.startswith('configs/') and '/my_' not in word:
            assert (ROOT / word).is_file(), words
    if program == 'make':
        makefile = (ROOT / 'Makefile').read_text()
        for target in (word for word in rest if '=' not in word):
            assert re.search(rf'^{target}:.*##', makefile, re.MULTILINE), words
    elif program == 'bash':
        assert (ROOT / rest[0]).is_file(), words
    elif program in ('paca-mm', 'python') and rest[0] != '-m':
        accept(program, rest)
    else:
        assert program in (*NOT_OURS, 'python', 'mim'), words


def accept(program, words):
    if program == 'paca-mm':
        from paca_mm.cli import main

        words = words[: words.index('>')] if '>' in words else words
    else:
        main, words = script(words[0]).main, words[1:]
    try:
        main(words)
    except Parsed:
        return
    except SystemExit as e:
        pytest.fail(f'{program} {" ".join(words)} ends with code {e.code}')
    pytest.fail(f'{program} {" ".join(words)} parses nothing')


#: Makes the runs of the quick start short.
SHORT = {
    'make_shapes': ['--train', '32', '--val', '4'],
    'train': [
        '--cfg-options', 'train_cfg.max_iters=1', 'train_cfg.val_interval=1',
        'train_dataloader.num_workers=0', 'train_dataloader.persistent_workers=False',
        'val_dataloader.num_workers=0', 'val_dataloader.persistent_workers=False',
        'default_hooks.checkpoint.interval=1',
    ],
    'test': [
        '--cfg-options', 'test_dataloader.num_workers=0',
        'test_dataloader.persistent_workers=False',
    ],
    'infer': [],
}  # fmt: skip


@pytest.mark.slow
def test_the_quick_start_runs(tmp_path, monkeypatch, capfd):
    """Its first training, evaluation and prediction, one iteration of them."""
    pytest.importorskip('mmseg')
    monkeypatch.chdir(tmp_path)
    text = settled(ROOT / 'docs/quick-start.md').partition('## Train, evaluate, predict')[2]
    first = [words for words in commands(text) if words[0] == 'python'][:4]
    assert [Path(words[1]).stem for words in first] == list(SHORT)
    for _, tool, *words in first:
        stem = Path(tool).stem
        words = [word.replace('iter_1200', 'iter_1') for word in words]
        assert run(stem, *words, *SHORT[stem]) == 0, capfd.readouterr().err
    assert len([*Path('predicted').glob('*.png')]) == 4
    assert Path('predicted/predictions.json').is_file()
    assert [*Path('drawn').rglob('*.png')]


@pytest.mark.slow
def test_a_recipe_is_counted_and_made_ready_without_a_download(tmp_path, monkeypatch, capsys):
    """The commands of the page on heads, up to the model."""
    pytest.importorskip('mmdet')
    from paca_mm.engine.checks import check_config
    from paca_mm.engine.config import load_config

    monkeypatch.chdir(tmp_path)
    ensure_shapes('data/shapes', num_train=4, num_val=2)
    lines = commands((ROOT / 'docs/heads.md').read_text())
    ((_, _, config, _),) = (words for words in lines if words[1] == 'tools/train.py')
    check_config(load_config(config, shapes=True), ['train', 'val'])
    ((_, _, *words),) = (words for words in lines if words[1] == 'tools/get_flops.py')
    assert run('get_flops', *words, '--shape', '64') == 0
    assert 'backbone' in capsys.readouterr().out
