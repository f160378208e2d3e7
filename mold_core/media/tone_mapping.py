"""Convert HDR video frames (BT.2020 with PQ or HLG) to SDR: BT.709 primaries, reference white of 203 cd/m².

Luminance up to about 96 cd/m² is exact. Highlights up to 1,000 cd/m² are compressed towards white.

Sources: ITU-R BT.2100-2 (PQ, HLG with its OOTF), BT.2390-8 §5.4 (curve of the highlights), BT.2408-4 (reference
white), BT.2087 (primaries), BT.1886 (gamma 2.4 of an SDR display).
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["to_sdr"]

_WHITE_NITS = 203.0
_PEAK_NITS = 1000.0
_HLG_GAMMA = 1.2
_SDR_GAMMA = 2.4
_TO_BT709 = np.array(
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]], dtype=np.float32
)
_LUMINANCE = np.array([0.2627, 0.6780, 0.0593], dtype=np.float32)

# PERF: a table of 12 bits resolves video of 10 and 12 bits; computing powers per sample takes ten times as long.
_SIGNAL_BITS = 12
_LEVELS = 4096
_BAND_PIXELS = 1 << 18  # limits the memory for float32 values


def to_sdr(pixels: NDArray[np.uint16], transfer: Literal["pq", "hlg"]) -> NDArray[np.uint8]:
    """Convert RGB samples uint16 [H, W, 3] of BT.2020 to uint8 of BT.709."""
    height, width, _ = pixels.shape
    result = np.empty((height, width, 3), np.uint8)
    rows = max(_BAND_PIXELS // width, 1)
    for first in range(0, height, rows):
        band = _linear(pixels[first : first + rows], transfer) @ _TO_BT709.T
        peak = np.maximum(band.max(axis=-1, keepdims=True), 0)
        band *= _gains()[_index(peak)]
        result[first : first + rows] = _codes()[_index(band)]
    return result


def _linear(pixels: NDArray[np.uint16], transfer: Literal["pq", "hlg"]) -> NDArray[np.float32]:
    """Return light relative to the peak, 0 to 1."""
    light: NDArray[np.float32] = _light(transfer)[pixels >> (16 - _SIGNAL_BITS)]
    if transfer == "hlg":
        light *= np.power(light @ _LUMINANCE, np.float32(_HLG_GAMMA - 1))[..., None]
    return light


def _index(light: Any) -> Any:
    """Return the index into a table that is spaced by the fourth root of light."""
    return (np.sqrt(np.sqrt(np.clip(light, 0, 1))) * (_LEVELS - 1) + 0.5).astype(np.uint16)


def _spaced() -> NDArray[np.float64]:
    return np.linspace(0, 1, _LEVELS) ** 4


@cache
def _light(transfer: Literal["pq", "hlg"]) -> NDArray[np.float32]:
    signal = np.linspace(0, 1, 1 << _SIGNAL_BITS)
    if transfer == "pq":
        return np.minimum(_pq_nits(signal) / _PEAK_NITS, 1).astype(np.float32)
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    return np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12).astype(np.float32)


@cache
def _gains() -> NDArray[np.float32]:
    """Return the factors for light, indexed by the brightest of its three components."""
    light = np.maximum(_spaced(), 1e-9)
    return (_compressed(light * _PEAK_NITS) / (light * _PEAK_NITS)).astype(np.float32)


@cache
def _codes() -> NDArray[np.uint8]:
    """Return the SDR codes, indexed by light."""
    display = np.minimum(_spaced() * _PEAK_NITS / _WHITE_NITS, 1)
    return np.round(255 * display ** (1 / _SDR_GAMMA)).astype(np.uint8)


def _compressed(nits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Map luminance up to `_PEAK_NITS` to luminance up to `_WHITE_NITS`: unchanged, then a Hermite spline."""
    source_peak = _pq_signal(np.array(_PEAK_NITS))
    signal = _pq_signal(nits) / source_peak
    most = _pq_signal(np.array(_WHITE_NITS)) / source_peak
    knee = 1.5 * most - 0.5
    t = np.clip((signal - knee) / (1 - knee), 0, 1)
    spline = (2 * t**3 - 3 * t**2 + 1) * knee + (t**3 - 2 * t**2 + t) * (1 - knee) + (-2 * t**3 + 3 * t**2) * most
    return _pq_nits(np.where(signal < knee, signal, spline) * source_peak)


_M1, _M2 = 2610 / 16384, 2523 / 32
_C1, _C2, _C3 = 3424 / 4096, 2413 / 128, 2392 / 128


def _pq_nits(signal: NDArray[np.float64]) -> NDArray[np.float64]:
    power = signal ** (1 / _M2)
    return 10_000 * (np.maximum(power - _C1, 0) / (_C2 - _C3 * power)) ** (1 / _M1)


def _pq_signal(nits: NDArray[np.float64]) -> NDArray[np.float64]:
    power = (nits / 10_000) ** _M1
    return ((_C1 + _C2 * power) / (1 + _C3 * power)) ** _M2
