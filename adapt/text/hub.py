"""Data sets of the Hugging Face hub: their names, their commits, and the texts of a column, as a stream."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator

from adapt.errors import DataError, first_line

PREFIX = "hf://datasets/"
FORM = f"{PREFIX}OWNER/NAME"
BATCH = 1000  # rows that are in memory at a time
_NAME = re.compile(rf"({PREFIX}[\w.-]+/[\w.-]+)(?:@([\w.-]+))?(?:/(\S+))?")
_COMMIT = re.compile("[0-9a-f]{40}")
_WAY_OUT = f"check the name, or name files of it that hold text, as {FORM}/FOLDER/*.parquet"


def is_hub_name(text: str) -> bool:
    """Whether a text is the name of a data set: `hf://datasets/OWNER/NAME[@REVISION][/FILES]`.

    REVISION: a branch, tag or commit. FILES: a path in the data set, which may hold `*`; without it, the files are
    those of the split `train`.

    >>> is_hub_name("hf://datasets/owner/name@v1/data/*.parquet"), is_hub_name("owner/name")
    (True, False)
    """
    return bool(_NAME.fullmatch(text))


@functools.cache
def pinned(name: str) -> str:
    """The name with the commit of its revision, which identifies the contents. Only a name without a commit asks the
    hub, once in a process. Raises DataError if the hub does not answer or has no such data set.
    """
    data_set, revision, files = _NAME.fullmatch(name).groups()
    if revision and _COMMIT.fullmatch(revision):
        return name
    from huggingface_hub import HfApi

    try:
        commit = HfApi().dataset_info(data_set.removeprefix(PREFIX), revision=revision).sha
    except Exception as error:  # the network and the hub fail in many ways
        way_out = f"check name and network, or write a commit, as {FORM}@COMMIT, which needs no look at the hub"
        raise DataError(f"{name}: the hub does not say its commit: {short(error)}; {way_out}") from None
    return f"{data_set}@{commit}" + (f"/{files}" if files else "")


def hub_rows(name: str, column: str) -> Iterator[object]:
    """The values of a column, row by row, at the commit of `pinned`. In memory is what the library reads at once,
    such as a row group.

    Raises DataError without the package `datasets`, for a data set that cannot be read, and without such a column.
    """
    try:
        from datasets import load_dataset
    except ImportError:
        raise DataError(needs_datasets(name)) from None
    data_set, commit, files = _NAME.fullmatch(pinned(name)).groups()
    try:
        # With its prefix, the name never means a folder.
        rows = load_dataset(data_set, data_files=files, revision=commit, split="train", streaming=True)
        columns = rows.column_names or list(next(iter(rows), {}))
        if column not in columns:
            raise DataError(no_column(name, column, columns))
        for batch in rows.select_columns([column]).iter(BATCH):
            yield from batch[column]
    except DataError:
        raise
    except Exception as error:  # as in `pinned`
        raise DataError(f"{name}: cannot be read: {short(error)}; {_WAY_OUT}") from None


def short(error: Exception) -> str:
    """The beginning of a library's error message, without a full stop: some list all endings of files there are."""
    return first_line(error)[:200].rstrip(".")


def needs_datasets(source: object) -> str:
    """The problem of a source that is read with the package `datasets`, which is not installed."""
    return f"{source}: needs the package datasets; pip install 'adapt-asr[datasets]'"


def no_column(source: object, column: str, columns: list[str]) -> str:
    """The problem of a source without a column."""
    return f"{source}: no column `{column}`; name one of {', '.join(columns)} in data.text_column or --column"
