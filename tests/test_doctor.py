"""``tools/doctor.py``: what it says where all is well, and where something is missing."""

import importlib.util
import json
import os
import subprocess
import sys
import textwrap

import pytest

from paca_mm import environment
from paca_mm.families import families
from paca_mm.paths import assets_root

TOOLS = assets_root() / 'tools'


def run_python(code, *flags, cwd=None, **variables):
    """Run code in a fresh interpreter of this environment."""
    return subprocess.run(
        [sys.executable, *flags, '-c', textwrap.dedent(code)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, **variables},
        timeout=240,
    )


def run_doctor(*arguments, missing=()):
    """Runs tools/doctor.py in another working directory, with some packages as if not there."""
    return run_python(
        f"""
        import runpy, sys
        class Block:
            def find_spec(self, name, path=None, target=None):
                if name.split('.')[0] in {tuple(missing)!r}:
                    raise ModuleNotFoundError(f'No module named {{name!r}}', name=name)
        sys.meta_path.insert(0, Block())
        sys.argv[1:] = {list(arguments)!r}
        runpy.run_path({str(TOOLS / 'doctor.py')!r}, run_name='__main__')
        """,
        cwd=TOOLS,
    )


@pytest.mark.slow
def test_doctor_finds_this_environment_usable():
    run = run_doctor()
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout.splitlines()[-1].startswith('usable')
    for scope in ('mmengine', 'mmdet', 'mmseg', 'mmpretrain'):
        if importlib.util.find_spec(scope):
            assert f'PaCaViT in {scope}' in run.stdout


def test_doctor_reports_where_everything_is_missing():
    everything = ('torch', 'torchvision', 'cv2', *environment.STACKS['onedl'])
    run = run_doctor('--json', missing=everything)
    assert run.returncode == 2, run.stderr
    report = json.loads(run.stdout)
    assert report['usable'] is False
    status = {check['name']: check['status'] for check in report['checks']}
    for name in ('torch', 'mmengine', 'mmcv', 'opencv'):
        assert status[name] == 'fail'
    for name in ('torchvision', 'mmdet', 'mmseg', 'mmpretrain'):
        assert status[name] == 'warn'
    for check in report['checks']:
        assert bool(check['cure']) == (check['status'] != 'ok')


def test_doctor_without_the_package_names_the_cure():
    run = run_doctor(missing=['paca_mm'])
    assert run.returncode == 2
    assert 'make setup' in run.stdout
    assert 'Traceback' not in run.stderr


def test_both_stacks_at_once_are_an_error(tmp_path, monkeypatch):
    for name, version in (('onedl_mmdetection', '3.5.1'), ('mmdet', '3.3.0')):
        folder = tmp_path / f'{name}-{version}.dist-info'
        folder.mkdir()
        (folder / 'METADATA').write_text(
            f'Metadata-Version: 2.1\nName: {name.replace("_", "-")}\nVersion: {version}\n'
        )
    monkeypatch.syspath_prepend(str(tmp_path))
    (check,) = environment.check_stack()
    assert check.status == 'fail'
    assert check.found == 'onedl and openmmlab at once'
    assert 'pip uninstall -y' in check.cure
    assert 'onedl-mmdetection' in check.cure
    assert ' mmdet' in check.cure


def test_a_missing_host_is_a_warning_with_the_package_of_the_right_stack(monkeypatch):
    monkeypatch.setattr(environment, '_stack', lambda: 'openmmlab')
    monkeypatch.setattr(environment, '_version', lambda name: None)
    monkeypatch.setattr(environment, '_exists', lambda name: False)
    monkeypatch.setattr(environment, '_import_error', lambda name: 'ModuleNotFoundError: no')
    checks = {check.name: check for check in environment.check_mm_packages()}
    assert checks['mmseg'].status == 'warn'
    assert checks['mmseg'].cure.endswith('pip install --no-build-isolation mmsegmentation')
    assert checks['mmengine'].status == 'fail'


def test_table_is_aligned_and_ends_with_the_verdict():
    table = environment.as_table(
        [
            environment.Check('ok', 'Python', '3.11.7'),
            environment.Check('warn', 'mmpretrain', 'missing', 'pip install it'),
        ]
    )
    assert table.splitlines() == [
        'ok    Python      3.11.7',
        'warn  mmpretrain  missing  -> pip install it',
        'usable, with 1 warning',
    ]


def test_every_backbone_computes_and_one_that_does_not_is_named(monkeypatch):
    backbones = [f.backbone for f in families().values() if f.backbone and f.toy]
    checks = environment.check_models()
    assert [(check.name, check.status) for check in checks] == [(name, 'ok') for name in backbones]

    def stop(*args):
        raise RuntimeError('no kernel image is available')

    monkeypatch.setattr('paca_mm.models.PaCaViT.forward', stop)
    (check,) = (check for check in environment.check_models() if check.name == 'PaCaViT')
    assert check.status == 'fail'
    assert check.found == 'RuntimeError: no kernel image is available'


def test_one_fault_of_torchvision_is_reported_once(monkeypatch):
    fault = 'RuntimeError: operator torchvision::nms does not exist'
    stopped = {'torchvision', 'mmpretrain', 'mmdet', 'mmcv.ops'}
    monkeypatch.setattr(
        environment, '_import_error', lambda name: fault if name in stopped else None
    )
    checks = [
        *environment.check_torchvision(),
        *environment.check_mm_packages(),
        *environment.check_mmcv_ops(),
    ]
    assert [check.name for check in checks if check.status == 'fail'] == ['torchvision']
    assert {c.name: c.cure for c in checks}['mmpretrain'] == 'see torchvision, above'


def test_a_torchvision_that_does_not_start_is_no_fault_of_ours(monkeypatch):
    """Hosts import it when their registries are asked, which then say that a backbone is unknown."""
    real = environment._import_error
    fault = 'RuntimeError: operator torchvision::nms does not exist'
    monkeypatch.setattr(
        environment, '_import_error', lambda name: fault if name == 'torchvision' else real(name)
    )
    monkeypatch.setattr(environment, '_exists', lambda name: True)
    names = [check.name for check in environment.check_registry()]
    assert 'PaCaViT in mmengine' in names
    assert not [name for name in names if name.endswith(tuple(environment.HOSTS))]


def test_tensorboard_is_known_and_never_a_fault(monkeypatch):
    monkeypatch.setattr(environment, '_import_error', lambda name: None)
    (check,) = environment.check_tensorboard()
    assert check.status == 'ok'
    monkeypatch.setattr(
        environment, '_import_error', lambda name: 'no' if 'tensorboard' in name else None
    )
    (check,) = environment.check_tensorboard()
    assert check.status == 'ok'
    assert 'pip install tensorboard' in check.found


def test_a_bug_report_holds_what_mmengine_collects():
    report = json.loads(environment.as_json([environment.Check('ok', 'Python', '3')]))
    assert 'PyTorch' in report['mmengine']
