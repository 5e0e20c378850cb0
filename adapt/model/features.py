"""Audio file -> samples -> log-mel filterbank features, the input of the audio encoder."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import soundfile
import torch
from scipy.signal import resample_poly
from transformers.audio_utils import mel_filter_bank

from adapt.errors import UNREADABLE, DataError, no_samples, unreadable
from adapt.text.clip import Clip, check

SAMPLE_RATE = 16_000
N_FFT, WINDOW, HOP = 512, 400, 160  # 25 ms windows, every 10 ms
FLOOR = 1e-6
CANCELLED = 0.01  # share of the channels' power that their mixture has at least, or else they cancel each other
PAUSE = 0.2  # seconds of a pause at which a recording is cut; shorter silences occur within words
log = logging.getLogger(__name__)


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


class _Reader:
    """Reads the samples of a clip from its file, block by block. Raises `DataError` for NaN and infinity."""

    def __init__(self, clip: Clip, file: soundfile.SoundFile):
        check(clip, file)
        self.clip, self.file, self.cancelled = clip, file, False
        self.left = None if clip.seconds is None else round(clip.seconds * file.samplerate)
        if clip.start:
            file.seek(round(clip.start * file.samplerate))

    def read(self, count: int | None = None) -> np.ndarray:
        """The next `count` samples, or fewer at the end; None: all."""
        count = self.left if count is None else count if self.left is None else min(count, self.left)
        channels = self.file.read(-1 if count is None else count, dtype="float32", always_2d=True)
        if self.left is not None:
            self.left -= len(channels)
        if not np.isfinite(channels).all():
            raise DataError(f"{self.file.name}: holds samples that are NaN or infinite; record it again, or remove it")
        if self.clip.channel >= 0:
            return channels[:, self.clip.channel]
        samples = channels.mean(axis=1)
        if not self.cancelled and np.square(samples).mean() < CANCELLED * np.square(channels).mean():
            self.cancelled = True
            log.warning("%s: its channels cancel each other when they are mixed; choose a `channel`", self.clip.path)
        return samples


def resampled(samples: np.ndarray, rate: int, new_rate: int = SAMPLE_RATE) -> np.ndarray:
    """Samples at `rate` Hz, resampled to `new_rate` Hz."""
    return samples if rate == new_rate else resample_poly(samples, new_rate, rate).astype(np.float32)


def read_audio(clip: Clip | Path | str) -> np.ndarray:
    """Mono float32 samples at 16 kHz of a clip, or of any file that libsndfile reads (wav, flac, ogg, mp3).

    Raises `DataError` when the file is missing, empty or unreadable, or has no such part or channel.
    """
    clip = clip if isinstance(clip, Clip) else Clip(Path(clip))
    with _opened(clip.path) as file:
        samples, rate = _Reader(clip, file).read(), file.samplerate
    if not len(samples):
        raise DataError(no_samples(clip.path))
    return resampled(samples, rate)


def read_segments(clip: Clip | Path | str, max_seconds: float) -> Iterator[np.ndarray]:
    """The samples of `read_audio` in segments of at most `max_seconds`, one in memory at a time.

    A segment ends in the middle of the quietest `PAUSE` after its first quarter. Raises `DataError` as `read_audio`
    does.
    """
    clip = clip if isinstance(clip, Clip) else Clip(Path(clip))
    with _opened(clip.path) as file:
        rate, longest, reader = file.samplerate, int(max_seconds * file.samplerate), _Reader(clip, file)
        samples = reader.read(longest + 1)
        if not len(samples):
            raise DataError(no_samples(clip.path))
        while len(samples) > longest:
            cut = _quietest(samples[:longest], round(PAUSE * rate))
            yield resampled(samples[:cut], rate)
            samples = np.concatenate([samples[cut:], reader.read(cut)])
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
