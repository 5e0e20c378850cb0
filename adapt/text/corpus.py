"""Read the domain text, and prepare it for training."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from adapt.errors import DataError
from adapt.text.sentences import sentences


@dataclass(frozen=True)
class Corpus:
    """Normalised domain text: lines for training and for development, and what was dropped (`prepare`).

    remark: on lines that the base cannot write; "" without any. sampled: how many lines of how many were drawn; "" if
    all were taken.
    """

    train: tuple[str, ...]
    dev: tuple[str, ...]
    duplicates: int
    leaks: tuple[str, ...]
    remark: str = ""
    sampled: str = ""


def read_text(source: str | Path) -> list[str]:
    """All `sentences` of a source."""
    return list(sentences(source))


def prepare(
    lines: Iterable[str], normalise: Callable[[str], str], held_out: Iterable[str], dev_lines: int, seed: int
) -> Corpus:
    """Normalise domain text, drop empty, duplicate and leaked lines, and draw `dev_lines` lines for development.

    held_out: transcripts that the text must not contain (test, development and guard sets). seed: of the draw. The
    result's `leaks` are the distinct lines that occur in `held_out`. Raises DataError if fewer than twice `dev_lines`
    lines remain.

    >>> prepare(["Louder", "louder", "stop", "next song", "skip"], str.lower, ["Stop"], 1, seed=0)
    Corpus(train=('louder', 'skip'), dev=('next song',), duplicates=1, leaks=('stop',), remark='', sampled='')
    """
    transcripts = {normalise(line) for line in held_out}
    unique: dict[str, None] = {}
    leaks: dict[str, None] = {}
    duplicates = 0
    for line in map(normalise, lines):
        if not line:
            continue
        if line in transcripts:
            leaks[line] = None
        elif line in unique:
            duplicates += 1
        else:
            unique[line] = None
    texts = list(unique)
    if len(texts) < max(1, 2 * dev_lines):
        raise DataError(
            f"text: {len(texts):,} lines are left ({duplicates:,} duplicates and {len(leaks):,} lines of held-out sets"
            f" dropped), too few for {dev_lines:,} development lines; add text or lower data.dev_lines"
        )
    dev = set(random.Random(seed).sample(range(len(texts)), dev_lines))
    return Corpus(
        train=tuple(text for i, text in enumerate(texts) if i not in dev),
        dev=tuple(texts[i] for i in sorted(dev)),
        duplicates=duplicates,
        leaks=tuple(leaks),
    )
