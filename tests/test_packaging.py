"""What a wheel and a source archive of paca_mm hold, and what the wheel asks for."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

import paca_mm
from helpers.tool import script, script_at
from paca_mm.paths import assets_root

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ('setup.py', 'pyproject.toml', 'MANIFEST.in', 'README.md', 'model-index.yml')
TREES = ('paca_mm', 'configs', 'tools')
SOURCE_TREES = (*TREES, 'tests', 'dev', 'docs', 'requirements', 'benchmarks')


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
    """A wheel built from a copy of the sources, offline, as a user builds it."""
    if not (ROOT / 'setup.py').exists():
        pytest.skip('not a checkout')
    work = tmp_path_factory.mktemp('wheel')
    for name in SOURCES:
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, work)
    for name in TREES:
        ignore = shutil.ignore_patterns('__pycache__', '.mim')
        shutil.copytree(ROOT / name, work / name, ignore=ignore)
    stale = work / 'build' / 'lib' / 'paca_mm' / '.mim' / 'configs' / 'gone.py'
    stale.parent.mkdir(parents=True)
    stale.touch()
    run = subprocess.run(
        [
            sys.executable,
            '-m',
            'pip',
            'wheel',
            '--no-deps',
            '--no-build-isolation',
            '--no-index',
            '--wheel-dir',
            str(work / 'dist'),
            str(work),
        ],
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    (path,) = (work / 'dist').glob('paca_mm-*.whl')
    with zipfile.ZipFile(path) as archive:
        yield archive


@pytest.fixture(scope='module')
def metadata(wheel):
    (name,) = [name for name in wheel.namelist() if name.endswith('.dist-info/METADATA')]
    return Parser().parsestr(wheel.read(name).decode())


@pytest.fixture(scope='module')
def unpacked(tmp_path_factory):
    """A source archive, made from a copy of the checkout and unpacked."""
    if not (ROOT / 'setup.py').exists():
        pytest.skip('not a checkout')
    work = tmp_path_factory.mktemp('sdist')
    copy = work / 'copy'
    copy.mkdir()
    for file in ROOT.iterdir():
        if file.is_file():
            shutil.copy(file, copy)
    for name in SOURCE_TREES:
        ignore = shutil.ignore_patterns('__pycache__', '.mim')
        shutil.copytree(ROOT / name, copy / name, ignore=ignore)
    code = f'from setuptools.build_meta import build_sdist; build_sdist({str(work)!r})'
    run = subprocess.run([sys.executable, '-c', code], cwd=copy, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    (path,) = work.glob('paca_mm-*.tar.gz')
    with tarfile.open(path) as archive:
        archive.extractall(work, filter='data')
    return work / path.name.removesuffix('.tar.gz')


def files_of(folder, pattern='*'):
    """Files below a folder of the checkout, as git would see them."""
    return {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / folder).rglob(pattern)
        if path.is_file() and not {'__pycache__', '.mim', '_build'} & set(path.parts)
    }


@pytest.mark.slow
def test_every_module_is_in_the_wheel(wheel):
    """A folder without ``__init__.py`` would be left out without a word."""
    assert files_of('paca_mm', '*.py') <= set(wheel.namelist())


def test_configs_and_tools_are_in_mim(wheel):
    inside = {name for name in wheel.namelist() if name.startswith('paca_mm/.mim/')}
    expected = files_of('configs') | files_of('tools')
    assert {f'paca_mm/.mim/{name}' for name in expected} <= inside
    assert not [name for name in inside if '__pycache__' in name]
    assert 'paca_mm/.mim/configs/gone.py' not in inside  # of an earlier build


@pytest.mark.parametrize('folder', SOURCE_TREES)
@pytest.mark.slow
def test_the_source_archive_is_complete(unpacked, folder):
    there = {path.relative_to(unpacked).as_posix() for path in (unpacked / folder).rglob('*')}
    assert files_of(folder) <= there


@pytest.mark.slow
def test_tests_of_the_source_archive_run(unpacked):
    run = subprocess.run(
        [sys.executable, '-m', 'pytest', '-q', '-p', 'no:cacheprovider', 'tests/test_scripts.py'],
        cwd=unpacked,
        env={**os.environ, 'PYTHONPATH': str(unpacked)},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]


def test_one_command_is_installed(wheel):
    (name,) = (name for name in wheel.namelist() if name.endswith('entry_points.txt'))
    assert wheel.read(name).decode() == '[console_scripts]\npaca-mm = paca_mm.cli:main\n'


@pytest.mark.slow
def test_the_command_runs_from_a_wheel_in_any_folder(wheel, tmp_path):
    """Unpacked as it is installed: no checkout beside it, its configs found."""
    wheel.extractall(tmp_path / 'site')
    (tmp_path / 'here').mkdir()

    def said(*words):
        done = subprocess.run(
            [sys.executable, '-m', 'paca_mm', *words],
            cwd=tmp_path / 'here',
            env={**os.environ, 'PYTHONPATH': str(tmp_path / 'site')},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert 'cls/paca_finetune' in said('config').splitlines()
    (tmp_path / 'here' / 'mine.py').write_text(said('config', 'paca_finetune', '--copy'))
    said('flops', 'mine.py', '--shape', '64')
    assert 'python -m paca_mm train configs/' in said('train', '--help')


def test_an_editable_install_has_one_way_to_a_file(tmp_path):
    """mim looks for a config everywhere below the checkout, and refuses one that it finds twice."""
    if not (ROOT / 'setup.py').exists():
        pytest.skip('not a checkout')
    for file in SOURCES:
        shutil.copy(ROOT / file, tmp_path)
    for folder in TREES:
        ignore = shutil.ignore_patterns('__pycache__', '.mim', 'commands')
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=ignore)
    mim = tmp_path / 'paca_mm' / '.mim'  # of an earlier install
    mim.mkdir()
    (mim / 'configs').symlink_to(Path('..', '..', 'configs'), target_is_directory=True)
    code = 'from setuptools.build_meta import build_editable; build_editable("dist")'
    run = subprocess.run([sys.executable, '-c', code], cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    found = [
        os.path.join(folder, file)
        for folder, _, files in os.walk(tmp_path, followlinks=True)
        for file in files
        if file in ('paca_shapes.py', 'model-index.yml', 'get_flops.py')
    ]
    assert len(found) == 3, found


def test_the_readme_of_a_package_index_leads_everywhere():
    if not (ROOT / 'setup.py').exists():
        pytest.skip('not a checkout')
    setup = script_at(ROOT / 'setup.py')
    text = setup.readme(
        '[a](docs/a.md#b) ![c d](docs/c.png) [e](https://e.org) [f](#below) ![g](https://g.org/g.png)',
        'owner/name',
        'v1',
    )
    assert text.split(') ') == [
        '[a](https://github.com/owner/name/blob/v1/docs/a.md#b',
        '![c d](https://raw.githubusercontent.com/owner/name/v1/docs/c.png',
        '[e](https://e.org',
        '[f](#below',
        '![g](https://g.org/g.png)',
    ]
    whole = setup.readme((ROOT / 'README.md').read_text(), 'owner/name', 'v1')
    targets = re.findall(r'\]\(([^)]+)\)', whole)
    assert targets
    assert not [target for target in targets if not target.startswith(('https://', '#'))]
    assert 'Repository' not in setup.urls(None)
    assert setup.urls('owner/name')['Issues'] == 'https://github.com/owner/name/issues'


def test_the_readme_is_in_the_metadata(metadata):
    assert metadata['Description-Content-Type'] == 'text/markdown'
    assert metadata.get_payload().strip() == (ROOT / 'README.md').read_text().strip()
    assert 'Paper, https://arxiv.org/abs/2203.11987' in metadata.get_all('Project-URL')


def test_type_checkers_see_the_annotations(wheel):
    assert 'paca_mm/py.typed' in wheel.namelist()


@pytest.mark.parametrize(
    ('extra', 'file'),
    [
        ('onedl', 'requirements.txt'),
        ('openmmlab', 'requirements/openmmlab.txt'),
        ('dev', 'requirements/dev.txt'),
        ('docs', 'requirements/docs.txt'),
    ],
)
def test_extras_are_what_the_requirement_files_say(metadata, extra, file):
    """But for torch, which fits the machine, and what mmcv is built with."""
    setup_env = script('dev/setup_env.py')
    left_out = ('torch', 'setuptools', 'wheel', 'ninja', 'psutil', 'click')
    parts = setup_env.paragraphs((ROOT / file).read_text())
    lines = (line.partition(';')[0] for part in parts for line in part)
    wanted = {line for line in lines if not line.startswith(left_out)}
    found = {
        requirement.partition(';')[0].strip()
        for requirement in metadata.get_all('Requires-Dist')
        if f"'{extra}'" in requirement.replace('"', "'")
    }
    assert found == wanted


def test_nothing_else_is_installed(wheel):
    tops = {name.split('/')[0] for name in wheel.namelist()}
    assert {top for top in tops if not top.endswith('.dist-info')} == {'paca_mm'}


def test_version_and_python(metadata):
    assert metadata['Name'].replace('-', '_') == 'paca_mm'
    assert metadata['Version'] == paca_mm.__version__
    assert metadata['Requires-Python'] == '>=3.10'


def test_no_mm_package_and_no_torch_is_required(metadata):
    """Either would be laid over what a working project has."""
    required = [x for x in metadata.get_all('Requires-Dist', []) if 'extra ==' not in x]
    assert [x for x in required if 'mm' in x or 'torch' in x] == []


@pytest.mark.parametrize(
    ('extra', 'names'),
    [
        (
            'onedl',
            [
                'onedl-mmengine',
                'onedl-mmcv',
                'onedl-mmdetection',
                'onedl-mmsegmentation',
                'onedl-mmpretrain',
            ],
        ),
        ('openmmlab', ['mmengine', 'mmcv', 'mmdet', 'mmsegmentation', 'mmpretrain', 'ftfy']),
        ('dev', ['pytest', 'ruff', 'mypy']),
    ],
)
def test_extras_name_the_stack(metadata, extra, names):
    lines = [x for x in metadata.get_all('Requires-Dist') if f"'{extra}'" in x.replace('"', "'")]
    for name in names:
        assert any(x.startswith((f'{name}=', f'{name}>', f'{name};', f'{name} ')) for x in lines)
    assert not any(x.startswith(('torch', 'setuptools')) for x in lines)


def test_assets_are_found():
    assert (assets_root() / 'tools' / 'doctor.py').is_file()
    assert (assets_root() / 'configs').is_dir()


def test_assets_of_a_wheel_are_in_mim(tmp_path, monkeypatch):
    mim = tmp_path / 'paca_mm' / '.mim'
    for name in ('configs', 'tools'):
        (mim / name).mkdir(parents=True)
        (tmp_path / name).mkdir()  # what another package left in site-packages
    monkeypatch.setattr('paca_mm.paths.PACKAGE', tmp_path / 'paca_mm')
    assert assets_root() == mim


def test_assets_of_an_editable_install_are_the_checkout(tmp_path, monkeypatch):
    mim = tmp_path / 'paca_mm' / '.mim'
    mim.mkdir(parents=True)
    for name in ('configs', 'tools'):
        (tmp_path / name).mkdir()
        (mim / name).symlink_to(Path('..', '..', name))
    monkeypatch.setattr('paca_mm.paths.PACKAGE', tmp_path / 'paca_mm')
    assert assets_root() == tmp_path
