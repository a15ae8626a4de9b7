"""Attentive Normalization: an affine part that is mixed per image (Li et al., ECCV 2020).

In forward order: ``statistics`` (moments of every channel of every image, and across processes),
``attention`` (the weights of the mixture), ``norms`` (the layers); ``replace`` puts them into any
model of a host. ``plain`` is the equations one by one, to compare with.

Shape legend, here and in every layer: B batch, C channels, H and W height and width of a feature
map, n = H * W positions, K affine pairs of the mixture.
"""
