"""Read references and hypotheses: files of other tools for scoring, and the hypotheses that this toolkit writes."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

from adapt.errors import DataError
from adapt.text.files import is_id, nfc, read_bytes, read_lines
from adapt.text.manifest import Entity, Row, Utterance, audio_ids, json_rows, place_of, read_manifest, read_rows
from adapt.text.parquet import is_parquet

_TRN = re.compile(r"(?P<text>.*)\((?P<id>[^()\s]+)\)$")
_ALTERNATIVES = re.compile(r"\{[^{}]*/[^{}]*\}")
COMMENT = ";;"  # begins a comment in files of NIST
RARE = "rare"  # type of the entities that come from a list of rare words
PREDICTIONS = ("pred_text", "pred", "prediction", "hyp", "hypothesis")  # keys of hypotheses in JSON lines
HEADER = (  # names of the two columns of a TSV, in lower case
    {"id", "key", "name", "utt", "uttid", "utt_id", "utterance", "utterance_id", "file", "audio", "path"},
    {"text", "transcript", "transcription", "sentence", "reference", "ref", "target", *PREDICTIONS},
)
_PREDICTION = re.compile(r"pred|hyp|asr|decod|recog|transcri|output|result", re.IGNORECASE)  # in a key's name


def read_references(path: str | Path) -> list[Utterance]:
    """Utterances of a file in any of these formats; all but Parquet may be compressed (`.gz`).

    - JSONL or Parquet manifest of this toolkit, SLAM-LLM or NeMo (`manifest.read_manifest`); its audio is not used
    - biasing TSV of fbai-speech: `id<TAB>text<TAB>["rare", "words"]<TAB>["distractors", …]`; each occurrence of a
      rare word is an entity of type `rare`; the distractors are not used
    - TSV: `id<TAB>text`
    - NIST trn: `text (id)`; lines that begin with `;;` are comments
    - Kaldi text: `id text`

    Raises DataError with every bad line of the file, for duplicate ids and for a file without utterances.
    """
    if is_parquet(path):
        return read_manifest(path, need_audio=False, rows=read_rows(path, audio=False))
    lines = [(number, line) for number, line in read_lines(path) if not line.startswith(COMMENT)]
    if lines and lines[0][1].startswith("{"):
        return read_manifest(path, need_audio=False, rows=json_rows(lines))
    return _utterances(path, lines)


def _utterances(path: str | Path, lines: list[tuple[int, str]]) -> list[Utterance]:
    """Utterances of lines that are not JSON. Raises DataError as `read_references` does."""
    utterances, problems = _rows(path, lines)
    if duplicates := _duplicates([u.id for u in utterances]):
        problems.append(f"{path}: {duplicates}; give each utterance its own")
    if not utterances and not problems:
        problems.append(f"{path}: holds no utterances; write one per line, its id first")
    if problems:
        raise DataError(*problems)
    return utterances


def read_hypothesis_texts(path: str | Path) -> dict[str, str]:
    """Text by id of a file in any format of `read_references`, or JSON lines or rows of an id and a text.

    Each JSON line or row is read by itself: the text is that of a key of PREDICTIONS, else of `text` (or SLAM-LLM's
    `target`). A file without lines has no hypotheses. Raises DataError as `read_references` does, and for lines whose
    `text` may be the reference, because another key has the name of a prediction.
    """
    if is_parquet(path):
        return _texts(path, read_rows(path, audio=False, predictions=PREDICTIONS))
    lines = [(number, line) for number, line in read_lines(path) if not line.startswith(COMMENT)]
    if lines and lines[0][1].startswith("{"):
        return _texts(path, json_rows(lines))
    return {u.id: u.text for u in _utterances(path, lines)} if lines else {}


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
        except (ValueError, RecursionError):
            # A process that was killed while it wrote leaves such a last line; anywhere else it is an error.
            if number < len(lines):
                problems.append(f'{path}:{number}: not {{"id": "…", "text": "…"}}; delete the line')
            continue
        key, text = (row.get("id"), row.get("text")) if isinstance(row, dict) else (None, None)
        if not is_id(key) or not isinstance(text, str):
            problems.append(f'{path}:{number}: not {{"id": "…", "text": "…"}}; delete the line')
            continue
        key, text = nfc(str(key)), nfc(text)
        if key in hypotheses:
            problems.append(f"{path}:{number}: id {key!r} occurs twice; delete one of its lines")
        hypotheses[key] = text
    if problems:
        raise DataError(*problems)
    return hypotheses


def _texts(path: str | Path, rows: list[Row]) -> dict[str, str]:
    """Text by id of rows. Raises DataError with every bad row and for duplicate ids."""
    texts: dict[str, str] = {}
    problems, ids = [], []
    names = audio_ids([row or {} for _, row, _ in rows])
    for (number, row, problem), name in zip(rows, names, strict=True):
        key = None if row is None else _id(row, name)
        text, problem = (None, problem) if row is None else _predicted(row)
        if problem is None and key is None:
            problem = 'no id; write {"id": …, "text": …}'
        if problem:
            problems.append(f"{place_of(path, number)}: {problem}")
            continue
        texts[key] = text
        ids.append(key)
    if duplicates := _duplicates(ids):
        problems.append(f"{path}: {duplicates}; give each utterance its own")
    if problems:
        raise DataError(*problems)
    return texts


def _id(row: Mapping, name: str | None) -> str | None:
    """The id of a JSON line, which may be a number, or else `name`, that of its audio; None without either."""
    value = next((row[key] for key in ("id", "key") if row.get(key) not in (None, "")), name)
    return nfc(str(value)) if isinstance(value, str | int | float) else None


def _predicted(row: Mapping) -> tuple[str | None, str | None]:
    """The hypothesis of a JSON line and no problem, or None and the problem."""
    named = [name for name in PREDICTIONS if name in row]
    texts = named or [name for name in ("text", "target") if name in row][:1]
    others = [name for name in row if name not in texts and isinstance(row[name], str) and _PREDICTION.search(name)]
    if len(named) > 1 or (texts and not named and others):
        one, other = named[:2] if len(named) > 1 else (texts[0], others[0])
        return None, f"either of `{one}` and `{other}` may be the hypothesis; leave one of them, as `text`"
    if not texts:
        return None, 'no text; write {"id": …, "text": …}'
    value = row[texts[0]]
    if not isinstance(value, str):
        return None, f"`{texts[0]}` is {value!r}; write a text in quotes"
    return nfc(value).strip(), None


def _rows(path: str | Path, lines: list[tuple[int, str]]) -> tuple[list[Utterance], list[str]]:
    """Utterances of trn, TSV, biasing TSV or Kaldi lines, and the problems of the other lines."""
    utterances, problems = [], []
    if lines and all("\t" not in line and _TRN.match(line) for _, line in lines):
        for number, line in lines:
            match = _TRN.match(line)
            if alternatives := _ALTERNATIVES.search(match["text"]):
                problems.append(f"{path}:{number}: alternatives {alternatives[0]!r}; write the one that was said")
            utterances.append(Utterance(match["id"], match["text"].strip()))
        return utterances, problems
    if lines and _is_header(lines[0][1].split("\t")):
        lines = lines[1:]
    for number, line in lines:
        if "\t" not in line:  # Kaldi text, or a TSV line whose text is empty
            key, *text = line.split(None, 1)
            utterances.append(Utterance(key, *(text or [""])))
            continue
        key, text, *lists = (cell.strip() for cell in line.split("\t"))
        rare = _words(lists[0]) if lists else None
        if lists and rare is None:
            problems.append(f'{path}:{number}: third field is not a JSON list of rare words; write ["word", …]')
            continue
        entities = None if rare is None else tuple(Entity(word, RARE) for word in text.split() if word in rare)
        utterances.append(Utterance(key, text, entities=entities))
    return utterances, problems


def _is_header(cells: list[str]) -> bool:
    """Whether the cells of a TSV's first line name its columns."""
    return len(cells) == len(HEADER) and all(
        cell.strip().lower() in names for cell, names in zip(cells, HEADER, strict=True)
    )


def _words(cell: str) -> frozenset[str] | None:
    """The words of a JSON list; None if the cell is something else."""
    try:
        words = json.loads(cell)
    except ValueError:
        return None
    return frozenset(words) if isinstance(words, list) and all(isinstance(w, str) for w in words) else None


def _duplicates(ids: list[str]) -> str | None:
    """The problem of duplicate ids: the first of them and the number of others; None if all ids are unique."""
    seen: set[str] = set()
    duplicates: dict[str, None] = {}
    for key in ids:
        if key in seen:
            duplicates[key] = None
        seen.add(key)
    if not duplicates:
        return None
    others = f" and {len(duplicates) - 1:,} more" if len(duplicates) > 1 else ""
    return f"id {next(iter(duplicates))!r}{others} not unique"
