"""The arguments of a config against those that its classes take: a config that works is no mistake."""

import importlib
import re
from pathlib import Path

import mmengine
import pytest
from mmengine.config import Config
from mmengine.registry import init_default_scope

from paca_mm.engine.arguments import check_arguments
from paca_mm.engine.options import read_names
from paca_mm.engine.signatures import takes
from paca_mm.paths import PACKAGE


@pytest.mark.slow
@pytest.mark.parametrize('host', ['mmdet', 'mmseg', 'mmpretrain'])
def test_the_configs_of_the_hosts_are_no_mistakes(host):
    """Every 80th; of all, which take half an hour, those were refused that their host refuses too."""
    package = pytest.importorskip(host)
    importlib.import_module(f'{host}.utils').register_all_modules(init_default_scope=False)
    root = Path(package.__file__).parent / '.mim/configs'
    files = sorted(f for f in root.rglob('*.py') if '_base_' not in f.relative_to(root).parts)[::80]
    checked = 0
    for file in files:
        try:
            cfg = Config.fromfile(file)
        except Exception:  # a package that is not installed, a base of another host
            continue
        init_default_scope(host)
        check_arguments(cfg, ['train', 'val', 'test'])
        checked += 1
    assert checked > len(files) // 2


def test_what_is_read_of_a_config_is_known():
    """A name that a command line may set, since somebody reads it."""
    texts = [file.read_text() for file in PACKAGE.rglob('*.py')]
    runner = Path(mmengine.__file__).parent / 'runner'
    texts += [file.read_text() for file in runner.glob('*runner.py')]
    read = {name for text in texts for name in re.findall(r"\bcfg\.(?:get|pop)\('(\w+)'", text)}
    assert 'max_skipped' in read
    assert read <= read_names()


class Base:
    def __init__(self, a, b=1):
        pass


class HandsOn(Base):
    def __init__(self, c, **kwargs):
        super().__init__(**kwargs)


class Keeps(Base):
    def __init__(self, c, **kwargs):
        super().__init__(1)
        self.kept = kwargs


class TakesOut(Base):
    def __init__(self, c, **kwargs):
        self.d = kwargs.pop('d', None)
        super().__init__(**kwargs)


class Nothing:
    pass


def test_what_a_class_takes_is_followed_through_its_bases():
    assert takes(HandsOn) == (('c', 'a', 'b'), ('c', 'a'), False)
    assert takes(HandsOn).refused(['a', 'd']) == ['d']
    assert takes(Nothing) == ((), (), False)


@pytest.mark.parametrize('kind', [Keeps, TakesOut, dict, len])
def test_nothing_is_said_of_what_takes_anything(kind):
    assert takes(kind).any
    assert takes(kind).refused(['nonsense']) == []
