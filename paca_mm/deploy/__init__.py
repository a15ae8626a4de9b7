"""Exported models where they work: neither torch nor OpenMMLab is needed, nor imported.

numpy, onnxruntime, and OpenCV or Pillow are::

    from paca_mm.deploy import load

    model = load('shapes.onnx')
    record = model('street.jpg')   # as a record of ``paca-mm infer``
"""

from .runtime import Exported, load

__all__ = ['Exported', 'load']
