"""Says whether a clip's sound goes with what it shows: the judge of what ltx2-nano lets one hear."""

import numpy as np
from clips import pitch_of

_WINDOW_S = 0.05
# How far, in seconds, a tick may be from the moment that a ball turns upwards: a frame and a spectrum or two.
_NEAR_S = 0.13


def fits(kind: str, track: np.ndarray, fps: float, samples: np.ndarray, rate: int) -> bool:
    """Returns whether sound [2, S] is that of a thing with a track [F, 2]."""
    wave = samples.mean(0)
    if kind == "ball":
        return ticks_fit(track, fps, wave, rate)
    if kind == "balloon":
        return tone_fits(track, fps, wave, rate)
    pitches, flat = pitches_of(wave, rate), flatness(wave, rate)
    if kind == "car":
        return flat < 0.05 and abs(np.median(pitches) / 110 % 1 - 0.5) > 0.25
    return kind == "boat" and flat > 0.05


def loudness(wave: np.ndarray, rate: int, window_s: float) -> np.ndarray:
    """Returns the root mean square of each window."""
    size = round(rate * window_s)
    return np.sqrt(np.square(wave[: len(wave) // size * size]).reshape(-1, size).mean(1))


def ticks_fit(track: np.ndarray, fps: float, wave: np.ndarray, rate: int) -> bool:
    """Returns whether there is a tick, and only then, wherever the ball turns upwards."""
    window_s = 0.02
    loud = loudness(wave, rate, window_s)
    if loud.max() < 0.02:
        return False
    rising = loud[1:] - loud[:-1]
    ticks: list[float] = []
    for index in np.argsort(-rising):
        if rising[index] < 0.35 * rising.max():
            break
        moment = (index + 1) * window_s
        if all(abs(moment - other) > 0.3 for other in ticks):
            ticks.append(moment)
    y = track[:, 1]
    turns = [
        index / fps
        for index in range(1, len(y) - 1)
        if not np.isnan(y[index - 1 : index + 2]).any() and y[index] >= y[index - 1] and y[index] > y[index + 1]
        and y[index] > np.nanmax(y) - 0.25
    ]  # fmt: skip
    end = (len(y) - 1) / fps
    inner = [tick for tick in ticks if 0.15 < tick < end - 0.15]
    heard = all(min((abs(turn - tick) for tick in ticks), default=9.0) < _NEAR_S for turn in turns)
    seen = all(min((abs(turn - tick) for turn in turns), default=9.0) < _NEAR_S for tick in inner)
    return bool(turns) and heard and seen


def spectra(wave: np.ndarray, rate: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns frequencies in Hz and the magnitudes of windows of 50 ms, 60 Hz to 3 kHz."""
    size = round(rate * _WINDOW_S)
    windows = wave[: len(wave) // size * size].reshape(-1, size) * np.hanning(size)
    padded = 1 << 13
    magnitudes = np.abs(np.fft.rfft(windows, padded))
    frequencies = np.fft.rfftfreq(padded, 1 / rate)
    inside = (frequencies > 60) & (frequencies < 3000)
    return frequencies[inside], magnitudes[:, inside]


def pitches_of(wave: np.ndarray, rate: int) -> np.ndarray:
    """Returns the strongest frequency of each window, in Hz."""
    frequencies, magnitudes = spectra(wave, rate)
    return frequencies[magnitudes.argmax(1)]


def flatness(wave: np.ndarray, rate: int) -> float:
    """Returns how much a sound is noise: its spectra's geometric over their arithmetic mean, near 0 for tones."""
    _, magnitudes = spectra(wave, rate)
    return float(np.median(np.exp(np.log(magnitudes + 1e-7).mean(1)) / (magnitudes.mean(1) + 1e-7)))


def tone_fits(track: np.ndarray, fps: float, wave: np.ndarray, rate: int) -> bool:
    """Returns whether the tone is as high as the balloon, to an eighth of an octave and a half at the median."""
    pitches = pitches_of(wave, rate)
    moments = (np.arange(len(pitches)) + 0.5) * _WINDOW_S
    middles = np.interp(moments, np.arange(len(track)) / fps, track[:, 1])
    wanted = np.array([pitch_of(middle + 0.24) for middle in middles])
    seen = ~np.isnan(wanted)
    return bool(seen.any()) and float(np.median(np.abs(np.log2(pitches[seen] / wanted[seen])))) < 0.19
