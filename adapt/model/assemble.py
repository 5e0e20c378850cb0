"""Built-in bases that are made of pretrained parts: found, checked, and put together with what was trained, once.

The package has what was trained (`trained.safetensors`), the config, and `parts.json`: the number of `parameters` of
the whole model, and its `parts`. A part has a name, a revision and megabytes on the hub, the SHA-256 of the hub's
model.safetensors (`sha256`), the hash of the tensors that the base was trained with (`tensors`, by `tensor_hash`), and
the name of its folder in ADAPT_PARTS (`folder`). The whole model is written to a cache folder at first use, and loads
from there as any other base does.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from adapt.errors import ModelError, first_line

if TYPE_CHECKING:
    import torch

PARTS = "parts.json"
VARIABLE = "ADAPT_PARTS"


def cache_folder(source: Path, fingerprint: str) -> Path:
    """The folder that the base in the package folder `source` is assembled in."""
    root = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return root / "adapt-asr" / f"{source.name}-{fingerprint}"


def assembled(source: Path, fingerprint: str) -> Path:
    """The folder of the whole model, which is assembled if it is not there.

    source: the folder in the package. fingerprint: of that folder. Raises ModelError if a part is missing or is not the
    one that the base was trained with.
    """
    folder = cache_folder(source, fingerprint)
    if not (folder / "config.json").exists():
        unfinished = folder.with_name(f"{folder.name}.{os.getpid()}")
        try:
            _assemble(source, unfinished)
            shutil.rmtree(folder, ignore_errors=True)
            unfinished.rename(folder)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return folder


def _assemble(source: Path, out: Path) -> None:
    """Write the whole model to `out`."""
    from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    from adapt.model.composed import ComposedConfig, ComposedForSpeechRecognition
    from adapt.model.first_pass import MISHEARINGS
    from adapt.model.soft_prompt import SLOT_EXAMPLES
    from adapt.model.tokenizer import with_leading_space
    from adapt.model.trained import TRAINED, load_trained

    logging.disable_progress_bar()
    parts = json.loads((source / PARTS).read_text(encoding="utf-8"))["parts"]
    folders = {key: _part_folder(source.name, part) for key, part in parts.items()}
    print(f"{source.name}: assembling {' and '.join(p['name'] for p in parts.values())}, once", file=sys.stderr)
    model = ComposedForSpeechRecognition(ComposedConfig.from_pretrained(source))
    whisper = AutoModel.from_pretrained(folders["encoder"])
    llm = AutoModelForCausalLM.from_pretrained(folders["llm"])
    for key, part in (("encoder", whisper), ("llm", llm)):
        _check_hash(source.name, parts[key], folders[key], part.state_dict())
    encoder = whisper if model.encoder.transcribes else whisper.encoder
    model.encoder.encoder.load_state_dict(encoder.state_dict())
    model.language_model.load_state_dict(llm.state_dict())
    model.generation_config.update(**llm.generation_config.to_diff_dict())
    load_trained(model, source / TRAINED)
    model.half().save_pretrained(out)
    with_leading_space(AutoTokenizer.from_pretrained(folders["llm"])).save_pretrained(out)
    shutil.copyfile(source / SLOT_EXAMPLES, out / SLOT_EXAMPLES)
    if model.encoder.transcribes:
        shutil.copyfile(source / MISHEARINGS, out / MISHEARINGS)


def _part_folder(base: str, part: Mapping) -> Path:
    """The folder of a part: in ADAPT_PARTS, else that of the hub, which is downloaded at its revision.

    Raises ModelError if it is in neither.
    """
    if given := os.environ.get(VARIABLE):
        return _given_folder(base, part, Path(given))
    from huggingface_hub import snapshot_download

    name, revision = part["name"], part["revision"]
    patterns = ["*.json", "model.safetensors", "*.jinja"]
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=patterns, local_files_only=True))
    except Exception:  # it is not in the cache of the hub, for one of many reasons
        print(f"{base}: downloading {name} ({part['megabytes']} MB), once", file=sys.stderr)
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=patterns))
    except Exception as error:  # the network and the hub fail in many ways
        problem = f"its part {name} cannot be downloaded from the hub: {first_line(error)}"
        way_out = (
            f"download it yourself, and set {VARIABLE}, or `parts` of the recipe, to the folder of {part['folder']}/"
        )
        raise ModelError(f"base {base!r}: {problem}; {way_out}") from None


def _given_folder(base: str, part: Mapping, parts: Path) -> Path:
    """The folder of a part in ADAPT_PARTS; its name may be in any casing, with the hub's owner or without."""
    wanted = {part["folder"].lower(), part["name"].lower(), part["name"].rpartition("/")[2].lower()}
    folders = [config.parent for config in sorted(parts.glob("*/config.json")) + sorted(parts.glob("*/*/config.json"))]
    for folder in folders:
        if {folder.name.lower(), folder.relative_to(parts).as_posix().lower()} & wanted:
            return folder
    there = ", ".join(folder.relative_to(parts).as_posix() for folder in folders) or "no model"
    problem = f"the folder of parts, {parts}, holds {there}, but not {part['folder']}"
    raise ModelError(f"base {base!r}: {problem}; put {part['name']} there under that name")


def _check_hash(base: str, part: Mapping, folder: Path, state: Mapping[str, torch.Tensor]) -> None:
    """Raises ModelError for weights that are neither those of the training nor the file of the hub."""
    if (found := tensor_hash(state)) == part["tensors"]:
        return
    file = folder / "model.safetensors"
    with file.open("rb") if file.exists() else io.BytesIO() as content:
        if hashlib.file_digest(content, "sha256").hexdigest() == part["sha256"]:
            return
    problem = f"its weights (hash {found}) are not those that {base} was trained with"
    raise ModelError(f"{folder}: {problem}; give {part['name']} at revision {part['revision'][:8]}")


def tensor_hash(state: Mapping[str, torch.Tensor]) -> str:
    """A hash of the names and values of weights, which does not depend on their data type beyond half precision."""
    digest = hashlib.sha256()
    for name, weights in sorted(state.items()):
        if name != "lm_head.weight":  # tied, and in some files twice
            digest.update(name.encode())
            digest.update(weights.detach().cpu().half().contiguous().numpy().data)
    return digest.hexdigest()[:16]
