"""Paired speech to train on: decoded as it is needed, in batches of like length, bad files named and skipped."""

from __future__ import annotations

import logging
import random
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

import soundfile
import torch

from adapt.errors import UNREADABLE, DataError, unreadable
from adapt.model.features import SAMPLE_RATE, pad, read_audio
from adapt.text.corpus import read_manifest

SHOWN = 10  # problems that are printed in full
WINDOW = 0.05  # share of a language's utterances, by length, that a batch is drawn from
log = logging.getLogger(__name__)


class Spoken(NamedTuple):
    """A recording with its normalised transcript; they sort by length."""

    seconds: float
    id: str
    audio: Path
    text: str
    voice: str | None
    language: str | None


@dataclass
class Speech:
    """Recordings, the shortest first. max_bad: how many unreadable files are passed over before it is an error."""

    items: list[Spoken]
    max_bad: int = 0
    bad: list[str] = field(default_factory=list)

    def audio(self, items: Sequence[Spoken]) -> tuple[list[Spoken], torch.Tensor, torch.Tensor]:
        """Those of `items` that can be read, their samples float32 `[batch, length]`, and lengths `[batch]`.

        Raises `DataError` when more than `max_bad` files could not be read since the beginning.
        """
        read, rows = [], []
        for item in items:
            try:
                rows.append(read_audio(item.audio))
                read.append(item)
            except DataError as error:
                self.pass_over(str(error))
        if not rows:
            return [], torch.zeros(0, SAMPLE_RATE), torch.zeros(0, dtype=torch.long)
        return read, *pad(rows)

    def pass_over(self, problem: str) -> None:
        """Name a file that cannot be used and go on, or raise `DataError` once there are too many."""
        if problem in self.bad:
            return
        self.bad.append(problem)
        if len(self.bad) > self.max_bad:
            told = f"{len(self.bad)} recordings cannot be used, {self.max_bad} are allowed; mend them or raise data.bad"
            raise DataError(*self.bad[-SHOWN:], told)
        if len(self.bad) <= SHOWN:
            log.warning("%s (skipped, %d so far)", problem, len(self.bad))

    def in_order(self, seconds: float = 200.0) -> Iterator[tuple[list[Spoken], torch.Tensor, torch.Tensor]]:
        """What `audio` gives, of everything there is, shortest first, in batches of about so many padded seconds."""
        batch: list[Spoken] = []
        for item in self.items:
            if batch and (len(batch) + 1) * item.seconds > seconds:
                yield self.audio(batch)
                batch = []
            batch.append(item)
        if batch:
            yield self.audio(batch)


def read_speech(
    manifest: Path, normalise: Callable[[str], str], *, max_seconds: float = float("inf"), bad: float = 0.0
) -> Speech:
    """The recordings of a manifest that last at most `max_seconds` and say something.

    `bad`: the share of its files that may be missing or unreadable. Raises `DataError` when there are more, each with
    its reason, and when nothing is left.
    """
    utterances = read_manifest(manifest, need_audio=False)
    speech = Speech([], round(bad * len(utterances)))
    problems = []
    for utterance in utterances:
        if utterance.audio is None:
            problems.append(f"{manifest}: {utterance.id!r} names no audio; add it or take the line out")
            continue
        try:
            seconds = soundfile.info(utterance.audio).duration
        except UNREADABLE:
            problems.append(unreadable(utterance.audio))
            continue
        if not seconds:
            problems.append(f"{utterance.audio}: holds no samples; record it again or take it out of the manifest")
        elif seconds <= max_seconds and (text := normalise(utterance.text)):
            item = Spoken(seconds, utterance.id, utterance.audio, text, utterance.voice, utterance.language)
            speech.items.append(item)
    if len(problems) > speech.max_bad:
        raise DataError(*problems[:SHOWN], *([f"{manifest}: {len(problems)} in all"] if len(problems) > SHOWN else []))
    for problem in problems:
        speech.pass_over(problem)
    if not speech.items:
        raise DataError(f"{manifest}: no recording of at most {max_seconds:g} s with a transcript; add some")
    speech.items.sort()
    return speech


def batches(
    speech: Speech, *, steps: int, batch_seconds: float, temperature: float = 1.0, short: float = 0.0, seed: int = 1
) -> Callable[[int], list[Spoken]]:
    """Recordings of like length, about `batch_seconds` of them with their padding, at each step.

    A language with n recordings is drawn with a probability that goes with n ** (1 / temperature): 1 leaves the
    proportions as they are, more evens them out (1907.05019). In the first share `short` of the steps come the short
    ones, by and by longer.
    """
    languages: dict[str | None, list[Spoken]] = defaultdict(list)
    for item in speech.items:
        languages[item.language].append(item)
    groups = list(languages.values())
    weights = [len(group) ** (1 / temperature) for group in groups]
    # Where a batch lies is drawn by seconds: a batch of long ones holds fewer, and so must come more often.
    reached = list(accumulate(item.seconds for item in speech.items))

    def batch_of(step: int) -> list[Spoken]:
        rng = random.Random(seed * 1_000_003 + step)
        progress = step / steps
        share = 1.0 if progress >= short else 0.15 + 0.85 * progress / short
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


def readable_batch(draw: Callable[[int], list[Spoken]], speech: Speech, step: int) -> tuple[list[Spoken], dict]:
    """The recordings of batch `step` and their audio; of another batch when none of them can be read."""
    for attempt in range(100):
        items, samples, lengths = speech.audio(draw(step + attempt * 1_000_000_007))
        if items:
            return items, {"samples": samples, "lengths": lengths}
    raise AssertionError("unreachable: speech.audio raises once more files are bad than may be")
