"""The encoder's CTC beside the decoder in beam search: what is written has to be heard by both.

Of two hypotheses the one is better whose text CTC too finds more probable, as a prefix of what is said (Watanabe et al.
2017, "Hybrid CTC/Attention Architecture for End-to-End Speech Recognition", algorithm 2). It is asked about the tokens
that the search has chosen, a step later than the decoder; asking about those that it might choose costs three times as
much, for 0.1 or 0.2 points of WER.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence
from transformers import LogitsProcessor

from adapt.decode.beam_tracker import BeamTracker
from adapt.lm.phrases import raw

NEVER = -1e10  # a log probability; finite, so that differences of it are numbers
RAREST = -100.0  # the least of a symbol in a frame, and what a token that CTC holds for impossible costs


def spelled(pieces: Sequence[str], alphabet: str) -> torch.Tensor:
    """Places in `alphabet` of the letters of each token's piece, `[tokens, longest]`, -1 behind the last.

    Letters go in lower case where the alphabet has no other; what it does not hold is left out.

    >>> spelled(["▁Hey", "'s", ""], "ehsy' ").tolist()
    [[5, 1, 0, 3], [4, 2, -1, -1], [-1, -1, -1, -1]]
    """
    in_bytes = any(piece.startswith("Ġ") for piece in pieces)
    places = {character: place for place, character in enumerate(alphabet)}
    rows = []
    for piece in pieces:
        text = raw(piece, in_bytes).decode("utf-8", "ignore").replace("▁", " ")
        text = text.lower() if alphabet == alphabet.lower() else text
        rows.append(torch.tensor([places[c] for c in text if c in places], dtype=torch.int32))
    return pad_sequence(rows, batch_first=True, padding_value=-1)


@dataclass(frozen=True)
class _Prefixes:
    """What CTC says of some prefixes, in log probabilities.

    said: `[rows, frames + 1]`, that so many frames say the prefix and nothing else; quiet: that they do, and the last
    of them is blank. begun: `[rows]`, that what all frames say begins with the prefix. last: the last letter of each,
    -1 before the first.
    """

    said: torch.Tensor
    quiet: torch.Tensor
    begun: torch.Tensor
    last: torch.Tensor

    def __getitem__(self, rows: torch.Tensor) -> _Prefixes:
        return _Prefixes(self.said[rows], self.quiet[rows], self.begun[rows], self.last[rows])


class JointCtc(LogitsProcessor):
    """Adds weight times CTC's log probability of the text so far, and of its end to those of the tokens that end it.

    posteriors: log probabilities `[frames, alphabet + 1]`, the blank last, of each utterance; the batch is as many
    utterances, each with as many rows. letters: of each token (`spelled`). space: the place of the space in the
    alphabet, -1 without one; CTC hears none before the first word, and none behind another. ends: tokens that end a
    transcript. With one beam only the end is weighed, for a row has no other beside it.
    """

    def __init__(
        self, posteriors: Sequence[torch.Tensor], letters: torch.Tensor, space: int, ends: Sequence[int], weight: float
    ):
        self.weight = weight
        # In double precision, which Apple's GPUs do not have.
        device = torch.device("cpu") if posteriors[0].device.type == "mps" else posteriors[0].device
        self._letters, self._space, self._ends = letters.to(device), space, list(ends)
        frames = max(map(len, posteriors))
        logs = torch.stack(
            [pad(p.to(device).double().clamp(RAREST), (0, 0, 0, frames - len(p)), value=NEVER) for p in posteriors]
        )
        for row, posterior in zip(logs, posteriors, strict=True):
            row[len(posterior) :, -1] = 0  # frames that are not there say the blank
        self._sums = pad(logs.cumsum(1), (0, 0, 1, 0))
        self._tracker = BeamTracker(len(posteriors))
        self._prefixes: _Prefixes | None = None

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        utterances, input_ids = self._utterances(len(input_ids)), input_ids.to(self._sums.device)
        sources = self._tracker.sources(input_ids)
        if sources is None:
            before = self._nothing(utterances)
            letters = self._written(input_ids.tolist())
        else:
            before = self._prefixes[sources]
            letters = self._letters[input_ids[:, -1]].long()
        now = self._prefixes = self._longer(before, utterances, letters)
        # There may be more letters than frames: then CTC costs the decoder much, and no more.
        more, end = now.begun - before.begun, now.said[:, -1] - now.begun
        scores = scores + (self.weight * more.clamp(RAREST)).to(scores)[:, None]
        scores[:, self._ends] += (self.weight * end.clamp(RAREST)).to(scores)[:, None]
        return scores

    def totals(self, sequences: Sequence[Sequence[int]]) -> torch.Tensor:
        """Log probability `[rows]` of the text of each sequence of tokens; each utterance has as many of them.

        10 * RAREST where CTC holds it for impossible.
        """
        utterances = self._utterances(len(sequences))
        found = self._longer(self._nothing(utterances), utterances, self._written(sequences))
        return found.said[:, -1].clamp(10 * RAREST)

    def _utterances(self, rows: int) -> torch.Tensor:
        return torch.arange(rows, device=self._sums.device) * len(self._sums) // rows

    def _written(self, sequences: Sequence[Sequence[int]]) -> torch.Tensor:
        """Letters `[rows, longest]` of sequences of tokens, -1 behind the last."""
        rows = [self._letters[torch.tensor(tokens, dtype=torch.long)].long() for tokens in sequences]
        return pad_sequence([row[row >= 0] for row in rows], batch_first=True, padding_value=-1)

    def _nothing(self, utterances: torch.Tensor) -> _Prefixes:
        silence = self._sums[utterances, :, -1]
        return _Prefixes(silence, silence, torch.zeros_like(silence[:, 0]), torch.full_like(utterances, -1))

    def _longer(self, prefixes: _Prefixes, utterances: torch.Tensor, letters: torch.Tensor) -> _Prefixes:
        """Prefixes with letters `[rows, longest]` behind them. utterances: that of each row."""
        said, quiet, begun, last = (x.clone() for x in (prefixes.said, prefixes.quiet, prefixes.begun, prefixes.last))
        longest = int((letters >= 0).sum(1).amax()) if letters.numel() else 0
        for letter in letters.T[:longest]:
            heard = (letter != self._space) | ((last >= 0) & (last != self._space))
            rows = ((letter >= 0) & heard).nonzero()[:, 0]
            letter, of = letter[rows], utterances[rows]
            # `sums` of logs turn the recursions over frames into cumulative sums: s[j + 1] - s[j] is that of frame j.
            sums, blank = self._sums[of, :, letter], self._sums[of, :, -1]
            before = torch.where((letter == last[rows])[:, None], quiet[rows], said[rows])[:, :-1]
            begun[rows] = (before + sums.diff()).logsumexp(1)
            arrived = sums[:, 1:] + (before - sums[:, :-1]).logcumsumexp(1)
            arrived = pad(arrived, (1, 0), value=NEVER)
            here = blank + (arrived - blank).logcumsumexp(1)
            said[rows] = here
            quiet[rows] = pad(here[:, :-1] + blank.diff(), (1, 0), value=NEVER)
            last[rows] = letter
        return _Prefixes(said, quiet, begun, last)
