"""Find base models on disk and read their configs and the headers of their weights. Imports no torch."""

from __future__ import annotations

import functools
import hashlib
import json
import math
import re
from pathlib import Path

from adapt.errors import ModelError, first_line
from adapt.model.assemble import PARTS, assembled
from adapt.model.families import OWN_TYPE

ASSETS = Path(__file__).parent.parent / "assets"


def built_in() -> list[str]:
    """Names of the base models that come with the package."""
    return sorted(path.parent.name for path in ASSETS.glob("*/config.json"))


def find_base(name: str) -> Path:
    """The folder of a base.

    name: a built-in base, a folder, or `owner/name` or `owner/name@revision` on the hub, which is downloaded. Raises
    `ModelError` if there is no model.
    """
    if name in built_in():
        source = ASSETS / name
        return assembled(source, fingerprint(name)) if (source / PARTS).exists() else source
    path = Path(name)
    if not path.exists() and re.fullmatch(r"[\w.-]+/[\w.-]+(@[\w./-]+)?", name):
        return _from_hub(name)
    if not (path / "config.json").exists():
        raise ModelError(f"base {name!r}: {_why_no_model(path)}")
    return path


def _why_no_model(path: Path) -> str:
    """The problem of a path that is not a model, and the way out."""
    way_out = f"give the folder of a model, owner/name on the hub, or a built-in base: {', '.join(built_in())}"
    if not path.is_dir():
        return f"no such folder; {way_out}"
    files = sorted(file.name for file in path.iterdir())
    if "adapter_config.json" in files:
        return "an adapter, not a model; load the base that it was made for, and attach the adapter to it"
    return f"holds no config.json, but {', '.join(files[:5]) or 'nothing'}; {way_out}"


def _from_hub(name: str) -> Path:
    """The folder of a model that is downloaded from the hub. Raises `ModelError` if that fails."""
    from huggingface_hub import snapshot_download

    repository, _, revision = name.partition("@")
    patterns = ["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt"]  # no pickles, no code
    try:
        return Path(snapshot_download(repository, revision=revision or None, allow_patterns=patterns))
    except Exception as error:  # the network and the hub fail in many ways
        problem = f"no such folder, and cannot be downloaded from the hub: {first_line(error)}"
        raise ModelError(f"base {name!r}: {problem}; download it yourself and give its folder") from None


def config_of(path: Path) -> dict:
    """The config.json of a folder; {} if it is not a JSON object. Raises `ModelError` if it cannot be read."""
    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise ModelError(f"{path}/config.json: cannot be read: {error}; save the model again") from None
    return config if isinstance(config, dict) else {}


def described(name: str) -> Path:
    """The folder that describes a base: as `find_base`, but of a built-in base the one in the package."""
    return ASSETS / name if name in built_in() else find_base(name)


@functools.cache
def fingerprint(name: str) -> str:
    """A hash of the config, weights and chat template of a base. Raises `ModelError` as `find_base` does."""
    digest = hashlib.sha256()
    for path in sorted(described(name).iterdir()):
        if path.suffix in (".json", ".jinja", ".safetensors"):
            with path.open("rb") as content:
                digest.update(hashlib.file_digest(content, "sha256").digest())
    return digest.hexdigest()[:16]


def has_ctc(name: str) -> bool:
    """Whether the base is a composed model (`adapt base`) whose encoder has a CTC head (`SpeechLLM.has_ctc`)."""
    config = config_of(described(name))
    return config.get("model_type") == OWN_TYPE and config.get("alphabet") != "" and not transcribes(name)


def transcribes(name: str) -> bool:
    """Whether the base is a composed model whose encoder writes a transcript (`adapt.model.first_pass`)."""
    config = config_of(described(name))
    return config.get("model_type") == OWN_TYPE and bool(config.get("audio_config", {}).get("first_pass"))


def tensors(path: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Data type and shape of each tensor in the safetensors files of a folder, from the headers of the files.

    Raises `ModelError` if there is no such file.
    """
    files = sorted(path.glob("model*.safetensors"))
    if not files:
        raise ModelError(f"{path}: holds no model*.safetensors; save the model with save_pretrained")
    contents = {}
    for file in files:
        try:
            with file.open("rb") as content:
                length = int.from_bytes(content.read(8), "little")
                header = json.loads(content.read(min(length, file.stat().st_size)))
            contents |= {k: (t["dtype"], tuple(t["shape"])) for k, t in header.items() if k != "__metadata__"}
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise ModelError(f"{file}: not a whole safetensors file; copy it again") from None
    return contents


def parameters(path: Path) -> int:
    """Number of parameters of the model in a folder (`described`). Raises `ModelError` if it holds no weights."""
    if (path / PARTS).exists():
        return json.loads((path / PARTS).read_text(encoding="utf-8"))["parameters"]
    return sum(math.prod(shape) for _, shape in tensors(path).values())
