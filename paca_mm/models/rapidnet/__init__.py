"""RapidNet: multi-level dilated convolutions for mobile devices (Munir et al., WACV 2025).

In forward order: ``conv`` (convolution, norm, activation), ``inverted``, ``cpe``, ``mldc`` are the
paper's layers; ``archs`` its sizes; ``backbone``, ``two_heads``, ``cls_head``, ``distill`` the models.

Shape legend, here and in every layer: B batch, H and W height and width of a feature map, C channels.
"""
