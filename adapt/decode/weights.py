"""The weights of the parts of fusion. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Weights:
    """The weight of each part of fusion by its key (`parts`); 0 leaves the part out. A part knows its sign."""

    lm: float = 0.0
    source: float = 0.0
    ilm: float = 0.0
    boost: float = 0.0
    reward: float = 0.0
    ctc: float = 0.0
