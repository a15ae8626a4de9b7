"""The official code's answers, on weights that are a function of key and shape alone."""

import json
import zlib
from pathlib import Path

import numpy as np
import torch

DATA = Path(__file__).parents[1] / 'data'


def load(name):
    """(meta, answers): what was built, and the arrays that the official code answered."""
    with np.load(DATA / f'{name}.npz') as archive:
        answers = {key: archive[key] for key in archive.files}
    return json.loads(str(answers.pop('meta'))), answers


def state_dict(shapes):
    """The weights, under the official keys; the constant blur kernels are left out."""
    return {
        key: torch.from_numpy(_tensor(key, shape))
        for key, shape in shapes.items()
        if not key.endswith(('blur_filter', 'num_batches_tracked'))
    }


def fill(model):
    """Give a model the same kind of weights under its own keys: deterministic, far from its init."""
    state = {
        key: torch.from_numpy(_tensor(key, tuple(value.shape)))
        if value.is_floating_point()
        else value
        for key, value in model.state_dict().items()
    }
    model.load_state_dict(state)
    return model


def image(batch, height, width):
    """A normalised image batch, (batch, 3, height, width)."""
    values = np.random.RandomState(height * 10007 + width).randn(batch, 3, height, width)
    return torch.from_numpy(values.astype(np.float32))


def _tensor(key, shape):
    rng = np.random.RandomState(zlib.crc32(key.encode()))
    if key.endswith('running_mean'):
        values = 0.1 * rng.randn(*shape)
    elif key.endswith('running_var'):
        values = 0.5 + rng.rand(*shape)
    elif len(shape) > 1:
        values = rng.randn(*shape) / np.sqrt(np.prod(shape[1:]))
    else:
        values = 0.1 * rng.randn(*shape) + key.endswith('weight')
    return np.asarray(values, dtype=np.float32)
