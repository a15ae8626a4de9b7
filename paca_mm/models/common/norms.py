"""Norms across processes and on one."""

import torch.nn as nn
from mmengine.model import revert_sync_batchnorm as revert_all


def revert_sync_batchnorm(model: nn.Module) -> nn.Module:
    """Put BatchNorm in place of torch's and mmcv's SyncBN, for a model that runs in one process.

    mmengine's function goes by the base class; a norm that derives from SyncBatchNorm and computes
    something else would be replaced by plain BatchNorm, in silence.

    Raises:
        TypeError: There is such a norm.
    """
    for name, module in model.named_modules():
        own = type(module).forward is not nn.SyncBatchNorm.forward
        if isinstance(module, nn.SyncBatchNorm) and own:
            raise TypeError(
                f'{name} is a {type(module).__name__}, which is more than SyncBatchNorm: BatchNorm in '
                'its place would compute something else. Configure it without synchronisation.'
            )
    return revert_all(model)
