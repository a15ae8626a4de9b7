"""Backbones: torch, mmengine and op-less mmcv are all they need."""

from .paca_vit import PaCaViT

__all__ = ['PaCaViT']
