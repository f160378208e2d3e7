"""Spectra are those of the reference: Slaney's mel bands, magnitudes, logarithms."""

from __future__ import annotations

import numpy as np
import torch
from transformers.audio_utils import mel_filter_bank, spectrogram, window_function

from mold_ltx2.spectrum import log_mel


def test_spectra_are_those_of_a_reference() -> None:
    waves = torch.randn(2, 8000, generator=torch.Generator().manual_seed(0)) * 0.1
    ours = log_mel(waves, sample_rate=16_000, hop=160, bands=64)
    bands = mel_filter_bank(513, 64, 0.0, 8000.0, 16_000, norm="slaney", mel_scale="slaney")
    for wave, made in zip(waves, ours, strict=True):
        theirs = spectrogram(
            wave.numpy(),
            window_function(1024, "hann"),
            frame_length=1024,
            hop_length=160,
            power=1.0,
            mel_filters=bands,
            mel_floor=1e-5,
            log_mel="log",
        )
        assert made.shape == (51, 64)
        assert np.allclose(made.numpy(), theirs.T, atol=1e-4)


def test_silence_is_the_floor() -> None:
    assert torch.allclose(log_mel(torch.zeros(1, 4000), sample_rate=16_000, hop=160, bands=16), torch.tensor(-11.5129))
