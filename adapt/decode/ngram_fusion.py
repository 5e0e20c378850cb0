"""Shallow fusion with n-gram models and lists of phrases, as a logits processor for `generate` of transformers.

    lm = load_ngrams("tokens.arpa", vocabulary=model.config.vocab_size, ends=[eos])
    model.generate(inputs_embeds=..., num_beams=8, logits_processor=[NgramFusion(lm, weight=0.3)])

The processor works with any decoder, without the rest of the toolkit. It does not normalise scores: beam search passes
log probabilities, and the logits of greedy search differ from log probabilities by one number for each row, which does
not change the best token.
"""

from __future__ import annotations

import torch
from transformers import LogitsProcessor

from adapt.decode.beam_tracker import BeamTracker
from adapt.lm.automaton import Automaton, dense_rows, score_all


class NgramFusion(LogitsProcessor):
    """Adds weight times the score of each automaton (`lm.ngram`, `lm.boosting`), and `reward` for each token.

    It works in place: with `output_logits`, greedy search returns the fused scores. others: further (automaton, weight)
    pairs, scored in the same pass over the vocabulary. A negative weight subtracts a model of the source domain, such
    as the low-order model of LODR (Zheng et al. 2022). prompt_length: the number of leading columns of `input_ids` that
    belong to the prompt; 0 with `inputs_embeds`. An automaton of several lists needs a batch of as many utterances,
    each with equally many rows.
    """

    def __init__(
        self,
        automaton: Automaton,
        weight: float,
        *others: tuple[Automaton, float],
        reward: float = 0.0,
        prompt_length: int = 0,
    ):
        self.terms = [(automaton, weight), *others]
        self.prompt_length = prompt_length
        self._rows = dense_rows([a for a, _ in self.terms])
        self._reward = reward * (automaton.classes.sum(0) > 0)  # special tokens are in no class
        self._tracker = BeamTracker(max(len(a.starts) for a, _ in self.terms))
        self._states: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self._advance(input_ids[:, self.prompt_length :])
        self._match(scores)
        scores = scores.contiguous()
        if self._reward.any():
            scores += self._reward
        terms = [(a, states, weight) for (a, weight), states in zip(self.terms, self._states, strict=True)]
        return score_all(scores, terms, self._rows)

    def _advance(self, ids: torch.Tensor) -> None:
        """Set the states of the automata after the tokens `[rows, length]`."""
        previous = self._tracker.previous_rows(ids)
        automata = [a for a, _ in self.terms]
        if previous is not None:
            self._states = [
                a.step(s[previous], ids[:, -1:])[1][:, 0] for a, s in zip(automata, self._states, strict=True)
            ]
            return
        self._states = [a.start(len(ids)) for a in automata]
        for column in range(ids.shape[1]):
            token = ids[:, column : column + 1]
            self._states = [a.step(s, token)[1][:, 0] for a, s in zip(automata, self._states, strict=True)]

    def _match(self, scores: torch.Tensor) -> None:
        """Pad the automata to the number of the decoder's outputs, and move them to its device."""
        vocabulary, device = scores.shape[1], scores.device
        if self._rows.shape[1] == vocabulary and self._rows.device == device:
            return
        self.terms = [(a.padded(vocabulary).to(device), weight) for a, weight in self.terms]
        self._rows = dense_rows([a for a, _ in self.terms])
        padding = vocabulary - len(self._reward)
        self._reward = torch.nn.functional.pad(self._reward, (0, padding)).to(device)
        self._states = [s.to(device) for s in self._states]
