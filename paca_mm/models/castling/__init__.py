"""Castling-ViT: linear-angular attention, and a softmax branch for training only (You et al., CVPR 2023).

In forward order: ``angular`` (directions, and the attention that is linear in the tokens),
``attention`` (the layer, with its convolution and its masked softmax branch); ``vit`` puts it into
any ViT of mmpretrain, ``hook`` lets the branch fade out while a model trains.

Shape legend, here and in every layer: B batch, N tokens, C channels, h heads, d = C / h.
"""
