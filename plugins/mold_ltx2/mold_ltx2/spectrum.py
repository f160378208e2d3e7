"""The input of the audio autoencoder: log-mel spectra with Slaney's bands (Slaney 1998, Auditory Toolbox).

Source of the numbers: Lightricks' AudioProcessor, which is torchaudio's MelSpectrogram with Slaney's scale and norm,
power 1 and a window of 1024 samples at a hop of 160.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

__all__ = ["log_mel"]

# A window's length in hops.
_WINDOW_HOPS = 6.4

_SILENCE = 1e-5

# Slaney's scale: steps of 200/3 Hz up to 1 kHz, equal ratios above, of which 27 are a factor of 6.4.
_LINEAR_HZ = 200 / 3
_LINEAR_TO_HZ = 1000.0
_LINEAR_STEPS = _LINEAR_TO_HZ / _LINEAR_HZ
_STEPS, _FACTOR = 27, 6.4


def log_mel(waves: Tensor, *, sample_rate: int, hop: int, bands: int) -> Tensor:
    """Return the spectra [..., samples // hop + 1, bands] of audio [..., samples]."""
    window = round(_WINDOW_HOPS * hop)
    spectra = torch.stft(
        waves.flatten(0, -2),
        window,
        hop,
        window=torch.hann_window(window, device=waves.device),
        pad_mode="reflect",
        return_complex=True,
    )
    mel = spectra.abs().transpose(1, 2) @ _bands(sample_rate, window, bands).to(waves)
    logarithms: Tensor = mel.clamp(min=_SILENCE).log().unflatten(0, waves.shape[:-1])
    return logarithms


@lru_cache(maxsize=4)
def _bands(sample_rate: int, window: int, bands: int) -> Tensor:
    """Return the weight of each frequency in each band [window // 2 + 1, bands]: triangles of equal area."""
    top = torch.tensor(sample_rate / 2, dtype=torch.float64)
    edges = _hertz(torch.linspace(0, float(_mel(top)), bands + 2, dtype=torch.float64))
    frequencies = torch.linspace(0, float(top), window // 2 + 1, dtype=torch.float64)[:, None]
    rising = (frequencies - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - frequencies) / (edges[2:] - edges[1:-1])
    return (torch.minimum(rising, falling).clamp(min=0) * 2 / (edges[2:] - edges[:-2])).float()


def _mel(hertz: Tensor) -> Tensor:
    above = _LINEAR_STEPS + _STEPS * torch.log(hertz / _LINEAR_TO_HZ) / torch.log(torch.tensor(_FACTOR))
    return torch.where(hertz < _LINEAR_TO_HZ, hertz / _LINEAR_HZ, above)


def _hertz(mel: Tensor) -> Tensor:
    above = _LINEAR_TO_HZ * _FACTOR ** ((mel - _LINEAR_STEPS) / _STEPS)
    return torch.where(mel < _LINEAR_STEPS, mel * _LINEAR_HZ, above)
