"""Distributed runs, on GPUs as mmengine does them and on CPUs with gloo."""

import os
from typing import Any

import torch
import torch.distributed as dist
from mmengine.config import Config


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
    if wrapper.get('type') == 'AmpOptimWrapper':
        wrapper['type'] = 'OptimWrapper'
        for key in ('loss_scale', 'dtype', 'use_fsdp'):
            wrapper.pop(key, None)
        changes.append('no GPU: training in float32 instead of mixed precision')
    if launcher != 'none':
        if _replace_norms(cfg.get('model')):
            changes.append('no GPU: BatchNorm statistics are per process (SyncBN needs a GPU)')
        cfg.model_wrapper_cfg = dict(
            type='MMDistributedDataParallel',
            device_ids=None,
            broadcast_buffers=False,
            find_unused_parameters=cfg.get('find_unused_parameters', False),
        )
        if not dist.is_initialized():
            if launcher == 'slurm':
                os.environ.setdefault('RANK', os.environ['SLURM_PROCID'])
                os.environ.setdefault('WORLD_SIZE', os.environ['SLURM_NTASKS'])
            dist.init_process_group('gloo')
    return changes


def _replace_norms(node: Any) -> bool:
    """Turn every ``type='SyncBN'`` below ``node`` into ``'BN'``; whether there was one."""
    found = False
    if isinstance(node, dict):
        if node.get('type') == 'SyncBN':
            node['type'] = 'BN'
            found = True
        children = list(node.values())
    else:
        children = list(node) if isinstance(node, (list, tuple)) else []
    for child in children:
        found |= _replace_norms(child)
    return found


def is_main_process() -> bool:
    """Whether this process is the one that speaks and writes."""
    return int(os.environ.get('RANK', os.environ.get('SLURM_PROCID', 0))) == 0


def device() -> torch.device:
    """The device that a model of this process runs on."""
    from mmengine.device import get_device

    return torch.device(get_device())
