"""The support table: whether each model type of transformers with audio can be a base. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

from adapt.model.families import FAMILIES, OWN_FAMILY, OWN_TYPE
from adapt.model.unsupported import UNSUPPORTED


@dataclass(frozen=True)
class Support:
    """One row of the table.

    why: the reason if the model type is not supported, else "". cls, tested, needs: as in `families.Family`; tested is
    False and needs "" if it is not supported.
    """

    model_type: str
    cls: str
    supported: bool
    why: str
    tested: bool
    needs: str


def table() -> list[Support]:
    """All rows: composed models, the supported model types of FAMILIES, then the unsupported ones by name."""
    families = {OWN_TYPE: OWN_FAMILY, **FAMILIES}
    supported = [Support(kind, f.cls, True, "", f.tested, f.needs) for kind, f in families.items()]
    reasons = [(kind, cls, why) for why, classes in UNSUPPORTED.items() for kind, cls in classes.items()]
    return supported + [Support(kind, cls, False, why, False, "") for kind, cls, why in sorted(reasons)]


def refusal(model_type: str) -> str | None:
    """The reason why a model type with audio cannot be a base; None if it can, or if it is unknown."""
    return next((why for why, classes in UNSUPPORTED.items() if model_type in classes), None)
