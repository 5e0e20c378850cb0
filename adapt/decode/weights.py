"""How much of what is fused into a search."""

from __future__ import annotations

from dataclasses import dataclass

_NAMES = {"lm": "LM", "source": "LODR", "ilm": "ILM", "boost": "boost", "reward": "reward"}


@dataclass(frozen=True)
class Weights:
    """Of what is fused; 0 leaves it out. `source` and `ilm` are taken off, the others added.

    ctc: of the model's own encoder beside its decoder; nothing from outside, and not in the label.

    >>> Weights(lm=0.2, boost=0.8).label
    'LM + boost'
    """

    lm: float = 0.0
    source: float = 0.0
    ilm: float = 0.0
    boost: float = 0.0
    reward: float = 0.0
    ctc: float = 0.0

    @property
    def label(self) -> str:
        return " + ".join(name for key, name in _NAMES.items() if getattr(self, key))
