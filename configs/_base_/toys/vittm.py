# A ViTTM of 1.37 M parameters for the embedded dataset: it learns on a CPU.
toy_channels = 128
toy_backbone = dict(
    type='paca_mm.ViTTM',
    arch=dict(embed_dims=128, num_layers=5, num_heads=4),
    img_size=64,
    memory_patch=8,
    process_patch=16,
    drop_path_rate=0.0,
)
