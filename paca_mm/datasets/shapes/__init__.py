"""The embedded dataset: textured, overlapping shapes for detection, segmentation, classification.

Made from a seed with NumPy and the standard library alone, byte-identical on every machine: the
random numbers come from NumPy's frozen legacy generator, the geometry is integer arithmetic, and
the PNG files are written by our own writer. The files, in the order of the work:

- ``outlines.py``: the classes, their outlines, and filling an outline on the pixel grid
- ``textures.py``: hues, colours and patterns
- ``polygons.py``: visible mask to COCO polygons that decode to the same mask
- ``scenes.py``: one image: arrange, reject what could not be annotated, paint
- ``png.py``: PNG without a compressor
- ``dataset.py``: the three layouts on disk
- ``store.py``: make it once, atomically; recognise what is there
"""

from .dataset import SEG_CLASSES, ShapesSpec
from .outlines import CLASSES
from .store import DEFAULT_DIR, ensure_shapes, make_shapes, read_info

__all__ = [
    'CLASSES',
    'DEFAULT_DIR',
    'SEG_CLASSES',
    'ShapesSpec',
    'ensure_shapes',
    'make_shapes',
    'read_info',
]
