"""The run folder: what is done, what must be done again and why, and files that are never half written."""

from __future__ import annotations

import hashlib
import importlib.metadata
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

try:
    import fcntl
except ImportError:  # not on Windows; the lock is advice, and there is none there
    fcntl = None

FORMAT = 1
PACKAGES = {"adapt": "adapt-asr", "torch": "torch", "transformers": "transformers", "peft": "peft"}
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StageResult:
    """What became of a stage. reason: why it was done, or 'unchanged'. seconds: of the work, now or then."""

    name: str
    skipped: bool
    reason: str
    seconds: float


class RunFolder:
    """One run's folder and its run.json; while it is open, no other process can open it.

    Use it in a `with`, or call `close`. device and seed are for the record alone: None is unknown, they
    may be set later, and are written whenever a stage has been done. Raises DataError when the folder
    cannot be used, holds what no run has written, is open elsewhere, or its run.json is broken.
    """

    def __init__(self, path: str | os.PathLike, device: str | None = None, seed: int | None = None):
        self.path = Path(path)
        self.device, self.seed = device, seed
        there = {path.name for path in self.path.iterdir()} if self.path.is_dir() else set()
        if there and not there & {".lock", "run.json"}:
            raise DataError(f"{self.path}: holds other files than a run's; choose another folder with -o")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = open(self.path / ".lock", "a+", encoding="utf-8")  # noqa: SIM115 (held until close)
        except OSError as e:
            raise DataError(f"{self.path}: cannot be a run folder: {e.strerror}; choose another") from e
        try:
            self._take_lock()
            self._stages = _read_stages(self.path / "run.json")
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Lets other processes use the folder."""
        if fcntl and not self._lock.closed:
            with suppress(OSError):  # closing is not enough: a forked child may hold the file open
                fcntl.flock(self._lock, fcntl.LOCK_UN)
        self._lock.close()

    def _take_lock(self) -> None:
        if fcntl is None:
            return
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.seek(0)
            owner = self._lock.read().strip() or "unknown"
            told = f"{self.path}: in use by process {owner}; wait until it ends, or give the run another name"
            raise DataError(told) from None
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
    ) -> StageResult:
        """Does a stage's work, unless its settings, inputs and outputs are as they were when it was done.

        settings: what JSON holds, and paths; nested by section, so that a reason reads `decoder.steps
        changed: 400 -> 300`. inputs: files and folders that are read, those of earlier stages too.
        outputs: files and folders that are written, relative to the run folder; hidden files in a folder
        do not count. work: gets a scratch folder, where it finds again what it left before a kill; the
        folder is emptied once settings or inputs have changed, and deleted when the stage is done. The
        reason is logged before the work starts. Raises DataError when an input is not there.
        """
        key = {
            "settings": json.loads(json.dumps(settings, default=self._jsonable, allow_nan=False)),
            "inputs": self._hashes(inputs),
        }
        scratch = self.path / "checkpoints" / name
        reason = self._why(name, key, outputs)
        if reason is None:
            _delete(scratch)  # left there by a kill between the record and the clean-up
            return StageResult(name, True, "unchanged", self._stages[name]["seconds"])
        if _read_json(scratch / "key.json") == key:
            reason += "; goes on where it stopped" if len(list(scratch.iterdir())) > 1 else ""
        else:
            _delete(scratch)
            write_json(scratch / "key.json", key)
        log.info("%s: %s", name, reason)

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
        return StageResult(name, False, reason, seconds)

    def _why(self, name: str, key: dict, outputs: Sequence[str]) -> str | None:
        """Why the stage has to be done; None when nothing changed."""
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
                told = "no longer read" if sha is None else "read now" if sha_before is None else "changed"
                reasons.append(f"{path.replace('../', '')} {told}")
        there = self._hashes([p for o in outputs if (p := self.path / o).exists()])
        wanted = [*old["outputs"], *(o for o in outputs if not _holds(old["outputs"], o))]
        reasons += [f"{p} is missing" for p in wanted if p not in there]
        changed = [p for p, sha in old["outputs"].items() if there.get(p, sha) != sha]
        reasons += [f"{p} is not what the stage wrote" for p in changed]
        return ", ".join(dict.fromkeys(reasons)) or None

    def _hashes(self, paths: Sequence[str | os.PathLike]) -> dict[str, str]:
        """sha256 of each file, those in folders too, by label. DataError: all that are not there."""
        problems, hashes = [], {}
        for path in map(Path, paths):
            if not path.exists():
                problems.append(f"{path}: no such file; mend its path, or do the stage that writes it")
                continue
            files = sorted(f for f in path.rglob("*") if f.is_file()) if path.is_dir() else [path]
            for file in files:
                if not any(part.startswith(".") for part in file.relative_to(path).parts):
                    try:
                        hashes[self._label(file)] = _sha(file)
                    except OSError as e:
                        problems.append(f"{file}: cannot be read: {e.strerror}; mend its permissions")
        if problems:
            raise DataError(*problems)
        return hashes

    def _label(self, path: Path) -> str:
        """The path from the run folder, so that a project that is moved as a whole is not done again."""
        path, folder = Path(os.path.abspath(path)), Path(os.path.abspath(self.path))
        near = path.anchor == folder.anchor and os.path.commonpath((path, folder)) != path.anchor
        return Path(os.path.relpath(path, folder)).as_posix() if near else path.as_posix()

    def _jsonable(self, value: object) -> str:
        if isinstance(value, Path):
            return self._label(value)
        raise TypeError(f"{value!r} cannot be recorded in run.json")


def _flat(tree: Mapping, prefix: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def _sha(file: Path) -> str:
    digest = hashlib.sha256()
    with open(file, "rb") as f:
        while block := f.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _delete(scratch: Path) -> None:
    if scratch.exists():
        (scratch / "key.json").unlink(missing_ok=True)  # first: half of a folder must never be resumed
        shutil.rmtree(scratch)


def _holds(hashes: Mapping[str, str], output: str) -> bool:
    return any(path == output or path.startswith(output.rstrip("/") + "/") for path in hashes)


def _versions() -> dict[str, str | None]:
    """From the installed metadata, since importing these packages takes seconds; None: not installed."""
    versions: dict[str, str | None] = dict.fromkeys(PACKAGES)
    for name, distribution in PACKAGES.items():
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(distribution)
    return versions


def read_json(path: str | os.PathLike) -> dict:
    """What `write_json` wrote. Raises DataError for what is not a JSON object."""
    found = _read_json(path := Path(path))
    if not isinstance(found, dict):
        raise DataError(f"{path}: not the JSON object that was written there; make it again, or copy it again")
    return found


def _read_json(file: Path) -> object:
    """None when it is not there, or not JSON."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _read_stages(file: Path) -> dict[str, dict]:
    if not file.exists():
        return {}
    record = _read_json(file)
    if not isinstance(record, dict):
        raise DataError(f"{file}: not the JSON that a run writes; delete it, and every stage is done again")
    if record.get("format") != FORMAT:
        raise DataError(f"{file}: format {record.get('format')!r}, not {FORMAT} as here; give the run another name")
    try:
        for stage in record["stages"].values():
            [stage[part].items() for part in ("settings", "inputs", "outputs")]
            float(stage["seconds"])
    except (KeyError, AttributeError, TypeError, ValueError):
        raise DataError(f"{file}: its stages are broken; delete it, and every stage is done again") from None
    return record["stages"]


def write_json(path: str | os.PathLike, obj: object) -> None:
    """Writes JSON that is whole or not there; see `write_text`. Raises ValueError for NaN and infinity."""
    write_text(path, json.dumps(obj, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_text(path: str | os.PathLike, text: str) -> None:
    """Writes UTF-8 to a temporary file beside path and renames it: a kill leaves the old file or the new one.

    The folder of path is made where it is not there.
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


def runs(folder: Path) -> list[dict]:
    """The runs in a folder: `{"run", "base", "stages", "rows"}`. Raises DataError where there is none.

    stages: those done. rows: first and last of the scores on the target, `{"system", "wer", "eer"}`.
    """
    found = []
    for record in sorted(folder.glob("*/run.json")):
        try:
            stages = _read_stages(record)
        except DataError:  # one broken record does not hide the others
            found.append({"run": str(record.parent), "base": None, "stages": ["(run.json is broken)"], "rows": []})
            continue
        bases = [s["settings"]["base"] for s in stages.values() if "base" in s.get("settings", {})]
        names = {b["name"] if isinstance(b, dict) else str(b) for b in bases}
        scores = record.parent / "scores/metrics.json"
        rows = read_json(scores)["rows"] if scores.exists() else []
        rows = [{k: row[k] for k in ("system", "wer", "eer")} for row in rows if row["set"] == "target"]
        done = list(dict.fromkeys(name.split("-")[0] for name in stages))
        base = names.pop() if len(names) == 1 else None
        found.append({"run": str(record.parent), "base": base, "stages": done, "rows": [*rows[:1], *rows[1:][-1:]]})
    if not found:
        raise DataError(f"{folder}: holds no runs; `adapt run RECIPE` makes one in runs/")
    return found
