"""The support table: every model type of transformers that takes audio, and whether it can be a base. Without torch."""

from __future__ import annotations

from dataclasses import dataclass

from adapt.model.families import FAMILIES, OWN_FAMILY, OWN_TYPE
from adapt.model.unsupported import UNSUPPORTED


@dataclass(frozen=True)
class Support:
    """One row of the table.

    why: the reason where the model type is not supported, else empty. cls, tested, needs: as in `families.Family`;
    False and empty where it is not supported.
    """

    model_type: str
    cls: str
    supported: bool
    why: str
    tested: bool
    needs: str


def table() -> list[Support]:
    """All rows: our own models, the supported model types of `FAMILIES`, then the others by name."""
    families = {OWN_TYPE: OWN_FAMILY, **FAMILIES}
    supported = [Support(kind, f.cls, True, "", f.tested, f.needs) for kind, f in families.items()]
    reasons = [(kind, cls, why) for why, classes in UNSUPPORTED.items() for kind, cls in classes.items()]
    return supported + [Support(kind, cls, False, why, False, "") for kind, cls, why in sorted(reasons)]


def refusal(model_type: str) -> str | None:
    """Why a model type that has to do with audio cannot be a base; None where it can, or where it is unknown."""
    return next((why for why, classes in UNSUPPORTED.items() if model_type in classes), None)
