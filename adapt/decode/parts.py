"""The parts of fusion: what scores hypotheses beside the decoder, one class for each.

A new part is a class in PARTS, a field of `Weights` and a key of the recipe's section `fusion`. This module imports no
torch, because the names of systems need the labels; methods import what they need.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from adapt.decode.weights import Weights
from adapt.errors import DataError
from adapt.text.lexicon import Entry, Lexicon

if TYPE_CHECKING:
    import torch
    from transformers import LogitsProcessor

    from adapt.decode.decoder_tokens import DecoderTokens
    from adapt.decode.joint import JointCtc
    from adapt.lm.automaton import Automaton
    from adapt.lm.phrases import Phrase

LANGUAGE_MODEL, BONUS, LENGTH = "language model", "bonus", "length"  # kinds of parts

OwnPhrases = Sequence[Sequence[str] | None]  # for each utterance, the phrases that it brings along


@dataclass(frozen=True)
class Batch:
    """A batch of utterances to decode.

    phrases: the phrases that each utterance brings along, or None. posteriors: CTC's log posteriors of each
    (`SpeechLLM.embeddings_and_posteriors`); none if they were not computed.
    """

    phrases: OwnPhrases = ()
    posteriors: Sequence[torch.Tensor] = ()


class Part:
    """A part of fusion, loaded for one speech LLM; a subclass overrides what differs.

    key: in the recipe's section `fusion`, and the field of `Weights`.
    label: in the names of systems; "" for none.
    sign: +1 if the part is added to the decoder's scores, -1 if it is subtracted.
    kind: LANGUAGE_MODEL if its totals are log probabilities of a text, LENGTH if its total is the number of tokens,
        BONUS otherwise.
    grid, ctc_grid: the weights that `adapt tune` tries with the decoder and with the ctc system; () for none.
    start: the weight that the search for weights starts from.
    needs_input: whether the part is there only if it has an input.
    turn: logits processors run in the order of the turns of their parts, after the automata.
    """

    key: ClassVar[str]
    label: ClassVar[str]
    sign: ClassVar[int] = 1
    kind: ClassVar[str] = BONUS
    grid: ClassVar[tuple[float, ...]] = ()
    ctc_grid: ClassVar[tuple[float, ...]] = ()
    start: ClassVar[float] = 0.0
    needs_input: ClassVar[bool] = False
    turn: ClassVar[int] = 0

    def __init__(self, tokens: DecoderTokens, given: Any):
        """given: the input, a file or what was read from it; None: no input."""
        self.tokens = tokens

    def check(self, phrases: Iterable[str]) -> None:
        """Raises DataError with those of the utterances' own phrases that the part cannot use."""

    def automata(self, weight: float, phrases: OwnPhrases) -> list[Automaton]:
        """Automata for `NgramFusion`, which scores those of all parts in one pass."""
        return []

    def processors(self, weight: float, batch: Batch) -> list[LogitsProcessor]:
        """Logits processors of its own. weight: above 0; a processor that subtracts knows that it does."""
        return []

    def totals(self, weight: float, tokens: Sequence[Sequence[int]], batch: Batch) -> torch.Tensor | None:
        """The unweighted scores `[rows]` of whole hypotheses, or None.

        batch: the phrases of each hypothesis, and the posteriors of each utterance, which have equally many hypotheses.
        """
        return None


def _token_ngrams(tokens: DecoderTokens, path: Path) -> Automaton:
    """Raises DataError for n-grams over another tokenizer's tokens, and for a file that is no ARPA of token ids."""
    from adapt.lm.build import check_vocabulary
    from adapt.lm.ngram import load_ngrams

    check_vocabulary(path, tokens.speech_llm.tokenizer)
    return load_ngrams(path, tokens.size, tokens.ends, tokens.special).to(tokens.speech_llm.device)


class DomainNgrams(Part):
    """Shallow fusion with an n-gram LM of the domain. Input: an ARPA of the decoder's tokens, or a binary of KenLM."""

    key, label, kind = "lm", "LM", LANGUAGE_MODEL
    grid = (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5)
    ctc_grid = (0.2, 0.4, 0.6)
    start = 0.1
    needs_input = True
    turn = 1  # KenLM scores the best tokens alone, so these have to be known

    def __init__(self, tokens: DecoderTokens, given: Path):
        from adapt.lm import arpa
        from adapt.lm.build import check_vocabulary

        self._automaton = self._kenlm = None
        if arpa.kind(given) != "binary":
            self._automaton = _token_ngrams(tokens, given)
            return
        from adapt.decode.kenlm import KenlmFusion, words_are_token_ids

        check_vocabulary(given, tokens.speech_llm.tokenizer)
        self._kenlm = KenlmFusion(given, 0.0, tokens.ends)
        if not words_are_token_ids(self._kenlm.model):
            raise DataError(f"{given}: its words are not decimal token ids; build it from lm/tokens.arpa of a run")

    def automata(self, weight: float, phrases: OwnPhrases) -> list[Automaton]:
        return [self._automaton] if self._automaton else []

    def processors(self, weight: float, batch: Batch) -> list[LogitsProcessor]:
        if self._kenlm is None:
            return []
        processor = copy.copy(self._kenlm)
        processor.weight = weight
        return [processor]

    def totals(self, weight: float, tokens: Sequence[Sequence[int]], batch: Batch) -> torch.Tensor:
        return (self._automaton or self._kenlm).totals(tokens)


class SourceNgrams(Part):
    """An n-gram LM of the source domain, subtracted (LODR). Input: an ARPA of the decoder's tokens."""

    key, label, kind, sign = "source", "LODR", LANGUAGE_MODEL, -1
    needs_input = True

    def __init__(self, tokens: DecoderTokens, given: Path):
        self._automaton = _token_ngrams(tokens, given)

    def automata(self, weight: float, phrases: OwnPhrases) -> list[Automaton]:
        return [self._automaton]

    def totals(self, weight: float, tokens: Sequence[Sequence[int]], batch: Batch) -> torch.Tensor:
        return self._automaton.totals(tokens)


class InternalLanguageModel(Part):
    """The decoder's internal LM, subtracted. Input: embeddings `[length, hidden]` of the prompt without audio."""

    key, label, kind, sign = "ilm", "ILM", LANGUAGE_MODEL, -1
    grid = (0.05, 0.1, 0.15, 0.2, 0.3)
    start = 0.1
    needs_input = True

    def __init__(self, tokens: DecoderTokens, given: torch.Tensor):
        self.tokens, self._prompt = tokens, given

    def processors(self, weight: float, batch: Batch) -> list[LogitsProcessor]:
        from adapt.decode.internal_lm import InternalLM

        return [InternalLM(self.tokens.speech_llm.generator, self._prompt, weight, self.tokens.special)]

    def totals(self, weight: float, tokens: Sequence[Sequence[int]], batch: Batch) -> torch.Tensor:
        from adapt.decode.internal_lm import sequence_scores

        return sequence_scores(self.tokens.speech_llm, [self._prompt] * len(tokens), tokens)


class LexiconBoosting(Part):
    """A bonus for the phrases of a lexicon, and for those that an utterance brings along. Input: a lexicon, or None.

    hotword_weight: the default weight with `--decoder ctc`, where pyctcdecode boosts hotwords.
    """

    key, label = "boost", "boost"
    grid = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0)
    # No ctc_grid: hotwords of a lexicon of 1,500 names cost pyctcdecode a second an utterance.
    start = 0.6
    hotword_weight: ClassVar[float] = 5.0

    def __init__(self, tokens: DecoderTokens, given: Lexicon | None):
        self.tokens = tokens
        phrases = tokens.phrases(given.entries) if given else []
        self._listed = {(phrase.inside, phrase.first): phrase.weight for phrase in phrases}
        self._lexicon = self._automaton([phrases]) if phrases else None

    def check(self, phrases: Iterable[str]) -> None:
        self.tokens.phrases([Entry(phrase) for phrase in dict.fromkeys(phrases)])

    def automata(self, weight: float, phrases: OwnPhrases) -> list[Automaton]:
        found = [self._lexicon] if self._lexicon else []
        if any(phrases):
            lists = [self._own(own or (), weight) for own in phrases]
            found.append(self._automaton([self._beyond_the_lexicon(own) for own in lists]))
        return found

    def totals(self, weight: float, tokens: Sequence[Sequence[int]], batch: Batch) -> torch.Tensor | None:
        automata = self.automata(weight, batch.phrases)
        return sum(automaton.totals(tokens) for automaton in automata) if automata else None

    def _automaton(self, lists: Sequence[Sequence[Phrase]]) -> Automaton:
        from adapt.lm.boosting import boosting_automaton

        found = boosting_automaton(lists, self.tokens.begin_word, self.tokens.ends, self.tokens.special)
        return found.to(self.tokens.speech_llm.device)

    def _own(self, phrases: Sequence[str], weight: float) -> list[Phrase]:
        """An utterance's own phrases in tokens; with a weight of 0, only those that can be written in tokens."""
        if weight:
            return self.tokens.phrases([Entry(phrase) for phrase in phrases])
        found = []
        for phrase in phrases:
            with suppress(DataError):
                found += self.tokens.phrases([Entry(phrase)])
        return found

    def _beyond_the_lexicon(self, phrases: Sequence[Phrase]) -> list[Phrase]:
        """Phrases with that part of their weight which the lexicon does not give them already."""
        more = [(p, p.weight - self._listed.get((p.inside, p.first), 0.0)) for p in phrases]
        return [dataclasses.replace(p, weight=weight) for p, weight in more if weight > 0]


class Ctc(Part):
    """The encoder's CTC beside the decoder (`joint`). It belongs to the base, so the names of systems leave it out."""

    key, label = "ctc", ""
    turn = 2

    @functools.cached_property
    def _letters(self) -> torch.Tensor:
        from adapt.decode.joint import letters_of_tokens

        return letters_of_tokens(self.tokens.text_pieces, self.tokens.speech_llm.model.config.alphabet)

    def _joint(self, posteriors: Sequence[torch.Tensor], weight: float) -> JointCtc:
        from adapt.decode.joint import JointCtc

        space = self.tokens.speech_llm.model.config.alphabet.find(" ")
        return JointCtc(posteriors, self._letters, space, self.tokens.ends, weight)

    def processors(self, weight: float, batch: Batch) -> list[LogitsProcessor]:
        return [self._joint(batch.posteriors, weight)]

    def totals(self, weight: float, tokens: Sequence[Sequence[int]], batch: Batch) -> torch.Tensor | None:
        return self._joint(batch.posteriors, weight).totals(tokens) if batch.posteriors else None


class TokenReward(Part):
    """A reward for each token. `NgramFusion` adds it, because an automaton knows which tokens are no special tokens."""

    key, label, kind = "reward", "reward", LENGTH
    grid = (-0.5, 0.0, 0.5, 1.0)
    ctc_grid = (0.0, 1.0, 2.0)


PARTS: tuple[type[Part], ...] = (DomainNgrams, SourceNgrams, InternalLanguageModel, LexiconBoosting, Ctc, TokenReward)


def part_of(key: str) -> type[Part]:
    """The part with this key."""
    return next(part for part in PARTS if part.key == key)


def label(weights: Weights) -> str:
    """The parts with a weight, for the names of systems.

    >>> label(Weights(lm=0.2, boost=0.8))
    'LM + boost'
    """
    return " + ".join(part.label for part in PARTS if part.label and getattr(weights, part.key))


def fused_score(model: Any, tokens: Any, totals: Mapping[str, Any], weights: Weights) -> Any:
    """The score by which beam search ranks hypotheses, for floats or for numpy arrays of one shape.

    It is the weighted sum of the decoder's log probability `model` and the `totals` of the parts by key, divided by the
    number of tokens, the end of the sentence counted. A part without a total adds nothing.
    """
    sums = {LANGUAGE_MODEL: model, BONUS: 0.0, LENGTH: 0.0}  # the order of summation decides the last digit
    for part in PARTS:
        if weight := getattr(weights, part.key):
            total = tokens if part.kind == LENGTH else totals.get(part.key, 0.0)
            sums[part.kind] = sums[part.kind] + part.sign * weight * total
    return (sums[LANGUAGE_MODEL] + sums[BONUS] + sums[LENGTH]) / (tokens + 1)
