"""Read manifests, text files and hypothesis files, and prepare the domain text for training."""

from __future__ import annotations

import difflib
import functools
import gzip
import json
import random
import unicodedata
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from adapt.errors import UNREADABLE, DataError, no_samples, unreadable

# Dialect -> key of this toolkit -> key of the dialect. A manifest may mix dialects line by line.
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
    """One line of a manifest. A field is None if the line does not have it.

    text: the reference. entities: those of the reference; () if it has none, None if it is not annotated. voice: the
    speaker. language: the spoken language. domain: the name of the adapter that transcribes the utterance, if there are
    several. phrases: boosted for this utterance alone, such as names from the speaker's address book. place: the
    `file:line` of the manifest.
    """

    id: str
    text: str
    audio: Path | None = None
    entities: tuple[Entity, ...] | None = None
    voice: str | None = None
    language: str | None = None
    domain: str | None = None
    phrases: tuple[str, ...] | None = None
    place: str | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class Corpus:
    """Normalised domain text: lines for training and for development, and what was dropped (`prepare`)."""

    train: tuple[str, ...]
    dev: tuple[str, ...]
    duplicates: int
    leaks: tuple[str, ...]


def read_bytes(path: str | Path) -> bytes:
    """The bytes of a file, unpacked if its name ends in `.gz`. Raises DataError for a file that cannot be read."""
    try:
        data = Path(path).read_bytes()
        return gzip.decompress(data) if Path(path).suffix == ".gz" else data
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; check the path") from None
    except (gzip.BadGzipFile, EOFError, zlib.error):
        raise DataError(f"{path}: not a whole gzip file; compress it again") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check the path and its rights") from None


def nfc(text: str) -> str:
    """The text in Unicode NFC: accents are composed with their letters."""
    return unicodedata.normalize("NFC", text)


def read_lines(path: str | Path, form: Callable[[str], str] = nfc) -> list[tuple[int, str]]:
    """Line numbers, from 1, and stripped lines of a UTF-8 file, without blank lines. form: applied to each line.

    Raises DataError with every line that is not UTF-8, and for a file that is not text.
    """
    lines, problems, content = [], [], read_bytes(path).removeprefix(b"\xef\xbb\xbf")
    if b"\0" in content:
        raise DataError(f"{path}: not UTF-8 text; name a text file, or save it as UTF-8")
    # Bytes are split, not text: str.splitlines also splits at form feeds and U+2028, which would shift the numbers.
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
    """Sentences of a text file, one per line, in NFC. Raises DataError for bad UTF-8 and for a file without text."""
    lines = [line for _, line in read_lines(path)]
    if not lines:
        raise DataError(f"{path}: holds no text; write one sentence a line")
    return lines


def read_manifest(path: str | Path, need_audio: bool = True, whole_files: bool = True) -> list[Utterance]:
    """Utterances of a JSONL manifest in any dialect of DIALECTS; audio paths are relative to its folder.

    need_audio: True requires every line to name an audio file that exists, as `require_audio` does; False makes audio
    optional and does not look for the files. whole_files: True refuses lines whose audio is a part of a file (NeMo's
    `offset`); pass False if only the text is used. Raises DataError with every problem of the file, each as
    `file:line: ...`.
    """
    path = Path(path)
    problems: list[str] = []
    utterances: list[Utterance] = []
    first_line: dict[str, int] = {}
    for number, line in read_lines(path, form=str):  # not NFC: the name of a file is its bytes
        place = f"{path}:{number}"
        row, problem = json_row(line)
        utterance, line_problems = None, [problem]
        if row is not None:
            utterance, audio, line_problems = _utterance(row, path.parent, whole_files, place)
            if need_audio and (problem := _audio_problem(audio, row)):
                line_problems.append(problem)
        problems += [f"{place}: {problem}" for problem in line_problems]
        if utterance is None:
            continue
        if utterance.id in first_line:
            earlier = first_line[utterance.id]
            problems.append(f"{place}: id {utterance.id!r} is already on line {earlier}; make ids unique")
        first_line.setdefault(utterance.id, number)
        utterances.append(utterance)
    if not utterances and not problems:
        problems.append(f"{path}: holds no utterances; write one JSON object a line")
    if problems:
        raise DataError(*problems)
    return utterances


def require_audio(utterances: Iterable[Utterance]) -> list[Utterance]:
    """Check that each utterance names an audio file that exists, and return the utterances. The files are not opened.

    Raises DataError with every utterance that does not, as `file:line: ...` if it was read from a manifest.
    """
    lines_of = functools.cache(lambda path: dict(read_lines(path, form=str)))
    utterances, problems = list(utterances), []
    for utterance in utterances:
        row = {}
        if utterance.audio is None and utterance.place:  # the line shows which key is missing or misspelt
            path, _, number = utterance.place.rpartition(":")
            row = json_row(lines_of(path).get(int(number), "{}"))[0] or {}
        if problem := _audio_problem(utterance.audio, row):
            problems.append(f"{utterance.place or f'utterance {utterance.id!r}'}: {problem}")
    if problems:
        raise DataError(*problems)
    return utterances


def json_row(line: str) -> tuple[dict | None, str | None]:
    """The JSON object of a line and no problem, or None and the problem."""
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        return None, f"not JSON ({error.msg}, column {error.colno}); write one object a line"
    except RecursionError:
        return None, "JSON that is nested too deeply; write one flat object a line"
    if not isinstance(row, dict):
        return None, f'{line[:40]!r} is not an object; write {{"id": …, "text": …}}'
    return row, None


def _dialect(row: Mapping) -> str:
    """The dialect of a line, judged by its keys."""
    return "nemo" if "audio_filepath" in row else "slam-llm" if {"key", "target"} & row.keys() else "adapt"


def _missing(key: str, row: Mapping) -> str:
    """The problem of a line without a value for a key of this toolkit, with a similar key of the line if it has one."""
    keys = DIALECTS[_dialect(row)]
    near = difflib.get_close_matches(keys[key], row.keys() - set(keys.values()), 1)
    hint = f"did you mean it by `{near[0]}`?" if near else "add it"
    return f"missing key `{keys[key]}`; {hint}"


def _audio_problem(audio: Path | None, row: Mapping) -> str | None:
    """The problem of a line whose audio file does not exist or is not named; None without a problem."""
    if audio is None:
        has_value = row.get(DIALECTS[_dialect(row)]["audio"]) is not None  # `_values` reports that it is no text
        return None if has_value else _missing("audio", row)
    if not audio.is_file():
        return f"no audio file {str(audio)!r}; paths are relative to the manifest's folder"
    return None


def _utterance(
    row: dict, folder: Path, whole_files: bool, place: str
) -> tuple[Utterance | None, Path | None, list[str]]:
    """The utterance of a line, its audio file, and the problems of the line; with problems, the utterance is None."""
    dialect = _dialect(row)
    values, problems = _values(row, dialect)
    audio = folder / values["audio"] if "audio" in values else None
    if "id" not in values and audio:
        values["id"] = nfc(audio.stem)
    if whole_files and row.get("offset"):
        problems.append(f"`offset` is {row['offset']!r}: the audio of a part of a file; cut the parts into files")
    if "id" not in values and dialect == "nemo":
        problems.append("neither `id` nor `audio_filepath` names the utterance; add one")
    entities = row.get("entities")
    if entities is not None and not _are_entities(entities):
        problems.append(f'`entities` is {_shown(entities)}; write [{{"text": "…", "type": "…"}}, …]')
    phrases = row.get("phrases")
    if phrases is not None and not (isinstance(phrases, list) and all(isinstance(p, str) for p in phrases)):
        problems.append(f'`phrases` is {_shown(phrases)}; write ["…", "…"]')
    labels = {
        "voice": row.get("voice", row.get("speaker")),
        "language": row.get("language", row.get("lang")),
        "domain": row.get("domain"),
    }
    for key, value in labels.items():
        if value is not None and not isinstance(value, str):
            problems.append(f"`{key}` is {value!r}; write a text in quotes")
        elif value is not None:
            labels[key] = nfc(value)
    if problems:
        return None, audio, problems
    utterance = Utterance(
        values["id"],
        values["text"],
        audio,
        None if entities is None else tuple(Entity(nfc(e["text"]), nfc(e.get("type", "term"))) for e in entities),
        **labels,
        phrases=None if phrases is None else tuple(map(nfc, phrases)),
        place=place,
    )
    return utterance, audio, []


def _values(row: Mapping, dialect: str) -> tuple[dict[str, str], list[str]]:
    """Those of id, audio and text that a line has, and their problems. Audio may be missing."""
    values, problems = {}, []
    for key, dialect_key in DIALECTS[dialect].items():
        value = row.get(dialect_key)
        if key == "id" and _is_id(value):
            value = str(value)
        if isinstance(value, str) and (value.strip() or key == "text"):
            values[key] = value if key == "audio" else nfc(value)
        elif value is not None:
            problems.append(f"`{dialect_key}` is {value!r}; write a text in quotes")
        elif key == "text" or (key == "id" and dialect != "nemo"):
            problems.append(_missing(key, row))
    return values, problems


def _shown(value: object) -> str:
    return repr(json.dumps(value, ensure_ascii=False)[:60])


def _are_entities(value: object) -> bool:
    return isinstance(value, list) and all(
        isinstance(e, dict) and isinstance(e.get("text"), str) and isinstance(e.get("type", ""), str) for e in value
    )


def prepare(
    lines: Iterable[str], normalise: Callable[[str], str], held_out: Iterable[str], dev_lines: int, seed: int
) -> Corpus:
    """Normalise domain text, drop empty, duplicate and leaked lines, and draw `dev_lines` lines for development.

    held_out: transcripts that the text must not contain (test, development and guard sets). seed: of the draw. The
    result's `leaks` are the distinct lines that occur in `held_out`. Raises DataError if fewer than twice `dev_lines`
    lines remain.

    >>> prepare(["Louder", "louder", "stop", "next song", "skip"], str.lower, ["Stop"], 1, seed=0)
    Corpus(train=('louder', 'skip'), dev=('next song',), duplicates=1, leaks=('stop',))
    """
    transcripts = {normalise(line) for line in held_out}
    unique: dict[str, None] = {}
    leaks: dict[str, None] = {}
    duplicates = 0
    for line in map(normalise, lines):
        if not line:
            continue
        if line in transcripts:
            leaks[line] = None
        elif line in unique:
            duplicates += 1
        else:
            unique[line] = None
    texts = list(unique)
    if len(texts) < max(1, 2 * dev_lines):
        raise DataError(
            f"text: {len(texts):,} lines are left ({duplicates:,} duplicates and {len(leaks):,} lines of held-out sets"
            f" dropped), too few for {dev_lines:,} development lines; add text or lower data.dev_lines"
        )
    dev = set(random.Random(seed).sample(range(len(texts)), dev_lines))
    return Corpus(
        train=tuple(text for i, text in enumerate(texts) if i not in dev),
        dev=tuple(texts[i] for i in sorted(dev)),
        duplicates=duplicates,
        leaks=tuple(leaks),
    )


def _is_id(key: object) -> bool:
    """Whether a JSON value can be an id: a text or a whole number."""
    return isinstance(key, str | int) and not isinstance(key, bool)


def read_hypotheses(path: str | Path) -> dict[str, str]:
    """Text by id from a JSONL of `{"id", "text"}`. A last line that is cut off in the middle is left out.

    Raises DataError with every other bad line and every duplicate id.
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
            # A process that was killed while it wrote leaves such a last line; anywhere else it is an error.
            if number < len(lines):
                problems.append(f'{path}:{number}: not {{"id": "…", "text": "…"}}; delete the line')
            continue
        key, text = (row.get("id"), row.get("text")) if isinstance(row, dict) else (None, None)
        if not _is_id(key) or not isinstance(text, str):
            problems.append(f'{path}:{number}: not {{"id": "…", "text": "…"}}; delete the line')
            continue
        key, text = nfc(str(key)), nfc(text)
        if key in hypotheses:
            problems.append(f"{path}:{number}: id {key!r} occurs twice; delete one of its lines")
        hypotheses[key] = text
    if problems:
        raise DataError(*problems)
    return hypotheses


def durations(utterances: Iterable[Utterance]) -> dict[str, float]:
    """Seconds of each utterance's audio by id. Raises DataError with every file that is not audio or has no samples."""
    import soundfile

    seconds, problems = {}, []
    for utterance in utterances:
        try:
            seconds[utterance.id] = soundfile.info(utterance.audio).duration
            if not seconds[utterance.id]:
                problems.append(no_samples(utterance.audio))
        except UNREADABLE:
            problems.append(unreadable(utterance.audio))
    if problems:
        raise DataError(*problems)
    return seconds
