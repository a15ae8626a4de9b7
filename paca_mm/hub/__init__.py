"""Models as folders in the layout of the HuggingFace hub: a config, weights, a card.

>>> from paca_mm import hub
>>> hub.save('my_model', 'configs/cls/paca_shapes.py', 'epoch_25.pth')  # doctest: +SKIP
>>> model = hub.load('my_model')  # doctest: +SKIP

A folder holds a backbone of this suite, or a classifier, segmentor or detector of the hosts that is made
of the parts that the configs of this suite name. ``config.json`` is data: nothing but these parts is
built from it, and the weights of ``model.safetensors`` are tensors. See docs/hub.md.
"""

from .folder import load, save
from .parts import PARTS, check_parts

__all__ = ['PARTS', 'check_parts', 'load', 'save']
