"""Images that are made up."""

import numpy as np


def textured(height, width, seed=0):
    """Smooth gradients with noise on top: both what resizing keeps and what it loses."""
    rng = np.random.RandomState(seed)
    y, x = np.mgrid[:height, :width]
    ramps = np.stack([x * 255 // width, y * 255 // height, (x + y) % 256], -1)
    return ((ramps + rng.randint(0, 96, (height, width, 3))) % 256).astype(np.uint8)
