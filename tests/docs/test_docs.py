"""What the documents promise is there: paths, targets, examples."""

import doctest
import importlib
import re

import pytest

from helpers.documents import DOCUMENTS, ROOT, name, settled


@pytest.mark.parametrize('path', DOCUMENTS, ids=name)
def test_named_files_and_targets_exist(path):
    text = settled(path)
    assert '{{' not in text, 'a figure was never filled in'
    named = re.findall(r'\b(?:tools|configs|paca_mm|tests|docs|requirements)/[\w./-]*\w', text)
    # What begins with my_ is the reader's to write.
    missing = sorted({n for n in named if not (ROOT / n).exists() and '/my_' not in n})
    assert not missing
    makefile = (ROOT / 'Makefile').read_text()
    for target in set(re.findall(r'(?:^|`)make ([a-z]+)', text, re.MULTILINE)):
        assert re.search(rf'^{target}:', makefile, re.MULTILINE), target


@pytest.mark.parametrize('module', ['paca_mm.models.paca.backbone'])
def test_docstring_examples(module):
    result = doctest.testmod(importlib.import_module(module))
    assert result.attempted
    assert not result.failed
