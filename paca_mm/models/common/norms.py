"""Norms across processes and on one."""

import torch.nn as nn
from mmengine.model import revert_sync_batchnorm as revert_all


def revert_sync_batchnorm(model: nn.Module) -> nn.Module:
    """Put BatchNorm in place of torch's and mmcv's SyncBN, for a model that runs in one process.

    mmengine's function goes by the base class; a norm that derives from SyncBatchNorm and computes
    something else would be replaced by plain BatchNorm, in silence. A norm that has a
    ``without_sync()`` is asked for what to put in its place.

    Raises:
        TypeError: There is a SyncBatchNorm that computes something else.
    """
    for name, module in model.named_modules():
        own = type(module).forward is not nn.SyncBatchNorm.forward
        if isinstance(module, nn.SyncBatchNorm) and own:
            raise TypeError(
                f'{name} is a {type(module).__name__}, which is more than SyncBatchNorm: BatchNorm in '
                'its place would compute something else. Configure it without synchronisation.'
            )
    return revert_all(exchange(model, 'without_sync'))


def exchange(model: nn.Module, method: str) -> nn.Module:
    """The model with, for every module that has this method, what the method returns in its place."""
    if hasattr(model, method):
        return getattr(model, method)()
    for name, child in model.named_children():
        if (made := exchange(child, method)) is not child:
            setattr(model, name, made)
    return model
