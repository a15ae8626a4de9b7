# A RapidNet of 1.28 M parameters for the embedded dataset: it learns in minutes on two CPU cores.
toy_channels = [32, 64, 96, 128]
toy_backbone = dict(
    type='paca_mm.RapidNet',
    arch=dict(
        embed_dims=(32, 64, 96, 128),
        inverted_blocks=(1, 1, 2, 1),
        mldc_blocks=(0, 0, 1, 1),
    ),
    drop_path_rate=0.0,
)
