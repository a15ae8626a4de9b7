# A ResNet-18 of a quarter of the width, 0.73 M parameters, with Attentive Normalization for the embedded
# dataset: it learns on a CPU.
toy_channels = [16, 32, 64, 128]
toy_backbone = dict(
    type='paca_mm.ReplaceNorms',
    # The ResNet of the host. Behind the first convolution of a block, as published for ResNet-18 and 34.
    module=dict(type='ResNet', depth=18, base_channels=16, stem_channels=16),
    norms={
        r'layer[12]\.\d+\.bn1': dict(type='paca_mm.AttnBN', num_mixtures=10),
        r'layer[34]\.\d+\.bn1': dict(type='paca_mm.AttnBN', num_mixtures=20),
    },
)
