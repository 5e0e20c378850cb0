"""Paired speech to train on, in batches of similar length. Unreadable files are reported and skipped."""

from __future__ import annotations

import logging
import math
import random
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

import torch

from adapt.errors import DataError, TrainingError
from adapt.model.features import SAMPLE_RATE, pad, read_audio
from adapt.ranks import launched
from adapt.text.clip import Clip, duration
from adapt.text.manifest import Utterance, read_manifest

SHOWN = 10  # problems that are reported one by one
WINDOW = 0.05  # share of a language's utterances, of similar length, from which a batch is drawn
log = logging.getLogger(__name__)


class Spoken(NamedTuple):
    """A recording with its normalised transcript; tuples sort by length in seconds."""

    seconds: float
    id: str
    audio: Clip
    text: str
    voice: str | None
    language: str | None


@dataclass
class Speech:
    """Recordings, the shortest first.

    max_bad: the largest number of bad files to skip. bad: the problem of each bad file so far.
    """

    items: list[Spoken]
    max_bad: int = 0
    bad: list[str] = field(default_factory=list)

    def audio(self, items: Sequence[Spoken]) -> tuple[list[Spoken], torch.Tensor, torch.Tensor]:
        """Those of `items` that can be read, their samples, float32 `[batch, length]`, and their lengths `[batch]`.

        Raises `DataError` if more than `max_bad` files have been unreadable so far.
        """
        read, rows = [], []
        for item in items:
            try:
                rows.append(read_audio(item.audio))
                read.append(item)
            except DataError as error:
                self.skip(str(error))
        if not rows:
            return [], torch.zeros(0, SAMPLE_RATE), torch.zeros(0, dtype=torch.long)
        return read, *pad(rows)

    def skip(self, problem: str) -> None:
        """Record and report the problem of a file, once. Raises `DataError` for more than `max_bad` files."""
        if problem in self.bad:
            return
        self.bad.append(problem)
        if len(self.bad) > self.max_bad:
            total = f"{len(self.bad)} recordings cannot be used, {self.max_bad} are allowed"
            raise DataError(*self.bad[-SHOWN:], f"{total}; repair them, or allow a larger share of bad files")
        if len(self.bad) <= SHOWN:
            log.warning("%s (skipped, %d so far)", problem, len(self.bad))

    def in_order(self, seconds: float = 200.0) -> Iterator[tuple[list[Spoken], torch.Tensor, torch.Tensor]]:
        """Batches of all recordings, shortest first, as `audio` returns them. seconds: limit of a batch."""
        batch: list[Spoken] = []
        for item in self.items:
            if batch and (len(batch) + 1) * item.seconds > seconds:
                yield self.audio(batch)
                batch = []
            batch.append(item)
        if batch:
            yield self.audio(batch)


def read_speech(
    manifest: Path,
    normalise: Callable[[str], str],
    *,
    utterances: Sequence[Utterance] | None = None,
    max_seconds: float = float("inf"),
    bad: float = 0.0,
) -> Speech:
    """The recordings of a manifest that last at most `max_seconds` and have a transcript.

    utterances: those of the manifest; None: they are read. bad: share of the files that may be missing or unreadable.
    Raises `DataError` for more of them, each with its reason, and if no recording remains.
    """
    utterances = read_manifest(manifest, need_audio=False) if utterances is None else utterances
    speech = Speech([], round(bad * len(utterances)))
    problems = []
    for utterance in utterances:
        if utterance.audio is None:
            problems.append(f"{manifest}: {utterance.id!r} names no audio; add it, or remove the line")
            continue
        try:
            seconds = duration(utterance.audio)
        except DataError as error:
            problems += error.problems
            continue
        if seconds <= max_seconds and (text := normalise(utterance.text)):
            item = Spoken(seconds, utterance.id, utterance.audio, text, utterance.voice, utterance.language)
            speech.items.append(item)
    if len(problems) > speech.max_bad:
        raise DataError(*problems)
    for problem in problems:
        speech.skip(problem)
    if not speech.items:
        raise DataError(f"{manifest}: no recording of at most {max_seconds:g} s with a transcript; add some")
    speech.items.sort()
    return speech


def check_share(speech: Speech, lengths: Mapping[str, float]) -> None:
    """Raises `TrainingError` if a batch may have fewer recordings than there are processes that share it.

    lengths: the seconds of a batch by the key of the recipe.
    """
    processes, longest = launched().count, speech.items[-1].seconds
    problem = f"{processes} processes cannot share batches with recordings of {longest:.1f} s"
    way_out = f"give at least {math.ceil(processes * longest)}, or launch fewer"
    problems = [f"{key}: {seconds:g}: {problem}; {way_out}" for key, seconds in lengths.items()]
    if too_short := [p for p, s in zip(problems, lengths.values(), strict=True) if 1 < processes > s // longest]:
        raise TrainingError(*too_short)


def batches(
    speech: Speech,
    *,
    steps: int,
    batch_seconds: float,
    temperature: float = 1.0,
    short_first: float = 0.0,
    seed: int = 1,
) -> Callable[[int], list[Spoken]]:
    """The function that returns the batch of a step: recordings of similar length, about `batch_seconds` with padding.

    The probability of a language with n recordings is proportional to n ** (1 / temperature): 1 keeps the proportions,
    higher values even them out (1907.05019). In the first share `short_first` of the steps, recordings are limited to
    the shortest ones, and the limit rises until all are used.
    """
    languages: dict[str | None, list[Spoken]] = defaultdict(list)
    for item in speech.items:
        languages[item.language].append(item)
    groups = list(languages.values())
    weights = [len(group) ** (1 / temperature) for group in groups]
    # The place of a batch is drawn in seconds: batches of long recordings hold fewer and must come more often.
    reached = list(accumulate(item.seconds for item in speech.items))

    def batch_of(step: int) -> list[Spoken]:
        rng = random.Random(seed * 1_000_003 + step)
        progress = step / steps
        share = 1.0 if progress >= short_first else 0.15 + 0.85 * progress / short_first
        last = max(0, int(share * len(speech.items)) - 1)
        place = bisect_left(reached, rng.random() * reached[last]) / len(speech.items)
        windows = []
        for group in groups:
            width = max(1, round(WINDOW * len(group)))
            start = min(int(place * len(group)), len(group) - width)
            windows.append(group[start : start + width])
        count = max(1, int(batch_seconds / max(window[-1].seconds for window in windows)))
        return [rng.choice(window) for window in rng.choices(windows, weights, k=count)]

    return batch_of


def readable_batch(
    recordings_of: Callable[[int], list[Spoken]], speech: Speech, step: int
) -> tuple[list[Spoken], dict]:
    """The recordings of batch `step` that can be read, and their audio; another batch if they are too few to share.

    recordings_of: as `batches` returns it. The audio is `{"samples", "lengths"}` as in `Speech.audio`.
    """
    for attempt in range(100):
        items, samples, lengths = speech.audio(recordings_of(step + attempt * 1_000_000_007))
        if len(items) >= launched().count:
            return items, {"samples": samples, "lengths": lengths}
    raise AssertionError("unreachable: speech.audio raises where more than max_bad files are unreadable")
