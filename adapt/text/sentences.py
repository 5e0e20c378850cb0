"""Sentences of a text file, a JSONL or Parquet file or a data set of the hub, as a stream, and a sample of them."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from adapt.errors import DataError
from adapt.text.files import LONGEST, json_row, nfc, stream_lines
from adapt.text.hub import hub_rows, is_hub_name, no_column
from adapt.text.parquet import is_parquet, parquet_rows

COLUMN = "text"


def sentences(source: str | Path, column: str = COLUMN) -> Iterator[str]:
    """Sentences in NFC, in their order, with a bounded part of the source in memory.

    source: a text file with one sentence a line, a file that ends in `.jsonl`, `.jsonl.gz` or `.parquet`, or the name
    of a data set (`is_hub_name`). column: the string column, or key of the objects, that holds the text. A value of
    several lines is as many sentences; blank ones and nulls are left out. Raises DataError for a source that cannot be
    read, and without text.
    """
    name, empty = str(source).lower(), True
    if is_hub_name(str(source)):
        found = _lines_of(source, column, hub_rows(str(source), column))
    elif is_parquet(source):
        found = _lines_of(source, column, _parquet_values(source, column))
    elif name.endswith((".jsonl", ".jsonl.gz")):
        values = stream_lines(source, lambda line: _json_value(line, column))
        found = (line for _, value in values for line in _split(value))
    else:
        found = (line for _, line in stream_lines(source))
    for sentence in found:
        empty = False
        yield sentence
    if empty:
        raise DataError(f"{source}: holds no text; write one sentence a line")


def sample(lines: Iterable[str], most: int, seed: int) -> tuple[list[str], int]:
    """At most `most` lines in their order, each with the same chance (Algorithm R), and how many there are in all.

    >>> sample("abc", 3, seed=1), sample("abc", 2, seed=1)
    ((['a', 'b', 'c'], 3), (['b', 'c'], 3))
    """
    draw, total = random.Random(seed), 0
    kept: list[tuple[int, str]] = []
    for total, line in enumerate(lines, 1):
        if total <= most:
            kept.append((total, line))
        elif (place := int(draw.random() * total)) < most:
            kept[place] = (total, line)
    kept.sort()
    return [line for _, line in kept], total


def _split(text: str) -> Iterator[str]:
    """The lines of a text, as those of a text file are read."""
    return (nfc(line.strip("\r\n ")) for line in text.split("\n") if line.strip())


def _json_value(line: str, column: str) -> str:
    """The text of a line of JSONL; "" for null. Raises ValueError with the problem of the line."""
    row, problem = json_row(line)
    if problem:
        raise ValueError(problem)
    if column not in row:
        raise ValueError(f"no key `{column}`; add it, or name the key of the text in data.text_column or --column")
    if not isinstance(row[column], str | None):
        raise ValueError(f"`{column}` is no text; write a text in quotes")
    return row[column] or ""


def _parquet_values(path: str | Path, column: str) -> Iterator[object]:
    """The values of a column of a Parquet file, row by row. Raises DataError as `sentences` does."""

    def choose(columns: Mapping[str, str]) -> list[str]:
        if column not in columns:
            raise DataError(no_column(path, column, list(columns)))
        return [column]

    return (row[column] for row in parquet_rows(path, choose))


def _lines_of(source: str | Path, column: str, values: Iterable[object]) -> Iterator[str]:
    """The lines of the values of a column. Raises DataError for the first value that is no text, or a line too long."""
    for number, value in enumerate(values, 1):
        if value is None:
            continue
        if not isinstance(value, str):
            way_out = "name one that does in data.text_column or --column"
            raise DataError(f"{source}: the column `{column}` holds no text; {way_out}")
        for line in _split(value):
            if len(line) > LONGEST:
                length = f"a line of {len(line):,} characters"
                raise DataError(f"{source}: row {number:,}: {length}; write lines of at most {LONGEST:,}")
            yield line
