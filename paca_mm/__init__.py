"""PaCa-ViT (Patch-to-Cluster attention, CVPR 2023) for OpenMMLab.

Importing the package imports nothing: mmengine finds the models by itself, through
:mod:`paca_mm.registry`, when a config says ``type='paca_mm.PaCaViT'``.
"""

__version__ = '0.1.0'
