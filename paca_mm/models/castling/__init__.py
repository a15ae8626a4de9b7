"""Castling-ViT: linear-angular attention, trained beside a softmax branch (You et al., CVPR 2023).

In forward order: ``angular`` (directions, and the attention that is linear in the tokens),
``attention`` (the layer, with its convolution and its masked softmax branch); ``vit`` puts it into
any ViT of mmpretrain, ``deit`` loads the weights of such a ViT, ``hook`` lets the branch fade out while
a model trains; ``rows`` the published models.

Shape legend, here and in every layer: B batch, N tokens, C channels, h heads, d = C / h.
"""
