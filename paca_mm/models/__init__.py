"""What the registry finds: importing this package registers the backbones.

The decode head stays outside, because it needs mmsegmentation; :mod:`paca_mm.registry` imports it
when somebody asks for it.
"""

from .backbones import PaCaViT

__all__ = ['PaCaViT']
