"""tools/setup_env.py, the torchvision shim it installs, and tools/doctor.py."""

import ast
import importlib.util
import json
import os
import subprocess
import sys
import textwrap
import venv
from pathlib import Path

import pytest

from paca_mm import environment

ROOT = Path(__file__).resolve().parents[1]
TOOLS = ROOT / 'tools'


def load(name):
    spec = importlib.util.spec_from_file_location(f'tools_{name}', TOOLS / f'{name}.py')
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # typing.NamedTuple looks there
    spec.loader.exec_module(module)
    return module


setup_env = load('setup_env')


def run_python(code, *flags, cwd=None, **variables):
    """Runs code in a fresh interpreter of this environment."""
    return subprocess.run(
        [sys.executable, *flags, '-c', textwrap.dedent(code)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, **variables},
        timeout=240,
    )


class Recorder:
    """Stands for an environment: answers queries from a list, writes down what pip is asked."""

    def __init__(self, env, monkeypatch, answers):
        self.answers, self.asked, self.output = list(answers), [], ''
        monkeypatch.setattr(env, 'query', lambda code: self.answers.pop(0))
        monkeypatch.setattr(env, 'try_pip', self.try_pip)

    def try_pip(self, *arguments):
        self.asked.append(arguments)
        return 0, self.output


# Requirement files --------------------------------------------------------------------------------


def test_the_script_is_python_3_8():
    """An old Python must get as far as the message that says it is too old."""
    ast.parse((TOOLS / 'setup_env.py').read_text(), feature_version=(3, 8))


def test_paragraphs_keep_their_order_and_lose_their_comments():
    text = '# about\n# this file\n\na==1 # why\nb\n \n\n# only a comment\n\n# head\nc-d<2\n'
    assert setup_env.paragraphs(text) == [['a==1', 'b'], ['c-d<2']]


@pytest.mark.parametrize('stack', ['onedl', 'openmmlab'])
def test_mmcv_comes_after_torch_in_a_paragraph_of_its_own(stack):
    parts = setup_env.paragraphs((ROOT / setup_env.STACKS[stack].requirements).read_text())
    names = [[setup_env.requirement_name(line) for line in lines] for lines in parts]
    (mmcv,) = [i for i, lines in enumerate(parts) if setup_env.mmcv_requirement(lines)]
    assert len(parts[mmcv]) == 1
    before = {name for part in names[:mmcv] for name in part}
    assert {'torch', 'setuptools', 'wheel', 'ninja', 'psutil'} <= before
    assert not any('mm' in name for name in before)


@pytest.mark.parametrize(
    ('line', 'name'),
    [
        ('torch==2.13.0', 'torch'),
        ('setuptools<81', 'setuptools'),
        ('Onedl_MMCV >= 2', 'onedl-mmcv'),
    ],
)
def test_requirement_name(line, name):
    assert setup_env.requirement_name(line) == name


# The wrong Python, the wrong folder ---------------------------------------------------------------


def test_a_python_too_old_gets_the_command_with_one_that_is_there():
    def find(name):
        return sys.executable if name == 'python3.11' else None

    with pytest.raises(setup_env.SetupError) as caught:
        setup_env.check_python('onedl', (3, 8, 18), find)
    message = str(caught.value)
    assert 'Python 3.8.18 is too old for the onedl stack' in message
    assert 'expected: Python 3.10 to 3.13, tested with 3.11' in message
    assert message.endswith('cure: make setup PYTHON=python3.11')


def test_a_python_too_new_gets_the_package_to_install_where_none_is_there():
    with pytest.raises(setup_env.SetupError) as caught:
        setup_env.check_python('openmmlab', (3, 12, 1), lambda name: None)
    message = str(caught.value)
    assert 'Python 3.12.1 is too new for the openmmlab stack' in message
    assert 'apt install python3.10-venv python3.10-dev' in message
    assert 'make setup STACK=openmmlab PYTHON=python3.10' in message


@pytest.mark.parametrize(('stack', 'version'), [('onedl', (3, 11, 7)), ('openmmlab', (3, 10, 0))])
def test_a_tested_python_passes(stack, version):
    setup_env.check_python(stack, version, lambda name: None)


def test_a_python_without_ensurepip_gets_the_package_to_install():
    def find_spec(name):
        return None if name == 'ensurepip' else object()

    with pytest.raises(setup_env.SetupError) as caught:
        setup_env.check_venv_module(find_spec)
    assert 'its module ensurepip is missing' in str(caught.value)
    assert 'apt install python' in str(caught.value)


def test_a_user_error_is_a_message_and_code_2(tmp_path, monkeypatch, capsys):
    impossible = setup_env.STACKS['onedl']._replace(oldest=(4, 0), newest=(4, 1))
    monkeypatch.setitem(setup_env.STACKS, 'onedl', impossible)
    assert setup_env.main(['--venv', str(tmp_path / 'env')]) == 2
    assert 'is too old for the onedl stack' in capsys.readouterr().err
    assert not (tmp_path / 'env').exists()


def test_a_folder_that_is_no_environment_is_left_alone(tmp_path, capsys):
    (tmp_path / 'thesis.tex').write_text('years of work')
    assert setup_env.main(['--venv', str(tmp_path)]) == 2
    assert 'is not a virtual environment; it was left alone' in capsys.readouterr().err
    assert (tmp_path / 'thesis.tex').read_text() == 'years of work'


def test_a_half_made_environment_is_made_anew(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(setup_env, 'check_python', lambda *arguments: None)
    env = setup_env.Environment(tmp_path / 'env', 'onedl')
    venv.create(env.folder, with_pip=False)  # as an interruption leaves it
    commands = []

    def run(command, **options):
        commands.append(command)
        return subprocess.CompletedProcess(command, 0, stdout='')

    pip = Recorder(env, monkeypatch, [(False, 'No module named pip'), (True, '3.11.7')])
    with monkeypatch.context() as patch:
        patch.setattr(setup_env.subprocess, 'run', run)
        setup_env.make_venv(env)
        assert commands == [[sys.executable, '-m', 'venv', '--clear', str(env.folder)]]
        assert pip.asked == [('install', '--upgrade', 'pip')]
        assert 'is incomplete or broken: making it anew' in capsys.readouterr().out

        setup_env.make_venv(env)  # now it is whole, and is kept
        assert len(commands) == 1


# The stamp ----------------------------------------------------------------------------------------


@pytest.fixture
def made(tmp_path, monkeypatch):
    """A copy of what the fingerprint reads, and an environment with one package."""
    root = tmp_path / 'checkout'
    for name in (
        'requirements.txt',
        'requirements/dev.txt',
        'setup.py',
        'paca_mm/__init__.py',
        'tools/setup_env.py',
        'tools/torchvision_cpu_shim.py',
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes((ROOT / name).read_bytes())
    monkeypatch.setattr(setup_env, 'ROOT', root)
    env = setup_env.Environment(root / '.venv', 'onedl')
    site_packages = env.folder / 'lib' / 'python3.11' / 'site-packages'
    (site_packages / 'torch-2.13.0.dist-info').mkdir(parents=True)
    env.python.parent.mkdir()
    env.python.symlink_to(sys.executable)
    (env.folder / 'pyvenv.cfg').write_text('home = /usr/bin\nversion = 3.11.7\n')
    return env


def test_an_environment_is_ready_when_the_stamp_says_so(made):
    assert not made.is_ready()
    made.write_stamp()
    assert made.is_ready()
    (made.site_packages() / 'tensorboard-2.0.dist-info').mkdir()  # what a user adds is no harm
    assert made.is_ready()


def test_a_ready_environment_is_not_touched(made, monkeypatch, capsys):
    made.write_stamp()
    monkeypatch.setattr(setup_env, 'steps', lambda env: pytest.fail('did something'))
    setup_env.set_up(made)
    assert 'is ready (onedl stack)' in capsys.readouterr().out


@pytest.mark.parametrize('name', ['requirements.txt', 'setup.py', 'tools/torchvision_cpu_shim.py'])
def test_a_changed_file_wants_another_setup(made, name):
    made.write_stamp()
    with (setup_env.ROOT / name).open('a') as file:
        file.write('# changed\n')
    assert not made.is_ready()


def test_a_removed_package_wants_another_setup(made):
    made.write_stamp()
    (made.site_packages() / 'torch-2.13.0.dist-info').rename(
        made.site_packages() / 'torch-2.14.1.dist-info'
    )
    assert not made.is_ready()


def test_a_torn_stamp_and_a_lost_python_want_another_setup(made):
    made.write_stamp()
    whole = made.stamp.read_text()
    made.stamp.write_text(whole[: len(whole) // 2])
    assert not made.is_ready()
    made.stamp.write_text(whole)
    made.python.unlink()
    assert not made.is_ready()


def test_no_stamp_without_verification(made, monkeypatch):
    def fail():
        raise setup_env.SetupError('the doctor says no')

    monkeypatch.setattr(setup_env, 'steps', lambda env: [('a', lambda: None), ('check', fail)])
    with pytest.raises(setup_env.SetupError, match='step 2 of 2 failed: check\nthe doctor says no'):
        setup_env.set_up(made)
    assert not made.stamp.exists()


# pip's failures -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('output', 'cure'),
    [
        ('OSError: [Errno 28] No space left on device', 'free some space'),
        (
            'Failed to resolve: Temporary failure in name resolution\n'
            'ERROR: No matching distribution found for torch==2.13.0',
            'check the network',
        ),
        ('ERROR: No matching distribution found for torch==9', 'Python 3'),
        ("error: command 'g++' failed: No such file or directory", 'apt install g++'),
        ("[Errno 2] No such file or directory: 'x86_64-linux-gnu-gcc'", 'apt install g++'),
        ('fatal error: Python.h: No such file or directory', '-dev'),
        ('OSError: CUDA_HOME environment variable is not set.', 'CUDA toolkit'),
        ('g++: fatal error: Killed signal terminated program cc1plus', 'MAX_JOBS=1'),
        ('SSLError(SSLCertVerificationError(1, ...', 'PIP_CERT'),
        ('something nobody thought of', 'the lines above'),
    ],
)
def test_the_output_of_pip_is_explained(output, cure):
    assert cure in setup_env.explain(output, setup_env.STACKS['onedl'])


def test_a_failing_pip_shows_its_last_lines_and_the_log(tmp_path):
    env = setup_env.Environment(tmp_path, 'onedl')
    env.python = Path(sys.executable)
    with pytest.raises(setup_env.SetupError) as caught:
        env.pip('install', '--no-index', 'no-such-package-as-this')
    message = str(caught.value)
    assert '  | ERROR: No matching distribution found for no-such-package-as-this' in message
    assert 'the package index has no such package' in message
    assert message.endswith(setup_env.shown(env.log))
    assert 'no-such-package-as-this' in env.log.read_text()


def test_the_rest_of_the_stack_constrains_each_paragraph(made, monkeypatch):
    """And not the paragraph itself: pip then takes a missing package for a contradiction."""
    asked = []

    def try_pip(*arguments):
        asked.append([Path(a).read_text().split() for a in arguments if a.endswith('.txt')])
        return 0, ''

    monkeypatch.setattr(made, 'try_pip', try_pip)
    (setup_env.ROOT / made.stack.requirements).write_text('a==1\nb\n\nc<3\n')
    setup_env.install_paragraph(made, ['a==1', 'b'])
    setup_env.install_paragraph(made, ['pytest'])
    assert asked == [[['a==1', 'b'], ['c<3']], [['pytest'], ['a==1', 'b', 'c<3']]]


# The mending --------------------------------------------------------------------------------------


NO_OPS = (False, "ModuleNotFoundError: No module named 'mmcv._ext'")


def test_mmcv_with_ops_is_left_alone(made, monkeypatch):
    pip = Recorder(made, monkeypatch, [(True, '')])
    setup_env.ensure_mmcv_ops(made, 'onedl-mmcv==2.3.6')
    assert pip.asked == []


def test_mmcv_without_ops_leaves_the_cache_and_is_built_again(made, monkeypatch):
    pip = Recorder(made, monkeypatch, [NO_OPS, (True, ''), (True, '')])
    pip.output = 'Files removed: 1 (1.2 MB)'
    setup_env.ensure_mmcv_ops(made, 'onedl-mmcv==2.3.6')
    assert pip.asked[0] == ('cache', 'remove', 'onedl_mmcv-2.3.6-cp311*')
    assert pip.asked[1] == ('cache', 'remove', 'onedl_mmcv-2.3.6-py*')
    install = pip.asked[2]
    assert install[0] == 'install'
    assert '--no-cache-dir' not in install
    assert {'--no-deps', '--force-reinstall', '--no-build-isolation'} <= set(install)
    assert install[-3:] == ('--no-binary', 'onedl-mmcv', 'onedl-mmcv==2.3.6')


def test_another_fault_of_mmcv_is_not_answered_by_compiling(made, monkeypatch):
    fault = (False, "ModuleNotFoundError: No module named 'addict'")
    pip = Recorder(made, monkeypatch, [fault, fault])
    with pytest.raises(setup_env.SetupError, match=r'cannot be imported.\nfound: .*addict'):
        setup_env.ensure_mmcv_ops(made, 'onedl-mmcv==2.3.6')
    assert pip.asked == []


def test_a_wheel_that_is_not_in_the_cache_is_passed_over(made, monkeypatch):
    pip = Recorder(made, monkeypatch, [NO_OPS, (True, ''), (True, '')])
    pip.output = 'WARNING: No matching packages for pattern'  # with exit code 0
    setup_env.ensure_mmcv_ops(made, 'mmcv==2.1.0')
    assert '--no-cache-dir' in pip.asked[2]


def test_mmcv_that_has_no_ops_after_the_second_build_is_an_error(made, monkeypatch):
    made.log.write_text('Compiling mmcv without ops\n')
    Recorder(made, monkeypatch, [NO_OPS, (True, ''), NO_OPS])
    with pytest.raises(setup_env.SetupError) as caught:
        setup_env.ensure_mmcv_ops(made, 'onedl-mmcv==2.3.6')
    message = str(caught.value)
    assert "found: ModuleNotFoundError: No module named 'mmcv._ext'" in message
    assert 'expected: `import mmcv.ops` works' in message
    assert 'cure: ' in message
    assert 'apt install' in message
    assert '  | Compiling mmcv without ops' in message


NMS = (False, 'RuntimeError: operator torchvision::nms does not exist')


def shim_files(env):
    return sorted(p.name for p in env.site_packages().glob('torchvision_cpu_shim*'))


def test_the_shim_comes_and_goes_with_the_fault(made, monkeypatch):
    Recorder(made, monkeypatch, [NMS, (False, '')])  # torch.version.cuda is None: exit code 1
    setup_env.mend_torchvision(made)
    assert shim_files(made) == ['torchvision_cpu_shim.pth', 'torchvision_cpu_shim.py']

    Recorder(made, monkeypatch, [(True, '')])  # somebody installed a CPU build
    setup_env.mend_torchvision(made)
    assert shim_files(made) == []


@pytest.mark.parametrize(
    'answers',
    [
        [NMS, (True, '')],  # torch has CUDA: another release of torchvision is wanted
        [(False, "ModuleNotFoundError: No module named 'torchvision'")],
    ],
)
def test_the_shim_is_for_its_own_fault_only(made, monkeypatch, answers):
    Recorder(made, monkeypatch, answers)
    setup_env.mend_torchvision(made)
    assert shim_files(made) == []


def test_opencv_without_a_display_is_replaced_by_the_same_version(made, monkeypatch):
    no_gl = 'ImportError: libGL.so.1: cannot open shared object file: No such file or directory'
    pip = Recorder(made, monkeypatch, [(False, no_gl), (True, '4.11.0.86')])
    setup_env.mend_opencv(made)
    (asked,) = pip.asked
    assert asked[-1] == 'opencv-python-headless==4.11.0.86'
    assert {'--no-deps', '--force-reinstall'} <= set(asked)


# The shim, by itself ------------------------------------------------------------------------------

FAKE_TORCH = {
    'torch/__init__.py': 'from . import library, ops, version',
    'torch/version.py': 'cuda = None',
    'torch/library.py': """
        defined = []
        class Library:
            def __init__(self, namespace, kind):
                assert (namespace, kind) == ('torchvision', 'FRAGMENT')
            def define(self, schema):
                defined.append(schema)
    """,
    'torch/ops.py': """
        class torchvision: pass
        def load_library(path):
            if 'CUDA' in open(path).read():
                raise OSError('libcudart.so: cannot open shared object file')
    """,
    'torchvision/__init__.py': 'import torch; at_import = list(torch.library.defined)',
    'torchvision/_C.so': 'needs CUDA',
}
SCHEMA = '(Tensor dets, Tensor scores, float iou_threshold) -> Tensor'
BOTH = [f'nms{SCHEMA}', f'qnms{SCHEMA}']


PRINT_DECLARED = 'import json, torchvision; print(json.dumps(torchvision.at_import))'


def import_with_shim(tmp_path, changes=None, code=PRINT_DECLARED):
    """Runs code with the shim beside a fake torch and torchvision; returns what it prints."""
    for name, text in {**FAKE_TORCH, **(changes or {})}.items():
        if text is not None:
            path = tmp_path / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(textwrap.dedent(text))
    prelude = f"""
        import json, sys
        sys.path[:0] = [{str(tmp_path)!r}, {str(TOOLS)!r}]
        import torchvision_cpu_shim
        torchvision_cpu_shim.install()
    """
    # -S: no site-packages, so that neither the real packages nor an installed shim take part.
    run = run_python(textwrap.dedent(prelude) + textwrap.dedent(code), '-I', '-S')
    assert run.returncode == 0, run.stderr
    assert run.stderr == ''
    return json.loads(run.stdout)


def test_shim_declares_what_is_missing(tmp_path):
    assert import_with_shim(tmp_path) == BOTH


def test_shim_declares_where_there_is_no_library_at_all(tmp_path):
    assert import_with_shim(tmp_path, {'torchvision/_C.so': None}) == BOTH


def test_shim_leaves_a_torch_with_cuda_alone(tmp_path):
    assert import_with_shim(tmp_path, {'torch/version.py': "cuda = '13.0'"}) == []


def test_shim_leaves_a_torch_with_rocm_alone(tmp_path):
    assert import_with_shim(tmp_path, {'torch/version.py': "cuda, hip = None, '6.0'"}) == []


def test_shim_leaves_real_operators_alone(tmp_path):
    assert import_with_shim(tmp_path, {'torchvision/_C.so': 'a CPU build'}) == []


def test_shim_leaves_declared_operators_alone(tmp_path):
    declared = FAKE_TORCH['torch/ops.py'].replace('torchvision: pass', 'torchvision: nms = 1')
    assert import_with_shim(tmp_path, {'torch/ops.py': declared}) == []


def test_shim_imports_nothing_before_torchvision_is_imported(tmp_path):
    code = """
        import importlib.util
        found = importlib.util.find_spec('torchvision').origin is not None
        print(json.dumps([found, 'torch' in sys.modules, 'torchvision' in sys.modules]))
    """
    assert import_with_shim(tmp_path, code=code) == [True, False, False]


def test_shim_where_torch_is_missing(tmp_path):
    code = """
        sys.modules['torch'] = None
        import torchvision
        print(json.dumps(torchvision.alive))
    """
    assert import_with_shim(tmp_path, {'torchvision/__init__.py': 'alive = True'}, code) is True


def test_shim_where_torchvision_is_missing(tmp_path):
    code = """
        import importlib.util
        print(json.dumps(importlib.util.find_spec('torchvision')))
    """
    nothing = {'torchvision/__init__.py': None, 'torchvision/_C.so': None}
    assert import_with_shim(tmp_path, nothing, code) is None


# This environment ---------------------------------------------------------------------------------


def test_starting_python_imports_nothing_heavy():
    run = run_python("import sys; print('torch' in sys.modules, 'numpy' in sys.modules)")
    assert run.stdout.split() == ['False', 'False']


def test_the_tool_of_a_host_starts():
    """mmpretrain imports torchvision, whose shim must work for scripts that are not ours."""
    spec = importlib.util.find_spec('mmpretrain')
    if spec is None:
        pytest.skip('mmpretrain is not installed')
    script = Path(spec.origin).parent / '.mim' / 'tools' / 'train.py'
    if not script.exists():
        pytest.skip('this mmpretrain came without its tools')
    run = subprocess.run(
        [sys.executable, str(script), '--help'], capture_output=True, text=True, timeout=240
    )
    assert run.returncode == 0, run.stderr
    assert 'usage:' in run.stdout


# The doctor ---------------------------------------------------------------------------------------


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
