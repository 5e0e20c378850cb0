"""Retrieval by sound: which names of a lexicon, and which sentences of a text, sound like a transcript or a part of it.

A recogniser that does not know a name writes words that sound like it ("craft work" for Kraftwerk). Names and
transcript are spelled by sound, and a name is compared with every run of words of the transcript. Of two names, that
with more letters in common counts more: a short name is in many words by chance. An index of the letter pairs in each
name finds those that are worth comparing.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from array import array
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
from rapidfuzz import process
from rapidfuzz.distance import Indel, Levenshtein

from adapt.text.lexicon import Entry
from adapt.text.sentences import sample
from adapt.text.words import words_of

LEAST = 0.55  # similarity of a name that is found
LONGEST = 7  # words that are compared with one name
COMPARED = 3_000  # names that are compared with a transcript
SENTENCES = 100_000  # of a longer text, a random sample is compared

# Spellings of English that sound alike. Other scripts stay as they are written.
_SOUNDS = [
    (re.compile(spelling), sound)
    for spelling, sound in (
        ("ph", "f"),
        ("gh(?=t)", ""),
        ("ck", "k"),
        ("sch|sh", "ʃ"),
        ("tch|ch", "ʧ"),
        ("wh", "w"),
        ("^kn", "n"),
        ("^wr", "r"),
        ("c(?=[eiy])", "s"),
        ("[cq]", "k"),
        ("x", "ks"),
        ("dge|g(?=[ei])", "j"),
        ("z", "s"),
        ("th", "θ"),
        ("ee|ea|ie|y", "i"),
        ("oo|ou|ow|ew", "u"),
        ("ai|ei", "e"),
        ("oa|au|aw", "o"),
        (r"(.)\1+", r"\1"),
        ("(?<=[^aeiou])e$", ""),
    )
]
_CLASSES = str.maketrans("eioutθpgvʃʧjnl", "aaaaddbkfsssmr")  # of sounds that are often taken for each other
_DIGITS = dict(enumerate(["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]))


@functools.lru_cache(100_000)
def by_sound(word: str) -> str:
    """A word of normalised text as it sounds in English, roughly; digits are read one by one.

    >>> by_sound("kraftwerk"), by_sound("phoenix"), by_sound("beyoncé"), by_sound("u2")
    ('kraftwerk', 'foeniks', 'beons', 'utwo')
    """
    plain = "".join(char for char in unicodedata.normalize("NFKD", word) if unicodedata.category(char)[0] in "LN")
    spelled = re.sub(r"\d", lambda digit: _DIGITS[int(digit[0])], plain)
    for spelling, sound in _SOUNDS:
        spelled = spelling.sub(sound, spelled)
    return spelled


class Found(NamedTuple):
    """An entry of the lexicon, and how much it sounds like a part of the transcript (`NameIndex.find`)."""

    entry: Entry
    score: float


class Run(NamedTuple):
    """A run of words of a transcript, from number `first` to `last`, and how much a name sounds like it.

    score: as in `NameIndex.find`, but each word is normalised by itself.
    """

    score: float
    first: int
    last: int


class NameIndex:
    """The names of a lexicon by sound. normalise: applied to names and transcripts."""

    def __init__(self, entries: Iterable[Entry], normalise: Callable[[str], str]):
        self._normalise = normalise
        self._entries = tuple(entries)
        self._forms: list[str] = []
        owners, numbers, holders = array("i"), array("i"), array("i")
        self._numbers: dict[str, int] = {}  # of letter pairs
        for number, entry in enumerate(self._entries):
            forms = map(self.letters, (entry.written, *entry.spoken))
            for form in dict.fromkeys(filter(None, forms)):
                numbers.extend(pairs := [self._numbers.setdefault(pair, len(self._numbers)) for pair in _pairs(form)])
                holders.extend([len(self._forms)] * len(pairs))
                self._forms.append(form)
                owners.append(number)
        self._owners = np.array(owners, dtype=np.int32)
        pair_of, form_of = np.array(numbers, dtype=np.int32), np.array(holders, dtype=np.int32)
        self._postings = form_of[np.argsort(pair_of, kind="stable")]
        self._starts = np.concatenate([[0], np.bincount(pair_of, minlength=len(self._numbers)).cumsum()])
        self._pairs = np.bincount(form_of, minlength=len(self._forms)).astype(np.float32)

    def letters(self, text: str) -> str:
        """A text by sound, without spaces."""
        return "".join(self._words(text))

    def runs(self, transcript: str) -> set[str]:
        """Each run of at most LONGEST words of a transcript, as `letters` writes it."""
        words = self._words(transcript)
        ends = ((i, j) for i in range(len(words)) for j in range(i + 1, min(len(words), i + LONGEST) + 1))
        return {"".join(words[i:j]) for i, j in ends}

    def _words(self, text: str) -> list[str]:
        return [word for word in map(by_sound, words_of(self._normalise(text))) if word]

    def find(self, transcript: str, count: int, compared: int = COMPARED) -> list[Found]:
        """At most `count` entries of more than the similarity LEAST, those with the highest score first.

        The similarity of a name and a run of words is 1 - Levenshtein distance / letters of the longer, in which an
        edit within a class of sounds counts half. The score is (similarity - LEAST) * letters of the longer: what the
        letters in common are worth, less those that differ. A name that the transcript contains comes first: its score
        is infinite. compared: names that are compared, those that share the largest part of their letter pairs with the
        transcript.
        """
        runs = list(self.runs(transcript))
        if not runs or not self._forms:
            return []
        chosen = self._sharing(self.letters(transcript), compared)
        forms = [self._forms[form] for form in chosen]
        scores = _scores(runs, forms).max(0)
        found: dict[int, Found] = {}
        for place in np.argsort(-scores, kind="stable"):
            if len(found) == count or scores[place] <= 0:
                break
            owner = int(self._owners[chosen[place]])
            found.setdefault(owner, Found(self._entries[owner], float(scores[place])))
        return list(found.values())

    def runs_like(self, words: Sequence[str], names: Iterable[Sequence[str]]) -> list[Run | None]:
        """For each name, given by its forms, the run of words that it sounds most like; of equal ones, the longest.

        None where a name or the words have no letters.
        """
        sounds = list(map(self.letters, words))
        places = [i for i, sound in enumerate(sounds) if sound]
        runs = [(i, j) for i in places for j in places if i <= j < i + LONGEST]
        runs.sort(key=lambda run: run[0] - run[1])
        spoken = ["".join(sounds[i : j + 1]) for i, j in runs]

        def best(forms: Sequence[str]) -> Run | None:
            letters = list(filter(None, map(self.letters, forms)))
            if not runs or not letters:
                return None
            scores = _scores(spoken, letters).max(1)
            place = int(scores.argmax())
            return Run(float(scores[place]), *runs[place])

        return list(map(best, names))

    def _sharing(self, letters: str, compared: int) -> Sequence[int]:
        """The forms that share the largest part of their letter pairs with these letters, in their own order."""
        if len(self._forms) <= compared:
            return range(len(self._forms))
        numbers = [self._numbers[pair] for pair in _pairs(letters) if pair in self._numbers]
        rows = [self._postings[self._starts[n] : self._starts[n + 1]] for n in numbers]
        shared = np.bincount(np.concatenate(rows), minlength=len(self._forms)) if rows else np.zeros(len(self._forms))
        return np.sort(np.argpartition(-(shared / self._pairs), compared)[:compared])


class SentenceIndex:
    """The sentences of a text, normalised, by sound. normalise: applied to sentences and transcripts."""

    def __init__(self, sentences: Iterable[str], normalise: Callable[[str], str]):
        self._normalise = normalise
        kept, _ = sample(dict.fromkeys(filter(None, map(normalise, sentences))), SENTENCES, seed=1)
        self._sounds = {sentence: self._by_sound(sentence) for sentence in kept}

    def find(self, transcript: str, count: int) -> list[str]:
        """The `count` sentences that sound most like a transcript, the most similar first.

        The similarity is 1 - insertions and deletions of letters by sound / letters of both. A transcript without words
        has none.
        """
        sound = self._by_sound(transcript)
        if not sound:
            return []
        found = process.extract(sound, self._sounds, scorer=Indel.normalized_similarity, limit=count)
        return [sentence for _, _, sentence in found]

    def _by_sound(self, text: str) -> str:
        return " ".join(map(by_sound, words_of(self._normalise(text))))


def _scores(runs: Sequence[str], forms: Sequence[str]) -> np.ndarray:
    """How much each run of words sounds like each form of a name, `[runs, forms]` (`NameIndex.find`)."""
    longer = np.maximum.outer(list(map(len, runs)), list(map(len, forms)))
    of_classes = _similarities([run.translate(_CLASSES) for run in runs], [f.translate(_CLASSES) for f in forms])
    of_letters = _similarities(runs, forms)
    return np.where(of_letters == 1, np.inf, longer * ((of_letters + of_classes) / 2 - LEAST))


def _similarities(runs: Sequence[str], forms: Sequence[str]) -> np.ndarray:
    """1 - Levenshtein distance / letters of the longer, of each run and form, `[runs, forms]`; 0 for less than 0.3."""
    scorer = Levenshtein.normalized_similarity
    return process.cdist(runs, forms, scorer=scorer, score_cutoff=0.3, dtype=np.float32)


def _pairs(letters: str) -> set[str]:
    """The pairs of neighbouring letters in a word, or the word itself if it has one letter."""
    return {letters[i : i + 2] for i in range(len(letters) - 1)} or {letters}
