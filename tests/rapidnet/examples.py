"""RapidNet's small models for the contract that every family keeps (``tests/contract``)."""

#: A pyramid small enough to run in float64, with every part of the large ones.
MINI = dict(
    embed_dims=(16, 24, 32, 40),
    inverted_blocks=(1, 2, 1, 0),
    mldc_blocks=(0, 0, 2, 1),
)

#: Arguments of the backbone, by what is special about them.
EXAMPLES = {
    'mini': dict(arch=MINI),
    'groups': dict(arch=MINI, norm_cfg=dict(type='GN', num_groups=4)),
    'synced': dict(arch=MINI, norm_cfg=dict(type='SyncBN')),
    'three_stages': dict(
        arch=dict(embed_dims=(8, 12, 16), inverted_blocks=(1, 1, 1), mldc_blocks=(1, 0, 1)),
        out_indices=(0, 1, 2),
    ),
}


def has_no_gradient(key):
    """A BatchNorm in training does not see what is added to all of its inputs."""
    return key.endswith('.conv.bias')
