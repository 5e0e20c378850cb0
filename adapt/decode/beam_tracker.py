"""Find the row of the previous step that each beam continues: `generate` does not pass it to logits processors."""

from __future__ import annotations

import torch


class BeamTracker:
    """Finds the row of the previous step that each beam continues, by comparing the tokens of the rows.

    lists: the number of utterances in the batch, each with equally many rows. A beam continues a row of its utterance.
    """

    def __init__(self, lists: int = 1):
        self.lists = lists
        self.ids: torch.Tensor | None = None  # the rows of the previous step

    def previous_rows(self, ids: torch.Tensor) -> torch.Tensor | None:
        """For each row of `ids [rows, length]`, the index `[rows]` of the row that it continues by one token.

        None if `ids` does not continue the rows of the previous call, or is the first.
        """
        before, self.ids = self.ids, ids
        if before is None or ids.shape[1] == 0 or before.shape != (len(ids), ids.shape[1] - 1):
            return None
        list_of = torch.arange(len(ids), device=ids.device) * self.lists // len(ids)
        current, earlier = (torch.stack([_fingerprints(tokens), list_of]) for tokens in (ids[:, :-1], before))
        rows = (current[:, :, None] == earlier[:, None]).all(0).to(torch.uint8).argmax(1)
        # The tokens are compared too: rows may be new, and fingerprints may be equal by chance.
        continues = (before[rows] == ids[:, :-1]).all() & (list_of[rows] == list_of).all()
        return rows if bool(continues) else None


def _fingerprints(ids: torch.Tensor) -> torch.Tensor:
    """A number for each row; equal rows have equal numbers."""
    multipliers = torch.randint(2**62, (ids.shape[1],), generator=torch.Generator().manual_seed(1))
    return (ids * multipliers.to(ids.device)).sum(1)
