"""A hypothesis of an n-best list, with its score from each part of fusion. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from adapt.decode import parts
from adapt.decode.weights import Weights


@dataclass(frozen=True)
class Hypothesis:
    """A transcript of `tokens` tokens. model: the decoder's log probability. totals: the parts' scores by key."""

    text: str
    tokens: int
    model: float
    totals: Mapping[str, float] = field(default_factory=dict)

    def score(self, weights: Weights) -> float:
        """The score by which beam search ranks it (`parts.fused_score`)."""
        return parts.fused_score(self.model, self.tokens, self.totals, weights)

    def to_json(self) -> dict:
        """`{"text", "tokens", "model"}` and the score of each part by its key, 0 for a part without one."""
        keys = [part.key for part in parts.PARTS if part.kind != parts.LENGTH]
        totals = {key: self.totals.get(key, 0.0) for key in keys}
        return {"text": self.text, "tokens": self.tokens, "model": self.model, **totals}
