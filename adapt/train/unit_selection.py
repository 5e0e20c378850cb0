"""Pseudo audio pieced together from real audio embeddings: for each stretch of text, what was heard for it before."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

import torch
from rapidfuzz.distance import Levenshtein

from adapt.model.speech_llm import BLANK

ENOUGH = 6  # occurrences of a context, fewer of which fall back to a shorter one
DRAWN = 8  # occurrences, of which the one is played whose recording says the text the longest
EDGE = "\n"  # stands before and after a sentence: silence belongs to its first and last letter


class Recording(NamedTuple):
    """text: what was said, between edges. stretches: (first, end) of each of its letters in the inventory's slots."""

    text: str
    stretches: list[tuple[int, int]]


@dataclass(frozen=True)
class UnitInventory:
    """What an encoder hears for each stretch of text, learned from recordings with transcripts.

    slots: vectors `[slots, hidden]` of all recordings, end to end. heard: context -> (recording, place of the letter)
    of each time it occurred. A context is the letter with both its neighbours, the letter with the next, or the letter
    alone.
    """

    heard: dict[str, list[tuple[int, int]]]
    recordings: list[Recording]
    slots: torch.Tensor

    def select(self, text: str, rng: random.Random) -> torch.Tensor:
        """Audio embeddings `[slots, hidden]` for `text`, stretch by stretch as they were heard before.

        For each letter some of the occurrences of the longest context that occurred ENOUGH times are drawn, and the
        one is played whose recording goes on as the text does for the longest, as far as it does: mistakes that
        belong together stay together. A letter that was never said is left out.

        >>> inventory = build_inventory([("_hh_e_y_", "hey", torch.arange(8)), ("__y_e_h", "yeh", torch.arange(8, 15))])
        >>> inventory.select("heh", random.Random(1)).tolist(), inventory.select("z", random.Random(1)).tolist()
        ([0, 1, 2, 3, 12, 13, 14], [])
        """
        padded, contexts = f"{EDGE}{text}{EDGE}", _contexts(text)
        rows: list[int] = []
        place = 0
        while place < len(text):
            known = [found for context in contexts[place] if (found := self.heard.get(context))]
            if not known:
                place += 1
                continue
            enough = [found for found in known if len(found) >= ENOUGH]
            drawn = rng.choices((enough or known)[0], k=DRAWN)
            lengths = [self._agreement(padded, place, *occurrence) for occurrence in drawn]
            length = max(lengths)
            number, first = drawn[lengths.index(length)]
            for stretch in self.recordings[number].stretches[first : first + length]:
                rows += range(*stretch)
            place += length
        return self.slots[rows]

    def _agreement(self, padded: str, place: int, number: int, first: int) -> int:
        """For how many letters the recording says what stands in `padded`, each in the midst of its neighbours."""
        said, length = self.recordings[number].text, 1
        while (there := said[first + length : first + length + 3]) and len(there) == 3:
            if there != padded[place + length : place + length + 3]:
                break
            length += 1
        return length


def _contexts(text: str) -> list[tuple[str, str, str]]:
    padded = f"{EDGE}{text}{EDGE}"
    return [(padded[i : i + 3], padded[i + 1 : i + 3], letter) for i, letter in enumerate(text)]


def build_inventory(recordings: Iterable[tuple[str, str, torch.Tensor]], stack: int = 1) -> UnitInventory:
    """From the greedy CTC path (a symbol a frame, `_` the blank), transcript and audio embeddings of each recording.

    An audio embedding stands for `stack` frames. The collapsed path and the transcript are aligned by edit distance;
    blanks belong to the symbol before them, and what was heard beside the transcript to the letter before it.
    """
    heard: dict[str, list[tuple[int, int]]] = defaultdict(list)
    learned, slots, offset = [], [], 0
    for path, text, vectors in recordings:
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
                known = stretches[place]
                stretches[place] = (known[0] if known[1] else begin, stop)
        for place, contexts in enumerate(_contexts(text)):
            for context in contexts:
                heard[context].append((len(learned), place))
        # A slot belongs to the letter in whose stretch its first frame lies.
        stretches = [(offset + -(-begin // stack), offset + -(-stop // stack)) for begin, stop in stretches]
        learned.append(Recording(f"{EDGE}{text}{EDGE}", stretches))
        slots.append(vectors)
        offset += len(vectors)
    return UnitInventory(dict(heard), learned, torch.cat(slots))
