"""The messages that the page on troubleshooting explains are the ones that are printed."""

import ast
import re

import pytest

from helpers.documents import ROOT

#: What compilers, torch and the hosts say.
OTHERS = {
    "No module named 'mmcv._ext'",
    "error: command 'c++' failed",
    'g++: not found',
    'Python.h: No such file or directory',
    'No solution found',
    'no version of ...',
    'operator torchvision::nms does not exist',
    'libGL.so.1: cannot open shared object file',
    'paca_mm.X is not in the ... registry',
    'PaCaViT.__init__() got an unexpected keyword argument',
    '… is not in the … registry',
    'The mmsegmentation is not installed',
    "_base_ = 'mmseg::...'",
    'selected index k out of range',
    'Weights only load failed',
    'we can not find the config file in codebase',
    "'AmpOptimWrapper' is only available",
    'norm_decay_mult=0',
    'SyncBatchNorm expected input tensor to be on GPU',
}


def words_of(node):
    """The text that an expression makes, ``…`` for what is not known before it runs."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return ''.join(words_of(part) for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return words_of(node.left) + words_of(node.right)
    return '…'


def messages():
    for folder in ('paca_mm', 'dev', 'tools'):
        for file in (ROOT / folder).rglob('*.py'):
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, (ast.JoinedStr, ast.BinOp, ast.Constant)):
                    yield words_of(node)


@pytest.fixture(scope='module')
def printed():
    return {text for text in messages() if len(text) > 12}


def quoted():
    text = (ROOT / 'docs/troubleshooting.md').read_text()
    for row in re.findall(r'^\| (.*?) \|', text, re.MULTILINE):
        yield from re.findall(r'`([^`]+)`', row)


def test_every_message_is_printed_by_somebody(printed):
    unknown = []
    for message in quoted():
        if message in OTHERS:
            continue
        pieces = [re.escape(piece) for piece in message.strip('…').split('…')]
        pattern = re.compile('.*?'.join(pieces), re.DOTALL)
        if not any(pattern.search(text) for text in printed):
            unknown.append(message)
    assert not unknown


def test_no_message_of_others_is_listed_in_vain():
    assert {*quoted()} >= OTHERS
