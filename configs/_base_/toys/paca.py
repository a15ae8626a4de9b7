# A PaCa-ViT of 0.97 M parameters for the embedded dataset: it learns in minutes on two CPU cores.
toy_channels = [32, 64, 128, 128]
toy_backbone = dict(
    type='paca_mm.PaCaViT',
    arch=dict(
        embed_dims=(32, 64, 128, 128),
        num_heads=(1, 2, 4, 4),
        depths=(1, 1, 2, 1),
        mlp_ratios=(4, 4, 4, 4),
    ),
    num_clusters=(49, 49, 49, 0),
    drop_path_rate=0.0,
)
