"""PaCa's small models for the contract that every family keeps (``tests/contract``)."""

from helpers.rows import MINI, MINIS
from paca_mm.families import families

#: Arguments of the backbone, by what is special about them.
EXAMPLES = {name: {'arch': MINI, **arguments} for name, arguments in MINIS.items()}
if 'castling' in families():  # whose attention PaCa takes where it is asked to
    castling = dict(plain_attention='castling', num_clusters=(7, 0, 3, 0))
    EXAMPLES['castling'] = {'arch': MINI, **castling}


def has_no_gradient(key):
    """A softmax does not see what is added to all of its inputs: these gradients are zero."""
    return key.endswith('attn.k.bias') or ('to_clusters' in key and key.endswith('bias'))
