"""Unit selection: simulated slots concatenated from stretches of real audio embeddings, selected by letter context.

The unit is one occurrence of a letter in a recording, and its stretch is the audio embeddings that belong to it. The
inventory finds units by their letter context. For a target text, units are selected and their stretches concatenated,
as concatenative speech synthesis does with audio.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

import torch
from rapidfuzz.distance import Levenshtein

from adapt.model.encoders import BLANK

MIN_UNITS = 6  # a context with fewer units falls back to a shorter one
CANDIDATES = 8  # units drawn for each stretch of the target, of which the one with the longest match is selected
EDGE = "\n"  # stands before and after a sentence: silence belongs to its first and last letter


class Recording(NamedTuple):
    """A recording in an inventory.

    text: the transcript between edges. stretches: (first, end) of each letter in the embeddings of the inventory.
    """

    text: str
    stretches: list[tuple[int, int]]


@dataclass(frozen=True)
class UnitInventory:
    """The units of recordings with transcripts.

    units: context -> (recording, index of the letter in its transcript) of each occurrence. A context is the letter
    with both its neighbours, the letter with the next one, or the letter alone. embeddings: audio embeddings
    `[slots, hidden]` of all recordings, one after another.
    """

    units: dict[str, list[tuple[int, int]]]
    recordings: list[Recording]
    embeddings: torch.Tensor

    def select(self, text: str, rng: random.Random) -> torch.Tensor:
        """Audio embeddings `[slots, hidden]` for a target text.

        For the next letter, some units are drawn among those of its longest context that has MIN_UNITS (or of the
        longest known context, if none has). The unit whose recording agrees with the text for the longest is selected,
        and its recording is used for as long as it agrees, so that errors that occur together stay together. A letter
        without units is left out.

        >>> inventory = build_inventory([("_hh_e_y_", "hey", torch.arange(8)), ("__y_e_h", "yeh", torch.arange(8, 15))])
        >>> inventory.select("heh", random.Random(1)).tolist(), inventory.select("z", random.Random(1)).tolist()
        ([0, 1, 2, 3, 12, 13, 14], [])
        """
        target, contexts = f"{EDGE}{text}{EDGE}", _contexts(text)
        selected: list[int] = []
        place = 0
        while place < len(text):
            known = [units for context in contexts[place] if (units := self.units.get(context))]
            if not known:
                place += 1
                continue
            enough = [units for units in known if len(units) >= MIN_UNITS]
            candidates = rng.choices((enough or known)[0], k=CANDIDATES)
            lengths = [self._agreement(target, place, *unit) for unit in candidates]
            length = max(lengths)
            recording, first = candidates[lengths.index(length)]
            for stretch in self.recordings[recording].stretches[first : first + length]:
                selected += range(*stretch)
            place += length
        return self.embeddings[selected]

    def _agreement(self, target: str, place: int, recording: int, first: int) -> int:
        """The number of letters for which target and recording agree; each after the first with both its neighbours."""
        text, length = self.recordings[recording].text, 1
        while (context := text[first + length : first + length + 3]) and len(context) == 3:
            if context != target[place + length : place + length + 3]:
                break
            length += 1
        return length


def _contexts(text: str) -> list[tuple[str, str, str]]:
    """The contexts of each letter, the longest first."""
    padded = f"{EDGE}{text}{EDGE}"
    return [(padded[i : i + 3], padded[i + 1 : i + 3], letter) for i, letter in enumerate(text)]


def build_inventory(recordings: Iterable[tuple[str, str, torch.Tensor]], stack: int = 1) -> UnitInventory:
    """The inventory of recordings, each given as greedy CTC path, transcript and audio embeddings `[slots, hidden]`.

    A path has a symbol a frame, `_` for the blank. stack: encoder frames in one audio embedding, which belongs to the
    letter in whose stretch its first frame is.
    """
    units: dict[str, list[tuple[int, int]]] = defaultdict(list)
    with_stretches, embeddings, offset = [], [], 0
    for path, text, vectors in recordings:
        for place, contexts in enumerate(_contexts(text)):
            for context in contexts:
                units[context].append((len(with_stretches), place))
        stretches = [
            (offset + -(-first // stack), offset + -(-end // stack)) for first, end in _letter_frames(path, text)
        ]
        with_stretches.append(Recording(f"{EDGE}{text}{EDGE}", stretches))
        embeddings.append(vectors)
        offset += len(vectors)
    return UnitInventory(dict(units), with_stretches, torch.cat(embeddings))


def _letter_frames(path: str, text: str) -> list[tuple[int, int]]:
    """(first, end) of the frames of a CTC path that belong to each letter of its transcript; (0, 0) for no frames.

    The collapsed path and the transcript are aligned by edit distance. Blanks belong to the symbol before them. Symbols
    that the transcript does not have belong to the letter before them.
    """
    runs: list[list] = []  # symbol, first frame, end
    frame = 0
    for symbol, frames in groupby(path):
        end = frame + len(list(frames))
        if symbol != BLANK:
            runs.append([symbol, frame, end])
        elif runs:
            runs[-1][2] = end
        frame = end
    if runs:
        runs[0][1] = 0
    stretches = [(0, 0)] * len(text)
    for tag, start, end, first, last in Levenshtein.opcodes(text, "".join(run[0] for run in runs)):
        places = [max(0, start - 1)] * (last - first) if tag == "insert" else range(start, end)
        for place, (_, begin, stop) in zip(places, runs[first:last], strict=False) if text else ():
            before = stretches[place]
            stretches[place] = (before[0] if before[1] else begin, stop)
    return stretches
