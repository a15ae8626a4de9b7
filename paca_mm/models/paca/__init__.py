"""PaCa-ViT: patch-to-cluster attention (Grainger et al., CVPR 2023).

In forward order: ``downsample``, ``clustering``, ``attention``, ``ffn``, ``block``, ``teacher`` are
the paper's layers; ``archs`` its sizes; ``backbone`` and ``head`` the models.

Shape legend, here and in every layer: B batch, H and W height and width of a feature map,
N = H * W patches, C channels, M clusters, h heads, d = C / h channels of a head.
"""
