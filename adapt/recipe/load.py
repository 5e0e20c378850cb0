"""`recipe.yaml` -> a frozen dataclass of any kind.

The fields of the dataclass say what a key is called, its default, its range and its meaning. A value is made from its
text in the file and the type of its field, never by YAML's own guess, so that `1e-4` is a number, and `no` and `12:30`
are text.
"""

from __future__ import annotations

import dataclasses as dc
import difflib
import functools
import math
import os
import re
import textwrap
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import yaml

from adapt.errors import RecipeError


@functools.cache
def sections(kind: type) -> dict[str, type]:
    """The sections of a kind of recipe, each a dataclass."""
    return {name: t for name, t in typing.get_type_hints(kind).items() if dc.is_dataclass(t)}


@functools.cache
def keys(kind: type) -> dict[str, tuple[dc.Field, object]]:
    """Every key of a kind of recipe by its dotted name, with its field and its type."""
    return {
        f"{section}.{f.name}".lstrip("."): (f, typing.get_type_hints(cls)[f.name])
        for section, cls in {"": kind, **sections(kind)}.items()
        for f in dc.fields(cls)
        if "help" in f.metadata
    }


R = typing.TypeVar("R")

_NULLS = ("", "~", "null", "Null", "NULL")

_PLAIN_TAGS = tuple(f"tag:yaml.org,2002:{kind}" for kind in ("str", "map", "seq"))

_NUMBERS = {int: r"[+-]?(0|[1-9]\d*)", float: r"[+-]?((0|[1-9]\d*)\.?\d*|\.\d+)([eE][+-]?\d+)?"}


@dc.dataclass(frozen=True)
class _Given:
    """One value as the user wrote it. place: what its problem starts with; text None: null or nothing."""

    line: float
    place: str
    text: str | None
    quoted: bool = False


def load_recipe(kind: type[R], folder_or_file: str | os.PathLike, overrides: Sequence[str] = ()) -> R:
    """Reads a recipe of a kind, and checks every key and that every data file is there.

    folder_or_file: the folder of a recipe.yaml, or the file itself. overrides: `section.key=value`, as
    written after `-s`; each stands in for the line of the file, the last of a key wins, an empty value is
    null. Paths are relative to the recipe's folder, those of overrides too, and come back absolute. Raises
    RecipeError with all the problems of the file and of the overrides.
    """
    file = Path(os.path.abspath(folder_or_file))
    if os.path.isdir(file):
        file = file / "recipe.yaml"
    if not os.path.isfile(file):
        near = _like(file) or "; name a folder that holds a recipe.yaml"
        raise RecipeError(f"{os.fspath(folder_or_file)}: no such recipe{near}")
    given, problems = _read(file, kind)
    for override in overrides:
        key, equals, text = override.partition("=")
        if equals and key in keys(kind):
            given[key] = _Given(math.inf, f"-s {override}", None if text in _NULLS else text)
            continue
        problem = _unknown(key, kind) if equals else f"no value; write -s {key}=VALUE"
        if key in sections(kind):
            problem = f"`{key}` is a section; name a key of it, one of {', '.join(_in(key, kind))}"
        problems.append((math.inf, f"-s {override}: {problem}"))

    values: dict[str, dict[str, object]] = {section: {} for section in ("", *sections(kind))}
    for key, (spec, wanted) in keys(kind).items():
        section, _, name = key.rpartition(".")
        if key in given:
            try:
                values[section][name] = _value(given[key], spec, wanted, file.parent)
            except ValueError as e:
                problems.append((given[key].line, f"{given[key].place}: {e}"))
        elif spec.default is dc.MISSING:
            problems.append((0, f"{file.name}: {key}: missing; name the {spec.metadata['help']}"))
    if problems:
        raise RecipeError(*(problem for _, problem in sorted(problems, key=lambda p: p[0])))
    top = {"name": file.parent.name or "recipe", **values.pop("")}
    return kind(**top, folder=file.parent, **{k: cls(**values[k]) for k, cls in sections(kind).items()})


def _read(file: Path, kind: type) -> tuple[dict[str, _Given], list[tuple[float, str]]]:
    """The values of the file by dotted key, and (line, problem) of what is wrong with its shape."""
    try:
        text = file.read_bytes().decode("utf-8-sig")
        # BaseLoader guesses no types: every scalar keeps the text that the user wrote.
        root = yaml.compose(text, yaml.BaseLoader)
    except OSError as e:
        raise RecipeError(f"{file}: cannot be read: {e.strerror}; mend its permissions") from e
    except UnicodeDecodeError as e:
        line = e.object.count(b"\n", 0, e.start) + 1
        byte = e.object[e.start]
        raise RecipeError(f"{file.name}:{line}: byte {byte:#04x} is not UTF-8; save it as UTF-8") from e
    except yaml.reader.ReaderError as e:
        line = text.count("\n", 0, e.position) + 1
        raise RecipeError(f"{file.name}:{line}: unprintable {chr(e.character)!r}; take it out") from e
    except yaml.MarkedYAMLError as e:
        line = (e.problem_mark or e.context_mark).line + 1
        told = ", ".join(filter(None, (e.context, e.problem)))
        raise RecipeError(f"{file.name}:{line}: not YAML: {told}; mend this line or the one above") from e
    if root is None:
        raise RecipeError(f"{file.name}: empty; write at least {_least(kind)}")
    if not isinstance(root, yaml.MappingNode):
        raise RecipeError(f"{file.name}:1: holds no keys; write `key: value` lines, {_least(kind)} at least")
    given: dict[str, _Given] = {}
    problems: list[tuple[float, str]] = []

    def walk(node: yaml.Node, section: str) -> None:
        def problem(at: yaml.Node, told: str) -> None:
            line = at.start_mark.line + 1
            problems.append((line, f"{file.name}:{line}: {told}"))

        if section and _is_null(node):
            return  # a section whose keys are all commented out
        if not isinstance(node, yaml.MappingNode) or node.tag not in _PLAIN_TAGS:
            got = repr(node.value) if isinstance(node, yaml.ScalarNode) else "a list or a tag"
            told = f"expected keys with values, got {got}; write `key: value` lines"
            problem(node, f"{section}: {told}" if section else told)
            return
        lines: dict[str, int] = {}
        for name, value in node.value:
            word = name.value if isinstance(name, yaml.ScalarNode) else ""
            key = f"{section}.{word}" if section else word
            if key in lines:
                problem(name, f"{key}: already set on line {lines[key]}; keep one of the two")
            elif key in sections(kind) and not section:
                walk(value, key)
            elif key in keys(kind) and "." in word:
                problem(name, f"{key}: a dotted key; write its last part under `{key.partition('.')[0]}:`")
            elif key not in keys(kind):
                problem(name, _unknown(key, kind))
            elif not isinstance(value, yaml.ScalarNode) or value.tag not in _PLAIN_TAGS:
                got = "a list, keys or a tag"
                problem(name, f"{key}: expected one plain value, got {got}; write `{word}: VALUE`")
            else:
                line = name.start_mark.line + 1
                text = None if _is_null(value) else value.value
                given[key] = _Given(line, f"{file.name}:{line}: {key}", text, bool(value.style))
            lines.setdefault(key, name.start_mark.line + 1)

    walk(root, "")
    return given, problems


def _least(kind: type) -> str:
    """The keys that have no default: '`data:` with `text:`'."""
    needed: dict[str, list[str]] = {}
    for key, (spec, _) in keys(kind).items():
        if spec.default is dc.MISSING:
            section, _, name = key.rpartition(".")
            needed.setdefault(section, []).append(f"`{name}:`")
    return ", ".join(f"`{section}:` with {' and '.join(names)}" for section, names in needed.items())


def _is_null(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and not node.style and node.value in _NULLS


def _value(given: _Given, spec: dc.Field, kind: object, folder: Path) -> object:
    """The value in the type of its field. ValueError: what is wrong and the way out, without the place."""
    text, limits = given.text, spec.metadata
    optional, kind = type(None) in typing.get_args(kind), _plain(kind)
    wanted = _wanted(kind, limits)
    default = f" (default {_scalar(spec.default)})" if spec.default not in (dc.MISSING, None, "") else ""
    if text is None:
        if optional:
            return None
        raise ValueError(f"no value; write {wanted}{default}, or take the line out")
    if kind in _NUMBERS:
        if given.quoted or not re.fullmatch(_NUMBERS[kind], text, re.ASCII):
            number = _number(text, kind)
            way_out = f"{number} without quotes" if number and given.quoted else number or wanted
            raise ValueError(f"expected {wanted}, got {text!r}; write {way_out}{default}")
        value = kind(text)
        low, high = limits.get("low", -math.inf), limits.get("high", math.inf)
        if not low <= value <= high or value <= limits.get("above", -math.inf) or value == math.inf:
            raise ValueError(f"out of range: {text!r}; write {wanted}{default}")
        return value
    if kind is Path:
        path = _absolute(text, folder)
        if not os.path.isfile(path):
            what = "is a folder, not a file" if os.path.isdir(path) else "no such file"
            raise ValueError(f"{what}: {text!r}{_like(path) or '; paths are relative to the recipe'}")
        return path
    if text not in limits.get("choices", (text,)):
        near = _near(text, limits["choices"]) or ";"
        raise ValueError(f"unknown choice {text!r}{near} write {wanted}{default}")
    if not text.strip() or not re.fullmatch(limits.get("pattern", ".*"), text):
        raise ValueError(f"{text!r} cannot be a {spec.name}; write {wanted}{default}")
    if limits.get("model") and re.match(r"\.{0,2}/|~|\.{1,2}$", text):
        path = _absolute(text, folder)
        if not os.path.isdir(path):
            raise ValueError(f"no such folder: {text!r}{_like(path) or '; paths are relative to the recipe'}")
        return str(path)
    return text


def _absolute(text: str, folder: Path) -> Path:
    # not resolve(): the audio of a manifest that is a symbolic link may lie beside the link
    return Path(os.path.abspath(folder / os.path.expanduser(text)))


def _plain(kind: object) -> object:
    """Path of `Path | None`."""
    return next((k for k in typing.get_args(kind) if k is not type(None)), kind)


def _number(text: str, kind: type) -> str | None:
    """A number in another dress (010, 1_000, 1e3, quoted), written plainly; None when it is none."""
    try:
        value = float(text)
        return _scalar(kind(value)) if math.isfinite(value) and kind(value) == value else None
    except ValueError:
        return None


def _wanted(kind: object, limits: Mapping) -> str:
    """What a key takes, in words: 'a whole number, at least 1'."""
    if "choices" in limits:
        return "one of " + ", ".join(limits["choices"])
    if "wanted" in limits:
        return limits["wanted"]
    words = {int: "a whole number", float: "a number", str: "text"}.get(kind, "a path")
    if "low" in limits and "high" in limits:
        return f"{words} from {limits['low']} to {limits['high']}"
    words += f", at least {limits['low']}" if "low" in limits else ""
    return words + (f" above {limits['above']}" if "above" in limits else "")


def _near(word: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, list(known), 1)
    return f"; did you mean `{near[0]}`?" if near else ""


def _like(path: Path) -> str:
    """'; did you mean …' from the names beside the first part of the path that is missing; '' for none."""
    while not os.path.isdir(path.parent) and path.parent != path:
        path = path.parent
    try:
        return _near(path.name, sorted(os.listdir(path.parent)))
    except OSError:
        return ""


def _in(section: str, kind: type) -> dict[str, str]:
    """The dotted keys of a section by their last part; '': those of the top, and the sections."""
    return {k.rpartition(".")[2]: k for k in [*keys(kind), *sections(kind)] if k.rpartition(".")[0] == section}


def _unknown(key: str, kind: type) -> str:
    """What is said about a dotted key that is not there: the right word in the wrong section comes first."""
    section, _, name = key.rpartition(".")
    if here := _in(section, kind):
        near = [k for k in keys(kind) if k.rpartition(".")[2] == name]
        # last parts are compared, since a long section makes any two of its keys alike
        near = near or [here[n] for n in difflib.get_close_matches(name, here, 1)]
    else:
        near = difflib.get_close_matches(key, keys(kind), 1)
    if near:
        return f"unknown key `{key}`; did you mean {' or '.join(f'`{k}`' for k in near)}?"
    return f"unknown key `{key}`; the keys here are {', '.join(here or sections(kind))}"


def _scalar(value: object) -> str:
    """A value in YAML that other readers take the same way: 1.0e-05, 'no'."""
    return yaml.safe_dump({"k": value}, allow_unicode=True, width=math.inf).removeprefix("k: ").rstrip("\n")


def _relative(path: Path, folder: Path) -> str:
    """The path from folder, with `..` where needed; absolute when they share only the root of the disk."""
    near = path.anchor == folder.anchor and os.path.commonpath((path, folder)) != path.anchor
    return Path(os.path.relpath(path, folder)).as_posix() if near else str(path)


def dump(recipe: object) -> str:
    """The recipe as YAML with every default filled in, its paths relative to the recipe's folder."""
    tree: dict = {}
    for key in keys(type(recipe)):
        section, _, name = key.rpartition(".")
        value = getattr(getattr(recipe, section) if section else recipe, name)
        if isinstance(value, Path):
            value = _relative(value, recipe.folder)
        elif keys(type(recipe))[key][0].metadata.get("model") and value and os.path.isabs(value):
            value = _relative(Path(value), recipe.folder)
            value = value if value.startswith((".", "/")) else f"./{value}"
        (tree.setdefault(section, {}) if section else tree)[name] = value
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, width=math.inf)


def describe(kind: type) -> str:
    """A recipe.yaml with every key at its default, under a comment with its meaning, unit and range."""
    lines = [f"# {_least(kind)} must be there; every other key may be left out."]
    for section, cls in {"": kind, **sections(kind)}.items():
        indent = "  " if section else ""
        lines += ["", f"# {cls.__doc__}", f"{section}:"] if section else []
        for key in (k for k in _in(section, kind).values() if k in keys(kind)):
            spec, wanted = keys(kind)[key]
            null = ", or null" if type(None) in typing.get_args(wanted) else ""
            comment = f"{spec.metadata['help']} ({_wanted(_plain(wanted), spec.metadata)}{null})"
            lines += [f"{indent}# {line}" for line in textwrap.wrap(comment, 100)]
            lines.append(f"{indent}{spec.name}: {_scalar(spec.metadata.get('example', spec.default))}")
    return "\n".join(lines) + "\n"
