"""Curves out of mmengine's logs: joined, drawn, and as data."""

import csv
import json
import math
import re
import time
from importlib.util import find_spec

import numpy as np
import pytest
from PIL import Image

from helpers.tiny import write_config, write_shapes
from helpers.tool import run
from paca_mm.analysis.curves import as_data, chosen, draw, named, smoothed
from paca_mm.analysis.logs import read_run
from paca_mm.errors import UserError
from paca_mm.paths import assets_root

EVERY_STEP = 'default_hooks = dict(logger=dict(interval=1), checkpoint=dict(interval=1))'


def train(step, loss, epoch=None, **more):
    row = dict(lr=1e-3 / step, data_time=0.1, loss=loss, time=0.5, iter=step, step=step, **more)
    return row if epoch is None else {**row, 'epoch': epoch}


def val(step, miou):
    return dict(mIoU=miou, aAcc=miou / 2, data_time=0.1, time=0.2, step=step)


def write(work_dir, start, rows, tail=''):
    file = work_dir / start / 'vis_data' / 'scalars.json'
    file.parent.mkdir(parents=True)
    file.write_text(''.join(json.dumps(row) + '\n' for row in rows) + tail)
    return file


def test_a_resumed_run_is_one_curve(tmp_path):
    """The second start went back to iteration 40: what it repeats is taken from it."""
    work_dir = tmp_path / 'seg'
    first = [
        train(20, 1.0),
        train(40, 0.9),
        val(40, 30),
        train(60, 0.8),
        train(80, 7.0),
        val(80, 1),
    ]
    write(work_dir, '20260101_000000', first)
    write(work_dir, '20260102_000000', [train(60, 0.7), train(80, 0.6), val(80, 50)])
    read = read_run(work_dir)
    assert read.name == 'seg'
    assert len(read.files) == 2
    assert read.notes == ()
    loss, miou = read.curves['loss'], read.curves['mIoU']
    assert (loss.steps, loss.values) == ((20, 40, 60, 80), (1.0, 0.9, 0.7, 0.6))
    assert (miou.steps, miou.values) == ((40, 80), (30, 50))
    assert (loss.phase, loss.unit, miou.phase, miou.unit) == (
        'train', 'iteration', 'val', 'iteration',
    )  # fmt: skip
    assert read.curves['lr'].values == tuple(1e-3 / step for step in (20, 40, 60, 80))
    assert {'step', 'iter', 'epoch'}.isdisjoint(read.curves)


def test_what_a_killed_start_had_validated_beyond_the_resumed_point_goes(tmp_path):
    rows = [train(20, 1.0), val(20, 10), train(40, 1.0), val(40, 20), train(60, 1.0), val(60, 30)]
    write(tmp_path, '1', rows)
    write(tmp_path, '2', [train(40, 2.0)])  # killed before its validation
    assert read_run(tmp_path).curves['mIoU'].steps == (20,)
    assert read_run(tmp_path).curves['loss'].values == (1.0, 2.0)


def test_metrics_by_epoch_keep_their_epochs(tmp_path):
    first = [
        train(50, 1.0, 1),
        train(100, 0.9, 1),
        val(1, 10),
        train(150, 0.8, 2),
        train(200, 9, 2),
    ]
    write(tmp_path, '1', [*first, val(2, 3)])
    write(tmp_path, '2', [train(150, 0.5, 2), train(200, 0.4, 2), val(2, 20)])
    curves = read_run(tmp_path).curves
    assert (curves['mIoU'].steps, curves['mIoU'].values) == ((1, 2), (10, 20))
    assert curves['mIoU'].unit == 'epoch'
    assert curves['loss'].steps == (50, 100, 150, 200)
    assert curves['loss'].values == (1.0, 0.9, 0.5, 0.4)


def test_a_start_from_the_beginning_replaces_and_is_said(tmp_path):
    write(tmp_path, '1', [train(20, 1.0), train(40, 1.0), val(40, 1)])
    write(tmp_path, '2', [train(20, 2.0)])
    read = read_run(tmp_path)
    assert read.curves['loss'].values == (2.0,)
    assert 'mIoU' not in read.curves
    assert 'begins again at iteration 20' in read.notes[0]
    assert read_run(tmp_path / '1').curves['loss'].values == (1.0, 1.0)
    assert read_run(tmp_path / '1/vis_data/scalars.json').name == '1'
    assert read_run(tmp_path / '1/vis_data').name == '1'


def test_a_validation_may_have_names_of_the_training(tmp_path):
    rows = [{'train/loss': 1.0, 'iter': 1, 'step': 1}, {'val/loss': 2.0, 'val/mIoU': 3, 'step': 1}]
    write(tmp_path, '1', [*rows, {'list': [1, 2], 'ok': True, 'iter': 2, 'step': 2}])
    curves = read_run(tmp_path).curves
    assert list(curves) == ['loss', 'val/loss', 'mIoU']
    assert curves['val/loss'].values == (2.0,)


def test_a_torn_last_line_and_nan_are_said(tmp_path):
    rows = [train(20, 1.0), train(40, math.nan), train(60, 3.0)]
    write(tmp_path, '1', rows, tail='{"lr": 0.1, "lo')
    read = read_run(tmp_path)
    assert 'torn' in read.notes[0]
    assert read.notes[1] == 'loss: 1 values are NaN or infinite.'
    data = as_data([read], ['loss'])
    assert data[0]['curves']['loss']['values'] == [1.0, None, 3.0]
    json.dumps(data, allow_nan=False)


def test_which_curves(tmp_path):
    write(tmp_path / 'a', '1', [train(1, 1.0, loss_rpn=0.5, grad_norm=2.0), val(1, 2.0)])
    write(tmp_path / 'b', '1', [train(1, 1.0, acc=0.5)])
    runs = [read_run(tmp_path / name) for name in 'ab']
    assert chosen(runs) == ['loss', 'lr', 'mIoU', 'aAcc']  # no times
    assert chosen(runs, ['loss*', 'acc']) == ['loss', 'loss_rpn', 'acc']
    with pytest.raises(UserError, match=r"no run has a curve 'mIou'; did you mean mIoU"):
        chosen(runs, ['mIou'])


def test_runs_are_told_apart(tmp_path):
    for name in ('x/seed0', 'y/seed0'):
        write(tmp_path / name, '1', [train(1, 1.0)])
    paths = [tmp_path / 'x/seed0', tmp_path / 'y/seed0']
    runs = [read_run(path) for path in paths]
    assert [run.name for run in named(runs, paths)] == [str(path) for path in paths]
    assert [run.name for run in named(runs, paths, ['p', 'q'])] == ['p', 'q']
    with pytest.raises(UserError, match=r'--names has 1 names \(p\) for 2 runs'):
        named(runs, paths, ['p'])
    with pytest.raises(UserError, match='p is among the names twice'):
        named(runs, paths, ['p', 'p'])
    with pytest.raises(UserError, match='is among the runs twice'):
        named(runs[:1] * 2, paths[:1] * 2)


def test_smoothing_is_the_mean_of_the_last_points():
    assert smoothed([1, 2, 3, 4], 2) == [1, 1.5, 2.5, 3.5]
    assert smoothed([1, math.nan, 3], 2) == [1, 1, 3]
    assert smoothed([5, 1], 1) == [5, 1]


def test_the_command_writes_what_it_read(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, factor in (('slow', 2.0), ('fast', 1.0)):
        rows = [
            r
            for i in range(1, 41)
            for r in [train(i * 10, factor / i)] + [val(i * 10, i)] * (i % 10 == 0)
        ]
        write(tmp_path / name, '1', rows)
    assert run('plot_log', 'slow', 'fast', '--keys', 'loss', 'mIoU', '--smooth', '5') == 0
    said = capsys.readouterr().out
    assert 'not drawn: lr, data_time, time, aAcc' in said
    out = tmp_path / 'work_dirs/curves'
    data = json.loads((out / 'curves.json').read_text())
    assert [entry['run'] for entry in data] == ['slow', 'fast']
    assert data[0]['curves']['loss']['values'] == [2 / i for i in range(1, 41)]
    with (out / 'curves.csv').open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 44
    chosen_rows = [r for r in rows if r['run'] == 'fast' and r['curve'] == 'loss']
    assert [float(r['value']) for r in chosen_rows] == [1 / i for i in range(1, 41)]
    with Image.open(out / 'curves.png') as image:
        pixels = np.asarray(image.convert('RGB')).reshape(-1, 3).astype(int)
    for colour in ((0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00)):  # a line of each run
        assert (np.abs(pixels - colour).sum(1) < 12).sum() > 100


def test_runs_that_log_by_different_units_get_panels_of_their_own(tmp_path):
    write(tmp_path / 'a', '1', [train(10, 1.0), val(10, 1.0)])
    write(tmp_path / 'b', '1', [train(10, 1.0, 1), train(20, 1.0, 2), val(2, 1.0)])
    runs = [read_run(tmp_path / name) for name in 'ab']
    assert [run.curves['mIoU'].unit for run in runs] == ['iteration', 'epoch']
    sizes = []
    for names in (['loss'], ['loss', 'mIoU']):
        draw(runs, names, tmp_path / 'a.png')
        with Image.open(tmp_path / 'a.png') as image:
            sizes.append(image.size[0])
    assert sizes[1] == pytest.approx(3 * sizes[0], rel=0.01)


@pytest.mark.parametrize(
    ('make', 'message'),
    [
        (lambda d: d / 'sge', r'there is no work directory .*sge; did you mean seg\?'),
        (
            lambda d: d,
            r'has no log of a training: no \*/vis_data/scalars\.json in it\. There are some in',
        ),
        (lambda d: d / 'empty', r'empty has no log of a training.*LocalVisBackend'),
        (lambda d: d / 'test', r'has no line of a training.*interval=10'),
        (lambda d: d / 'note.txt', r'note\.txt is no log of numbers'),
        (
            lambda d: d / 'other.json',
            r"other\.json, line 1: '\[1, 2\]' is no line of mmengine's logs",
        ),
        (lambda d: d / 'middle', r'scalars\.json, line 1: .* is no line'),
        (lambda d: d / 'binary.json', r'cannot be read as a log'),
    ],
)
def test_wrong_inputs_are_one_message(tmp_path, make, message, capsys):
    write(tmp_path / 'seg', '1', [train(20, 1.0)])
    write(tmp_path / 'test', '1', [val(0, 1.0)])
    write(tmp_path / 'middle', '1', ['{"torn', train(20, 1.0)])
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'note.txt').write_text('x')
    (tmp_path / 'other.json').write_text('[1, 2]\n')
    (tmp_path / 'binary.json').write_bytes(b'\xff\xfe\x00')
    assert run('plot_log', make(tmp_path), '--out', tmp_path / 'out') == 2
    assert not (tmp_path / 'out').exists()
    assert re.search(f'(?s)error: .*{message}', capsys.readouterr().err)


def test_a_place_that_cannot_be_written_is_one_message(tmp_path, capsys):
    write(tmp_path / 'seg', '1', [train(20, 1.0)])
    (tmp_path / 'file').write_text('x')
    assert run('plot_log', tmp_path / 'seg', '--out', tmp_path / 'file/out') == 2
    assert 'cannot be written' in capsys.readouterr().err
    assert run('plot_log', tmp_path / 'seg', '--smooth', '0') == 2
    assert '--smooth 0 must be 1 or more' in capsys.readouterr().err


BACKENDS = "[dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')]"
LINE = f'visualizer = dict(vis_backends={BACKENDS})'


@pytest.mark.slow
def test_a_resumed_training_is_read_and_tensorboard_is_one_line(tmp_path, monkeypatch, capsys):
    """Epochs of six steps."""
    pytest.importorskip('mmpretrain')
    monkeypatch.chdir(tmp_path)
    assert f'\n{LINE}\n' in (assets_root() / 'docs/curves.md').read_text()
    write_shapes(tmp_path)
    write_config(tmp_path / 'a.py', 'cls', rest=f'{LINE}\n{EVERY_STEP}')
    code = run('train', 'a.py', '--work-dir', 'w')
    if find_spec('tensorboard') is None:
        assert code == 2
        assert 'pip install future tensorboard' in capsys.readouterr().err
        write_config(tmp_path / 'a.py', 'cls', rest=EVERY_STEP)
        code = run('train', 'a.py', '--work-dir', 'w')
    else:
        assert [*(tmp_path / 'w').glob('*/vis_data/events.out.tfevents.*')]
    assert code == 0
    time.sleep(1.1)  # the folder of a start is named by the second
    more = '--cfg-options', 'train_cfg.max_epochs=2'
    assert run('train', 'a.py', '--work-dir', 'w', '--resume', *more) == 0
    read = read_run('w')
    assert len(read.files) == 2
    assert read.notes == ()
    assert read.curves['loss'].steps == tuple(range(1, 13))
    top1 = read.curves['accuracy/top1']
    assert (top1.steps, top1.unit) == ((1, 2), 'epoch')
