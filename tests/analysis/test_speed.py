"""The benchmark: what it prints, what it refuses, and one step of everything that it can run."""

import csv
import os
import re
import signal
from dataclasses import replace

import pytest
import torch
from torch import nn

from helpers.tool import run, start_server
from paca_mm.analysis.speed import goals, results, worker
from paca_mm.analysis.speed.clock import Spread, ratios
from paca_mm.analysis.speed.conditions import Conditions
from paca_mm.analysis.speed.contestants import HOSTS, comparison, is_another_network, make
from paca_mm.analysis.speed.exported import Exported
from paca_mm.analysis.speed.peers import PEERS, peer
from paca_mm.analysis.speed.profile import _of_file
from paca_mm.analysis.speed.race import race
from paca_mm.analysis.speed.steps import Setting
from paca_mm.errors import UserError
from paca_mm.families import families, row_named

SMALL = Setting(batch=2, height=64, width=64)


@pytest.fixture(scope='module', autouse=True)
def _server():
    """The first to start the server decides what it imports: let it be what jobs of later files need."""
    start_server()


def test_medians_and_ratios_round_by_round():
    spread = Spread.of([5.0, 1.0, 2.0, 3.0, 4.0])
    assert (spread.low, spread.median, spread.high) == (1, 3, 5)
    # A machine that is slow for one round is slow for both.
    assert ratios([1.0, 10.0, 2.0], [2.0, 20.0, 4.0]) == Spread(2, 2, 2)


@pytest.mark.slow
def test_the_command_prints_a_table_and_keeps_the_figures(tmp_path, capsys):
    code = run(
        'benchmark', 'paca_tiny', 'paca_tiny+plain', 'paca_small', '--size', '64', '96x64',
        '--batch', '1', '--rounds', '2', '--threads', '1', '--out', tmp_path,
    )  # fmt: skip
    assert code == 0
    out = capsys.readouterr().out
    assert 'paca_tiny+plain' in out
    assert 'x paca_tiny' in out
    assert '1 threads' in out
    (file,) = tmp_path.glob('*.csv')
    for condition in ('infer', 'b1', '64x64', '96x64', 'fp32', 't1'):
        assert condition in file.stem
    with file.open() as f:
        lines = list(csv.DictReader(f))
    assert [line['name'] for line in lines] == 2 * ['paca_tiny', 'paca_tiny+plain', 'paca_small']
    for line in lines:
        for key in ('ms', 'ratio', 'share', 'peak_mib', 'gmacs', 'params_m'):
            assert float(line[key]) > 0
        assert line['torch'] == torch.__version__
        assert line['rounds'] == '2'
        assert float(line['accuracy']) == {'t': 80.9, 's': 83.08}[line['name'][5]]
    plots = sorted(p.name.removeprefix(file.stem) for p in tmp_path.glob('*.png'))
    assert plots == ['_accuracy.png', '_size.png']


@pytest.mark.slow
def test_one_round_of_the_goals(monkeypatch):
    monkeypatch.setattr(goals, 'INFERENCE', [('paca_small', 'paca_small+plain', 1.8, 2.5)])
    plan = goals.entries()
    assert plan['stages 1024'][1].height == 1024
    assert plan['head'][1].width == plan['train 512'][1].width == 512
    small = {
        called: (
            name.replace('+blocks', ''),
            replace(SMALL, mode=setting.mode),
        )  # compiling takes long
        for called, (name, setting) in plan.items()
    }
    found = goals.measure(1, 1, plan=small)
    assert all(g.measured is None or g.measured.median > 0 for g in found)
    for g in found:
        if g.measured and 'plain' in g.text and not g.less:
            assert g.limit > 0
    table = goals.table(found)
    for text in ('plain', 'matrix product', 'peak memory', 'stages 1 to 3', 'PaCa head', 'bf16',
                 'out of reach of this machine: ', 'instructions that torch uses here: '):  # fmt: skip
        assert text in table


@pytest.mark.parametrize(
    ('median', 'limit', 'less', 'verdict'),
    [(1.4, None, False, 'not met'), (1.4, 1.6, False, 'not met'),
     (1.4, 1.45, False, 'not met, out of reach of this machine'), (1.5, 1.6, False, 'met'),
     (2.0, None, False, 'stretch target met'), (0.6, None, True, 'met'),
     (0.5, None, True, 'stretch target met'), (0.7, None, True, 'not met')],
)  # fmt: skip
def test_a_goal_says_what_was_reached_and_could_be(median, limit, less, verdict):
    bars = (0.65, 0.5) if less else (1.5, 2.0)
    goal = goals.Goal('this', Spread(median, median, median), *bars, limit, less)
    assert goal.verdict == verdict
    where = 'out of reach of this machine' if 'out of' in verdict else 'though the limit allows it'
    if 'not met' in verdict:
        assert f'{where}: this.' in goals.table([goal])


@pytest.mark.slow
def test_a_run_ends_when_its_time_is_up(capfd):
    found = race(['paca_tiny'], SMALL, rounds=50, limit_s=0.1)
    assert not capfd.readouterr().err
    assert len(found.seconds['paca_tiny']) == 3


def test_peak_memory_is_measured():
    small, large = (
        worker.peak_of(lambda mib=mib: torch.ones(mib * 2**20, dtype=torch.uint8))
        for mib in (64, 320)
    )
    if large is None:
        pytest.skip('this system does not tell')
    # Between allocators and machines a call costs some MiB more or less; a quarter GiB is a quarter GiB.
    assert large - small == pytest.approx(256, rel=0.25)


@pytest.mark.parametrize('mode', ['infer', 'train'])
@pytest.mark.parametrize(
    'name',
    ['paca_tiny_teacher', 'paca_tiny+cp', 'paca_tiny+stages123', 'paca_tiny+channels_last', 'head',
     'head+cp+bf16', 'resnet50', 'mmpretrain/resnet18_8xb32_in1k', 'timm/resnet18'],
)  # fmt: skip
@pytest.mark.slow
def test_a_step_of_a_classifier_or_a_head(name, mode):
    for package in ('mmseg', 'timm', 'mmpretrain'):
        if package == ('mmseg' if 'head' in name else name.partition('/')[0]):
            pytest.importorskip(package)
    contestant = make(name, Setting(mode, 2, 64, 64))
    contestant.run()
    assert contestant.facts.macs > 0
    assert contestant.facts.setting.dtype == ('bf16' if 'bf16' in name else 'fp32')


@pytest.mark.parametrize('mode', ['infer', 'train'])
@pytest.mark.slow
def test_the_profile_adds_up(mode, capfd):
    words = ['--profile', '--mode', mode, '--size', '64', '--batch', '2', '--rounds', '2']
    assert run('benchmark', 'paca_tiny', *words) == 0
    out, err = capfd.readouterr()
    assert 'Traceback' not in err
    lines = out.splitlines()
    cells = [re.split(r'\s{2,}', line) for line in lines[2:]]  # below the heads and their rule
    figures = {kind: rest for kind, *rest in cells if len(rest) == 3}
    ms = [float(figures[kind][0]) for kind in figures if kind != 'total']
    assert sum(ms) == pytest.approx(float(figures['total'][0]), abs=0.1 * len(ms))
    for kind in ('matrix products', 'attention', 'GELU', 'norms', 'depthwise convolutions'):
        assert float(figures[kind][0]) > 0


@pytest.mark.parametrize('mode', ['infer', 'train'])
@pytest.mark.parametrize('host', HOSTS)
@pytest.mark.parametrize('backbone', ['paca_tiny', 'swin_t', 'pvtv2_b1'])
@pytest.mark.slow
def test_a_step_of_a_whole_model(host, backbone, mode):
    pytest.importorskip('mmdet')
    pytest.importorskip('mmseg')
    contestant = make(f'{host}/{backbone}', Setting(mode, 2, 64, 96))
    result = contestant.run()
    if mode == 'infer':
        predicted = 'pred_instances' if host == 'mask_rcnn' else 'pred_sem_seg'
        assert [predicted in sample for sample in result] == [True, True]
    else:
        grads = [p.grad for p in contestant.model.backbone.parameters() if p.requires_grad]
        assert sum(g is not None and bool(g.any()) for g in grads) > len(grads) / 2


def test_a_step_of_a_config():
    pytest.importorskip('mmseg')
    contestant = make('configs/seg/paca_head_paca_shapes.py', Setting('train', 2, 64, 64))
    contestant.run()
    assert all(p.grad.isfinite().all() for p in contestant.model.parameters() if p.grad is not None)
    assert any(p.grad is not None and p.grad.any() for p in contestant.model.backbone.parameters())


def test_peers_come_from_either_library(monkeypatch):
    from paca_mm.analysis.speed import peers

    pytest.importorskip('mmpretrain')
    monkeypatch.setattr(peers, 'installed', lambda package: package != 'timm')
    assert 'mmpretrain' in type(make('resnet50', SMALL).model).__module__
    assert all(peer.timm for peer in PEERS.values())


@pytest.mark.parametrize('name', PEERS)
def test_every_peer_is_to_be_had(name):
    pytest.importorskip('timm')
    with torch.device('meta'):
        assert sum(p.numel() for p in peer(name, SMALL, []).parameters()) > 1e6


def test_the_comparison_has_every_family_with_rows_beside_its_peers():
    names = comparison()
    assert len(names) == len({*names})
    rows = [found[0].title for name in names if (found := row_named(name))]
    assert {*rows} == {f.title for f in families().values() if f.rows}
    assert {name for name in names if not row_named(name)} <= {*PEERS}


def test_a_variant_that_is_another_network_has_no_published_accuracy():
    assert is_another_network('resnet50_an+bn')
    assert is_another_network('paca_small+stages123+compile')
    assert not is_another_network('paca_small+plain')
    assert not is_another_network('swin_s+bf16')


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        (['paca_smal'], 'did you mean paca_small'),
        (['paca_tiny+fast'], "the variant 'fast' is unknown; known: compile"),
        (['swin_t+plain'], 'a variant of our rows and of head only'),
        (['timm/no_such'], "timm.list_models('*swin*')"),
        (['mmpretrain/no_such'], 'mmpretrain knows no model'),
        (['mask_rcnn/paca_huge'], 'unknown; known: paca_tiny'),
        (['no/such/config.py'], 'no/such/config.py'),
        (['paca_tiny', 'paca_tiny'], 'every model can take part once'),
        (['paca_tiny', '--baseline', 'swin_t'], "'swin_t' is not among the models: paca_tiny"),
        (['paca_tiny', '--size', '8'], 'each at least 32'),
        (['paca_tiny', '--size', 'big'], 'one side or HxW'),
        (['paca_tiny', '--batch', '0'], '--batch 0 must be 1 or more'),
        (['paca_tiny', '--families'], '--families has no use for models'),
        (['paca_tiny', '--quick'], '--quick has no use for models'),
        (['--quick', '--device', 'cuda'], '--quick has no use for device'),
        (['--profile', '--out', 'x'], '--profile has no use for out'),
        (['head+blocks'], 'leave out +blocks'),
        (['paca_tiny+plain+cp'], 'comes without +cp'),
        (['mask_rcnn/a/b'], "the backbone 'a/b' is unknown"),
    ],
)
@pytest.mark.slow
def test_wrong_on_purpose(words, message, capsys):
    if words[0].startswith('timm/'):
        pytest.importorskip('timm')
    assert run('benchmark', *words, '--rounds', '1') == 2
    assert message in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a GPU')
def test_without_a_gpu(capsys):
    assert run('benchmark', 'paca_tiny', '--device', 'cuda') == 2
    assert 'torch sees no GPU here' in capsys.readouterr().err


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / 'taken').write_text('')
    conditions = Conditions.now('cpu', 1)
    with pytest.raises(UserError, match=r'cannot be written: .*\n.*--out'):
        results.save([], conditions, tmp_path / 'taken', 'name')


def test_a_process_that_dies_is_named():
    died = 'the process of paca_tiny died, exit code -9: memory ran out; choose fewer models'
    with pytest.raises(UserError, match=died):
        worker.alone(_be_killed, 'paca_tiny')
    process = worker.OwnProcess('paca_tiny')
    assert process.result(process.submit(divmod, 7, 2)) == (3, 1)
    process.process.kill()
    with pytest.raises(UserError, match=died):
        process.result(process.submit(divmod, 7, 2))
    process.close()
    assert not process.process.is_alive()


def _be_killed(name):
    os.kill(os.getpid(), signal.SIGKILL)


def test_memory_that_runs_out_is_a_message():
    with pytest.raises(UserError, match=r'1000: memory ran out; .* --size'):
        worker.alone(_take_more_than_there_is, 1000)


def _take_more_than_there_is(terabytes):
    return torch.empty(terabytes * 10**12, dtype=torch.uint8).sum()


def test_a_bug_in_a_process_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError) as raised:
        worker.alone(_divide, 1, 0)
    assert 'in _divide' in str(raised.value.__cause__)


def _divide(a, b):
    return a / b


def test_the_list_names_models_and_variants(capsys):
    assert run('benchmark', '--list') == 0
    out = capsys.readouterr().out
    for word in ('paca_small_c100_blockwise', 'convnext_b', 'pvtv2_b4', 'upernet/swin_s', 'blocks'):
        assert word in out


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('variant', ['onnx', 'onnx+int8'])
def test_an_exported_contestant_gives_the_same_answer(variant):
    pytest.importorskip('onnxruntime', reason='onnxruntime is not installed')
    pytest.importorskip('onnx', reason='onnx is not installed')
    expected = make('rapidnet_ti', SMALL).run()
    found = torch.from_numpy(make(f'rapidnet_ti+{variant}', SMALL).run()[0])
    close = 1e-4 if variant == 'onnx' else 0.1
    assert (found - expected).abs().max() < close * expected.abs().max()


@pytest.mark.filterwarnings('ignore')
def test_the_profile_of_an_exported_contestant_counts_its_products():
    for package in ('onnxruntime', 'onnx'):
        pytest.importorskip(package, reason=f'{package} is not installed')
    depthwise = nn.Conv2d(16, 16, 3, groups=16, padding=1)
    layers = nn.Sequential(nn.Conv2d(3, 16, 1), nn.GELU(), depthwise)
    nodes = list(_of_file(Exported(layers.eval(), torch.randn(2, 3, 5, 7)), rounds=3))
    kinds = [kind for kind, _, _ in nodes]
    for kind in ('matrix products', 'GELU', 'depthwise convolutions'):
        assert kinds.count(kind) == 3
    assert sum(macs for _, _, macs in nodes) == 3 * (2 * 5 * 7) * 3 * 16
    linear = Exported(nn.Linear(6, 4), torch.randn(5, 6))
    assert [macs for kind, _, macs in _of_file(linear, 1) if kind == 'matrix products'] == [
        5 * 6 * 4
    ]


@pytest.mark.parametrize(
    ('name', 'setting', 'said'),
    [
        ('rapidnet_ti+int8', SMALL, r'\+onnx\+int8'),
        ('rapidnet_ti+onnx+compile', SMALL, r'without \+compile'),
        ('rapidnet_ti+onnx', replace(SMALL, mode='train'), 'measured in inference, fp32'),
        ('rapidnet_ti+onnx+bf16', SMALL, 'measured in inference, fp32'),
    ],
)
def test_an_exported_contestant_refuses_what_it_is_not(name, setting, said):
    with pytest.raises(UserError, match=said):
        make(name, setting)
