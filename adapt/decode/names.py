"""Names in the prompt: which names of a lexicon the prompt of an utterance lists, and whether to believe the result.

A long list confuses a speech LLM, so the list of an utterance holds the names that sound like something in a first
hypothesis (2505.19179 retrieves them likewise). Models sometimes answer with the list itself; such utterances are
decoded again without names, and so are those with a name that nobody said, where a CTC head or a first pass can tell.
An encoder that transcribes also reads sentences of the domain text.
"""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch

from adapt.decode.beam_search import generate
from adapt.decode.ctc import collapse, log_probability
from adapt.decode.parts import OwnPhrases
from adapt.model.heard import Listed, heard_after_lists, log_odds
from adapt.model.speech_llm import SpeechLLM
from adapt.text.lexicon import Entry, Lexicon
from adapt.text.retrieval import NameIndex, SentenceIndex

DrawnLists = Callable[[str, random.Random], Sequence[str]]

DOUBT = 15.0  # nats of CTC by which the audio may speak against a name that the prompt listed
LETTERS = 6  # of a name that is believed where the evidence is above 0
LETTER = 3.0  # nats that each letter more adds to the evidence, and each letter less takes from it
SENTENCE = 1.0  # nats of evidence above which a transcript after sentences of the text is believed
MOST_LETTERS = 12  # of a name that count
SPELLED = 8  # letters that a name counts which only changes the spelling
TRIED = 3  # names that are tried in place of words that sound like them
SOUND = 3.0  # nats that speak for a name in place of words, for each point of `NameIndex.find`
WITHOUT_LIST = 0.2  # weight of the log odds where Whisper reads no list; those where it does have 1
BELIEVED = 5.0  # nats above which a name in place of words is believed


class Substitute(NamedTuple):
    """A name in place of the words of a transcript that sound like it, from number `first` to `last`.

    score: how much it sounds like them (`NameIndex.find`).
    """

    name: str
    first: int
    last: int
    score: float


class NamesInPrompt:
    """The names and sentences that go into prompts.

    lexicon: None: only the phrases of utterances. count: most names in a prompt. text: of the domain, of which
    an encoder that transcribes reads `sentences` sentences before a recording; () for none.
    """

    def __init__(
        self,
        speech_llm: SpeechLLM,
        lexicon: Lexicon | None,
        count: int,
        normalise: Callable[[str], str],
        text: Iterable[str] = (),
        sentences: int = 0,
    ):
        self.speech_llm, self.count, self.normalise = speech_llm, count, normalise
        self._text, self._sentences = SentenceIndex(text, normalise), sentences
        entries = lexicon.entries if lexicon else ()
        self._index = NameIndex(entries, normalise)
        self._spoken = {self._written(entry): entry.spoken for entry in entries if entry.spoken}

    def lists(self, hypotheses: Sequence[str], phrases: OwnPhrases) -> list[tuple[str, ...]]:
        """The names for each utterance, those first that sound most like its first hypothesis.

        phrases: those of each utterance, which count as names of its own, or None.
        """
        return [self._names(text, own or (), self.count) for text, own in zip(hypotheses, phrases, strict=True)]

    def second_lists(self, text: str, phrases: Sequence[str] | None, first: Sequence[str]) -> list[tuple[str, ...]]:
        """Two lists for an utterance whose transcript after its first list is `text`.

        One holds the names that sound most like that transcript, which may be nearer to what was said. The other holds
        the names of the first list that the transcript contains, and then those that sound most like it and were not in
        the first list. phrases: as for `lists`, of this utterance.
        """
        names = self._names(text, phrases or (), 3 * self.count)
        used = [name for name in first if self.letters_used(text, [name], "")]
        others = (*used, *(name for name in names if name not in first))
        return [names[: self.count], others[: self.count]]

    def _names(self, hypothesis: str, phrases: Sequence[str], count: int) -> tuple[str, ...]:
        """The `count` names that sound most like a hypothesis, as the model writes them."""
        found = self._index.find(hypothesis, count)
        if phrases:
            found += NameIndex(map(Entry, phrases), self.normalise).find(hypothesis, count)
            found.sort(key=lambda one: -one.score)
        names = dict.fromkeys(self._written(one.entry) for one in found)
        return tuple(filter(None, names))[:count]

    def sentences_like(self, text: str) -> tuple[str, ...]:
        """The sentences of the text that sound most like a transcript."""
        return tuple(self._text.find(text, self._sentences))

    def _written(self, entry: Entry) -> str:
        """An entry as the model writes it: Whisper names in capitals, the toolkit's own decoders normalised text."""
        if self.speech_llm.transcribes and entry.written.islower():
            return " ".join(word[:1].upper() + word[1:] for word in entry.written.split(" "))
        if self.speech_llm.processor is not None or self.speech_llm.transcribes:
            return entry.written
        return self.normalise(entry.spoken[0] if entry.spoken else entry.written)

    def letters_used(self, text: str, names: Sequence[str], without: str) -> int:
        """The letters, by sound, of the longest of the names that a transcript contains and `without` does not.

        MOST_LETTERS at most, and SPELLED for a name that `without` contains in another spelling. 0: there is no such
        name.
        """
        before, after = (f" {self.normalise(one)} " for one in (without, text))
        sounds, sounded = self._index.runs(text), self._index.runs(without)

        def letters(form: str) -> int:
            sound, written = self._index.letters(form), f" {self.normalise(form)} "
            if sound in sounds and sound not in sounded:
                return min(len(sound), MOST_LETTERS)
            return SPELLED if written in after and written not in before else 0

        return max((letters(form) for name in names for form in (name, *self._spoken.get(name, ()))), default=0)

    def are_borne(self, text: str, names: Sequence[str], without: str, evidence: float) -> bool:
        """Whether to believe what an encoder wrote after a list of names, rather than what it wrote without one.

        A list also changes words that are none of its names, seldom for the better; so one of them must be used. Many
        words sound like a short name, few like a long one, so a longer name needs less evidence. evidence: in nats
        (`TranscribingWhisper.frames_after`).
        """
        letters = self.letters_used(text, names, without)
        return letters > 0 and evidence + LETTER * (letters - LETTERS) > 0

    def substitutes(self, words: Sequence[str], names: Sequence[str]) -> list[Substitute]:
        """The TRIED names that sound most like some of the words of a transcript, without those in it."""
        runs = self._index.runs_like(words, [(name, *self._spoken.get(name, ())) for name in names])
        near = [(run, name) for run, name in zip(runs, names, strict=True) if run and 0 < run.score < math.inf]
        near.sort(key=lambda pair: -pair[0].score)
        return [Substitute(name, run.first, run.last, run.score) for run, name in near[:TRIED]]

    def is_list(self, text: str, names: Sequence[str]) -> bool:
        """Whether a transcript is nothing but two or more of the names in its prompt."""
        rest, count = f" {self.normalise(text)} ", 0
        for name in sorted(map(self.normalise, names), key=len, reverse=True):
            count += rest.count(f" {name} ")
            rest = rest.replace(f" {name} ", " ")
        return count > 1 and not rest.strip()


def drawn_lists(names: NamesInPrompt, share: float) -> DrawnLists:
    """The function that draws the names in the prompt of a sentence, in training; () for all but a share of them.

    They sound like a part of the sentence, in random order, and are drawn from twice as many as a prompt may list: a
    name that the sentence contains is not always among them, so that the decoder learns to write others, too.
    """
    more = copy.copy(names)
    more.count = 2 * names.count

    def draw(text: str, rng: random.Random) -> Sequence[str]:
        if rng.random() >= share:
            return ()
        ((*found,),) = more.lists([text], [None])
        return rng.sample(found, min(len(found), rng.randint(1, names.count)))

    return draw


def first_hypotheses(
    speech_llm: SpeechLLM, slots: Sequence[torch.Tensor], heard: Sequence[torch.Tensor], most: int
) -> list[str]:
    """A quick hypothesis of each utterance: the encoder's own, or the decoder's greedy one without a CTC head.

    heard: as in `adapt.model.heard`; () without a CTC head. most: tokens of a hypothesis.
    """
    if speech_llm.transcribes:
        tokens = speech_llm.model.first_pass_tokens(heard)
        return [speech_llm.tokenizer.decode(speech_llm.model.transcript_ids(own)).strip() for own in tokens]
    if speech_llm.has_ctc:
        alphabet = speech_llm.model.config.alphabet
        paths = [row.max(1) for row in heard]
        return [collapse(p.indices.tolist(), p.values.exp().tolist(), alphabet).text for p in paths]
    prompts = [speech_llm.prompt(slot) for slot in slots]
    return [speech_llm.decode(best) for best, *_ in generate(speech_llm, prompts, 1, most)]


def heard_with_names(
    speech_llm: SpeechLLM,
    samples: Sequence[np.ndarray],
    heard: Sequence[torch.Tensor],
    first: Sequence[str],
    lists: Sequence[Sequence[str]],
    phrases: OwnPhrases,
    names: NamesInPrompt,
) -> dict[int, Listed]:
    """What an encoder that transcribes heard of each recording after the best list, by its place in `samples`.

    Each recording is transcribed after its list of `lists`, and after the two lists that the result leads to. Of the
    transcripts that are believed, the one with the most evidence counts. Where there is none, a name takes the place of
    words that sound like it, if that is believed. Where it is not, the recording is transcribed after the sentences
    that sound most like its first transcript; if that is not believed either, it is left out.
    heard: as in `adapt.model.heard`. first: the hypotheses without a list. phrases: as in `NamesInPrompt.lists`.
    """
    best: dict[int, Listed] = {}

    def read(trials: Sequence[tuple[int, Sequence[str]]], are_names: bool = True) -> list[str]:
        """The transcript of each recording after a list, of names or else of sentences."""
        if not trials:
            return []
        after = heard_after_lists(speech_llm, samples, heard, trials)
        texts = first_hypotheses(speech_llm, [], [listed.heard for listed in after], 0)
        for (i, own), listed, text in zip(trials, after, texts, strict=True):
            borne = names.are_borne(text, own, first[i], listed.evidence) if are_names else listed.evidence > SENTENCE
            if borne:
                best[i] = max(best.get(i, listed), listed, key=lambda one: one.evidence)
        return texts

    trials = [(i, own) for i, own in enumerate(lists) if own]
    second = {
        (i, new): None
        for (i, own), text in zip(trials, read(trials), strict=True)
        for new in names.second_lists(text, phrases[i], own)
        if new and new != tuple(own)
    }
    read(list(second))
    others = [(i, own) for i, own in trials if i not in best]
    best |= _with_substitutes(speech_llm, samples, heard, others, names)
    near = [(i, names.sentences_like(text)) for i, text in enumerate(first) if i not in best]
    read([(i, own) for i, own in near if own], are_names=False)
    return best


def _with_substitutes(
    speech_llm: SpeechLLM,
    samples: Sequence[np.ndarray],
    heard: Sequence[torch.Tensor],
    lists: Sequence[tuple[int, Sequence[str]]],
    names: NamesInPrompt,
) -> dict[int, Listed]:
    """What was heard of recordings with a name in place of words that sound like it, where that is believed.

    Whisper often leaves out a name that it would find likely if it were written. lists: the place of a recording, and
    the names that are tried; Whisper reads them. The other arguments are those of `heard_with_names`.
    """
    if not lists:
        return {}
    projector = speech_llm.model.projector
    tried, written, scores = [], [], []
    for (i, own), tokens in zip(lists, speech_llm.model.first_pass_tokens([heard[i] for i, _ in lists]), strict=True):
        for one in names.substitutes([word.text for word in projector.whole_words(tokens)], own):
            tried.append((i, own))
            written.append(projector.with_name(tokens, one.first, one.last, one.name))
            scores.append(one.score)
    if not tried:
        return {}
    after_list = log_odds(speech_llm, samples, heard, tried, written)
    without_list = log_odds(speech_llm, samples, heard, [(i, ()) for i, _ in tried], written)
    best: dict[int, tuple[float, int]] = {}
    for n, (i, _) in enumerate(tried):
        belief = after_list[n] + WITHOUT_LIST * without_list[n] + SOUND * scores[n]
        if belief > max(BELIEVED, best.get(i, (-math.inf, n))[0]):
            best[i] = belief, n
    chosen = [n for _, n in best.values()]
    if not chosen:
        return {}
    after = heard_after_lists(speech_llm, samples, heard, [tried[n] for n in chosen], [written[n] for n in chosen])
    # The states of a very unlikely name may tell another one.
    told = speech_llm.model.first_pass_tokens([listed.heard for listed in after])
    return {i: listed for i, n, listed, tokens in zip(best, chosen, after, told, strict=True) if tokens == written[n]}


def borne_by_ctc(speech_llm: SpeechLLM, posteriors: torch.Tensor, text: str, without: str) -> bool:
    """Whether the audio bears a transcript with names hardly less than one without, by the CTC head."""
    alphabet = speech_llm.model.config.alphabet
    with_names, plain = (log_probability(posteriors, one, alphabet) for one in (text, without))
    return with_names > plain - DOUBT
