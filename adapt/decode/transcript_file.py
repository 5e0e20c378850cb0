"""The file of transcripts: one JSON line for each utterance, written so that a killed run can continue.

Each of several processes writes a file of its own beside it, a part, and the first process joins the parts. A call with
another number of processes goes on from all of them.
"""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from adapt.errors import DataError
from adapt.ranks import Ranks
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


def part(out: Path, ranks: Ranks) -> Path:
    """The file that this process writes, for the transcript file `out`."""
    return out if ranks.count == 1 else out.with_name(f"{out.name}.{ranks.rank}")


def parts(out: Path) -> list[Path]:
    """The files that several processes have written for the transcript file `out`."""
    found = glob.glob(f"{glob.escape(str(out))}.*")
    return sorted(Path(name) for name in found if name.rpartition(".")[2].isdigit())


def join(out: Path, order: Sequence[str]) -> None:
    """Write the lines of all parts to `out`, and delete the parts. order: ids, in the order of a single process."""
    written = [out] * out.exists() + parts(out)
    lines = [line for path in written for line in path.read_text(encoding="utf-8").splitlines(keepends=True)]
    by_id = {json.loads(line)["id"]: line for line in lines}
    joined = out.with_name(f"{out.name}.joined")
    joined.write_text("".join(by_id.pop(i) for i in order if i in by_id) + "".join(by_id.values()), encoding="utf-8")
    joined.replace(out)
    for path in parts(out):
        path.unlink()
