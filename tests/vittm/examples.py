"""ViTTM's small models for the contract that every family keeps (``tests/contract``)."""

#: Small enough to run in float64, with every part of the large ones.
MINI = dict(embed_dims=24, num_layers=3, num_heads=2)

#: All blocks, at any size of image.
_ALL = dict(arch=MINI, img_size=64, out_indices=(0, 1, 2), pad_to_patch=True)

#: Arguments of the backbone, by what is special about them.
EXAMPLES = {
    'process': dict(_ALL, memory_patch=8, process_patch=16),
    'both': dict(_ALL, memory_patch=16, process_patch=16, out_type='both'),
    'few_memories': dict(_ALL, memory_patch=16, process_patch=8),
    'wide': dict(_ALL, arch=dict(MINI, mlp_ratio=1.5), memory_patch=4, process_patch=8),
}

#: It has no BatchNorm, so nothing for ``norm_eval`` to keep.
BATCH_NORM = False
