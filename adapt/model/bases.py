"""Where base models lie on disk and how large they are; torch is not needed to know."""

from __future__ import annotations

import functools
import hashlib
import json
import math
import re
from pathlib import Path

from adapt.errors import ModelError, first_line
from adapt.model.support import OURS

ASSETS = Path(__file__).parent.parent / "assets"


def built_in() -> list[str]:
    """Names of the base models that come with the package."""
    return sorted(path.parent.name for path in ASSETS.glob("*/config.json"))


def find_base(name: str) -> Path:
    """The folder of a base: a built-in one, the folder that `name` is, or a copy of `owner/name@revision` on the hub.

    Raises `ModelError` when there is no model.
    """
    path = ASSETS / name if name in built_in() else Path(name)
    if not path.exists() and re.fullmatch(r"[\w.-]+/[\w.-]+(@[\w./-]+)?", name):
        return _from_hub(name)
    if not (path / "config.json").exists():
        held = sorted(p.name for p in path.iterdir())[:5] if path.is_dir() else []
        told = f"{name!r} holds no config.json, but {', '.join(held) or 'nothing'}" if path.is_dir() else f"no {name!r}"
        if "adapter_config.json" in held:
            told += "; an adapter goes behind --adapter, on the base that it was made for"
        known = ", ".join(built_in())
        raise ModelError(f"base: {told}; give the folder of a model, owner/name on the hub, or a built-in one: {known}")
    return path


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download

    repository, _, revision = name.partition("@")
    wanted = ["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt"]  # no pickles, no code
    try:
        return Path(snapshot_download(repository, revision=revision or None, allow_patterns=wanted))
    except Exception as error:  # whatever the network and the hub do
        told = f"{name!r} is no folder, and the hub did not give it: {first_line(error)}"
        raise ModelError(f"base: {told}; download it") from None


def config_of(path: Path) -> dict:
    """The config.json of a folder. Raises `ModelError` where it is broken."""
    try:
        found = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise ModelError(f"{path}/config.json: cannot be read: {error}; save the model again") from None
    return found if isinstance(found, dict) else {}


@functools.cache
def fingerprint(name: str) -> str:
    """A hash of a base's config, weights and chat template."""
    digest = hashlib.sha256()
    for path in sorted(find_base(name).iterdir()):
        if path.suffix in (".json", ".jinja", ".safetensors"):
            with path.open("rb") as content:
                digest.update(hashlib.file_digest(content, "sha256").digest())
    return digest.hexdigest()[:16]


def has_ctc(name: str) -> bool:
    """Is the base one of our own, whose encoder has a CTC head?"""
    config = config_of(find_base(name))
    return config.get("model_type") == OURS and config.get("alphabet") != ""


def tensors(path: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Type and shape of each tensor in the safetensors files of a folder, read from their headers.

    Raises `ModelError` when there is no such file.
    """
    files = sorted(path.glob("model*.safetensors"))
    if not files:
        raise ModelError(f"{path}: holds no model*.safetensors; save the model with save_pretrained")
    found = {}
    for file in files:
        with file.open("rb") as content:
            header = json.loads(content.read(int.from_bytes(content.read(8), "little")))
        found |= {k: (t["dtype"], tuple(t["shape"])) for k, t in header.items() if k != "__metadata__"}
    return found


def parameters(path: Path) -> int:
    """Numbers in the safetensors files of a folder. Raises `ModelError` when there is no such file."""
    return sum(math.prod(shape) for _, shape in tensors(path).values())
