"""PaCa's small models for the contract that every family keeps (``tests/contract``)."""

from helpers.rows import MINI, MINIS

#: Arguments of the backbone, by what is special about them.
EXAMPLES = {name: {'arch': MINI, **arguments} for name, arguments in MINIS.items()}


def has_no_gradient(key):
    """A softmax does not see what is added to all of its inputs: these gradients are zero."""
    return key.endswith('attn.k.bias') or ('to_clusters' in key and key.endswith('bias'))
