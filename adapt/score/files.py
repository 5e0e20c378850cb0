"""The files of hypotheses and references in a folder of scores."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote


def hypotheses_path(folder: Path, name: str, system: str | None = None) -> Path:
    """The file with the hypotheses of a system on the set `name`. system: None: the references of the set.

    >>> hypotheses_path(Path("runs/music"), "target", "base").as_posix()
    'runs/music/hyps/target.base.jsonl'
    """
    parts = [quote(part, safe=" +") for part in (name, system) if part is not None]
    return folder / "hyps" / f"{'.'.join(parts)}.jsonl"


def save_hypotheses(folder: Path, name: str, system: str | None, texts: Mapping[str, str]) -> None:
    """Write texts by id to `hypotheses_path`. system: None: the texts are references."""
    lines = (json.dumps({"id": key, "text": text}, ensure_ascii=False) for key, text in texts.items())
    write(hypotheses_path(folder, name, system), "".join(line + "\n" for line in lines))


def write(path: Path, text: str) -> None:
    """Write a UTF-8 file and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
