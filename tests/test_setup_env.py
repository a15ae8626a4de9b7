"""``make setup``: what it hands to uv, and what it fixes besides."""

import os
import subprocess
import sys

import pytest

from helpers.tool import script
from paca_mm.paths import assets_root

if not (assets_root() / 'dev').is_dir():
    pytest.skip('not a checkout', allow_module_level=True)

setup_env = script('dev/setup_env.py')


def test_a_paragraph_is_what_is_installed_together():
    text = '# torch first\n\ntorch==2 # the build that fits\nwheel\n\n\nmmcv==2\n# the end\n'
    assert setup_env.paragraphs(text) == [['torch==2', 'wheel'], ['mmcv==2']]


@pytest.mark.parametrize('stack', setup_env.STACKS)
def test_torch_stands_before_mmcv_and_mmcv_alone(stack):
    parts = setup_env.paragraphs((assets_root() / setup_env.STACKS[stack]).read_text())
    torch = next(i for i, part in enumerate(parts) if any(x.startswith('torch==') for x in part))
    mmcv = next(i for i, part in enumerate(parts) if any('mmcv==' in x for x in part))
    assert torch < mmcv
    assert len(parts[mmcv]) == 1


def test_pips_settings_become_uvs():
    config = (
        "global.extra-index-url='file:///a/simple\\nfile:///b/simple'\n"
        "global.find-links='/wheels'\n"
        ":env:.find-links='/other /wheels'\n"
        "global.timeout='60'\n"
    )
    assert setup_env.uv_settings(config, {}) == {
        'UV_INDEX': 'file:///a/simple file:///b/simple',
        'UV_INDEX_STRATEGY': 'unsafe-best-match',
        'UV_FIND_LINKS': '/other,/wheels',
    }
    assert 'UV_FIND_LINKS' not in setup_env.uv_settings(config, {'UV_FIND_LINKS': '/mine'})
    assert setup_env.uv_settings('', {}) == {}


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / 'thesis.tex').touch()
    command = [sys.executable, str(assets_root() / 'dev/setup_env.py'), '--venv', str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert 'is no virtual environment' in done.stderr
    assert os.listdir(tmp_path) == ['thesis.tex']


def test_torchvisions_operators_are_declared_in_a_new_file(tmp_path, monkeypatch):
    """uv's cache may be linked to the file that is there, which must stay as it is."""
    file = tmp_path / 'lib/python3.11/site-packages/torchvision/extension.py'
    file.parent.mkdir(parents=True)
    file.write_text('import torch\n')
    os.link(file, tmp_path / 'cached.py')
    env = setup_env.Environment(tmp_path, 'onedl')
    fault = 'RuntimeError: operator torchvision::nms does not exist'
    monkeypatch.setattr(env, 'fault', lambda code: fault)
    env.fix_torchvision()
    assert file.read_text() == 'import torch\n' + setup_env.DECLARE
    assert (tmp_path / 'cached.py').read_text() == 'import torch\n'
    monkeypatch.setattr(env, 'fault', lambda code: 'ImportError: something else')
    env.fix_torchvision()
    assert file.read_text().count('_declared =') == 1


def test_a_cached_mmcv_without_ops_is_compiled_again_once(tmp_path, monkeypatch):
    """The bad wheel must leave the cache too, or the next environment would get it again."""
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    cached = tmp_path / 'cache/paca_mm/torch2/onedl_mmcv-2.3.6-cp311.whl'
    cached.parent.mkdir(parents=True)
    cached.write_text('bad')
    env = setup_env.Environment(tmp_path, 'onedl')
    installed, compiled = [], []

    def compile_it(words, variables=None):
        compiled.append(words[-1])
        cached.write_text('new')

    monkeypatch.setattr(env, 'install', lambda *words: installed.append(words))
    monkeypatch.setattr(setup_env, 'run', compile_it)
    monkeypatch.setattr(setup_env.subprocess, 'check_output', lambda *words, **_: 'torch2\n')
    monkeypatch.setattr(env, 'fault', lambda code: 'no mmcv._ext' if 'ops' in code else None)
    monkeypatch.setattr(env, 'works', lambda code: code != 'import mmcv')
    with pytest.raises(SystemExit, match='mmcv was compiled, but has no ops'):
        env.install_stack()
    assert compiled == ['onedl-mmcv==2.3.6']
    assert cached.read_text() == 'new'
    assert ('--no-deps', '--reinstall', str(cached)) in installed


def test_a_failing_step_names_the_command_and_the_help(capfd):
    with pytest.raises(SystemExit, match='ended with exit code 3'):
        setup_env.run([sys.executable, '-c', 'raise SystemExit(3)'])
    assert (assets_root() / 'docs/troubleshooting.md').is_file()


@pytest.mark.parametrize(('there', 'expected'), [(True, []), (False, ['requirements/docs.txt'])])
def test_what_the_documentation_needs_is_installed_once(there, expected, tmp_path, monkeypatch):
    env = setup_env.Environment(tmp_path, 'onedl')
    installed = []
    monkeypatch.setattr(env, 'works', lambda code: there)
    monkeypatch.setattr(env, 'make', lambda: None)
    monkeypatch.setattr(env, 'install', lambda *words: installed.append(words[1]))
    env.install_docs()
    assert installed == [str(assets_root() / name) for name in expected]
