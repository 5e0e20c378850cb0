"""Pseudo audio pieced together from real slot vectors: for each letter in context, what was heard for it before."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby

import torch
from rapidfuzz.distance import Levenshtein

from adapt.model.speech_llm import BLANK

ENOUGH = 6  # occurrences of a context, fewer of which fall back to a shorter one
EDGE = "\n"  # stands before and after a sentence: silence belongs to its first and last letter


@dataclass(frozen=True)
class Channel:
    """What an encoder hears for each letter, learned from recordings with transcripts.

    slots: vectors `[slots, hidden]` of all recordings, end to end. heard: context -> (first, end) of the stretch of
    `slots` for its letter, each time it occurred. A context is the letter with both its neighbours, the letter with
    the next, or the letter alone.
    """

    heard: dict[str, list[tuple[int, int]]]
    slots: torch.Tensor

    def play(self, text: str, rng: random.Random) -> torch.Tensor:
        """Slot vectors `[slots, hidden]` for `text`: for each letter a stretch that was heard for it before.

        Stretches are drawn at random of those in the longest context that occurred ENOUGH times. A letter that was
        never said is left out.

        >>> channel = learn([("_hh_e_y_", "hey", torch.arange(8)), ("__y_e_h", "yeh", torch.arange(8, 15))])
        >>> channel.play("heh", random.Random(1)).tolist(), channel.play("z", random.Random(1)).tolist()
        ([0, 1, 2, 3, 12, 13, 14], [])
        """
        rows: list[int] = []
        for contexts in _contexts(text):
            known = [found for context in contexts if (found := self.heard.get(context))]
            enough = [found for found in known if len(found) >= ENOUGH]
            if known:
                rows += range(*rng.choice((enough or known)[0]))
        return self.slots[rows]


def _contexts(text: str) -> list[tuple[str, str, str]]:
    padded = f"{EDGE}{text}{EDGE}"
    return [(padded[i : i + 3], padded[i + 1 : i + 3], letter) for i, letter in enumerate(text)]


def learn(recordings: Iterable[tuple[str, str, torch.Tensor]], stack: int = 1) -> Channel:
    """From the greedy CTC path (a symbol a frame, `_` the blank), transcript and slot vectors of each recording.

    A slot vector stands for `stack` frames. The collapsed path and the transcript are aligned by edit distance; blanks
    belong to the symbol before them, and what was heard beside the transcript to the letter before it.
    """
    heard: dict[str, list[tuple[int, int]]] = defaultdict(list)
    slots, offset = [], 0
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
        for contexts, stretch in zip(_contexts(text), stretches, strict=True):
            # A slot belongs to the letter in whose stretch its first frame lies.
            begin, stop = (offset + -(-edge // stack) for edge in stretch)
            for context in contexts:
                heard[context].append((begin, stop))
        slots.append(vectors)
        offset += len(vectors)
    return Channel(dict(heard), torch.cat(slots))
