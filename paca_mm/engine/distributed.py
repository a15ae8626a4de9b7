"""Distributed runs, on GPUs as mmengine does them and on CPUs with gloo."""

import os
import subprocess
from contextlib import suppress

import torch
import torch.distributed as dist
from mmengine.config import Config

from paca_mm.errors import UserError
from paca_mm.paths import assets_root

from .walk import type_name, walk


def has_accelerator() -> bool:
    """Whether there is a device other than the CPU that mmengine would train on."""
    from mmengine.device import get_device

    return get_device() != 'cpu'


def prepare_cpu(cfg: Config, launcher: str) -> list[str]:
    """Make a config that was written for GPUs run on CPUs, in place.

    Mixed precision becomes float32 and SyncBN becomes BN, because neither exists on a CPU. A
    distributed job gets the gloo backend: mmengine would choose a CUDA device whatever the backend.

    Returns:
        What was changed, a sentence each.
    """
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
        cfg.model_wrapper_cfg = dict(
            type='MMDistributedDataParallel',
            device_ids=None,
            broadcast_buffers=False,
            find_unused_parameters=cfg.get('find_unused_parameters', False),
        )
        if not dist.is_initialized():
            _name_the_job(launcher)
            dist.init_process_group('gloo')
    return changes


#: What launchers call the rank and the number of processes of a job.
_RANKS = ('RANK', 'SLURM_PROCID', 'OMPI_COMM_WORLD_RANK', 'PMI_RANK')
_LOCAL_RANKS = ('SLURM_LOCALID', 'OMPI_COMM_WORLD_LOCAL_RANK', 'MPI_LOCALRANKID', 'LOCAL_RANK')
_SIZES = ('WORLD_SIZE', 'SLURM_NTASKS', 'OMPI_COMM_WORLD_SIZE', 'PMI_SIZE')


def _name_the_job(launcher: str) -> None:
    """Set what torch reads from the environment, from what slurm and mpi have set.

    Raises:
        UserError: The command was not started by the launcher, or nobody says which is the first of
            several machines.
    """
    for name, known in (('RANK', _RANKS), ('WORLD_SIZE', _SIZES)):
        value = next((os.environ[key] for key in known if key in os.environ), None)
        if value is None:
            raise UserError(
                f'--launcher {launcher}, but none of {", ".join(known)} is set: no launcher has '
                'started this process.\n'
                f'  to fix it: start it by {_started_by(launcher)},\n'
                '  or leave --launcher out for one process.'
            )
        os.environ.setdefault(name, value)
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
