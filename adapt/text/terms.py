"""Terms of a domain, found in its text: the names and phrases that many sentences have in the same places.

A term is a run of words that stands beside many different words on both sides (accessor variety, Feng et al.,
Computational Linguistics 30(1), 2004), in contexts in which other terms stand, too: "play _ on the", "by _".
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

LONGEST = 6  # words of a term
LEAST = 3  # occurrences
LEAST_SCORE = 1.0  # mean logarithm of the number of terms in the contexts of a term
VARIED = 0.4  # least number of different neighbours on each side, for each occurrence up to ENOUGH
ENOUGH = 8
COMMON = 0.01  # share of the sentences from which on a word or a phrase is common, and no term ...
OFTEN = 100  # ... unless it occurs no more often than this
SENTENCES = 100_000  # are enough to find terms in; more take gigabytes
BEGIN, END = "<s>", "</s>"

Words = tuple[str, ...]


def find_terms(sentences: Sequence[str]) -> list[str]:
    """The terms of normalised sentences, those first in whose contexts most others stand.

    >>> names = ["mariah carey", "the weeknd", "drake", "abba"]
    >>> text = [f"{a} {name} {b}" for name in names for a in ("play", "more of") for b in ("now", "please")]
    >>> find_terms(text)
    ['mariah carey', 'the weeknd', 'drake', 'abba']
    """
    rows = [(BEGIN, BEGIN, *sentence.split(), END, END) for sentence in dict.fromkeys(sentences)]
    counts = _counts(rows)
    most = max(COMMON * len(rows), OFTEN)
    common = {words[0] for words, count in counts.items() if len(words) == 1 and count > most}
    varied = _varied(rows, {words for words, count in counts.items() if count <= most}, counts)
    # "to nirvana" says no more than "nirvana", but there is no "weeknd" without "the".
    kept = {words for words in varied if not (_without_common(words, common) & varied)}
    scores = _scores(rows, kept)
    found = [words for words, score in scores.items() if score >= LEAST_SCORE]
    return [" ".join(words) for words in sorted(found, key=lambda words: -scores[words])]


def _counts(rows: Sequence[Words]) -> Counter[Words]:
    """How often each run of words occurs, of those of at least LEAST occurrences."""
    counts: Counter[Words] = Counter()
    for length in range(1, LONGEST + 1):
        # A run is at most as frequent as its parts.
        of_length = Counter(
            words
            for row in rows
            for _, words in _runs(row, length)
            if length == 1 or (words[1:] in counts and words[:-1] in counts)
        )
        counts.update({words: count for words, count in of_length.items() if count >= LEAST})
    return counts


def _runs(row: Words, length: int) -> Iterator[tuple[int, Words]]:
    """The runs of `length` words of a sentence, each with its place in the row."""
    return ((place, row[place : place + length]) for place in range(2, len(row) - 1 - length))


def _varied(rows: Sequence[Words], among: set[Words], counts: Counter[Words]) -> set[Words]:
    """The runs of `among` that have different neighbours on both sides."""
    before, after = defaultdict(set), defaultdict(set)
    for row in rows:
        for length in range(1, LONGEST + 1):
            for place, words in _runs(row, length):
                if words in among:
                    before[words].add(row[place - 1])
                    after[words].add(row[place + length])
    fewest = {words: min(len(before[words]), len(after[words])) for words in before}
    return {words for words, few in fewest.items() if few >= max(2, VARIED * min(counts[words], ENOUGH))}


def _without_common(words: Words, common: set[str]) -> set[Words]:
    """The run without its first or its last word, if that is common."""
    shorter = {words[1:]} if words[0] in common else set()
    return shorter | ({words[:-1]} if words[-1] in common else set())


def _scores(rows: Sequence[Words], terms: set[Words]) -> dict[Words, float]:
    """The score of each term (LEAST_SCORE). A context is a word on one side, and two on the other."""

    def occurrences() -> Iterator[tuple[Words, tuple, tuple]]:
        for row in rows:
            for length in range(1, LONGEST + 1):
                for place, words in _runs(row, length):
                    if words in terms:
                        end = place + length
                        yield words, (row[place - 2 : place], row[end]), (row[place - 1], row[end : end + 2])

    fillers, sums, counts = defaultdict(set), Counter(), Counter()
    for words, *contexts in occurrences():
        for context in contexts:
            fillers[context].add(words)
    for words, *contexts in occurrences():
        sums[words] += math.log(max(len(fillers[context]) for context in contexts))
        counts[words] += 1
    return {words: total / counts[words] for words, total in sums.items()}
