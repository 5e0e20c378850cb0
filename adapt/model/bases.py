"""Where base models lie on disk and how large they are; torch is not needed to know."""

from __future__ import annotations

import json
import math
from pathlib import Path

from adapt.errors import ModelError

ASSETS = Path(__file__).parent.parent / "assets"


def built_in() -> list[str]:
    """Names of the base models that come with the package."""
    return sorted(path.parent.name for path in ASSETS.glob("*/config.json"))


def locate(name: str) -> Path:
    """The folder of a built-in base or of the one that `name` is. Raises `ModelError` when it holds no model."""
    path = ASSETS / name if name in built_in() else Path(name)
    if not (path / "config.json").exists():
        known = ", ".join(built_in())
        raise ModelError(f"base: no model {name!r}; give a folder with a config.json, or a built-in one: {known}")
    return path


def parameters(path: Path) -> int:
    """Numbers in the safetensors files of a folder, read from their headers.

    Raises `ModelError` when there is no such file.
    """
    files = sorted(path.glob("model*.safetensors"))
    if not files:
        raise ModelError(f"{path}: holds no model*.safetensors; save the model with save_pretrained")
    count = 0
    for file in files:
        with file.open("rb") as content:
            header = json.loads(content.read(int.from_bytes(content.read(8), "little")))
        count += sum(math.prod(tensor["shape"]) for key, tensor in header.items() if key != "__metadata__")
    return count
