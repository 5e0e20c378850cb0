"""Which row of the previous step each beam continues. `generate` reorders beams and tells logits processors nothing."""

from __future__ import annotations

import torch


class BeamTracker:
    """Finds the row of the previous step that each beam continues, by comparing the tokens of the rows.

    lists: the batch is this many utterances, each with equally many rows. A beam continues a row of its own utterance.
    """

    def __init__(self, lists: int = 1):
        self.lists = lists
        self.ids: torch.Tensor | None = None  # the rows of the previous step

    def previous_rows(self, ids: torch.Tensor) -> torch.Tensor | None:
        """For each row of `ids [rows, length]`, the index of the row that it continued by one token.

        None if `ids` does not continue the rows of the previous call, or is the first.
        """
        before, self.ids = self.ids, ids
        if before is None or ids.shape[1] == 0 or before.shape != (len(ids), ids.shape[1] - 1):
            return None
        list_of = torch.arange(len(ids), device=ids.device) * self.lists // len(ids)
        now, then = (torch.stack([_fingerprints(tokens), list_of]) for tokens in (ids[:, :-1], before))
        rows = (now[:, :, None] == then[:, None]).all(0).to(torch.uint8).argmax(1)
        # The tokens themselves are compared as well: rows may be new, and fingerprints equal by chance.
        found = (before[rows] == ids[:, :-1]).all() & (list_of[rows] == list_of).all()
        return rows if bool(found) else None


def _fingerprints(ids: torch.Tensor) -> torch.Tensor:
    """A number for each row; equal rows have equal numbers."""
    multipliers = torch.randint(2**62, (ids.shape[1],), generator=torch.Generator().manual_seed(1))
    return (ids * multipliers.to(ids.device)).sum(1)
