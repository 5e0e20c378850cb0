"""Load a recipe of any kind from YAML, and write one: `load_recipe`, `dump`, `describe`."""

from __future__ import annotations

import dataclasses as dc
import math
import os
import textwrap
import typing
from collections.abc import Sequence
from pathlib import Path

import yaml

from adapt.errors import RecipeError
from adapt.recipe.schema import in_words, is_optional, keys, keys_of, plain, required, sections, unknown_key
from adapt.recipe.values import NULLS, RawValue, relative, similar_name, to_yaml, value_of
from adapt.text.files import LONGEST, PlainLoader

__all__ = ["describe", "dump", "keys", "load_recipe", "sections"]

R = typing.TypeVar("R")

_PLAIN_TAGS = tuple(f"tag:yaml.org,2002:{kind}" for kind in ("str", "map", "seq"))


@dc.dataclass
class _Contents:
    """The contents of a file and overrides: values by dotted key, and (line, problem) pairs."""

    values: dict[str, RawValue] = dc.field(default_factory=dict)
    problems: list[tuple[float, str]] = dc.field(default_factory=list)


def load_recipe(kind: type[R], folder_or_file: str | os.PathLike, overrides: Sequence[str] = ()) -> R:
    """Load a recipe of a kind. Every key is checked, and every file that it names must exist.

    kind: a dataclass as `schema` describes it, such as `domain.Recipe`. folder_or_file: the folder of a recipe.yaml, or
    the file itself. overrides: `section.key=value`, as after `-s` on the command line. An override replaces the value
    in the file, the last one of a key counts, and an empty value is null. Paths are relative to the recipe's folder,
    those of overrides too, and are returned absolute. Raises RecipeError with all problems of file and overrides.
    """
    file = Path(os.path.abspath(folder_or_file))
    if os.path.isdir(file):
        file = file / "recipe.yaml"
    if not os.path.isfile(file):
        way_out = similar_name(file) or "; name a folder that holds a recipe.yaml"
        raise RecipeError(f"{os.fspath(folder_or_file)}: no such recipe{way_out}")
    contents = _Contents()
    _collect(_parse(file, kind), "", file.name, kind, contents)
    for override in overrides:
        _override(override, kind, contents)

    values: dict[str, dict[str, object]] = {section: {} for section in ("", *sections(kind))}
    for key, (spec, value_type) in keys(kind).items():
        section, _, name = key.rpartition(".")
        if raw := contents.values.get(key):
            try:
                values[section][name] = value_of(raw, spec, value_type, file.parent)
            except ValueError as e:
                contents.problems.append((raw.line, f"{raw.place}: {e}"))
        elif spec.default is dc.MISSING:
            contents.problems.append((0, f"{file.name}: {key}: missing; name the {spec.metadata['help']}"))
    if contents.problems:
        raise RecipeError(*(problem for _, problem in sorted(contents.problems, key=lambda p: p[0])))
    top = {"name": file.parent.name or "recipe", **values.pop("")}
    return kind(**top, folder=file.parent, **{k: cls(**values[k]) for k, cls in sections(kind).items()})


def _parse(file: Path, kind: type) -> yaml.MappingNode:
    """The root of the YAML file. Raises RecipeError for a file that is not YAML or has no keys."""
    try:
        content = file.read_bytes()
        if len(content) > LONGEST:
            raise RecipeError(f"{file.name}: {len(content):,} bytes are no recipe; write at most {LONGEST:,}")
        text = content.decode("utf-8-sig")
        # The loader guesses no types: every scalar keeps the text that the user wrote.
        root = yaml.compose(text, PlainLoader)
    except OSError as e:
        raise RecipeError(f"{file}: cannot be read: {e.strerror}; check its permissions") from e
    except UnicodeDecodeError as e:
        line = e.object.count(b"\n", 0, e.start) + 1
        raise RecipeError(f"{file.name}:{line}: byte {e.object[e.start]:#04x} is not UTF-8; save it as UTF-8") from e
    except yaml.reader.ReaderError as e:
        line = text.count("\n", 0, e.position) + 1
        raise RecipeError(f"{file.name}:{line}: unprintable {chr(e.character)!r}; remove it") from e
    except yaml.MarkedYAMLError as e:
        line = (e.problem_mark or e.context_mark).line + 1
        problem = ", ".join(filter(None, (e.context, e.problem)))
        raise RecipeError(f"{file.name}:{line}: not YAML: {problem}; correct this line or the one above") from e
    if root is None:
        raise RecipeError(f"{file.name}: empty; write at least {required(kind)}")
    if not isinstance(root, yaml.MappingNode):
        raise RecipeError(f"{file.name}:1: holds no keys; write `key: value` lines, {required(kind)} at least")
    return root


def _collect(node: yaml.Node, section: str, file: str, kind: type, into: _Contents) -> None:
    """Add the values and problems of a section ("": the top level) of a YAML file."""
    if section and _is_null(node):
        return  # a section whose keys are all commented out
    if not isinstance(node, yaml.MappingNode) or node.tag not in _PLAIN_TAGS:
        got = repr(node.value) if isinstance(node, yaml.ScalarNode) else "a list or a tag"
        line, problem = _line(node), f"expected keys with values, got {got}; write `key: value` lines"
        into.problems.append((line, f"{file}:{line}: {f'{section}: ' if section else ''}{problem}"))
        return
    lines: dict[str, int] = {}
    for name, value in node.value:
        word, line = name.value if isinstance(name, yaml.ScalarNode) else "", _line(name)
        key = f"{section}.{word}" if section else word
        problem = None
        if key in lines:
            problem = f"{key}: already set on line {lines[key]}; keep one of the two"
        elif key in sections(kind) and not section:
            _collect(value, key, file, kind, into)
        elif not (problem := _key_problem(key, word, value, kind)):
            text = None if _is_null(value) else value.value
            into.values[key] = RawValue(line, f"{file}:{line}: {key}", text, bool(value.style))
        if problem:
            into.problems.append((line, f"{file}:{line}: {problem}"))
        lines.setdefault(key, line)


def _key_problem(key: str, word: str, value: yaml.Node, kind: type) -> str | None:
    """The problem of a key or of the form of its value; None without one. word: the key without its section."""
    if key in keys(kind) and "." in word:
        return f"{key}: a dotted key; write its last part under `{key.partition('.')[0]}:`"
    if key not in keys(kind):
        return unknown_key(key, kind)
    if not isinstance(value, yaml.ScalarNode) or value.tag not in _PLAIN_TAGS:
        return f"{key}: expected one plain value, got a list, keys or a tag; write `{word}: VALUE`"
    return None


def _line(node: yaml.Node) -> int:
    return node.start_mark.line + 1


def _is_null(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and not node.style and node.value in NULLS


def _override(override: str, kind: type, into: _Contents) -> None:
    """Add the value, or the problem, of an override `section.key=value`."""
    key, equals, text = override.partition("=")
    if equals and key in keys(kind):
        into.values[key] = RawValue(math.inf, f"-s {override}", None if text in NULLS else text)
        return
    if key in sections(kind):
        problem = f"`{key}` is a section; name a key of it, one of {', '.join(keys_of(key, kind))}"
    else:
        problem = unknown_key(key, kind) if equals else f"no value; write -s {key}=VALUE"
    into.problems.append((math.inf, f"-s {override}: {problem}"))


def dump(recipe: object) -> str:
    """The recipe as YAML with every default filled in, and its paths relative to the recipe's folder."""
    tree: dict = {}
    for key, (spec, _) in keys(type(recipe)).items():
        section, _, name = key.rpartition(".")
        value = getattr(getattr(recipe, section) if section else recipe, name)
        if isinstance(value, Path):
            value = relative(value, recipe.folder)
        elif {"model", "folder"} & spec.metadata.keys() and value and os.path.isabs(value):
            value = relative(Path(value), recipe.folder)
            value = value if value.startswith((".", "/")) else f"./{value}"
        (tree.setdefault(section, {}) if section else tree)[name] = value
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, width=math.inf)


def describe(kind: type) -> str:
    """A recipe.yaml with every key at its default, below a comment with its meaning, unit and range."""
    lines = [f"# Required: {required(kind)}. Every other key is optional."]
    for section, cls in {"": kind, **sections(kind)}.items():
        indent = "  " if section else ""
        lines += ["", f"# {cls.__doc__}", f"{section}:"] if section else []
        for key in (k for k in keys_of(section, kind).values() if k in keys(kind)):
            spec, value_type = keys(kind)[key]
            null = ", or null" if is_optional(value_type) else ""
            comment = f"{spec.metadata['help']} ({in_words(plain(value_type), spec.metadata)}{null})"
            lines += [f"{indent}# {line}" for line in textwrap.wrap(comment, 100)]
            lines.append(f"{indent}{spec.name}: {to_yaml(spec.metadata.get('example', spec.default))}")
    return "\n".join(lines) + "\n"
