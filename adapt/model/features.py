"""Audio file -> samples -> log-mel filterbank, the input of the audio encoder."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import soundfile
import torch
from scipy.signal import resample_poly
from transformers.audio_utils import mel_filter_bank

from adapt.errors import DataError

SAMPLE_RATE = 16_000
N_FFT, WINDOW, HOP = 512, 400, 160  # 25 ms windows, every 10 ms
FLOOR = 1e-6


def read_audio(path: Path | str) -> np.ndarray:
    """Mono float32 samples at 16 kHz of any file that libsndfile reads (wav, flac, ogg, mp3).

    Raises `DataError` when the file is missing, empty or unreadable.
    """
    try:
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except (OSError, soundfile.LibsndfileError) as error:
        reason = "no such file" if not Path(path).exists() else "not readable as audio"
        raise DataError(f"{path}: {reason}; give a wav, flac, ogg or mp3 file") from error
    if not len(samples):
        raise DataError(f"{path}: holds no samples; record it again or take it out of the manifest")
    samples = samples.mean(axis=1)
    return samples if rate == SAMPLE_RATE else resample_poly(samples, SAMPLE_RATE, rate).astype(np.float32)


@functools.cache
def _filters(bins: int) -> torch.Tensor:
    filters = mel_filter_bank(N_FFT // 2 + 1, bins, 20.0, 7_600.0, SAMPLE_RATE, mel_scale="htk")
    return torch.from_numpy(filters.T.astype(np.float32))


def log_mel(samples: np.ndarray, bins: int = 80) -> torch.Tensor:
    """Log-mel energies, mean 0 and deviation 1 per bin over the utterance, float32 `[frames, bins]`.

    One frame every 10 ms. Audio shorter than one window is padded with silence to one.
    """
    if len(samples) < WINDOW:
        samples = np.pad(samples, (0, WINDOW - len(samples)))
    spectrum = torch.stft(torch.from_numpy(samples), N_FFT, HOP, WINDOW, torch.hann_window(WINDOW), return_complex=True)
    energies = torch.log(_filters(bins) @ spectrum.abs().square() + FLOOR).T
    return (energies - energies.mean(0)) / (energies.std(0) + 1e-3)


def pad_features(features: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Features of several utterances as one batch `[batch, frames, bins]` and its boolean mask `[batch, frames]`."""
    batch = torch.nn.utils.rnn.pad_sequence(features, batch_first=True)
    lengths = torch.tensor([len(f) for f in features])
    return batch, torch.arange(batch.shape[1])[None] < lengths[:, None]
