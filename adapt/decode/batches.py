"""Which utterances are recognised together: batches of short recordings, and each long recording by itself."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

from adapt.errors import DataError
from adapt.text.manifest import Utterance

T = TypeVar("T")
DEFAULT_ADAPTER = "default"  # the name of a single adapter without a name


@dataclass(frozen=True)
class AudioBatch:
    """Utterances that are recognised together.

    seconds: of their audio. is_long: whether it is one utterance that the base does not take at once.
    """

    utterances: tuple[Utterance, ...]
    seconds: float
    is_long: bool = False


@dataclass(frozen=True)
class Batching:
    """How utterances are put into batches.

    size: most utterances, or segments of a long one, in a batch. max_seconds: of the longest recording that the base
    takes at once. domains: names of adapters, if each batch is of one domain and decoded with the adapter of its name;
    None: all batches are decoded in the same way.
    """

    size: int
    max_seconds: float
    domains: frozenset[str] | None = None

    def check(self, utterances: Iterable[Utterance]) -> None:
        """Raises DataError with every domain that has no adapter."""
        if self.domains is None:
            return
        unknown = {u.domain: u.id for u in utterances if u.domain is not None and u.domain not in self.domains}
        if unknown:
            names = ", ".join(sorted(self.domains))
            raise DataError(
                *(f"utterance {i!r}: no adapter for its domain {d!r}; name one of {names}" for d, i in unknown.items())
            )

    def batches(self, utterances: Iterable[Utterance], seconds: Mapping[str, float]) -> list[AudioBatch]:
        """The batches of the utterances, the shortest recordings of each domain first, and the long ones at the end.

        seconds: of each utterance's audio by id.
        """
        ordered = sorted(utterances, key=lambda u: (seconds[u.id], u.id))
        short = [u for u in ordered if seconds[u.id] <= self.max_seconds]
        grouped = itertools.groupby(sorted(short, key=_domain), _domain)
        groups = [short] if self.domains is None else (list(group) for _, group in grouped)
        together = itertools.chain.from_iterable(batched(group, self.size) for group in groups)
        return [
            *(AudioBatch(tuple(batch), sum(seconds[u.id] for u in batch)) for batch in together),
            *(AudioBatch((u,), seconds[u.id], is_long=True) for u in ordered[len(short) :]),
        ]


def domains_of(adapters: Iterable[str]) -> frozenset[str] | None:
    """The domains of `Batching` for adapters of these names; None without adapters that the user has named.

    >>> domains_of([]), domains_of(["default"]), domains_of(["bank"])
    (None, None, frozenset({'bank'}))
    """
    names = frozenset(adapters)
    return None if names <= {DEFAULT_ADAPTER} else names


def _domain(utterance: Utterance) -> str:
    """The domain as a key for sorting."""
    return utterance.domain or ""


def batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """The items in lists of at most `size`."""
    items = iter(items)
    while batch := list(itertools.islice(items, size)):
        yield batch
