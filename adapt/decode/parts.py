"""The parts of fusion, which score hypotheses besides the decoder: one class for each.

To add a part, write a class in PARTS, a field of `Weights` and a key of `FusionWeights` in `adapt.recipe.domain`. A
file of the run that it reads is a line in `adapt.stages.systems`. The module imports no torch, because the names of
systems are made from its labels; methods import torch.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from adapt.decode.weights import Weights
from adapt.errors import DataError
from adapt.lm.phrases import NOT_WRITABLE
from adapt.text.lexicon import Entry, Lexicon

if TYPE_CHECKING:
    import torch
    from transformers import LogitsProcessor

    from adapt.decode.decoder_tokens import DecoderTokens
    from adapt.decode.joint import JointCtc
    from adapt.lm.automaton import Automaton
    from adapt.lm.phrases import Phrase

LANGUAGE_MODEL, BONUS, LENGTH = "language model", "bonus", "length"  # kinds of parts

OwnPhrases = Sequence[Sequence[str] | None]  # the `phrases` of each utterance of a manifest


@dataclass(frozen=True)
class Batch:
    """A batch of utterances to decode.

    phrases: those of each utterance, or None. posteriors: CTC log posteriors of each
    (`adapt.model.heard`); () if they were not computed.
    """

    phrases: OwnPhrases = ()
    posteriors: Sequence[torch.Tensor] = ()


class Part:
    """A part of fusion, loaded for one speech LLM. Subclasses override its attributes and methods.

    key: in the recipe's section `fusion`, and the field of `Weights`.
    label: in the names of systems; "" for none.
    sign: +1 if the part is added to the decoder's scores, -1 if it is subtracted.
    kind: LANGUAGE_MODEL if its totals are log probabilities of a text, LENGTH if its total is the number of tokens,
        BONUS otherwise.
    grid, ctc_grid: the weights that `adapt tune` tries with the decoder and with the ctc system; () for none.
    start: the initial weight of the search for weights.
    needs_input: whether the part exists only with an input.
    of_texts: whether its totals depend on tokens and phrases alone.
    turn: the logits processors of the parts run in the order of their turns, after the automata.
    """

    key: ClassVar[str]
    label: ClassVar[str]
    sign: ClassVar[int] = 1
    kind: ClassVar[str] = BONUS
    grid: ClassVar[tuple[float, ...]] = ()
    ctc_grid: ClassVar[tuple[float, ...]] = ()
    start: ClassVar[float] = 0.0
    needs_input: ClassVar[bool] = False
    of_texts: ClassVar[bool] = False
    turn: ClassVar[int] = 0

    def __init__(self, tokens: DecoderTokens, part_input: Any):
        """part_input: a file, or its contents; None: no input."""
        self.tokens = tokens

    def automata(self, weight: float, phrases: OwnPhrases) -> list[Automaton]:
        """Automata for `NgramFusion`, which scores those of all parts in one pass."""
        return []

    def processors(self, weight: float, batch: Batch) -> list[LogitsProcessor]:
        """Further logits processors. weight: above 0, also for a part that is subtracted."""
        return []

    def totals(self, weight: float, tokens: Sequence[Sequence[int]], batch: Batch) -> torch.Tensor | None:
        """The unweighted scores `[rows]` of whole hypotheses; None if the part has none.

        batch: the phrases of each hypothesis, and the posteriors of each utterance; all utterances have equally many
        hypotheses.
        """
        return None


def _token_ngrams(tokens: DecoderTokens, path: Path) -> Automaton:
    """The automaton of an ARPA of token ids. Raises DataError for other files and for another tokenizer's tokens."""
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
    needs_input = of_texts = True
    turn = 1  # after the automata, because KenLM scores only the best tokens

    def __init__(self, tokens: DecoderTokens, path: Path):
        from adapt.lm import arpa
        from adapt.lm.build import check_vocabulary

        self._automaton = self._kenlm = None
        if arpa.kind(path) != "binary":
            self._automaton = _token_ngrams(tokens, path)
            return
        from adapt.decode.kenlm import KenlmFusion, words_are_token_ids

        check_vocabulary(path, tokens.speech_llm.tokenizer)
        self._kenlm = KenlmFusion(path, 0.0, tokens.ends)
        if not words_are_token_ids(self._kenlm.model):
            raise DataError(f"{path}: its words are not decimal token ids; build it from lm/tokens.arpa of a run")

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
    needs_input = of_texts = True

    def __init__(self, tokens: DecoderTokens, path: Path):
        self._automaton = _token_ngrams(tokens, path)

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

    def __init__(self, tokens: DecoderTokens, prompt: torch.Tensor):
        self.tokens, self._prompt = tokens, prompt

    def processors(self, weight: float, batch: Batch) -> list[LogitsProcessor]:
        from adapt.decode.internal_lm import InternalLM

        return [InternalLM(self.tokens.speech_llm.generator, self._prompt, weight, self.tokens.special)]

    def totals(self, weight: float, tokens: Sequence[Sequence[int]], batch: Batch) -> torch.Tensor:
        from adapt.decode.internal_lm import sequence_scores

        return sequence_scores(self.tokens.speech_llm, [self._prompt] * len(tokens), tokens)


class LexiconBoosting(Part):
    """A bonus for the phrases of a lexicon, and for those of an utterance. Input: a lexicon, or None.

    hotword_weight: the default weight with `--decoder ctc`, where pyctcdecode boosts hotwords.
    """

    key, label = "boost", "boost"
    grid = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0)
    # No ctc_grid: with the hotwords of a lexicon of 1,500 names, pyctcdecode takes a second per utterance.
    start = 0.6
    of_texts = True
    hotword_weight: ClassVar[float] = 5.0

    def __init__(self, tokens: DecoderTokens, lexicon: Lexicon | None):
        self.tokens = tokens
        phrases = tokens.phrases(lexicon.entries) if lexicon else []
        if lexicon and lexicon.entries and not phrases:
            raise DataError(f"lexicon {lexicon.name}: no entry {NOT_WRITABLE}")
        self._listed = {(phrase.inside, phrase.first): phrase.weight for phrase in phrases}
        self._lexicon = self._automaton([phrases]) if phrases else None

    def automata(self, weight: float, phrases: OwnPhrases) -> list[Automaton]:
        automata = [self._lexicon] if self._lexicon else []
        if any(phrases):
            lists = [self.tokens.phrases(map(Entry, of_utterance or ())) for of_utterance in phrases]
            automata.append(self._automaton([self._beyond_the_lexicon(own) for own in lists]))
        return automata

    def totals(self, weight: float, tokens: Sequence[Sequence[int]], batch: Batch) -> torch.Tensor | None:
        automata = self.automata(weight, batch.phrases)
        return sum(automaton.totals(tokens) for automaton in automata) if automata else None

    def _automaton(self, lists: Sequence[Sequence[Phrase]]) -> Automaton:
        from adapt.lm.boosting import boosting_automaton

        automaton = boosting_automaton(lists, self.tokens.begin_word, self.tokens.ends, self.tokens.special)
        return automaton.to(self.tokens.speech_llm.device)

    def _beyond_the_lexicon(self, phrases: Sequence[Phrase]) -> list[Phrase]:
        """Phrases with their weight minus the weight that the lexicon gives them; without those that have none left."""
        rest = [(p, p.weight - self._listed.get((p.inside, p.first), 0.0)) for p in phrases]
        return [dataclasses.replace(p, weight=weight) for p, weight in rest if weight > 0]


class Ctc(Part):
    """The encoder's CTC (`joint`). It belongs to the base, so that the names of systems do not contain it."""

    key, label = "ctc", ""
    turn = 2

    @functools.cached_property
    def _letters(self) -> torch.Tensor:
        from adapt.decode.joint import letters_of_tokens

        return letters_of_tokens(self.tokens.text_strings, self.tokens.speech_llm.model.config.alphabet)

    def _joint(self, posteriors: Sequence[torch.Tensor], weight: float) -> JointCtc:
        from adapt.decode.joint import JointCtc

        space = self.tokens.speech_llm.model.config.alphabet.find(" ")
        return JointCtc(posteriors, self._letters, space, self.tokens.ends, weight)

    def processors(self, weight: float, batch: Batch) -> list[LogitsProcessor]:
        return [self._joint(batch.posteriors, weight)]

    def totals(self, weight: float, tokens: Sequence[Sequence[int]], batch: Batch) -> torch.Tensor | None:
        return self._joint(batch.posteriors, weight).totals(tokens) if batch.posteriors else None


class TokenReward(Part):
    """A reward for each token. `NgramFusion` adds it, because its automata know which tokens are special."""

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
