"""The run folder: which stages are done, which must be redone and why. Its files are always complete."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from adapt.errors import DataError
from adapt.ranks import launched

try:
    import fcntl
except ImportError:  # on Windows, where run folders are not locked
    fcntl = None

FORMAT = 1
PACKAGES = {"adapt": "adapt-asr", "torch": "torch", "transformers": "transformers", "peft": "peft"}
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StageResult:
    """The outcome of a stage.

    skipped: whether nothing had changed. reason: why the stage was done, or 'unchanged'. seconds: the duration of its
    work when it was done.
    """

    name: str
    skipped: bool
    reason: str
    seconds: float


class RunFolder:
    """The folder of one run and its run.json. While it is open, no other process can open it.

    Use it in a `with`, or call `close`. device, seed: only recorded; None: unknown. They may be set later and are
    written after each stage. Raises DataError for a folder that cannot be used, holds files that no run has written, is
    open in another process, or has a broken run.json.
    """

    def __init__(self, path: str | os.PathLike, device: str | None = None, seed: int | None = None):
        self.path = Path(path)
        self.device, self.seed, self.ranks = device, seed, launched()
        if not self.ranks.is_first:
            self.ranks.wait()  # for the first process, which locks the folder
        self._known: dict[tuple, str] = {}  # hashes of files outside of the folder, which no stage writes
        names = {path.name for path in self.path.iterdir()} if self.path.is_dir() else set()
        if names and not names & {".lock", "run.json"}:
            raise DataError(f"{self.path}: holds files that no run has written; choose another folder with -o")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = open(self.path / ".lock", "a+", encoding="utf-8")  # noqa: SIM115 (held until close)
        except OSError as e:
            raise DataError(f"{self.path}: cannot be a run folder: {e.strerror}; choose another") from e
        try:
            if self.ranks.is_first:
                self._take_lock()
                self.ranks.wait()
            self._stages = read_stages(self.path / "run.json")
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let other processes use the folder."""
        if fcntl and self.ranks.is_first and not self._lock.closed:
            with suppress(OSError):  # closing is not enough: a forked child may hold the file open
                fcntl.flock(self._lock, fcntl.LOCK_UN)
        self._lock.close()

    def _take_lock(self) -> None:
        """Lock the folder. Raises DataError if another process has locked it."""
        if fcntl is None:
            return
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.seek(0)
            owner = self._lock.read().strip() or "unknown"
            problem = f"in use by process {owner}; wait until it ends, or give the run another name"
            raise DataError(f"{self.path}: {problem}") from None
        except OSError:
            return  # a file system without locks
        self._lock.truncate(0)
        self._lock.write(str(os.getpid()))
        self._lock.flush()

    def stage(
        self,
        name: str,
        settings: Mapping[str, object],
        inputs: Sequence[str | os.PathLike],
        outputs: Sequence[str],
        work: Callable[[Path], None],
        shared: bool = False,
    ) -> StageResult:
        """Do the work of a stage, unless its settings, inputs and outputs have not changed since it was done.

        settings: values that JSON can hold, and paths; nested by section, so that a reason reads `decoder.steps
        changed: 400 -> 300`. inputs: the files and folders that the stage reads, including those that earlier stages
        wrote. outputs: the files and folders that it writes, relative to the run folder; hidden files are ignored.
        work: called with a scratch folder, which keeps its contents after a kill. The folder is emptied if settings or
        inputs have changed, and deleted when the stage is done. The reason is logged before the work starts. shared:
        whether all processes of a launch do the work, of which only the first may write outputs; else the first does
        it alone. Raises DataError for an input that does not exist.
        """
        scratch = self.path / "checkpoints" / name
        if not self.ranks.is_first:
            reason = self.ranks.tell(None)
            if reason is not None and shared:
                work(scratch)
            self.ranks.wait()
            self._stages = read_stages(self.path / "run.json")
            return StageResult(name, reason is None, reason or "unchanged", self._stages[name]["seconds"])
        key = {
            "settings": json.loads(json.dumps(settings, default=self._jsonable, allow_nan=False)),
            "inputs": self._hashes(inputs),
        }
        reason = self._why(name, key, outputs)
        if reason is None:
            _delete(scratch)  # a kill between the record and the clean-up has left it
            self.ranks.tell(None)
            self.ranks.wait()
            return StageResult(name, True, "unchanged", self._stages[name]["seconds"])
        if _read_json(scratch / "key.json") == key:
            reason += "; continues where it stopped" if len(list(scratch.iterdir())) > 1 else ""
        else:
            _delete(scratch)
            write_json(scratch / "key.json", key)
        log.info("%s: %s", name, reason)
        self.ranks.tell(reason)

        started = time.perf_counter()
        work(scratch)
        seconds = round(time.perf_counter() - started, 2)
        written = self._hashes([p for o in outputs if (p := self.path / o).exists()])
        if missing := [o for o in outputs if not _holds(written, o)]:
            raise RuntimeError(f"stage {name} did not write {', '.join(missing)}")
        self._stages[name] = {
            **key,
            "outputs": written,
            "seconds": seconds,
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        provenance = {"versions": _versions(), "python": platform.python_version()}
        provenance |= {"device": self.device, "seed": self.seed}
        write_json(self.path / "run.json", {"format": FORMAT, **provenance, "stages": self._stages})
        _delete(scratch)
        self.ranks.wait()
        return StageResult(name, False, reason, seconds)

    def digest(self, files: Sequence[str | os.PathLike]) -> str:
        """One hash of many files, for the settings of stages that are too many to list them all as inputs."""
        hashes = json.dumps(self._hashes(files), sort_keys=True)
        return hashlib.sha256(hashes.encode()).hexdigest()[:16]

    def _why(self, name: str, key: dict, outputs: Sequence[str]) -> str | None:
        """Why the stage has to be done; None if nothing has changed."""
        if name not in self._stages:
            return "never run"
        old, reasons = self._stages[name], []
        before, now = _flat(old["settings"]), _flat(key["settings"])
        for k in {**now, **before}:
            a, b = (json.dumps(t[k], ensure_ascii=False) if k in t else "not set" for t in (before, now))
            if a != b:
                reasons.append(f"{k} changed: {a} -> {b}")
        writers = {(p, sha): s for s, r in self._stages.items() for p, sha in r["outputs"].items()}
        for path in {**key["inputs"], **old["inputs"]}:
            sha, sha_before = key["inputs"].get(path), old["inputs"].get(path)
            if sha == sha_before:
                continue
            if sha_before and (stage := writers.get((path, sha))):
                reasons.append(f"stage {stage} was redone")
            else:
                change = "no longer read" if sha is None else "read now" if sha_before is None else "changed"
                reasons.append(f"{path.replace('../', '')} {change}")
        present = self._hashes([p for o in outputs if (p := self.path / o).exists()])
        expected = [*old["outputs"], *(o for o in outputs if not _holds(old["outputs"], o))]
        reasons += [f"{p} is missing" for p in expected if p not in present]
        changed = [p for p, sha in old["outputs"].items() if present.get(p, sha) != sha]
        reasons += [f"{p} is not what the stage wrote" for p in changed]
        return ", ".join(dict.fromkeys(reasons)) or None

    def _hashes(self, paths: Sequence[str | os.PathLike]) -> dict[str, str]:
        """The sha256 of each file, including those in folders, by label. Raises DataError for all that do not exist."""
        problems, hashes = [], {}
        for path in map(Path, paths):
            if not path.exists():
                problems.append(f"{path}: no such file; correct its path, or run the stage that writes it")
                continue
            files = sorted(f for f in path.rglob("*") if f.is_file()) if path.is_dir() else [path]
            for file in files:
                if not any(part.startswith(".") for part in file.relative_to(path).parts):
                    try:
                        hashes[self._label(file)] = self._sha(file)
                    except OSError as e:
                        problems.append(f"{file}: cannot be read: {e.strerror}; correct its permissions")
        if problems:
            raise DataError(*problems)
        return hashes

    def _sha(self, file: Path) -> str:
        """The sha256 of a file. A file outside of the run folder is read again only if it changes during the run."""
        if self.path in file.parents:
            return _sha(file)
        status = file.stat()
        key = (file, status.st_size, status.st_mtime_ns)
        if key not in self._known:
            self._known[key] = _sha(file)
        return self._known[key]

    def _label(self, path: Path) -> str:
        """The path relative to the run folder, so that no stage is redone if recipe and run folder move together."""
        path, folder = Path(os.path.abspath(path)), Path(os.path.abspath(self.path))
        near = path.anchor == folder.anchor and os.path.commonpath((path, folder)) != path.anchor
        return Path(os.path.relpath(path, folder)).as_posix() if near else path.as_posix()

    def _jsonable(self, value: object) -> str:
        """A path as JSON can hold it. Raises TypeError for any other object."""
        if isinstance(value, Path):
            return self._label(value)
        raise TypeError(f"{value!r} cannot be recorded in run.json")


def _flat(tree: Mapping, prefix: str = "") -> dict[str, object]:
    """The values of nested dictionaries by dotted key."""
    flat: dict[str, object] = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def _sha(file: Path) -> str:
    """The sha256 of a file."""
    digest = hashlib.sha256()
    with open(file, "rb") as f:
        while block := f.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _delete(scratch: Path) -> None:
    """Delete a scratch folder."""
    if scratch.exists():
        (scratch / "key.json").unlink(
            missing_ok=True
        )  # first, so that a folder that is only half deleted is never resumed
        shutil.rmtree(scratch)


def _holds(hashes: Mapping[str, str], output: str) -> bool:
    """Whether the files contain an output: the file itself, or a file in it if it is a folder."""
    return any(path == output or path.startswith(output.rstrip("/") + "/") for path in hashes)


def _versions() -> dict[str, str | None]:
    """The version of each of PACKAGES, from its metadata: importing them takes seconds. None: not installed."""
    import importlib.metadata  # itself slow to import, and a command's help needs none of it

    versions: dict[str, str | None] = dict.fromkeys(PACKAGES)
    for name, distribution in PACKAGES.items():
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(distribution)
    return versions


def read_json(path: str | os.PathLike) -> dict:
    """The object that `write_json` wrote. Raises DataError if the file does not hold a JSON object."""
    content = _read_json(path := Path(path))
    if not isinstance(content, dict):
        raise DataError(f"{path}: not a JSON object; write or copy the file again")
    return content


def _read_json(file: Path) -> object:
    """The contents of a JSON file; None if it does not exist or is not JSON."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def read_stages(file: Path) -> dict[str, dict]:
    """The stages that a run.json records as done, by name; {} without a file. Raises DataError for a broken file."""
    if not file.exists():
        return {}
    record = _read_json(file)
    if not isinstance(record, dict):
        raise DataError(f"{file}: not the JSON that a run writes; delete it to redo every stage")
    if record.get("format") != FORMAT:
        raise DataError(
            f"{file}: format {record.get('format')!r}, but this version writes {FORMAT}; give the run another name"
        )
    try:
        for stage in record["stages"].values():
            [stage[part].items() for part in ("settings", "inputs", "outputs")]
            float(stage["seconds"])
    except (KeyError, AttributeError, TypeError, ValueError):
        raise DataError(f"{file}: its stages are broken; delete it to redo every stage") from None
    return record["stages"]


def write_json(path: str | os.PathLike, obj: object) -> None:
    """Write JSON to a file, as `write_text` does. Raises ValueError for NaN and infinity."""
    write_text(path, json.dumps(obj, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write UTF-8 to a temporary file beside `path` and rename it: a kill leaves the old file or the new one.

    Missing folders are created.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "w", encoding="utf-8", newline="\n") as f:
            f.write(text)
            f.flush()
            os.fsync(f.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
