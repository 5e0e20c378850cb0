"""Audio file -> samples -> log-mel filterbank features, the input of the audio encoder."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import soundfile
import torch
from scipy.signal import resample_poly
from transformers.audio_utils import mel_filter_bank

from adapt.errors import UNREADABLE, DataError, no_samples, unreadable

SAMPLE_RATE = 16_000
N_FFT, WINDOW, HOP = 512, 400, 160  # 25 ms windows, every 10 ms
FLOOR = 1e-6
PAUSE = 0.2  # seconds of a pause at which a recording is cut; shorter silences occur within words


@contextmanager
def _opened(path: Path | str) -> Iterator[soundfile.SoundFile]:
    """An open audio file. Raises `DataError` if opening or reading it fails."""
    try:
        file = soundfile.SoundFile(path)
    except UNREADABLE as error:
        raise DataError(unreadable(path)) from error
    try:
        with file:
            yield file
    except (OSError, soundfile.LibsndfileError) as error:
        raise DataError(unreadable(path)) from error


def _mono(file: soundfile.SoundFile, frames: int = -1) -> np.ndarray:
    """The next `frames` samples (-1: all), mean over the channels. Raises `DataError` for NaN and infinity."""
    samples = file.read(frames, dtype="float32", always_2d=True).mean(axis=1)
    if not np.isfinite(samples).all():
        raise DataError(f"{file.name}: holds samples that are NaN or infinite; record it again, or remove it")
    return samples


def resampled(samples: np.ndarray, rate: int, new_rate: int = SAMPLE_RATE) -> np.ndarray:
    """Samples at `rate` Hz, resampled to `new_rate` Hz."""
    return samples if rate == new_rate else resample_poly(samples, new_rate, rate).astype(np.float32)


def read_audio(path: Path | str) -> np.ndarray:
    """Mono float32 samples at 16 kHz of any file that libsndfile reads (wav, flac, ogg, mp3).

    Raises `DataError` when the file is missing, empty or unreadable.
    """
    with _opened(path) as file:
        samples, rate = _mono(file), file.samplerate
    if not len(samples):
        raise DataError(no_samples(path))
    return resampled(samples, rate)


def read_segments(path: Path | str, max_seconds: float) -> Iterator[np.ndarray]:
    """The samples of `read_audio` in segments of at most `max_seconds`, one in memory at a time.

    A segment ends in the middle of the quietest `PAUSE` after its first quarter. Raises `DataError` as `read_audio`
    does.
    """
    with _opened(path) as file:
        rate, longest = file.samplerate, int(max_seconds * file.samplerate)
        samples = _mono(file, longest + 1)
        if not len(samples):
            raise DataError(no_samples(path))
        while len(samples) > longest:
            cut = _quietest(samples[:longest], round(PAUSE * rate))
            yield resampled(samples[:cut], rate)
            samples = np.concatenate([samples[cut:], _mono(file, cut)])
        yield resampled(samples, rate)


def _quietest(samples: np.ndarray, window: int) -> int:
    """The middle of the window of `window` samples with the least energy, after the first quarter of `samples`."""
    first = len(samples) // 4
    energy = np.cumsum(np.square(samples[first:], dtype=np.float64))
    return first + int(np.argmin(energy[window:] - energy[:-window])) + window // 2


@functools.cache
def _filters(bins: int, device: torch.device) -> torch.Tensor:
    """The mel filterbank `[bins, N_FFT / 2 + 1]`."""
    filters = mel_filter_bank(N_FFT // 2 + 1, bins, 20.0, 7_600.0, SAMPLE_RATE, mel_scale="htk")
    return torch.from_numpy(filters.T.astype(np.float32)).to(device)


def pad(rows: Sequence[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
    """Recordings as one zero-padded batch of samples `[batch, length]`, and their lengths `[batch]`."""
    batch = torch.nn.utils.rnn.pad_sequence([torch.from_numpy(row) for row in rows], batch_first=True)
    return batch, torch.tensor([len(row) for row in rows])


def rows(samples: torch.Tensor, lengths: torch.Tensor) -> list[np.ndarray]:
    """The samples of each recording of a batch without the padding: the inverse of `pad`."""
    return [row[:n].numpy() for row, n in zip(samples.cpu(), lengths.tolist(), strict=True)]


def log_mel(samples: torch.Tensor, lengths: torch.Tensor, bins: int = 80) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-mel energies with mean 0 and standard deviation 1 in each bin over each utterance.

    samples, lengths: as `pad` returns them, `[batch, length]` and `[batch]`. Returns features `[batch, frames, bins]`,
    zero beyond each utterance, and their boolean mask `[batch, frames]`. There is one frame every 10 ms, centred, with
    silence around the recording. The features of an utterance do not depend on its batch.
    """
    window = torch.hann_window(WINDOW, device=samples.device)
    spectrum = torch.stft(samples, N_FFT, HOP, WINDOW, window, pad_mode="constant", return_complex=True)
    power = torch.view_as_real(spectrum).square().sum(-1)  # abs() would compute a square root first
    energies = torch.log(_filters(bins, samples.device) @ power + FLOOR).transpose(1, 2)
    frames = (lengths // HOP + 1).to(samples.device)
    mask = torch.arange(energies.shape[1], device=samples.device)[None] < frames[:, None]
    inside, count = mask[..., None], frames[:, None, None]
    centred = (energies - (energies * inside).sum(1, keepdim=True) / count) * inside
    deviation = (centred.square().sum(1, keepdim=True) / (count - 1).clamp_min(1)).sqrt()
    return centred / (deviation + 1e-3), mask
