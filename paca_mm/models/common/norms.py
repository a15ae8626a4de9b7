"""Norms across processes and on one."""

import torch.nn as nn
from mmengine.model import convert_sync_batchnorm as convert_all
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


def convert_sync_batchnorm(model: nn.Module, implementation: str = 'torch') -> nn.Module:
    """Put torch's or mmcv's SyncBN in place of BatchNorm, for a job of several processes.

    As mmengine's function, but a norm that has a ``with_sync()`` is asked for what to put in its place.
    """
    if hasattr(model, 'with_sync'):
        return exchange(model, 'with_sync')
    if not any(hasattr(module, 'with_sync') for module in model.modules()):
        return convert_all(model, implementation)
    for name, child in model.named_children():
        setattr(model, name, convert_sync_batchnorm(child, implementation))
    return model


def exchange(model: nn.Module, method: str) -> nn.Module:
    """The model with, for every module that has this method, what the method returns in its place."""
    if hasattr(model, method):
        return getattr(model, method)()
    for name, child in model.named_children():
        if (made := exchange(child, method)) is not child:
            setattr(model, name, made)
    return model
