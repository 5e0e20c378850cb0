"""Rows of Parquet files, as a stream."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from adapt.errors import DataError
from adapt.text.files import opened
from adapt.text.hub import BATCH, needs_datasets, short


def is_parquet(path: str | Path) -> bool:
    """Whether the name of a file says that it is Parquet."""
    return str(path).lower().endswith(".parquet")


def parquet_rows(path: str | Path, choose: Callable[[Mapping[str, str]], Sequence[str]]) -> Iterator[dict]:
    """The rows of a Parquet file in their order, by column, with a bounded part of the file in memory.

    choose: returns the columns that are read, of all columns with their types, such as `string`; it may raise a
    DataError. Raises DataError for a file that cannot be read, and without the package `datasets`.
    """
    # Not by load_dataset, which imports torch and, for a local file too, tells the hub that it was called.
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise DataError(needs_datasets(path)) from None
    with opened(path) as file:
        try:
            # A page at a time: by default, all pages of the column are read first.
            table = ParquetFile(file, buffer_size=1 << 20, pre_buffer=False)
            columns = list(choose({column.name: str(column.type) for column in table.schema_arrow}))
            for batch in table.iter_batches(BATCH, columns=columns):
                yield from batch.to_pylist()
        except (ArrowException, OSError, ValueError, OverflowError) as error:  # the last for times that Python lacks
            raise DataError(f"{path}: cannot be read as Parquet: {short(error)}; write it again") from None
