"""Joint beam search with the decoder and the encoder's CTC (Watanabe et al. 2017).

CTC scores each hypothesis with the log probability that the transcript starts with it ("Hybrid CTC/Attention
Architecture for End-to-End Speech Recognition", algorithm 2). It scores only the tokens that the search has chosen, one
step later than the decoder. Scoring all possible tokens costs three times as much, for 0.1 or 0.2 points of WER.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence
from transformers import LogitsProcessor

from adapt.decode.beam_tracker import BeamTracker
from adapt.lm.phrases import token_bytes

NEVER = -1e10  # the log probability of the impossible; finite, so that differences of it are numbers
RAREST = -100.0  # the lowest log probability of a symbol in a frame, and of a token that CTC finds impossible


def letters_of_tokens(token_strings: Sequence[str], alphabet: str) -> torch.Tensor:
    """The letters of each token as indices into `alphabet`, `[tokens, longest]`, padded with -1.

    token_strings: the tokens as the tokenizer writes them. Letters become lower case if the alphabet has no upper case;
    characters that are not in the alphabet are left out.

    >>> letters_of_tokens(["▁Hey", "'s", ""], "ehsy' ").tolist()
    [[5, 1, 0, 3], [4, 2, -1, -1], [-1, -1, -1, -1]]
    """
    in_bytes = any(token_string.startswith("Ġ") for token_string in token_strings)
    index_of = {character: index for index, character in enumerate(alphabet)}
    rows = []
    for token_string in token_strings:
        text = token_bytes(token_string, in_bytes).decode("utf-8", "ignore").replace("▁", " ")
        text = text.lower() if alphabet == alphabet.lower() else text
        rows.append(torch.tensor([index_of[c] for c in text if c in index_of], dtype=torch.int32))
    return pad_sequence(rows, batch_first=True, padding_value=-1)


@dataclass(frozen=True)
class _Prefixes:
    """CTC's log probabilities of some prefixes.

    exact: `[rows, frames + 1]`, column n: that the first n frames contain the prefix and nothing else. exact_blank: the
    same, with a blank in the last of these frames. started: `[rows]`, that the transcript of all frames starts with the
    prefix. last: the last letter of each prefix; -1 for an empty prefix.
    """

    exact: torch.Tensor
    exact_blank: torch.Tensor
    started: torch.Tensor
    last: torch.Tensor

    def __getitem__(self, rows: torch.Tensor) -> _Prefixes:
        return _Prefixes(self.exact[rows], self.exact_blank[rows], self.started[rows], self.last[rows])


class JointCtc(LogitsProcessor):
    """Adds weight times CTC's log probability of the text so far; tokens that end the text also get that of its end.

    posteriors: log posteriors `[frames, alphabet + 1]` of each utterance in the batch, the blank last; all utterances
    have equally many rows. letters: of each token (`letters_of_tokens`). space: the index of the space
    in the alphabet, -1 without one; CTC emits no space before the first word, and none after another space. ends:
    tokens that end a transcript. With one beam, only the end matters, because a row competes with no other row.
    """

    def __init__(
        self, posteriors: Sequence[torch.Tensor], letters: torch.Tensor, space: int, ends: Sequence[int], weight: float
    ):
        self.weight = weight
        # Double precision is necessary, and Apple's GPUs lack it.
        device = torch.device("cpu") if posteriors[0].device.type == "mps" else posteriors[0].device
        self._letters, self._space, self._ends = letters.to(device), space, list(ends)
        frames = max(map(len, posteriors))
        logs = torch.stack(
            [pad(p.to(device).double().clamp(RAREST), (0, 0, 0, frames - len(p)), value=NEVER) for p in posteriors]
        )
        for row, posterior in zip(logs, posteriors, strict=True):
            row[len(posterior) :, -1] = 0  # padding is blank
        self._sums = pad(logs.cumsum(1), (0, 0, 1, 0))
        self._tracker = BeamTracker(len(posteriors))
        self._prefixes: _Prefixes | None = None

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        utterances, input_ids = self._utterances(len(input_ids)), input_ids.to(self._sums.device)
        previous = self._tracker.previous_rows(input_ids)
        if previous is None:
            before = self._empty(utterances)
            letters = self._letters_of(input_ids.tolist())
        else:
            before = self._prefixes[previous]
            letters = self._letters[input_ids[:, -1]].long()
        now = self._prefixes = self._extended(before, utterances, letters)
        # A text with more letters than frames is impossible; RAREST limits the cost.
        gained, end = now.started - before.started, now.exact[:, -1] - now.started
        scores = scores + (self.weight * gained.clamp(RAREST)).to(scores)[:, None]
        scores[:, self._ends] += (self.weight * end.clamp(RAREST)).to(scores)[:, None]
        return scores

    def totals(self, sequences: Sequence[Sequence[int]]) -> torch.Tensor:
        """Log probability `[rows]` of the text of each token sequence; each utterance has equally many of them.

        It is 10 * RAREST for a text that CTC finds impossible.
        """
        utterances = self._utterances(len(sequences))
        prefixes = self._extended(self._empty(utterances), utterances, self._letters_of(sequences))
        return prefixes.exact[:, -1].clamp(10 * RAREST)

    def _utterances(self, rows: int) -> torch.Tensor:
        """The utterance of each row."""
        return torch.arange(rows, device=self._sums.device) * len(self._sums) // rows

    def _letters_of(self, sequences: Sequence[Sequence[int]]) -> torch.Tensor:
        """The letters `[rows, longest]` of token sequences, padded with -1."""
        rows = [self._letters[torch.tensor(tokens, dtype=torch.long)].long() for tokens in sequences]
        return pad_sequence([row[row >= 0] for row in rows], batch_first=True, padding_value=-1)

    def _empty(self, utterances: torch.Tensor) -> _Prefixes:
        """The empty prefix for each row."""
        blanks = self._sums[utterances, :, -1]
        return _Prefixes(blanks, blanks, torch.zeros_like(blanks[:, 0]), torch.full_like(utterances, -1))

    def _extended(self, prefixes: _Prefixes, utterances: torch.Tensor, letters: torch.Tensor) -> _Prefixes:
        """The prefixes extended by letters `[rows, longest]`. utterances: the utterance of each row."""
        exact, exact_blank, started, last = (
            x.clone() for x in (prefixes.exact, prefixes.exact_blank, prefixes.started, prefixes.last)
        )
        longest = int((letters >= 0).sum(1).amax()) if letters.numel() else 0
        for letter in letters.T[:longest]:
            emitted = (letter != self._space) | ((last >= 0) & (last != self._space))
            rows = ((letter >= 0) & emitted).nonzero()[:, 0]
            letter, row_utterances = letter[rows], utterances[rows]
            # Cumulative sums of logs replace the recursions over frames: sums[j + 1] - sums[j] is the log of frame j.
            sums, blank = self._sums[row_utterances, :, letter], self._sums[row_utterances, :, -1]
            before = torch.where((letter == last[rows])[:, None], exact_blank[rows], exact[rows])[:, :-1]
            started[rows] = (before + sums.diff()).logsumexp(1)
            arrived = sums[:, 1:] + (before - sums[:, :-1]).logcumsumexp(1)
            arrived = pad(arrived, (1, 0), value=NEVER)
            extended = blank + (arrived - blank).logcumsumexp(1)
            exact[rows] = extended
            exact_blank[rows] = pad(extended[:, :-1] + blank.diff(), (1, 0), value=NEVER)
            last[rows] = letter
        return _Prefixes(exact, exact_blank, started, last)
