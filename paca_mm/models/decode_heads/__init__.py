"""Decode heads, the only part of paca_mm that needs mmsegmentation.

:mod:`paca_mm.registry` imports this package when ``type='paca_mm.PaCaHead'`` is asked for.
"""

from .paca_head import PaCaHead

__all__ = ['PaCaHead']
