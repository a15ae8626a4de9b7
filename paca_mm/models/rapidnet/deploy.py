"""RapidNet for deployment: folded, as its own ``switch_to_deploy`` folds it."""

import torch.nn as nn

from .backbone import RapidNet
from .two_heads import TwoHeads


def deployed(model: nn.Module, form: str) -> None:
    """Fold backbone and head, in place.

    Args:
        model: In eval mode; it returns what it returned before, up to rounding.
        form: Is the same for every form.
    """
    for module in list(model.modules()):
        if isinstance(module, (RapidNet, TwoHeads)) and not getattr(module, 'deploy', False):
            switch = getattr(module, 'switch_to_deploy', None)
            if switch is not None:
                switch()
