"""Radially averaged power spectra on one axis of frequency, for images and feature maps.

Frequencies are counted in the pixels of the network's input, whatever the stride of a map: a map of
h x w positions over an image of H x W pixels has the modes (k_y / H, k_x / W) cycles per pixel, with
k_y and k_x from minus half to half of its positions. So the curves of an image and of all stages lie
on one axis. It is counted in octaves: 0 is the Nyquist frequency of the image, 1/2 cycle per pixel,
-1 is half of it. A map of stride s ends at the octave -log2(s).

Legend: B samples, C channels, h and w positions, H and W pixels, n rows (samples), b bins.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from paca_mm.errors import UserError

WINDOWS = ('hann', 'none')

#: Bins of the curves: half an octave each. Two neighbouring radii of a square grid are never further
#: apart than that, so no bin above one cycle per image is empty.
BINS_PER_OCTAVE = 2

#: Power of a bin below this share of the strongest bin counts as this share: a logarithm needs it.
FLOOR = 1e-12

#: The 95 % of a normal distribution, in standard errors.
_NORMAL_95 = 1.96

_ROUNDING = 1e-9

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Spectrum:
    """Spectra of n samples, a row each.

    Attributes:
        octaves: (b,) the centres of the bins in octaves, ascending.
        density: (n, b) mean power of a bin's modes, in variance per (cycle per pixel)^2: white noise
            of variance 1 in every pixel has 1 everywhere.
        positions: (b,) where the modes of a bin lie on the average, in octaves.
        bands: The octaves by number, ascending in frequency: band j holds the frequencies from
            1/2 * 2^-(j + 1) to 1/2 * 2^-j cycles per pixel. A map's last band also holds its Nyquist
            frequency and the corners of the frequency plane beyond it.
        energy: (n, bands) the sum of a band's modes. Over all bands that is the variance of the map,
            weighted by the square of the window (Parseval), as the mean over the channels.
        lowest: The octave of 2 cycles per image, below which no slope is fitted.
        highest: The octave of the map's Nyquist frequency.
    """

    octaves: Array
    density: Array
    positions: Array
    bands: tuple[int, ...]
    energy: Array
    lowest: float
    highest: float

    @property
    def variance(self) -> Array:
        """(n,) the variance of each sample, the mean over its channels."""
        return self.energy.sum(1)

    @property
    def db(self) -> Array:
        """(n, b) the density in decibels."""
        strongest = self.density.max(1, keepdims=True)
        return 10 * np.log10(np.maximum(self.density, FLOOR * strongest))

    @property
    def shares(self) -> Array:
        """(n, bands) the energy of each band as a share of all."""
        return self.energy / self.energy.sum(1, keepdims=True)

    @property
    def slopes(self) -> Array | None:
        """(n,) the exponent of a power law in the power: -2 for an amplitude of 1 / frequency.

        A least-squares line through the bins between 2 cycles per image and the Nyquist frequency;
        None where these are less than three.
        """
        inside = (self.octaves >= self.lowest - _ROUNDING) & (
            self.octaves <= self.highest + _ROUNDING
        )
        if inside.sum() < 3:
            return None
        per_octave = np.polyfit(self.positions[inside], self.db[:, inside].T, 1)[0]
        return per_octave / (10 * math.log10(2))

    def with_detail(self) -> 'Spectrum | None':
        """The samples that are not of one value all over; None if there is no other."""
        kept = self.variance > 0
        if not kept.any():
            return None
        return Spectrum(
            self.octaves, self.density[kept], self.positions, self.bands, self.energy[kept],
            self.lowest, self.highest,
        )  # fmt: skip


def spectrum_of(maps: Tensor, size: tuple[int, int], window: str = 'hann') -> Spectrum:
    """The spectra of a batch of maps, each the mean over its channels.

    Every channel loses its mean (weighted by the window, so that nothing is left at frequency 0), is
    multiplied by the window and transformed. The window is Hann's, sin^2(pi (i + 1/2) / N) along each
    side: without it the jump between opposite borders, which a periodic transform sees, adds a cross
    of high frequencies to every image. It is scaled to leave the power of white noise as it is.

    Args:
        maps: (B, C, h, w), with at least two positions a side.
        size: H and W of the network's input in pixels; of an image its own height and width.
        window: ``'hann'`` or ``'none'``.

    Raises:
        UserError: The window is unknown, or a map holds what is not a finite number.
    """
    if window not in WINDOWS:
        raise UserError(f'window={window!r} is unknown: choose one of {", ".join(WINDOWS)}.')
    if maps.ndim != 4 or min(maps.shape[2:]) < 2:
        raise ValueError(f'maps (B, C, h, w) of 2 x 2 positions at least, not {tuple(maps.shape)}')
    samples, _, height, width = maps.shape
    x = maps.detach().cpu().double()
    if not torch.isfinite(x).all():
        raise UserError(
            'a map holds values that are not finite (nan or inf): the weights are damaged, or the '
            'training that they are from had diverged. Take an earlier checkpoint.'
        )
    weight = _window(height, width, window)
    x = x - (weight * x).sum((2, 3), keepdim=True) / weight.sum()
    # What rounding leaves of a map of one value is nothing.
    level = 1e-24 * maps.detach().cpu().double().square().mean((2, 3), keepdim=True)
    x = torch.where(x.square().mean((2, 3), keepdim=True) > level, x, torch.zeros_like(x))

    power = torch.fft.fft2(weight * x).abs().square()
    power = power / (height * width * weight.square().sum())
    power = power.mean(1).flatten(1)  # B, h * w

    modes = _modes(height, width, *size)
    sums = torch.zeros(samples, len(modes.octaves) + 1, dtype=x.dtype)
    sums.index_add_(1, modes.bin_of, power)
    energy = torch.zeros(samples, len(modes.bands) + 1, dtype=x.dtype)
    energy.index_add_(1, modes.band_of, power)
    return Spectrum(
        octaves=modes.octaves,
        density=sums[:, :-1].numpy() / modes.counts * size[0] * size[1],
        positions=modes.positions,
        bands=modes.bands,
        energy=energy[:, :-1].numpy(),
        lowest=math.log2(2 * 2 / min(size)),
        highest=modes.nyquist,
    )


def _window(height: int, width: int, kind: str) -> Tensor:
    sides = []
    for length in (height, width):
        at = (torch.arange(length, dtype=torch.float64) + 0.5) / length
        sides.append(torch.sin(math.pi * at).square() if kind == 'hann' else torch.ones_like(at))
    return torch.outer(*sides)


class _Modes(NamedTuple):
    """To which bin and which band every mode of a transform belongs; the last of each is none."""

    octaves: Array
    counts: Array
    positions: Array
    bin_of: Tensor
    bands: tuple[int, ...]
    band_of: Tensor
    nyquist: float


@lru_cache(maxsize=256)
def _modes(height: int, width: int, image_height: int, image_width: int) -> _Modes:
    ky = np.fft.fftfreq(height)[:, None] * height / image_height
    kx = np.fft.fftfreq(width)[None, :] * width / image_width
    radius = np.sqrt(ky**2 + kx**2).ravel()  # cycles per pixel
    octave = np.log2(2 * np.maximum(radius, 1e-300))
    nyquist = math.log2(min(height / image_height, width / image_width))

    number = np.floor(octave * BINS_PER_OCTAVE + 0.5 + _ROUNDING)
    # Circles beyond the Nyquist frequency are cut by the square: the curve ends there.
    inside = (radius > 0) & (number <= nyquist * BINS_PER_OCTAVE + 0.5 - _ROUNDING)
    numbers, bin_of = np.unique(number[inside], return_inverse=True)
    counts = np.bincount(bin_of).astype(np.float64)
    positions = np.bincount(bin_of, octave[inside]) / counts
    every_bin = np.full(radius.size, len(numbers))
    every_bin[inside] = bin_of

    last = -math.floor(nyquist - _ROUNDING) - 1
    band = np.maximum(-np.floor(octave + _ROUNDING) - 1, last)
    first = int(band[radius > 0].max())
    bands = tuple(range(first, last - 1, -1))
    band_of = np.where(radius > 0, first - band, len(bands)).astype(np.int64)
    return _Modes(
        octaves=numbers / BINS_PER_OCTAVE,
        counts=counts,
        positions=positions,
        bin_of=torch.from_numpy(every_bin),
        bands=bands,
        band_of=torch.from_numpy(band_of),
        nyquist=nyquist,
    )


def join(spectra: Sequence[Spectrum]) -> Spectrum:
    """The rows of several spectra, on the bins that all of them have."""
    octaves = sorted(set.intersection(*({*s.octaves.tolist()} for s in spectra)))
    bands = tuple(sorted({band for s in spectra for band in s.bands}, reverse=True))
    columns = [[s.octaves.tolist().index(octave) for octave in octaves] for s in spectra]
    energy = []
    for s in spectra:
        rows = np.zeros((len(s.energy), len(bands)))
        rows[:, [bands.index(band) for band in s.bands]] = s.energy
        energy.append(rows)
    pairs = [*zip(spectra, columns, strict=True)]
    return Spectrum(
        octaves=np.array(octaves),
        density=np.concatenate([s.density[:, c] for s, c in pairs]),
        positions=np.mean([s.positions[c] for s, c in pairs], axis=0),
        bands=bands,
        energy=np.concatenate(energy),
        lowest=max(s.lowest for s in spectra),
        highest=min(s.highest for s in spectra),
    )


class Band(NamedTuple):
    """A mean, and the band around it: numbers, or one of each for every bin."""

    mean: Any
    low: Any
    high: Any


@dataclass(frozen=True)
class Curve:
    """What many spectra have in common.

    Attributes:
        octaves: (b,) the centres of the bins in octaves.
        db: (b,) the mean of the logarithms, in decibels.
        bands: The octaves by number, as in :class:`Spectrum`.
        shares: (bands,) the energy of each as a share of all.
        slope: The exponent of the power, or None where there are too few bins.
        variance: The mean variance.
        rows: How many samples or seeds it is of.
    """

    octaves: Array
    db: Band
    bands: tuple[int, ...]
    shares: Band
    slope: Band | None
    variance: float
    rows: int

    @classmethod
    def of_images(cls, spectrum: Spectrum) -> 'Curve':
        """The mean over images; the band is 1.96 standard errors of the mean to either side (95 %)."""
        slopes = spectrum.slopes
        return cls(
            octaves=spectrum.octaves,
            db=_error(spectrum.db),
            bands=spectrum.bands,
            shares=_error(spectrum.shares),
            slope=None if slopes is None else _error(slopes),
            variance=float(spectrum.variance.mean()),
            rows=len(spectrum.density),
        )

    @classmethod
    def of_seeds(cls, curves: Sequence['Curve']) -> 'Curve':
        """The mean over networks of different seeds; the band is from the least to the largest."""
        slopes = [curve.slope.mean for curve in curves if curve.slope is not None]
        return cls(
            octaves=curves[0].octaves,
            db=_range([curve.db.mean for curve in curves]),
            bands=curves[0].bands,
            shares=_range([curve.shares.mean for curve in curves]),
            slope=_range(slopes) if slopes else None,
            variance=float(np.mean([curve.variance for curve in curves])),
            rows=len(curves),
        )


def _error(rows: Array) -> Band:
    mean = rows.mean(0)
    error = np.zeros_like(mean)
    if len(rows) > 1:
        error = _NORMAL_95 * rows.std(0, ddof=1) / math.sqrt(len(rows))
    return Band(mean, mean - error, mean + error)


def _range(rows: Sequence[Any]) -> Band:
    return Band(np.mean(rows, 0), np.min(rows, 0), np.max(rows, 0))


def distance(a: Curve | None, b: Curve | None) -> float | None:
    """How far the shapes of two curves are apart, in decibels.

    Both are cut to the bins that they share and lose their mean there, so that the scale of the
    values is no matter; what is left is compared by the mean absolute difference (L1). 0 is the same
    shape; 3 dB is a factor of 2 in the power of the mean bin.

    Returns:
        None where less than two bins are shared, or a curve is missing.
    """
    if a is None or b is None:
        return None
    shared = np.intersect1d(a.octaves, b.octaves)
    if len(shared) < 2:
        return None
    shapes = []
    for curve in (a, b):
        db = curve.db.mean[np.isin(curve.octaves, shared)]
        shapes.append(db - db.mean())
    return float(np.abs(shapes[0] - shapes[1]).mean())


def mean_distance(pairs: Sequence[tuple[Curve | None, Curve | None]]) -> float | None:
    """The mean of :func:`distance` over the pairs that have one; None if none has."""
    found = [d for a, b in pairs if (d := distance(a, b)) is not None]
    return sum(found) / len(found) if found else None
