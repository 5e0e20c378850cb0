"""The file of transcripts: one JSON line for each utterance, written so that a killed run can continue."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import IO

from adapt.errors import DataError
from adapt.text.files import read_bytes

KEYS = {"id", "text", "confidence", "nbest", "segments"}  # of a line


def write_row(lines: IO[str], utterance: str, row: dict) -> None:
    """Write the line of an utterance. row: `{"text", ...}`."""
    lines.write(json.dumps({"id": utterance, **row}, ensure_ascii=False) + "\n")


def finished(out: Path) -> set[str]:
    """The ids of the complete lines of `out`. A last line that a kill cut short is removed.

    Raises DataError if the file has other contents than transcripts, and then leaves it unchanged.
    """
    if not out.exists():
        return set()
    complete, newline, cut = read_bytes(out).rpartition(b"\n")
    try:
        rows = [json.loads(line) for line in complete.split(b"\n") if line.strip()]
    except ValueError:
        rows = [None]
    are_transcripts = all(isinstance(row, dict) and {"id", "text"} <= row.keys() <= KEYS for row in rows)
    if not are_transcripts or not b'{"id": '.startswith(cut[:7]):
        raise DataError(f"{out}: has other contents than transcripts; name another file")
    if cut:
        os.truncate(out, len(complete) + len(newline))
    return {row["id"] for row in rows}
