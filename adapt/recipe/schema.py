"""The keys of a kind of recipe, from the fields of its dataclasses.

A field of a recipe or of one of its sections is a key if its metadata has `help`: the meaning of the key, in a line.
Other metadata, all optional:

- `low`, `high`: the smallest and largest number allowed; `above`: a number that the value must exceed
- `auto`: True for a number that may also be the word auto
- `choices`: the texts allowed
- `pattern`, `pattern_help`: a regular expression that a text must match, and the same in words
- `model`: True for the name of a model, which may also be a folder, written with ./ ../ ~ or / in front
- `hub`: True for a path that may also be the name of a data set of the hub
- `example`: the value in a generated recipe if the key has no default
"""

from __future__ import annotations

import dataclasses as dc
import difflib
import functools
import typing
from collections.abc import Iterable, Mapping

from adapt.text.hub import FORM


@functools.cache
def sections(kind: type) -> dict[str, type]:
    """The sections of a kind of recipe by name, each a dataclass."""
    return {name: t for name, t in typing.get_type_hints(kind).items() if dc.is_dataclass(t)}


@functools.cache
def keys(kind: type) -> dict[str, tuple[dc.Field, object]]:
    """Every key of a kind of recipe by its dotted name, such as `decoder.steps`, with its field and its type."""
    return {
        f"{section}.{f.name}".lstrip("."): (f, typing.get_type_hints(cls)[f.name])
        for section, cls in {"": kind, **sections(kind)}.items()
        for f in dc.fields(cls)
        if "help" in f.metadata
    }


def keys_of(section: str, kind: type) -> dict[str, str]:
    """The dotted keys of a section by their last part. section: "" for the top-level keys and the sections."""
    return {k.rpartition(".")[2]: k for k in [*keys(kind), *sections(kind)] if k.rpartition(".")[0] == section}


def required(kind: type) -> str:
    """The keys without a default, in words: '`data:` with `text:`'."""
    needed: dict[str, list[str]] = {}
    for key, (spec, _) in keys(kind).items():
        if spec.default is dc.MISSING:
            section, _, name = key.rpartition(".")
            needed.setdefault(section, []).append(f"`{name}:`")
    return ", ".join(f"`{section}:` with {' and '.join(names)}" for section, names in needed.items())


def plain(kind: object) -> object:
    """The type without None: Path of `Path | None`."""
    return next((k for k in typing.get_args(kind) if k is not type(None)), kind)


def is_optional(kind: object) -> bool:
    """Whether the type allows None."""
    return type(None) in typing.get_args(kind)


def in_words(kind: object, limits: Mapping) -> str:
    """The values that a key takes, in words: 'a whole number, at least 1'. kind: the type without None."""
    if "choices" in limits:
        return "one of " + ", ".join(limits["choices"])
    if "pattern_help" in limits:
        return limits["pattern_help"]
    auto = "auto, or " if "auto" in limits else ""
    words = auto + {int: "a whole number", float: "a number", str: "text"}.get(kind, "a path")
    words += f" or {FORM}" if "hub" in limits else ""
    if "low" in limits and "high" in limits:
        return f"{words} from {limits['low']} to {limits['high']}"
    words += f", at least {limits['low']}" if "low" in limits else ""
    return words + (f" above {limits['above']}" if "above" in limits else "")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """'; did you mean `...`?' for the known word that is most like `word`; "" if none is."""
    near = difflib.get_close_matches(word, list(known), 1)
    return f"; did you mean `{near[0]}`?" if near else ""


def unknown_key(key: str, kind: type) -> str:
    """The problem with a dotted key that does not exist, with the keys that may be meant."""
    section, _, name = key.rpartition(".")
    if siblings := keys_of(section, kind):
        near = [k for k in keys(kind) if k.rpartition(".")[2] == name]  # the same key in another section
        # Only last parts are compared: with a long section in front, any two of its keys look alike.
        near = near or [siblings[n] for n in difflib.get_close_matches(name, siblings, 1)]
    else:
        near = difflib.get_close_matches(key, keys(kind), 1)
    if near:
        return f"unknown key `{key}`; did you mean {' or '.join(f'`{k}`' for k in near)}?"
    return f"unknown key `{key}`; the keys here are {', '.join(siblings or sections(kind))}"
