"""From a command line to a finished run: what ``paca-mm train`` and ``paca-mm test`` do."""

import argparse
import os
import shlex
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.registry import RUNNERS as MMENGINE_RUNNERS
from mmengine.runner import CheckpointLoader, Runner

from paca_mm.checkpoint import read_checkpoint
from paca_mm.checkpoint.latest import candidates
from paca_mm.checkpoint.run import check_run
from paca_mm.errors import UserError
from paca_mm.files import make_folder, replacing
from paca_mm.paths import assets_root, command_line
from paca_mm.processes import attended, follow_launcher, let_workers_go

from .checks import check_config
from .config import default_work_dir, load_config
from .distributed import (
    has_accelerator,
    import_in_turn,
    is_main_process,
    losing_no_process,
    prepare_cpu,
    processes_met,
    say,
)
from .dry_run import dry_run
from .hooks import ThreadsHook
from .loading import naming_files
from .lock import held
from .mistakes import explained
from .newest import go_on_from_newest, take_seed
from .resume import VALIDATED
from .room import room_for
from .runner import SafeRunner
from .stopping import Stopped
from .tasks import Task, task_for
from .tta import use_tta
from .walk import type_name


def train(args: argparse.Namespace) -> None:
    """Train, once the command line is parsed.

    Raises:
        UserError: A mistake of the user's, found before the first iteration where that is possible.
    """
    began = time.monotonic()
    cfg, _ = _prepare(args, ('train', 'val'))
    if args.amp:
        _use_amp(cfg)
    if args.auto_scale_lr:
        _scale_lr(cfg)
    _stop_on_signals(cfg)
    for key in ('fallback_dir', 'wait_for_room'):
        if getattr(args, key, None) is not None:
            cfg[key] = getattr(args, key)
    newest = args.resume == 'auto'
    with _at_work(cfg), losing_no_process(), explained(cfg):
        content = _resume(cfg, args.resume) if args.resume and not newest else None
        runner = _build_runner(cfg)
        if newest:
            go_on_from_newest(runner)
        elif content is not None:
            take_seed(runner, content['meta'].get('seed'))
            if isinstance(runner, SafeRunner):
                runner.take(cfg.load_from, content)
        if not has_accelerator():
            runner.register_hook(ThreadsHook())
        if not isinstance(runner, SafeRunner):  # which does so itself
            dry_run(runner)
        try:
            runner.train()
        except Stopped as stopped:
            let_workers_go()
            say(_stopped_summary(stopped, args))
            raise
    checkpoint = last_checkpoint(cfg.work_dir)
    lines = [f'saved:    {checkpoint}', f'evaluate: {_test_command(args, checkpoint)}']
    if isinstance(runner, SafeRunner) and runner.skipped and (skipped := runner.skipped()):
        lines.append(f'skipped:  {len(skipped)} files that cannot be read: {"; ".join(skipped)}')
    say(_closing_summary(_last_metrics(runner), time.monotonic() - began, lines))


def test(args: argparse.Namespace) -> dict[str, Any]:
    """Evaluate a checkpoint, once the command line is parsed.

    Returns:
        The metrics.

    Raises:
        UserError: A mistake of the user's, such as a checkpoint that is not the config's.
    """
    began = time.monotonic()
    args.cfg_options = {**(args.cfg_options or {}), 'load_from': args.checkpoint}
    cfg, task = _prepare(args, ('test',))
    if args.show_dir:
        make_folder(args.show_dir, '--show-dir')
        cfg.default_hooks = cfg.get('default_hooks') or {}
        task.draw_into(cfg, os.path.abspath(args.show_dir))
    if args.tta:
        use_tta(cfg, task)
    with _predictions_in(args.out) as part, room_for(cfg.work_dir), losing_no_process():
        if part:
            _dump_into(cfg, task, part)
        with explained(cfg):
            metrics = _build_runner(cfg).test()
    lines = [f'predictions: {args.out}'] if args.out else []
    lines += [f'images:    {args.show_dir}'] if args.show_dir else []
    say(_closing_summary(metrics, time.monotonic() - began, lines))
    return metrics


def _prepare(args: argparse.Namespace, phases: Sequence[str]) -> tuple[Config, Task]:
    """The config of a command line, checked and made ready for this machine; its task."""
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    follow_launcher()
    cfg = load_config(args.config, args.cfg_options, args.shapes)
    if not cfg.get('model'):
        raise UserError(
            f'{args.config} has no model, so there is nothing to run.\n'
            f'  to fix it: a complete config ({command_line("config")} lists ours); what lies in _base_ '
            'is a part of one.'
        )
    cfg.launcher = args.launcher
    if args.launcher != 'none':
        import_in_turn('yapf.yapflib.yapf_api')
    if args.work_dir:
        cfg.work_dir = args.work_dir
    elif cfg.get('work_dir') is None:
        cfg.work_dir = default_work_dir(args.config, args.shapes)
    task = task_for(cfg)
    check_config(cfg, [phase for phase in phases if cfg.get(f'{phase}_cfg') is not None], task)
    make_folder(cfg.work_dir, '--work-dir')
    for change in prepare_cpu(cfg, args.launcher):
        say(f'note: {change}')
    return cfg, task


def let_hosts_read_safetensors() -> None:
    """Let mmengine's own loader read ``.safetensors`` files, which it knows where torch does.

    It is what loads the ``init_cfg`` of a host's module, and everything of a Runner that is not ours.
    """
    CheckpointLoader.register_scheme(r'.*\.safetensors$', read_checkpoint, force=True)


def _build_runner(cfg: Config) -> Runner:
    let_hosts_read_safetensors()
    try:
        with processes_met():
            if cfg.get('runner_type'):
                return MMENGINE_RUNNERS.build(cfg)  # ours names broken files itself
            runner = Runner.from_cfg(cfg)
    except ImportError as e:
        raise UserError(
            f'{e}\n  to see what is missing and how to fix it: {command_line("doctor")}'
        ) from e
    build = runner.build_dataloader
    runner.build_dataloader = lambda *args, **kwargs: naming_files(attended(build(*args, **kwargs)))
    return runner


def _stop_on_signals(cfg: Config) -> None:
    """Give every config the hook that saves when a signal comes, unless it says otherwise."""
    hooks = dict(cfg.get('default_hooks') or {})
    if 'stop' in hooks and hooks['stop'] is None:
        del hooks['stop']  # mmengine takes None for its own hooks only
    elif not any(type_name(hook) == 'StopHook' for hook in cfg.get('custom_hooks') or ()):
        hooks.setdefault('stop', dict(type='paca_mm.StopHook'))
    cfg.default_hooks = hooks


@contextmanager
def _at_work(cfg: Config) -> Iterator[None]:
    """The one run of its work directory, which may be without room."""
    alone = held(cfg.work_dir) if is_main_process() else nullcontext()
    with alone, room_for(cfg.work_dir):
        yield


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


def _resume(cfg: Config, checkpoint: str) -> Any:
    """Let a run go on from a checkpoint that the user names; returns its content."""
    if not os.path.isfile(checkpoint):
        raise UserError(f'the checkpoint to resume does not exist: {os.path.abspath(checkpoint)}')
    content = read_checkpoint(checkpoint)
    check_run(content, checkpoint)
    say(f'note: going on from {checkpoint}')
    cfg.load_from = checkpoint
    cfg.resume = True
    return content


def _test_command(args: argparse.Namespace, checkpoint: str | None) -> str:
    """The command that evaluates what was trained, from the present folder."""
    words = [args.config, str(checkpoint)]
    words += ['--shapes'] if args.shapes else []
    words += ['--work-dir', args.work_dir] if args.work_dir else []
    typed = getattr(args, 'typed_options', ())
    return command_line('test', *words, *(['--cfg-options', *typed] if typed else []))


@contextmanager
def _predictions_in(file: str | None) -> Iterator[str | None]:
    """Where the evaluator writes all predictions, which become a pickle file at the end."""
    if file is None or not is_main_process():
        yield file
        return
    if Path(file).suffix not in ('.pkl', '.pickle'):
        raise UserError(f'--out {file}: the file name must end in .pkl or .pickle.')
    make_folder(Path(file).absolute().parent, '--out')
    with replacing(file, '--out', '.pkl') as part:
        yield str(part)


def _dump_into(cfg: Config, task: Task, file: str) -> None:
    """Let the evaluator keep all predictions in a pickle file."""
    evaluators = cfg.test_evaluator
    evaluators = list(evaluators) if isinstance(evaluators, (list, tuple)) else [evaluators]
    cfg.test_evaluator = [*evaluators, dict(type=task.dump_type, out_file_path=file)]


def _stopped_summary(stopped: Stopped, args: argparse.Namespace) -> str:
    """What a run that was told to stop ends with."""
    lines = [
        '',
        f'stopped by {stopped.signal}',
        f'saved:    {stopped.checkpoint}',
        f'go on:    {_resume_command(args)}',
    ]
    return '\n'.join(lines)


def _resume_command(args: argparse.Namespace) -> str:
    """The command that goes on with a run, from the present folder."""
    words = ['--shapes'] if args.shapes else []
    words += ['--amp'] if args.amp else []
    words += ['--auto-scale-lr'] if args.auto_scale_lr else []
    words += ['--work-dir', args.work_dir] if args.work_dir else []
    words += ['--fallback-dir', args.fallback_dir] if args.fallback_dir else []
    words += ['--resume']
    typed = getattr(args, 'typed_options', ())
    words += ['--cfg-options', *typed] if typed else []
    if args.launcher == 'none':
        return command_line('train', args.config, *words)
    if args.launcher == 'pytorch' and os.environ.get('GROUP_WORLD_SIZE', '1') == '1':
        script = os.path.relpath(assets_root() / 'tools/dist_train.sh')
        return shlex.join(['bash', script, args.config, os.environ['WORLD_SIZE'], *words])
    return 'the same command with --resume'


def _closing_summary(metrics: dict[str, Any], seconds: float, lines: Sequence[str]) -> str:
    """What a run ends with: how long it took, its metrics, and what to do next."""
    width = max((len(name) for name in metrics), default=0)
    rows = [
        f'  {name:<{width}}  ' + (f'{value:.4f}' if isinstance(value, float) else str(value))
        for name, value in metrics.items()
    ]
    took = timedelta(seconds=round(seconds))
    return '\n'.join(['', f'done in {took}', *rows, *lines])


def _last_metrics(runner: Runner) -> dict[str, Any]:
    """The metrics of the final weights; none where the last validation was of earlier ones."""
    if runner.message_hub.runtime_info.get(VALIDATED, runner.iter) != runner.iter:
        return {}
    return {
        name.removeprefix('val/'): float(buffer.current())
        for name, buffer in runner.message_hub.log_scalars.items()
        if name.startswith('val/') and not name.endswith('time')
    }


def last_checkpoint(work_dir: str) -> str | None:
    """The checkpoint that a run in ``work_dir`` ended with."""
    files, _ = candidates(work_dir)
    return str(files[0]) if files else None
