"""All parts of fusion of one speech LLM together."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from transformers import LogitsProcessor

from adapt.decode.decoder_tokens import DecoderTokens
from adapt.decode.hypothesis import Hypothesis
from adapt.decode.internal_lm import sequence_scores
from adapt.decode.ngram_fusion import NgramFusion
from adapt.decode.parts import PARTS, Batch, Part
from adapt.decode.weights import Weights
from adapt.errors import DataError
from adapt.model.speech_llm import SpeechLLM


class Fusion:
    """The parts of fusion of one speech LLM, with their weights.

    inputs: the inputs of the parts by key, as the classes of `parts` describe them; None: the part has no input.
    normalise: applied to phrases. Raises DataError for a weight of a part whose input is missing, for n-grams over
    another tokenizer's tokens, and for a lexicon that cannot be written in tokens.
    """

    def __init__(
        self,
        speech_llm: SpeechLLM,
        weights: Weights,
        inputs: Mapping[str, Any] | None = None,
        *,
        normalise: Callable[[str], str],
    ):
        self.speech_llm, self.weights = speech_llm, weights
        self.tokens = DecoderTokens(speech_llm, normalise)
        present = {key: value for key, value in (inputs or {}).items() if value is not None}
        missing = [part.key for part in PARTS if part.needs_input and part.key not in present]
        for key in missing:
            if getattr(weights, key):
                raise DataError(f"fusion: {key!r} has a weight, but no input; make one with `adapt lm`, or set it to 0")
        self._parts = {part.key: part(self.tokens, present.get(part.key)) for part in PARTS if part.key not in missing}

    def with_weights(self, weights: Weights) -> Fusion:
        """The same parts with other weights."""
        other = copy.copy(self)
        other.weights = weights
        return other

    def _weighted(self) -> list[tuple[Part, float]]:
        """The parts with their weights."""
        return [(part, getattr(self.weights, key)) for key, part in self._parts.items()]

    def processors(self, batch: Batch) -> list[LogitsProcessor]:
        """Logits processors for a batch of utterances. Raises DataError for a reward of tokens without an automaton."""
        terms = [
            (automaton, part.sign * weight)
            for part, weight in self._weighted()
            for automaton in part.automata(weight, batch.phrases if weight else ())
        ]
        reward = self.weights.reward
        # The reward needs an automaton, even one with a weight of 0, which knows the special tokens.
        terms = [term for term in terms if term[1]] or (terms[:1] if reward else [])
        if reward and not terms:
            raise DataError("fusion: a reward of tokens alone; give an n-gram LM or a lexicon too, or leave it out")
        processors: list[LogitsProcessor] = [NgramFusion(*terms[0], *terms[1:], reward=reward)] if terms else []
        for part, weight in sorted(self._weighted(), key=lambda pair: pair[0].turn):
            if weight:
                processors += part.processors(weight, batch)
        return processors

    def score_texts(self, tokens: Sequence[Sequence[int]], phrases: Sequence[str] | None) -> list[float]:
        """The weighted sum of the parts that need no audio, for each token sequence. phrases: of all, or None."""
        rows, scores = Batch([phrases] * len(tokens)), torch.zeros(len(tokens))
        for part, weight in self._weighted():
            total = part.totals(weight, tokens, rows) if part.of_texts and weight else None
            scores += 0.0 if total is None else part.sign * weight * total.float().cpu()
        return scores.tolist()

    @torch.no_grad()
    def score_hypotheses(
        self, prompts: Sequence[torch.Tensor], nbest: Sequence[Sequence[Sequence[int]]], batch: Batch
    ) -> list[list[Hypothesis]]:
        """The n-best hypotheses of each utterance, with their scores from the decoder and from every part.

        prompts: `[length, hidden]`, with the audio of each utterance. nbest: token sequences of each utterance; equally
        many of each if the batch has posteriors.
        """
        utterance_of = [i for i, sequences in enumerate(nbest) for _ in sequences]
        tokens = [sequence for sequences in nbest for sequence in sequences]
        rows = Batch([batch.phrases[i] for i in utterance_of], batch.posteriors)
        decoder_scores = sequence_scores(self.speech_llm, [prompts[i] for i in utterance_of], tokens).tolist()
        totals = {part.key: part.totals(weight, tokens, rows) for part, weight in self._weighted()}
        totals = {key: total.tolist() for key, total in totals.items() if total is not None}
        hypotheses: list[list[Hypothesis]] = [[] for _ in nbest]
        for row, i in enumerate(utterance_of):
            text, row_totals = self.speech_llm.decode(tokens[row]), {key: total[row] for key, total in totals.items()}
            hypotheses[i].append(Hypothesis(text, len(tokens[row]), decoder_scores[row], row_totals))
        return hypotheses
