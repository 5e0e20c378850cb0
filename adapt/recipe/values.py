"""Values of recipe keys: from the text of a file to the type of the field, and back to YAML.

A value is made from its text and the type of its field, never by YAML's own guess: `1e-4` is a number, and `no` and
`12:30` are text.
"""

from __future__ import annotations

import dataclasses as dc
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path

import yaml

from adapt.recipe.schema import did_you_mean, in_words, is_optional, plain
from adapt.text.hub import FORM, is_hub_name

LARGEST = 10**12  # of numbers without a limit of their own; larger ones overflow in libraries
NULLS = ("", "~", "null", "Null", "NULL")

_NUMBERS = {int: r"[+-]?(0|[1-9]\d*)", float: r"[+-]?((0|[1-9]\d*)\.?\d*|\.\d+)([eE][+-]?\d+)?"}


@dc.dataclass(frozen=True)
class RawValue:
    """A value as the user wrote it.

    line: its line in the file; infinity for an override. place: how error messages refer to it. text: None for null or
    an empty value. quoted: whether it is in quotes.
    """

    line: float
    place: str
    text: str | None
    quoted: bool = False


def value_of(raw: RawValue, spec: dc.Field, kind: object, folder: Path) -> object:
    """The value in the type `kind` of its field `spec`. Paths are relative to `folder`, and returned absolute.

    Raises ValueError with the problem and the way out, without the place.
    """
    optional, kind, limits = is_optional(kind), plain(kind), spec.metadata
    default = f" (default {to_yaml(spec.default)})" if spec.default not in (dc.MISSING, None, "") else ""
    allowed = in_words(kind, limits) + default
    if raw.text is None:
        if optional:
            return None
        raise ValueError(f"no value; write {allowed}, or remove the line")
    if "auto" in limits and raw.text == "auto":
        return raw.text
    if kind in _NUMBERS:
        return _number(raw, kind, limits, default)
    if "hub" in limits and raw.text.startswith("hf:"):
        return _data_set(raw.text)
    if kind is Path:
        return _file(raw.text, folder, f", data sets of the hub {FORM}" if "hub" in limits else "")
    return _text(raw.text, spec, allowed, folder)


def _number(raw: RawValue, kind: type, limits: Mapping, default: str) -> int | float:
    """The number within the limits. Raises ValueError as `value_of` does."""
    text, allowed = raw.text, in_words(kind, limits)
    if raw.quoted or not re.fullmatch(_NUMBERS[kind], text, re.ASCII):
        number = _written_otherwise(text, kind)
        way_out = f"{number} without quotes" if number and raw.quoted else number or allowed
        raise ValueError(f"expected {allowed}, got {text!r}; write {way_out}{default}")
    value = kind(text)
    low, high = limits.get("low", -LARGEST), limits.get("high", LARGEST)
    if not low <= value <= high or value <= limits.get("above", -math.inf):
        raise ValueError(f"out of range: {text!r}; write {allowed}{default}")
    return value


def _written_otherwise(text: str, kind: type) -> str | None:
    """The number that was written as 010, 1_000, 1e3 or in quotes, in plain digits; None if it is not a number."""
    try:
        value = float(text)
        return to_yaml(kind(value)) if math.isfinite(value) and kind(value) == value else None
    except ValueError:
        return None


def _file(text: str, folder: Path, otherwise: str) -> Path:
    """The absolute path of a file. otherwise: what else may be meant. Raises ValueError if it does not exist."""
    path = _absolute(text, folder)
    if not os.path.isfile(path):
        problem = "is a folder, not a file" if os.path.isdir(path) else "no such file"
        way_out = similar_name(path) or f"; paths are relative to the recipe{otherwise}"
        raise ValueError(f"{problem}: {text!r}{way_out}")
    return path


def _data_set(text: str) -> str:
    """The name of a data set of the hub. Raises ValueError for another text."""
    if not is_hub_name(text):
        raise ValueError(f"{text!r} is no data set; write {FORM}, and behind it @REVISION or /FILES if needed")
    return text


def _text(text: str, spec: dc.Field, allowed: str, folder: Path) -> str:
    """The text, or the absolute path of a folder or of a model that is written as a path.

    Raises ValueError as `value_of` does.
    """
    limits = spec.metadata
    if text not in limits.get("choices", (text,)):
        near = did_you_mean(text, limits["choices"]) or ";"
        raise ValueError(f"unknown choice {text!r}{near} write {allowed}")
    if not text.strip() or not re.fullmatch(limits.get("pattern", ".*"), text):
        raise ValueError(f"{text!r} cannot be a {spec.name}; write {allowed}")
    if limits.get("folder") or (limits.get("model") and re.match(r"\.{0,2}/|~|\.{1,2}$", text)):
        path = _absolute(text, folder)
        if not os.path.isdir(path):
            problem = "is a file, not a folder" if os.path.exists(path) else "no such folder"
            raise ValueError(f"{problem}: {text!r}{similar_name(path) or '; paths are relative to the recipe'}")
        return str(path)
    return text


def _absolute(text: str, folder: Path) -> Path:
    # Not resolve(): the audio of a manifest that is a symbolic link may lie beside the link.
    return Path(os.path.abspath(folder / os.path.expanduser(text)))


def similar_name(path: Path) -> str:
    """'; did you mean `...`?' from the names beside the first missing part of a path; "" if none is similar."""
    if os.path.exists(path):  # Path.exists raises an error for a name that is too long
        return ""
    while not os.path.isdir(path.parent) and path.parent != path:
        path = path.parent
    try:
        return did_you_mean(path.name, sorted(os.listdir(path.parent)))
    except OSError:
        return ""


def to_yaml(value: object) -> str:
    """A value in YAML that every reader takes the same way: 1.0e-05, 'no'."""
    return yaml.safe_dump({"k": value}, allow_unicode=True, width=math.inf).removeprefix("k: ").rstrip("\n")


def relative(path: Path, folder: Path) -> str:
    """The path from a folder, with `..` where needed; absolute if the two share no more than the root."""
    near = path.anchor == folder.anchor and os.path.commonpath((path, folder)) != path.anchor
    return Path(os.path.relpath(path, folder)).as_posix() if near else str(path)
