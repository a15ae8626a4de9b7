"""Learning rates: those of a config, epoch by epoch, and those that timm would have."""

import math

import torch
from mmengine.registry import PARAM_SCHEDULERS


def timm_rate(epoch, rate, warmup, low=1e-5, start=1e-6, epochs=300):
    """timm's cosine with a line before it; after its end, the lowest rate."""
    if epoch < warmup:
        return start + epoch * (rate - start) / warmup
    if epoch >= epochs:
        return low
    return low + (rate - low) * (1 + math.cos(math.pi * epoch / epochs)) / 2


def rates_of(cfg, epochs):
    """The learning rate of every epoch of a config whose schedulers step once an epoch."""
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=cfg.optim_wrapper.optimizer.lr)
    schedulers = [
        PARAM_SCHEDULERS.build(dict(scheduler, optimizer=optimizer))
        for scheduler in cfg.param_scheduler
    ]
    for _ in range(epochs):
        yield optimizer.param_groups[0]['lr']
        optimizer.step()
        for scheduler in schedulers:
            scheduler.step()
