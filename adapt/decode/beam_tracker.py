"""Where each row of a beam search was a step before."""

from __future__ import annotations

import torch


class BeamTracker:
    """What a processor knows of each row, found again by the row's tokens after beams were reordered."""

    def __init__(self, lists: int = 1):
        self.lists = lists
        self.ids: torch.Tensor | None = None

    def sources(self, ids: torch.Tensor) -> torch.Tensor | None:
        """Where each row of `ids [rows, length]` was when it was a token shorter; None when it was not seen then."""
        before, self.ids = self.ids, ids
        if before is None or ids.shape[1] == 0 or before.shape != (len(ids), ids.shape[1] - 1):
            return None
        list_of = torch.arange(len(ids), device=ids.device) * self.lists // len(ids)
        now, then = (torch.stack([_fingerprints(tokens), list_of]) for tokens in (ids[:, :-1], before))
        sources = (now[:, :, None] == then[:, None]).all(0).to(torch.uint8).argmax(1)
        # Fingerprints that are the same by chance are found out here, and rows that were not there before.
        found = (before[sources] == ids[:, :-1]).all() & (list_of[sources] == list_of).all()
        return sources if bool(found) else None


def _fingerprints(ids: torch.Tensor) -> torch.Tensor:
    """A number for each row; equal rows have equal ones."""
    multipliers = torch.randint(2**62, (ids.shape[1],), generator=torch.Generator().manual_seed(1))
    return (ids * multipliers.to(ids.device)).sum(1)
