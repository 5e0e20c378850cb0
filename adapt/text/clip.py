"""The audio of an utterance: a file, or a part or a channel of one."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from adapt.errors import UNREADABLE, DataError, no_samples, unreadable

if TYPE_CHECKING:
    from soundfile import SoundFile

RATES = (2_000, 1_000_000)  # samples a second
DENSEST = 10_000  # samples that a byte can stand for; in FLAC of silence they are 5,000


@dataclass(frozen=True, order=True)
class Clip:
    """`seconds` of the file `path` from second `start` on.

    seconds: None: to the end of the file, as if they go beyond it. channel: from 0; -1: the mean of all channels.
    """

    path: Path
    start: float = 0.0
    seconds: float | None = None
    channel: int = -1

    def __str__(self) -> str:
        place = f" from {self.start:g} s" if self.start else ""
        return f"{self.path}{place}" + ("" if self.channel < 0 else f", channel {self.channel}")


def duration(clip: Clip) -> float:
    """The length of a clip in seconds.

    Raises DataError for a file that is not audio or has no samples, and for a part or a channel that it does not have.
    """
    info = _info(clip.path)
    check(clip, info)
    rest = info.duration - clip.start
    return rest if clip.seconds is None else min(rest, clip.seconds)


def channels(clip: Clip) -> int:
    """The number of channels of the file. Raises DataError for a file that is not audio or has no samples."""
    return _info(clip.path).channels


def _info(path: Path):
    """What soundfile says about a file. Raises DataError for a file that is not audio or has no samples."""
    import soundfile

    try:
        info = soundfile.info(path)
    except UNREADABLE as error:
        raise DataError(unreadable(path)) from error
    if not info.frames:
        raise DataError(no_samples(path))
    return info


def check(clip: Clip, info: SoundFile) -> None:
    """Raises DataError if a file does not have the clip, or if its header cannot be true. info: what soundfile says."""
    if not RATES[0] <= info.samplerate <= RATES[1]:
        problem = f"its header claims {info.samplerate:,} samples a second"
        raise DataError(f"{clip.path}: {problem}, which is no recording of speech; convert it again")
    if info.frames * info.channels > DENSEST * os.path.getsize(clip.path):
        problem = f"its header claims {info.frames:,} samples, more than {os.path.getsize(clip.path):,} bytes can hold"
        raise DataError(f"{clip.path}: {problem}; convert it again")
    seconds, channels = info.frames / info.samplerate, info.channels
    if clip.start and clip.start >= seconds:
        raise DataError(f"{clip.path}: lasts {seconds:g} s, but a part begins at {clip.start:g} s; correct `offset`")
    if clip.channel >= channels:
        has = "one channel" if channels == 1 else f"channels 0 to {channels - 1}"
        raise DataError(f"{clip.path}: has {has}, but channel {clip.channel} is asked for; correct `channel`")
