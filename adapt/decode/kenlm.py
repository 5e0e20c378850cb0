"""Shallow fusion with a model of KenLM, binary or ARPA. Needs the kenlm package."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import LogitsProcessor

from adapt.errors import DataError, first_line

LN10 = 2.302585092994046


class KenlmFusion(LogitsProcessor):
    """As `NgramFusion`, for a file that KenLM reads, whose words are token ids written as decimal numbers.

    It scores the `top_k` best tokens of each row. All others get the lowest possible score, so that none of them is
    chosen. ends: end-of-sentence tokens. prompt_length: as in `NgramFusion`. Raises DataError without the kenlm package
    and for a file that KenLM cannot read.
    """

    def __init__(
        self, path: str | Path, weight: float, ends: Sequence[int] = (), top_k: int = 64, prompt_length: int = 0
    ):
        self.model = open_kenlm(path)
        self._state = _kenlm().State
        self.weight, self.ends, self.top_k, self.prompt_length = weight, frozenset(ends), top_k, prompt_length
        self._known: dict[tuple[int, ...], object] = {}

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        rows = [tuple(row) for row in input_ids[:, self.prompt_length :].tolist()]
        states = {row: self._state_after(row) for row in rows}
        best, tokens = scores.topk(min(self.top_k, scores.shape[1]))
        logs = []
        for row, candidates in zip(rows, tokens.tolist(), strict=True):
            after = self._state()
            words = ["</s>" if t in self.ends else str(t) for t in candidates]
            logs.append([self.model.BaseScore(states[row], word, after) for word in words])
        self._known = states
        fused = best + self.weight * LN10 * torch.tensor(logs, device=scores.device, dtype=scores.dtype)
        lowest = torch.finfo(scores.dtype).min
        return torch.full_like(scores, lowest).scatter_(1, tokens, fused)

    def totals(self, sequences: Sequence[Sequence[int]]) -> torch.Tensor:
        """The natural log probability `[rows]` of each token sequence and of the end of the sentence after it."""
        return torch.tensor([LN10 * self.model.score(" ".join(map(str, tokens))) for tokens in sequences])

    def _state_after(self, row: tuple[int, ...]) -> object:
        """KenLM's state after the tokens of a row."""
        if row in self._known:
            return self._known[row]
        state = self._state()
        if not row:
            self.model.BeginSentenceWrite(state)
        else:
            self.model.BaseScore(self._state_after(row[:-1]), str(row[-1]), state)
        return state


def _kenlm():
    """The package kenlm. Raises DataError if it is not installed."""
    try:
        import kenlm
    except ImportError:
        raise DataError("kenlm: not installed; install it on a Python before 3.13, or give an ARPA of tokens") from None
    return kenlm


def open_kenlm(path: str | Path):
    """The `kenlm.Model` of a binary or an ARPA. Raises DataError if it cannot be read, or kenlm is not installed."""
    kenlm = _kenlm()
    if not Path(path).is_file():
        raise DataError(f"{path}: no such file; `adapt lm RECIPE` writes one")
    config = kenlm.Config()
    config.show_progress = False
    config.arpa_complain = kenlm.ARPALoadComplain.NONE
    try:
        return kenlm.Model(str(path), config)
    except (OSError, RuntimeError) as error:
        reason = f"KenLM cannot read it: {first_line(error)}"
        raise DataError(f"{path}: {reason}; build it again, with order 2 or more") from None


def words_are_token_ids(model) -> bool:
    """Whether the words of a `kenlm.Model`, which does not list them, are token ids: numbers and no single letters."""
    letters = (letter for letter in map(chr, range(sys.maxunicode)) if letter.isalpha())
    return any(str(i) in model for i in range(10_000)) and not any(letter in model for letter in letters)
