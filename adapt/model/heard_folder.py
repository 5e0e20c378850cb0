"""A folder of what a base heard of recordings, so that no later command encodes them again."""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import torch
import transformers
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

LIMIT = 2 * 10**9  # bytes of all files
ENDING = ".safetensors"


class HeardFolder:
    """Lists of tuples of tensors by key, each in a file of its own, up to LIMIT.

    What is found is equal in every bit to what was kept. A full folder keeps nothing more, but the files of other bases
    give way, those read longest ago first; a folder that cannot be written keeps nothing. base: all that decides,
    besides a recording, what is heard; JSON must be able to hold it. Versions of torch and transformers, and the code
    of this package, are added to it.
    """

    def __init__(self, folder: Path, base: object):
        self._folder = folder
        told = json.dumps([base, torch.__version__, transformers.__version__, _code()])
        self._prefix = hashlib.sha256(told.encode()).hexdigest()[:16] + "-"

    def path(self, key: bytes) -> Path:
        """The file of a key."""
        return self._folder / (self._prefix + hashlib.sha256(key).hexdigest()[:32] + ENDING)

    def find(self, key: bytes, device: torch.device) -> list[tuple[torch.Tensor, ...]] | None:
        """What was kept under `key`, on `device`; None for nothing."""
        path = self.path(key)
        try:
            tensors = load_file(path)
            os.utime(path)
        except (OSError, SafetensorError):
            return None
        rows: dict[int, list[torch.Tensor]] = {}
        for place in sorted(tensors, key=lambda name: tuple(map(int, name.split(".")))):
            rows.setdefault(int(place.split(".")[0]), []).append(tensors[place].to(device))
        return list(map(tuple, rows.values()))

    def keep(self, key: bytes, rows: Sequence[tuple[torch.Tensor, ...]]) -> None:
        """Keep rows under `key`."""
        places = {f"{i}.{j}": values for i, row in enumerate(rows) for j, values in enumerate(row)}
        tensors = {place: values.cpu().contiguous().clone() for place, values in places.items()}
        path = self.path(key)
        unfinished = path.with_suffix(f".{os.getpid()}")
        with suppress(OSError, SafetensorError):  # a full disk is no reason to stop: the rows are computed again
            self._folder.mkdir(parents=True, exist_ok=True)
            if not self._has_room(sum(values.nbytes for values in tensors.values())):
                return
            try:
                save_file(tensors, unfinished)
                unfinished.replace(path)
            finally:
                unfinished.unlink(missing_ok=True)

    def _has_room(self, more: int) -> bool:
        """Whether so many bytes are left of LIMIT; deletes files of other bases if they are not."""
        files = [(entry.stat(), entry) for entry in os.scandir(self._folder) if entry.name.endswith(ENDING)]
        size = more + sum(status.st_size for status, _ in files)
        for status, entry in sorted(files, key=lambda file: file[0].st_mtime):
            if size > LIMIT and not entry.name.startswith(self._prefix):
                Path(entry.path).unlink(missing_ok=True)
                size -= status.st_size
        return size <= LIMIT


@functools.cache
def _code() -> str:
    """A hash of the modules that encode audio, which are those beside this one."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()
