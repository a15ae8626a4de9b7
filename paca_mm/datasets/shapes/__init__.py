"""The embedded dataset: textured, overlapping shapes for detection, segmentation, classification.

Made from a seed, with the same pixels and the same annotations on every machine: the random numbers
come from NumPy's frozen legacy generator, the geometry is integer arithmetic, and PNG files lose
nothing. (Their bytes depend on the compressor.) The files, in the order of the work:

- ``outlines.py``: the classes, their outlines, and filling an outline on the pixel grid
- ``textures.py``: hues, colours and patterns
- ``polygons.py``: visible mask to COCO polygons that decode to the same mask (COCO's run lengths
  would take less code, but polygons are what users have, so the demo goes through them as well)
- ``scenes.py``: one image: arrange, reject what could not be annotated, paint
- ``dataset.py``: the three layouts on disk
- ``store.py``: make it once, complete or not at all; recognise what is there
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
