"""What an encoder hears for each letter, learned from recordings with transcripts and played back for any text."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby

from rapidfuzz.distance import Levenshtein

BLANK = "_"
ENOUGH = 6  # occurrences of a context, fewer of which fall back to a shorter one


@dataclass(frozen=True)
class Channel:
    """heard: context -> the stretches of CTC path that were heard for its letter, one for each time it occurred.

    A context is the letter with both its neighbours, the letter with the next, or the letter alone.
    """

    heard: dict[str, list[str]]

    def play(self, text: str, rng: random.Random) -> str:
        """A CTC path that the encoder might hear for `text`: for each letter a stretch that was heard for it before.

        >>> channel = learn([("hh_e_y", "hey"), ("__y_e_h", "yeh")])
        >>> channel.play("yey", random.Random(4)), channel.play("z", random.Random(4))
        ('y_e_y', 'z')
        """
        path = []
        for contexts, letter in zip(_contexts(text), text, strict=True):
            known = [found for context in contexts if (found := self.heard.get(context))]
            enough = [found for found in known if len(found) >= ENOUGH]
            path.append(rng.choice((enough or known)[0]) if known else letter)
        return "".join(path)


def _contexts(text: str) -> list[tuple[str, str, str]]:
    padded = f" {text} "
    return [(padded[i : i + 3], padded[i + 1 : i + 3], letter) for i, letter in enumerate(text)]


def learn(pairs: Iterable[tuple[str, str]]) -> Channel:
    """From pairs of a greedy CTC path (a symbol a frame, `_` the blank) and what was said.

    The collapsed path and the transcript are aligned by edit distance; blanks belong to the symbol before them, and
    what was heard beside the transcript to the letter before it.
    """
    heard: dict[str, list[str]] = defaultdict(list)
    for path, text in pairs:
        runs: list[tuple[str, str]] = []  # symbol, its frames with the blanks after them
        for symbol, frames in groupby(path):
            stretch = "".join(frames)
            if symbol != BLANK:
                runs.append((symbol, stretch))
            elif runs:
                runs[-1] = (runs[-1][0], runs[-1][1] + stretch)
        stretches = [""] * len(text)
        for tag, start, end, first, last in Levenshtein.opcodes(text, "".join(symbol for symbol, _ in runs)):
            if tag in ("equal", "replace"):
                for place, run in zip(range(start, end), runs[first:last], strict=True):
                    stretches[place] += run[1]
            elif tag == "insert" and text:
                stretches[max(0, start - 1)] += "".join(stretch for _, stretch in runs[first:last])
        for contexts, stretch in zip(_contexts(text), stretches, strict=True):
            for context in contexts:
                heard[context].append(stretch)
    return Channel(dict(heard))
