"""CTC over units of the LLM: tokens whose embeddings the audio embeddings are compared with."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F

# The initial scale of the cosines. With 20, a unit among 4,000 has a probability of 0.99 at best, in the 576 dimensions
# of SmolLM2's embeddings; with 10 it has 0.5, and CTC leaves units out.
START = 20.0
NOTHING = 0.95  # probability of the blank above which nothing is heard


class UnitCtc(nn.Module):
    """CTC logits of audio embeddings: scaled cosines to the embeddings of `units`, and to a trained blank.

    count: the number of units. hidden: dimensions of an embedding. `units` holds their token ids, `[count]`. The
    embeddings are centred, because those of an LLM point in a common direction.
    """

    def __init__(self, count: int, hidden: int):
        super().__init__()
        self.register_buffer("units", torch.zeros(count, dtype=torch.long))
        self.blank = nn.Parameter(torch.randn(hidden) * 0.05)
        self.log_scale = nn.Parameter(torch.tensor(math.log(START)))
        self.bias = nn.Parameter(torch.tensor(0.0))

    def forward(self, audio_embeddings: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
        """Logits `[batch, slots, count + 1]`, the blank last, of `[batch, slots, hidden]`.

        table: the LLM's input embeddings, `[vocabulary, hidden]`.
        """
        embeddings = F.normalize(table.detach()[self.units].float(), dim=-1)
        directions = torch.cat([embeddings - embeddings.mean(0), self.blank[None]])
        offset = F.pad(self.bias[None], (len(self.units), 0))
        return self.log_scale.exp() * F.normalize(audio_embeddings.float(), dim=-1) @ directions.T + offset

    def heard(self, audio_embeddings: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
        """One embedding `[heard, hidden]` for each unit heard in `[slots, hidden]`; [0, hidden] if nothing is.

        Slots are left out where the blank has more than NOTHING of the probability. Neighbours in which the same unit
        is the most probable become their mean, with their mean norm.
        """
        with torch.no_grad():
            posteriors = self(audio_embeddings[None], table)[0].softmax(-1)
            kept = (posteriors[:, -1] <= NOTHING).nonzero()[:, 0]
            best = posteriors[kept, :-1].argmax(-1)
            first = torch.ones_like(kept, dtype=torch.bool)
            first[1:] = (best[1:] != best[:-1]) | (kept[1:] != kept[:-1] + 1)
            group = first.cumsum(0) - 1
        rows = audio_embeddings[kept]
        count = int(group[-1]) + 1 if len(group) else 0
        sums = rows.new_zeros(count, rows.shape[1]).index_add(0, group, rows)
        norms = rows.new_zeros(count).index_add(0, group, rows.norm(dim=-1))
        sizes = rows.new_zeros(count).index_add(0, group, torch.ones_like(rows[:, 0]))
        return F.normalize(sums, dim=-1) * (norms / sizes)[:, None]
