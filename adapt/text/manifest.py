"""Read manifests: utterances with their audio, reference and entities, one JSON object a line or one row of Parquet."""

from __future__ import annotations

import difflib
import functools
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from adapt.errors import DataError
from adapt.text.clip import Clip, duration
from adapt.text.files import LONGEST, is_id, json_row, nfc, read_lines
from adapt.text.parquet import is_parquet, parquet_rows

# Dialect -> key of this toolkit -> key of the dialect. A manifest may mix dialects line by line.
DIALECTS: dict[str, dict[str, str]] = {
    "adapt": {"id": "id", "audio": "audio", "text": "text"},
    "slam-llm": {"id": "key", "audio": "source", "text": "target"},
    "nemo": {"id": "id", "audio": "audio_filepath", "text": "text"},
}
LABELS = ("entities", "phrases", "voice", "speaker", "language", "lang", "domain")  # other keys whose values are texts

Row = tuple[int, dict | None, str | None]  # its number from 1, and its values or its problem


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
    several. phrases: names for this utterance alone, such as those in the speaker's address book. place: as
    `place_of` returns it; None if it was not read from a manifest.
    """

    id: str
    text: str
    audio: Clip | None = None
    entities: tuple[Entity, ...] | None = None
    voice: str | None = None
    language: str | None = None
    domain: str | None = None
    phrases: tuple[str, ...] | None = None
    place: str | None = field(default=None, compare=False, repr=False)


def read_manifest(
    path: str | Path,
    need_audio: bool = True,
    need_text: bool = True,
    rows: Sequence[Row] | None = None,
) -> list[Utterance]:
    """Utterances of a manifest in any dialect of DIALECTS; audio paths are relative to its folder.

    A manifest whose name ends in `.parquet` has the keys as columns, and nulls where a row has no value; any other is
    JSONL. Utterances may be parts of a file (`offset` and `duration`, in seconds) or a `channel`. Those without an id
    are named after their audio (`audio_ids`). need_audio: True requires every line to name an audio file that exists,
    as `require_audio` does; False makes audio optional and does not look for the files. need_text: False makes the text
    optional. rows: those of the file if they have been read, as a pipe can be once; None: they are read (`read_rows`).
    Raises DataError with every problem of the file, each after its `place_of`.
    """
    path = Path(path)
    problems: list[str] = []
    utterances: list[Utterance] = []
    first: dict[str, int] = {}
    rows = read_rows(path) if rows is None else rows
    names = audio_ids([row or {} for _, row, _ in rows])
    for (number, row, problem), name in zip(rows, names, strict=True):
        place = place_of(path, number)
        utterance, line_problems = None, [problem]
        if row is not None:
            utterance, audio, line_problems = _utterance(row, name, path.parent, need_text, place)
            if need_audio and (problem := _audio_problem(audio, row)):
                line_problems.append(problem)
        problems += [f"{place}: {problem}" for problem in line_problems]
        if utterance is None:
            continue
        if utterance.id in first:
            earlier = f"{'in row' if is_parquet(path) else 'on line'} {first[utterance.id]}"
            problems.append(f"{place}: id {utterance.id!r} is already {earlier}; make ids unique")
        first.setdefault(utterance.id, number)
        utterances.append(utterance)
    if not utterances and not problems:
        way_out = "write a row for each" if is_parquet(path) else "write one JSON object a line"
        problems.append(f"{path}: holds no utterances; {way_out}")
    if problems:
        raise DataError(*problems)
    return utterances


def place_of(path: str | Path, number: int) -> str:
    """The place of a line or row in errors.

    >>> place_of("a.jsonl", 7), place_of("a.parquet", 7)
    ('a.jsonl:7', 'a.parquet: row 7')
    """
    return f"{path}: row {number}" if is_parquet(path) else f"{path}:{number}"


def json_rows(lines: Iterable[tuple[int, str]]) -> list[Row]:
    """The rows of numbered lines of JSON."""
    return [(number, *json_row(line)) for number, line in lines]


def read_rows(path: str | Path, audio: bool = True, predictions: Sequence[str] = ()) -> list[Row]:
    """The rows of a manifest, or of a file of hypotheses like one. A row of Parquet has no keys for its nulls.

    audio: whether a Parquet file of recordings, in place of their paths, is an error; False leaves them unread.
    predictions: keys of hypotheses; a row of Parquet keeps their nulls, as without them its reference would count.
    Raises DataError for a file that cannot be read.
    """
    if not is_parquet(path):
        return json_rows(read_lines(path, form=str))  # no NFC: the name of a file is its bytes
    keys = {key: kind for dialect in DIALECTS.values() for kind, key in dialect.items()}
    keys |= dict.fromkeys((*LABELS, *predictions), "text")

    def choose(columns: Mapping[str, str]) -> list[str]:
        held = {name: keys.get(name) for name, kind in columns.items() if "binary" in kind}
        problems = [
            f"{path}: the column `{name}` holds bytes; "
            + ("save each recording as a file, and write its path there" if kind == "audio" else "write texts there")
            for name, kind in held.items()
            if kind and (audio or kind != "audio")
        ]
        if problems:
            raise DataError(*problems)
        return [name for name in columns if name not in held]

    rows: list[Row] = []
    for number, values in enumerate(parquet_rows(path, choose), 1):
        row = _as_json(values) | {key: None for key in predictions if values.get(key, "") is None}
        if (length := len(str(row))) > LONGEST:
            rows.append((number, None, f"a row of {length:,} characters; write rows of at most {LONGEST:,}"))
        else:
            rows.append((number, row, None))
    return rows


def _as_json(value: object) -> object:
    """A value of Parquet as JSON would have it: without keys whose value is null, and with whole numbers as such.

    A null is how a row lacks a key, and in a column of pandas with nulls, whole numbers become floating ones.
    """
    if isinstance(value, dict):
        return {key: _as_json(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, list):
        return list(map(_as_json, value))
    return int(value) if isinstance(value, float) and value.is_integer() else value


def require_audio(utterances: Iterable[Utterance]) -> list[Utterance]:
    """Check that each utterance names an audio file that exists, and return the utterances. The files are not opened.

    Raises DataError with every utterance that does not, after its place if it was read from a manifest.
    """
    rows_of = functools.cache(lambda path: {number: row for number, row, _ in read_rows(path)})
    utterances, problems = list(utterances), []
    for utterance in utterances:
        row = {}
        if utterance.audio is None and utterance.place:  # the line shows which key is missing or misspelt
            path, _, number = utterance.place.rpartition(":")
            row = rows_of(path).get(int(number.removeprefix(" row "))) or {}
        if problem := _audio_problem(utterance.audio, row):
            problems.append(f"{utterance.place or f'utterance {utterance.id!r}'}: {problem}")
    if problems:
        raise DataError(*problems)
    return utterances


def audio_ids(rows: Sequence[Mapping]) -> list[str | None]:
    """Ids of the lines of a manifest by their audio: the name of the file, and its folders where names are equal.

    Parts of a file have their `offset` behind it, and a `channel` its number. None for a line without audio.

    >>> audio_ids([{"audio_filepath": "a/1.wav"}, {"audio_filepath": "b/1.wav"}, {"audio": "c.wav", "offset": 2.5}, {}])
    ['a/1', 'b/1', 'c-2.5', None]
    """
    keys = [dialect["audio"] for dialect in DIALECTS.values()]
    found = [next((row[key] for key in keys if isinstance(row.get(key), str) and row[key]), None) for row in rows]
    paths = [path and (Path(path).with_suffix("") if Path(path).name else Path(path)) for path in found]  # "/" has none
    stems: dict[str, set[Path]] = {}
    for path in filter(None, paths):
        stems.setdefault(path.name, set()).add(path)
    names = [path and nfc(path.name if len(stems[path.name]) == 1 else path.as_posix()) for path in paths]
    parts = [row.get("offset") or 0 for row in rows]
    cut = {name for name, part in zip(names, parts, strict=True) if part}
    ids = [f"{name}-{part}" if name in cut else name for name, part in zip(names, parts, strict=True)]
    channels = [row.get("channel") for row in rows]
    return [f"{i}-{number}" if i and number is not None else i for i, number in zip(ids, channels, strict=True)]


def _dialect(row: Mapping) -> str:
    """The dialect of a line, judged by its keys."""
    return "nemo" if "audio_filepath" in row else "slam-llm" if {"key", "target"} & row.keys() else "adapt"


def _missing(key: str, row: Mapping) -> str:
    """The problem of a line without a value for a key of this toolkit, with a similar key of the line if it has one."""
    keys = DIALECTS[_dialect(row)]
    near = difflib.get_close_matches(keys[key], row.keys() - set(keys.values()), 1)
    hint = f"did you mean it by `{near[0]}`?" if near else "add it"
    return f"missing key `{keys[key]}`; {hint}"


def _audio_problem(audio: Clip | None, row: Mapping) -> str | None:
    """The problem of a line whose audio file does not exist or is not named; None without a problem."""
    if audio is None:
        has_value = row.get(DIALECTS[_dialect(row)]["audio"]) is not None  # `_values` reports that it is no text
        return None if has_value else _missing("audio", row)
    if not os.path.isfile(audio.path):  # Path.is_file raises an error for a name that is too long
        return f"no audio file {str(audio.path)!r}; paths are relative to the manifest's folder"
    return None


def _utterance(
    row: dict, name: str | None, folder: Path, need_text: bool, place: str
) -> tuple[Utterance | None, Clip | None, list[str]]:
    """The utterance of a line, its audio, and the problems of the line; with problems, the utterance is None.

    name: the id of a line that has none.
    """
    dialect = _dialect(row)
    values, problems = _values(row, dialect, need_text)
    part, problem = _part(row)
    problems += [problem] if problem else []
    audio = Clip(folder / values["audio"], **part) if "audio" in values else None
    if "id" not in values and name:
        values["id"] = name
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
        value = str(value) if is_id(value) else value  # speakers are often numbers
        if value is not None and not isinstance(value, str):
            problems.append(f"`{key}` is {value!r}; write a text in quotes")
        elif value is not None:
            labels[key] = nfc(value)
    if problems:
        return None, audio, problems
    utterance = Utterance(
        values["id"],
        values.get("text", ""),
        audio,
        None if entities is None else tuple(Entity(nfc(e["text"]), nfc(e.get("type", "term"))) for e in entities),
        **labels,
        phrases=None if phrases is None else tuple(map(nfc, phrases)),
        place=place,
    )
    return utterance, audio, []


def _part(row: Mapping) -> tuple[dict, str | None]:
    """`start`, `seconds` and `channel` of a `Clip`, as far as a line has them, and a problem of them or None."""
    part = {}
    for key, name, least in (("offset", "start", 0), ("duration", "seconds", None), ("channel", "channel", 0)):
        value = row.get(key)
        if value is None:
            continue
        number = isinstance(value, int if key == "channel" else int | float) and not isinstance(value, bool)
        if not number or not math.isfinite(value) or value < 0 or (least is None and value == 0):
            what = "the number of a channel, from 0" if key == "channel" else "a time in seconds"
            return {}, f"`{key}` is {value!r}; write {what}"
        part[name] = value
    return part, None


def _values(row: Mapping, dialect: str, need_text: bool) -> tuple[dict[str, str], list[str]]:
    """Those of id, audio and text that a line has, and their problems. Audio may be missing."""
    values, problems = {}, []
    for key, dialect_key in DIALECTS[dialect].items():
        value = row.get(dialect_key)
        if key == "id" and is_id(value):
            value = str(value)
        if isinstance(value, str) and (value.strip() or key == "text"):
            values[key] = value if key == "audio" else nfc(value)
        elif value is not None:
            problems.append(f"`{dialect_key}` is {value!r}; write a text in quotes")
        elif (key == "text" and need_text) or (key == "id" and dialect != "nemo"):
            problems.append(_missing(key, row))
    return values, problems


def _shown(value: object) -> str:
    return repr(json.dumps(value, ensure_ascii=False, default=str)[:60])


def _are_entities(value: object) -> bool:
    return isinstance(value, list) and all(
        isinstance(e, dict) and isinstance(e.get("text"), str) and isinstance(e.get("type", ""), str) for e in value
    )


def durations(utterances: Iterable[Utterance]) -> dict[str, float]:
    """Seconds of each utterance's audio by id. Raises DataError with every file that is not audio or has no samples."""
    seconds, problems = {}, []
    for utterance in utterances:
        try:
            seconds[utterance.id] = duration(utterance.audio)
        except DataError as error:
            problems += error.problems
    if problems:
        raise DataError(*problems)
    return seconds
