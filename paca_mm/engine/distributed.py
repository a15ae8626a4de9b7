"""Distributed runs, on GPUs as mmengine does them and on CPUs with gloo."""

import importlib
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from mmengine.config import Config

from paca_mm.cache import cache_dir
from paca_mm.errors import UserError
from paca_mm.paths import assets_root

from .walk import type_name, walk

if sys.platform != 'win32':
    import fcntl


def has_accelerator() -> bool:
    """Whether there is a device other than the CPU that mmengine would train on."""
    from mmengine.device import get_device

    return get_device() != 'cpu'


def import_in_turn(module: str) -> None:
    """Import a module that is there, while no other process of this user does so.

    yapf, by which mmengine writes configs, makes a file in the user's cache at its first import; of
    several processes that do so together, one reads half of it and fails.

    Args:
        module: Its name.
    """
    with ExitStack() as stack:
        with suppress(OSError):  # no cache folder, no lock: then as without
            folder = cache_dir()
            folder.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context(open(folder / 'importing.lock', 'w'))
            if sys.platform != 'win32':
                fcntl.flock(file, fcntl.LOCK_EX)
        with suppress(ModuleNotFoundError):
            importlib.import_module(module)


def prepare_cpu(cfg: Config, launcher: str) -> list[str]:
    """Make a config that was written for GPUs run on CPUs, in place.

    Mixed precision becomes float32 and SyncBN becomes BN, because neither exists on a CPU. A
    distributed job gets the gloo backend: mmengine would choose a CUDA device whatever the backend.

    Returns:
        What was changed, a sentence each.

    Raises:
        UserError: Nobody has started the processes of the launcher, or they cannot meet.
    """
    if launcher != 'none':
        _check_job(launcher)
    if has_accelerator():
        return []
    changes = []
    wrapper = cfg.get('optim_wrapper') or {}
    if type_name(wrapper) == 'AmpOptimWrapper':
        wrapper['type'] = 'OptimWrapper'
        for key in ('loss_scale', 'dtype', 'use_fsdp'):
            wrapper.pop(key, None)
        changes.append('no GPU: training in float32 instead of mixed precision')
    if launcher != 'none':
        norms = [node for node in walk(cfg.get('model')) if type_name(node) == 'SyncBN']
        for node in norms:
            node['type'] = 'BN'
        if norms:
            changes.append('no GPU: BatchNorm statistics are per process (SyncBN needs a GPU)')
        _keep_on_cpu(cfg)
        if not dist.is_initialized():
            _name_the_job(launcher)
            seconds = ((cfg.get('env_cfg') or {}).get('dist_cfg') or {}).get('timeout')
            patience: dict[str, Any] = (
                {} if seconds is None else {'timeout': timedelta(seconds=seconds)}
            )
            with processes_met():
                dist.init_process_group('gloo', **patience)
    return changes


def _keep_on_cpu(cfg: Config) -> None:
    """Let what is around a model in a distributed run use no device, in place."""
    strategy = cfg.get('strategy') or {}
    if type_name(strategy) == 'FSDPStrategy':
        strategy['model_wrapper'] = {**(strategy.get('model_wrapper') or {}), 'device_id': 'cpu'}
        # A checkpoint that is gathered by one process is copied from its device, which is none.
        strategy['state_dict_cfg'] = dict(
            state_dict_type='FULL_STATE_DICT',
            state_dict_config=dict(type='FullStateDictConfig'),
            optim_state_dict_config=dict(type='FullOptimStateDictConfig'),
        )
        return
    wrapper = cfg.get('model_wrapper_cfg') or {}
    if type_name(wrapper) in ('', 'MMDistributedDataParallel'):
        cfg.model_wrapper_cfg = dict(
            type='MMDistributedDataParallel',
            broadcast_buffers=False,
            find_unused_parameters=cfg.get('find_unused_parameters', False),
        )
        cfg.model_wrapper_cfg.update(wrapper, device_ids=None)


#: What launchers call the rank and the number of processes of a job.
_RANKS = ('RANK', 'SLURM_PROCID', 'OMPI_COMM_WORLD_RANK', 'PMI_RANK')
_LOCAL_RANKS = ('SLURM_LOCALID', 'OMPI_COMM_WORLD_LOCAL_RANK', 'MPI_LOCALRANKID', 'LOCAL_RANK')
_SIZES = ('WORLD_SIZE', 'SLURM_NTASKS', 'OMPI_COMM_WORLD_SIZE', 'PMI_SIZE')


def _check_job(launcher: str) -> None:
    """The launcher has started this process.

    Raises:
        UserError: It has not, or it started more processes than there are GPUs.
    """
    for known in (_RANKS, _SIZES):
        if not any(key in os.environ for key in known):
            raise UserError(
                f'--launcher {launcher}, but none of {", ".join(known)} is set: no launcher has '
                'started this process.\n'
                f'  to fix it: start it by {_started_by(launcher)},\n'
                '  or leave --launcher out for one process.'
            )
    for key in (*_RANKS, *_SIZES, *_LOCAL_RANKS):
        if key in os.environ and not os.environ[key].isdigit():
            raise UserError(
                f'{key}={os.environ[key]!r} in the environment: it must be a number, which '
                f'{_started_by(launcher)} sets.\n  to fix it: unset {key}.'
            )
    here = next((int(os.environ[key]) for key in _LOCAL_RANKS if key in os.environ), 0)
    if torch.cuda.is_available() and here >= torch.cuda.device_count():
        raise UserError(
            f'process {here} of this machine has no GPU: there are {torch.cuda.device_count()}.\n'
            '  to fix it: as many processes as GPUs; CUDA_VISIBLE_DEVICES may hide some.'
        )


@contextmanager
def processes_met() -> Iterator[None]:
    """Where the processes of a run look for each other.

    Raises:
        UserError: The port is taken, or the others do not come.
    """
    try:
        yield
    except RuntimeError as error:  # torch's own kinds are derived from it
        if 'EADDRINUSE' in str(error):
            raise UserError(
                f'the port {os.environ.get("MASTER_PORT")} of the distributed run is taken by '
                'another one.\n  to fix it: PORT=29501 before the script, or MASTER_PORT=29501 '
                'before a command of your own.'
            ) from error
        if 'timed out' in str(error):
            raise UserError(
                f'not all of the {os.environ.get("WORLD_SIZE")} processes of the run met at '
                f'{os.environ.get("MASTER_ADDR")}:{os.environ.get("MASTER_PORT")}.\n'
                '  to fix it: the same MASTER_ADDR, MASTER_PORT and number of processes on every '
                'machine, and a network that lets them through.'
            ) from error
        raise


#: What a process hears of one that is gone, from gloo, from NCCL and from their store.
_GONE = (
    'connection closed by peer',
    'connection reset by peer',
    'broken pipe',
    'timed out waiting',
    'nccl communicator was aborted',
    'remote process exited',
)


@contextmanager
def losing_no_process() -> Iterator[None]:
    """Let a process that another one has left end with a message; the other one knows the reason.

    Raises:
        SystemExit: With code 1: another process is gone, or has not answered in time.
    """
    try:
        yield
    except RuntimeError as error:
        said = str(error).strip().splitlines()
        if not dist.is_initialized() or not any(gone in str(error).lower() for gone in _GONE):
            raise
        print(
            f'\nerror: process {dist.get_rank()} of {dist.get_world_size()} waited for another one '
            f'that has ended or does not answer ({said[-1] if said else type(error).__name__}).\n'
            '  to fix it: see what that one said, and go on from the last checkpoint with --resume.',
            file=sys.stderr,
            flush=True,
        )
        raise SystemExit(1) from error


def _name_the_job(launcher: str) -> None:
    """Set what torch reads from the environment, from what slurm and mpi have set.

    Raises:
        UserError: Nobody says which is the first of several machines.
    """
    for name, known in (('RANK', _RANKS), ('WORLD_SIZE', _SIZES)):
        os.environ.setdefault(name, next(os.environ[key] for key in known if key in os.environ))
    os.environ.setdefault('MASTER_PORT', '29500')
    if 'MASTER_ADDR' not in os.environ:
        os.environ['MASTER_ADDR'] = _first_machine(launcher)


def _started_by(launcher: str) -> str:
    """The program of a launcher, and the script of ours that calls it."""
    program, script = {
        'pytorch': ('torchrun', 'dist_train.sh'),
        'slurm': ('srun', 'slurm_train.sh'),
        'mpi': ('mpirun', None),
    }[launcher]
    if script is None:
        return program
    return f'{program} (bash {os.path.relpath(assets_root() / "tools" / script)} does)'


def _first_machine(launcher: str) -> str:
    local = os.environ.get('OMPI_COMM_WORLD_LOCAL_SIZE', os.environ.get('MPI_LOCALNRANKS'))
    if local == os.environ['WORLD_SIZE'] or os.environ.get('SLURM_NNODES') == '1':
        return '127.0.0.1'
    if nodes := os.environ.get('SLURM_NODELIST'):
        with suppress(OSError, subprocess.CalledProcessError):
            names = subprocess.check_output(['scontrol', 'show', 'hostnames', nodes], text=True)
            return names.split()[0]
    raise UserError(
        f'--launcher {launcher}: MASTER_ADDR is not set, and which machine is the first of the job '
        'is not known.\n  to fix it: export MASTER_ADDR=<the first machine> before the command.'
    )


def is_main_process() -> bool:
    """Whether this process is the one that speaks and writes."""
    rank = next((os.environ[key] for key in _RANKS if key in os.environ), '0')
    return int(rank) == 0


def is_first_of_machine() -> bool:
    """Whether this process is the one that looks at the files of its machine."""
    rank = next((os.environ[key] for key in _LOCAL_RANKS if key in os.environ), '0')
    return int(rank) == 0


def say(text: str) -> None:
    """Print, from one process of a distributed run."""
    if is_main_process():
        print(text, flush=True)


def device() -> torch.device:
    """The device that a model of this process runs on."""
    from mmengine.device import get_device

    return torch.device(get_device())
