"""Transcription by several processes of `accelerate launch` or `torchrun`.

Each process writes every so many batches to a file of its own beside the transcript file, and the first process joins
the files. A call with another number of processes goes on from all of them.
"""

from __future__ import annotations

import datetime
import glob
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

WAIT = datetime.timedelta(days=30)  # that a process waits for the others at the end


@dataclass(frozen=True)
class Ranks:
    """This process, `rank`, among `count` processes."""

    rank: int = 0
    count: int = 1

    @property
    def is_first(self) -> bool:
        """Whether the process speaks for all."""
        return self.rank == 0

    def part(self, out: Path) -> Path:
        """The file that the process writes, for the transcript file `out`."""
        return out if self.count == 1 else out.with_name(f"{out.name}.{self.rank}")

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.count > 1:
            import torch
            from accelerate import PartialState

            PartialState(cpu=not torch.cuda.is_available(), timeout=WAIT).wait_for_everyone()


def launched() -> Ranks:
    """The processes that a launcher started, by its environment variables."""
    return Ranks(int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1)))


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
