"""Manifests, text files and hypothesis files, and the domain text made ready for training."""

from __future__ import annotations

import difflib
import gzip
import json
import random
import unicodedata
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from adapt.errors import UNREADABLE, DataError, unreadable

# Our key -> theirs; a manifest may mix dialects line by line.
DIALECTS: dict[str, dict[str, str]] = {
    "adapt": {"id": "id", "audio": "audio", "text": "text"},
    "slam-llm": {"id": "key", "audio": "source", "text": "target"},
    "nemo": {"id": "id", "audio": "audio_filepath", "text": "text"},
}


@dataclass(frozen=True)
class Entity:
    """An entity as the reference text spells it."""

    text: str
    type: str


@dataclass(frozen=True)
class Utterance:
    """One line of a manifest; `entities` is None where nobody annotated them, () where there are none.

    `voice` is who speaks, `language` in which language, and `domain` which of several adapters hears it, None where
    that is not known. `phrases` are boosted for this utterance alone, names of its own address book for instance.
    """

    id: str
    text: str
    audio: Path | None = None
    entities: tuple[Entity, ...] | None = None
    voice: str | None = None
    language: str | None = None
    domain: str | None = None
    phrases: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Corpus:
    """Normalised domain text: what trains, what chooses the checkpoint, and what was dropped."""

    train: tuple[str, ...]
    dev: tuple[str, ...]
    duplicates: int
    leaks: tuple[str, ...]


def read_bytes(path: str | Path) -> bytes:
    """The bytes of a file, unpacked if its name ends in `.gz`; DataError in place of OSError."""
    try:
        data = Path(path).read_bytes()
        return gzip.decompress(data) if Path(path).suffix == ".gz" else data
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; check the path") from None
    except (gzip.BadGzipFile, EOFError, zlib.error):
        raise DataError(f"{path}: not a whole gzip file; pack it again") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check the path and its rights") from None


def nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def read_lines(path: str | Path, form: Callable[[str], str] = nfc) -> list[tuple[int, str]]:
    """Line numbers and stripped lines of a UTF-8 file, in NFC or what else `form` makes of them; blank ones left out.

    Raises DataError naming every line that is not UTF-8, and for what is no text at all.
    """
    lines, problems, content = [], [], read_bytes(path).removeprefix(b"\xef\xbb\xbf")
    if b"\0" in content:
        raise DataError(f"{path}: holds no text, or not in UTF-8; name a text file, or save it as UTF-8")
    # Split bytes, not text: str.splitlines also cuts at form feeds and U+2028, and numbers would drift.
    for number, raw in enumerate(content.split(b"\n"), 1):
        try:
            line = raw.decode("utf-8").strip("\r\n ")
        except UnicodeDecodeError as error:
            byte = raw[error.start]
            problems.append(f"{path}:{number}: byte 0x{byte:02x} is not UTF-8; save the file as UTF-8")
            continue
        if line.strip():
            lines.append((number, form(line)))
    if problems:
        raise DataError(*problems)
    return lines


def read_text(path: str | Path) -> list[str]:
    """Sentences of a text file, one a line, NFC. Raises DataError for bad UTF-8 and when there is none."""
    lines = [line for _, line in read_lines(path)]
    if not lines:
        raise DataError(f"{path}: holds no text; write one sentence a line")
    return lines


def read_manifest(path: str | Path, need_audio: bool = True, whole: bool = True) -> list[Utterance]:
    """Utterances of a JSONL manifest in any dialect of DIALECTS; audio paths are relative to its folder.

    With `need_audio` every line must name an audio file that exists (it is not opened); without it, audio is
    optional and not looked for. `whole`: a line whose audio is a part of a file (NeMo's `offset`) is refused; without
    it, it is for its text alone. Raises DataError with every problem of the file, one `file:line` each.
    """
    path = Path(path)
    problems: list[str] = []
    utterances: list[Utterance] = []
    first_line: dict[str, int] = {}
    for number, line in read_lines(path, form=str):  # the name of a file is as it is, whatever its letters are made of
        place = f"{path}:{number}"
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            problems.append(f"{place}: not JSON ({error.msg}, column {error.colno}); write one object a line")
            continue
        if not isinstance(row, dict):
            problems.append(f'{place}: {line[:40]!r} is not an object; write {{"id": …, "text": …}}')
            continue
        utterance, wrong = _utterance(row, path.parent, need_audio, whole)
        problems += [f"{place}: {problem}" for problem in wrong]
        if utterance is None:
            continue
        if utterance.id in first_line:
            known = first_line[utterance.id]
            problems.append(f"{place}: id {utterance.id!r} is already on line {known}; make ids unique")
        first_line.setdefault(utterance.id, number)
        utterances.append(utterance)
    if not utterances and not problems:
        problems.append(f"{path}: holds no utterances; write one JSON object a line")
    if problems:
        raise DataError(*problems)
    return utterances


def _utterance(row: dict, folder: Path, need_audio: bool, whole: bool) -> tuple[Utterance | None, list[str]]:
    problems: list[str] = []
    dialect = "nemo" if "audio_filepath" in row else "slam-llm" if {"key", "target"} & row.keys() else "adapt"
    keys = DIALECTS[dialect]
    needed = {"text", *(["audio"] if need_audio else []), *(["id"] if dialect != "nemo" else [])}
    values: dict[str, str] = {}
    for ours, theirs in keys.items():
        value = row.get(theirs)
        if ours == "id" and _names(value):
            value = str(value)
        if isinstance(value, str) and (value.strip() or ours == "text"):
            values[ours] = value if ours == "audio" else nfc(value)
        elif value is not None:
            problems.append(f"`{theirs}` is {value!r}; write a text in quotes")
        elif ours in needed:
            near = difflib.get_close_matches(theirs, row.keys() - set(keys.values()), 1)
            hint = f"did you mean it by `{near[0]}`?" if near else "add it"
            problems.append(f"missing key `{theirs}`; {hint}")
    audio = folder / values["audio"] if "audio" in values else None
    if audio and need_audio and not audio.is_file():
        problems.append(f"no audio file {str(audio)!r}; paths are relative to the manifest's folder")
    if "id" not in values and audio:
        values["id"] = nfc(audio.stem)
    if whole and row.get("offset"):
        problems.append(f"`offset` is {row['offset']!r}: the audio of a part of a file; cut the parts into files")
    if "id" not in values and dialect == "nemo":
        problems.append("neither `id` nor `audio_filepath` names the utterance; add one")
    entities = row.get("entities")
    if entities is not None and not _are_entities(entities):
        shown = json.dumps(entities, ensure_ascii=False)[:60]
        problems.append(f'`entities` is {shown!r}; write [{{"text": "…", "type": "…"}}, …]')
    about = {
        "voice": row.get("voice", row.get("speaker")),
        "language": row.get("language", row.get("lang")),
        "domain": row.get("domain"),
    }
    for key, value in about.items():
        if value is not None and not isinstance(value, str):
            problems.append(f"`{key}` is {value!r}; write a text in quotes")
        elif value is not None:
            about[key] = nfc(value)
    phrases = row.get("phrases")
    if phrases is not None and not (isinstance(phrases, list) and all(isinstance(p, str) for p in phrases)):
        problems.append(f'`phrases` is {json.dumps(phrases, ensure_ascii=False)[:60]!r}; write ["…", "…"]')
    if problems:
        return None, problems
    return Utterance(
        values["id"],
        values["text"],
        audio,
        None if entities is None else tuple(Entity(nfc(e["text"]), nfc(e.get("type", "term"))) for e in entities),
        **about,
        phrases=None if phrases is None else tuple(map(nfc, phrases)),
    ), problems


def _are_entities(value: object) -> bool:
    return isinstance(value, list) and all(
        isinstance(e, dict) and isinstance(e.get("text"), str) and isinstance(e.get("type", ""), str) for e in value
    )


def prepare(
    lines: Iterable[str], normalise: Callable[[str], str], held_out: Iterable[str], dev_lines: int, seed: int
) -> Corpus:
    """Normalise domain text, drop empty, doubled and leaked lines, and split `dev_lines` off at random.

    `held_out` are the transcripts that text must not repeat (test, development and guard sets); `leaks` are
    the distinct lines dropped for that. Raises DataError when too little text remains.

    >>> prepare(["Louder", "louder", "stop", "next song", "skip"], str.lower, ["Stop"], 1, seed=0)
    Corpus(train=('louder', 'skip'), dev=('next song',), duplicates=1, leaks=('stop',))
    """
    held = {normalise(line) for line in held_out}
    kept: dict[str, None] = {}
    leaks: dict[str, None] = {}
    duplicates = 0
    for line in map(normalise, lines):
        if not line:
            continue
        if line in held:
            leaks[line] = None
        elif line in kept:
            duplicates += 1
        else:
            kept[line] = None
    texts = list(kept)
    if len(texts) < max(1, 2 * dev_lines):
        raise DataError(
            f"text: {len(texts):,} lines are left ({duplicates:,} duplicates and {len(leaks):,} lines"
            f" of held-out sets dropped), too few to set {dev_lines:,} aside; add text or lower `dev_lines`"
        )
    dev = set(random.Random(seed).sample(range(len(texts)), dev_lines))
    return Corpus(
        train=tuple(text for i, text in enumerate(texts) if i not in dev),
        dev=tuple(texts[i] for i in sorted(dev)),
        duplicates=duplicates,
        leaks=tuple(leaks),
    )


def _names(key: object) -> bool:
    """Whether it can name an utterance: a text or a whole number."""
    return isinstance(key, str | int) and not isinstance(key, bool)


def read_hypotheses(path: str | Path) -> dict[str, str]:
    """Text by id from a JSONL of `{"id", "text"}` that may still be growing: a cut last line is left out.

    Raises DataError with every other bad line and every doubled id.
    """
    hypotheses: dict[str, str] = {}
    problems = []
    lines = read_bytes(path).split(b"\n")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError:
            # Only a last line without its newline can be the trace of a killed run.
            if number < len(lines):
                problems.append(f'{path}:{number}: not {{"id": "…", "text": "…"}}; delete the line')
            continue
        key, text = (row.get("id"), row.get("text")) if isinstance(row, dict) else (None, None)
        if not _names(key) or not isinstance(text, str):
            problems.append(f'{path}:{number}: not {{"id": "…", "text": "…"}}; delete the line')
            continue
        key, text = nfc(str(key)), nfc(text)
        if key in hypotheses:
            problems.append(f"{path}:{number}: id {key!r} is doubled; delete one of its lines")
        hypotheses[key] = text
    if problems:
        raise DataError(*problems)
    return hypotheses


def durations(utterances: Iterable[Utterance]) -> dict[str, float]:
    """Seconds of each utterance's audio by its id. Raises DataError with every file that is no audio, or empty."""
    import soundfile

    seconds, problems = {}, []
    for utterance in utterances:
        try:
            seconds[utterance.id] = soundfile.info(utterance.audio).duration
            if not seconds[utterance.id]:
                problems.append(f"{utterance.audio}: holds no samples; record it again or take it out")
        except UNREADABLE:
            problems.append(unreadable(utterance.audio))
    if problems:
        raise DataError(*problems)
    return seconds
