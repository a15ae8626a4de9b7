"""From a command line to a finished run: what ``tools/train.py`` and ``tools/test.py`` do."""

import argparse
import os
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmengine.config import Config, DictAction
from mmengine.registry import RUNNERS as MMENGINE_RUNNERS
from mmengine.runner import Runner

from paca_mm.checkpoint import read_checkpoint
from paca_mm.errors import UserError

from .checks import check_config, check_every_image
from .config import load_config, task_of
from .distributed import has_accelerator, is_main_process, prepare_cpu
from .runner import find_latest_checkpoint


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that training and testing share, named as in mmdetection's own scripts."""
    parser.add_argument(
        '--shapes',
        action='store_true',
        help='run on the embedded dataset instead of the one in the config (made on first use)',
    )
    parser.add_argument(
        '--work-dir', help='where logs and checkpoints go (default: work_dirs/NAME)'
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        metavar='KEY=VALUE',
        help='settings that win over the config, such as train_dataloader.batch_size=4',
    )
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch', 'slurm', 'mpi'],
        default='none',
        help='how the processes of a distributed run were started',
    )
    # torch's launchers pass it; the rank itself is read from the environment.
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)


def train(args: argparse.Namespace) -> None:
    """Train, once the command line is parsed.

    Raises:
        UserError: A mistake of the user's, found before the first iteration where that is possible.
    """
    began = time.monotonic()
    cfg = _prepare(args, ('train', 'val'))
    if args.amp:
        _use_amp(cfg)
    if args.auto_scale_lr:
        _scale_lr(cfg)
    if args.resume:
        _resume(cfg, args.resume)
    runner = _build_runner(cfg)
    with _data_faults_named(cfg, ('train', 'val')):
        runner.train()
    checkpoint = last_checkpoint(cfg.work_dir)
    command = f'{args.config} {checkpoint}' + (' --shapes' if args.shapes else '')
    lines = [f'saved:    {checkpoint}', f'evaluate: python tools/test.py {command}']
    say(_closing_summary(_last_metrics(runner), time.monotonic() - began, lines))


def test(args: argparse.Namespace) -> None:
    """Evaluate a checkpoint, once the command line is parsed.

    Raises:
        UserError: A mistake of the user's, such as a checkpoint that is not the config's.
    """
    began = time.monotonic()
    args.cfg_options = {**(args.cfg_options or {}), 'load_from': args.checkpoint}
    cfg = _prepare(args, ('test',))
    if args.show_dir:
        _draw_into(cfg, args.show_dir)
    if args.out:
        _dump_into(cfg, args.out)
    runner = _build_runner(cfg)
    with _data_faults_named(cfg, ('test',)):
        metrics = runner.test()
    lines = [f'predictions: {args.out}'] if args.out else []
    lines += [f'images:    {args.show_dir}'] if args.show_dir else []
    say(_closing_summary(metrics, time.monotonic() - began, lines))


def say(text: str) -> None:
    """Print, from one process of a distributed run."""
    if is_main_process():
        print(text, flush=True)


def _prepare(args: argparse.Namespace, phases: Sequence[str]) -> Config:
    """The config of a command line, checked and made ready for this machine."""
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    cfg = load_config(args.config, args.cfg_options, args.shapes)
    cfg.launcher = args.launcher
    if args.work_dir:
        cfg.work_dir = args.work_dir
    elif cfg.get('work_dir') is None:
        name = Path(args.config).stem + ('_on_shapes' if args.shapes else '')
        cfg.work_dir = os.path.join('work_dirs', name)
    check_config(cfg, [phase for phase in phases if cfg.get(f'{phase}_cfg') is not None])
    for change in prepare_cpu(cfg, args.launcher):
        say(f'note: {change}')
    return cfg


def _build_runner(cfg: Config) -> Runner:
    try:
        if cfg.get('runner_type'):
            return MMENGINE_RUNNERS.build(cfg)
        return Runner.from_cfg(cfg)
    except ImportError as e:
        raise UserError(
            f'{e}\n  to see what is missing and how to fix it: python tools/doctor.py'
        ) from e


@contextmanager
def _data_faults_named(cfg: Config, phases: Sequence[str]) -> Iterator[None]:
    """If a run dies, look whether an image is the cause, and name it instead of the traceback."""
    try:
        yield
    except UserError:
        raise
    except Exception:
        check_every_image(cfg, phases)
        if 'transforms/loading.py' in traceback.format_exc():  # of this process or of a worker's
            say('note: an image cannot be decoded; looking for it')
            check_every_image(cfg, phases, decode=True)
        raise


def _use_amp(cfg: Config) -> None:
    if not has_accelerator():
        raise UserError('--amp needs a GPU: mixed precision does not exist in mmengine on a CPU.')
    cfg.optim_wrapper.type = 'AmpOptimWrapper'
    cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')


def _scale_lr(cfg: Config) -> None:
    if not (cfg.get('auto_scale_lr') or {}).get('base_batch_size'):
        raise UserError(
            '--auto-scale-lr needs auto_scale_lr=dict(base_batch_size=...) in the config: the batch '
            'size that its learning rate was chosen for.'
        )
    cfg.auto_scale_lr.enable = True


def _resume(cfg: Config, checkpoint: str) -> None:
    found = find_latest_checkpoint(cfg.work_dir) if checkpoint == 'auto' else checkpoint
    if found is None:
        say(f'note: nothing to resume in {cfg.work_dir}: starting from the beginning')
        return
    if not os.path.isfile(found):
        raise UserError(f'the checkpoint to resume does not exist: {os.path.abspath(found)}')
    say(f'note: going on from {found}')
    cfg.load_from = str(found)
    cfg.resume = True
    # mmengine takes the seed of a resumed run over too, but only once the data's order is drawn.
    randomness = cfg.get('randomness') or {}
    if randomness.get('seed') is None:
        seed = read_checkpoint(found).get('meta', {}).get('seed')
        cfg.randomness = {**randomness, 'seed': seed}


def _draw_into(cfg: Config, folder: str) -> None:
    """Let the host's visualization hook write every prediction into a folder."""
    hook = cfg.default_hooks.get('visualization')
    if hook is None:
        raise UserError('--show-dir needs a visualization hook in default_hooks of the config.')
    folder = os.path.abspath(folder)
    if task_of(cfg) == 'det':
        hook.update(draw=True, test_out_dir=folder)
    elif task_of(cfg) == 'seg':
        hook.update(draw=True, interval=1)
        cfg.visualizer.save_dir = folder
    else:
        cfg.default_hooks.visualization = dict(type='paca_mm.DrawClassesHook', out_dir=folder)


def _dump_into(cfg: Config, file: str) -> None:
    """Let the evaluator keep all predictions in a pickle file."""
    if Path(file).suffix not in ('.pkl', '.pickle'):
        raise UserError(f'--out {file}: the file name must end in .pkl or .pickle.')
    dump = 'DumpDetResults' if task_of(cfg) == 'det' else 'DumpResults'
    evaluators = cfg.test_evaluator
    evaluators = list(evaluators) if isinstance(evaluators, (list, tuple)) else [evaluators]
    cfg.test_evaluator = [*evaluators, dict(type=dump, out_file_path=file)]


def _closing_summary(metrics: dict[str, Any], seconds: float, lines: Sequence[str]) -> str:
    """What a run ends with: how long it took, its metrics, and what to do next."""
    width = max((len(name) for name in metrics), default=0)
    rows = [
        f'  {name:<{width}}  ' + (f'{value:.4f}' if isinstance(value, float) else str(value))
        for name, value in metrics.items()
    ]
    took = time.strftime('%H:%M:%S', time.gmtime(seconds))
    return '\n'.join(['', f'done in {took}', *rows, *lines])


def _last_metrics(runner: Runner) -> dict[str, Any]:
    """The metrics of the last validation."""
    return {
        name.removeprefix('val/'): float(buffer.current())
        for name, buffer in runner.message_hub.log_scalars.items()
        if name.startswith('val/') and not name.endswith('time')
    }


def last_checkpoint(work_dir: str) -> str | None:
    """The checkpoint that a run in ``work_dir`` ended with."""
    named = Path(work_dir) / 'last_checkpoint'
    return named.read_text().strip() if named.is_file() else None
