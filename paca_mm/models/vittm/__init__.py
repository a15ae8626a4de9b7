"""ViTTM: Vision Transformers with a memory of tokens (Jajal et al., WACV 2025).

In forward order: ``embed`` (patches to tokens, with positions), ``linear_attention`` (how one stream
reads the other), ``vit`` (what processes the few tokens), ``block`` (read, process, write); ``archs``
its sizes; ``backbone``, ``two_heads``, ``cls_head``, ``accuracy`` the models.

Shape legend, here and in every layer: B batch, H and W height and width of a grid of tokens, N = H * W
tokens of it, C channels, h heads. The *process* tokens are the ones that a ViT block computes with; the
*memory* tokens are only read and written.
"""
