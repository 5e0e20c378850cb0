r"""The prompt template: the text around the slot where audio embeddings go, and the learnable tokens in it.

    USER: <p:Transcribe speech to text. ><speech><p:4>\n ASSISTANT:

`<speech>` is the slot, in front where it is not written. `<p:4>` are four learnable tokens, `<p:some text>` as many as
the text has tokens, which they begin as. `\n` is a new line; a backslash before `<`, `>`, `{`, a digit or itself takes
what it means away, so that `<p:\<|im_start|\>user>` and `<p:\4>` are text. Any other `<...>` is text as it is.

    <chat>Repeat what is said: <speech>

`<chat>` at the very beginning makes the rest what a user says in the chat template of the model.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import yaml

from adapt.errors import RecipeError

SLOT = "<speech>"
CHAT_MARK = "<chat>"
TEXT, SPEECH, LEARNED, CHAT = "text", "speech", "learned", "chat"
_LEARNED = "<p:"


@dataclass(frozen=True)
class Segment:
    """kind: TEXT as it is, SPEECH, LEARNED, or CHAT, which comes first.

    count: learnable tokens of no text; 0: as many as `text` has.
    """

    kind: str
    text: str = ""
    count: int = 0


def parse(template: str) -> list[Segment]:
    """The segments of a template, exactly one SPEECH among them. Raises `RecipeError` with the columns at fault.

    >>> [(s.kind, s.text or s.count) for s in parse("USER: <p:2><speech><p:now>.")]
    [('text', 'USER: '), ('learned', 2), ('speech', 0), ('learned', 'now'), ('text', '.')]
    """
    found: list[Segment] = []
    problems, place, text = [], 0, ""

    def told(column: int, problem: str) -> None:
        problems.append(f"prompt template, column {column + 1}: {problem}")

    def flush() -> None:
        nonlocal text
        if text:
            found.append(Segment(TEXT, text))
        text = ""

    if template.startswith(CHAT_MARK):
        found.append(Segment(CHAT))
        place = len(CHAT_MARK)
    while place < len(template):
        if template.startswith(SLOT, place):
            flush()
            if any(segment.kind == SPEECH for segment in found):
                told(place, f"a second {SLOT}; keep one")
            found.append(Segment(SPEECH))
            place += len(SLOT)
        elif template.startswith(_LEARNED, place):
            flush()
            inside, end, plain = _until_closed(template, place + len(_LEARNED))
            if end is None or (plain and inside.endswith(SLOT[:-1])):
                told(place, f"{_LEARNED!r} is not closed; write `>` behind it, or `\\<` for the sign")
                break
            if plain and re.fullmatch(r"\d+", inside):
                if not int(inside):
                    told(place, "no learnable tokens; write how many, or a text to begin with")
                found.append(Segment(LEARNED, count=int(inside)))
            elif not inside:
                told(place, "neither a number nor a text; write <p:4> or <p:some text>")
            else:
                found.append(Segment(LEARNED, inside))
            place = end
        else:
            char, place = _char(template, place)
            text += char
    flush()
    if problems:
        raise RecipeError(*problems)
    if not any(segment.kind == SPEECH for segment in found):
        found.insert(int(template.startswith(CHAT_MARK)), Segment(SPEECH))
    return found


def _char(template: str, place: int) -> tuple[str, int]:
    """A character, its escape undone, and the place behind it."""
    following = template[place + 1 : place + 2]
    if template[place] == "\\" and following == "n":
        return "\n", place + 2
    if template[place] == "\\" and following and (following in "\\<>{" or following.isdigit()):
        return following, place + 2
    return template[place], place + 1


def _until_closed(template: str, place: int) -> tuple[str, int | None, bool]:
    """What stands before the next `>` without a backslash, the place behind that, and whether there was no escape."""
    text, begin = "", place
    while place < len(template):
        if template[place] == ">":
            return text, place + 1, text == template[begin:place]
        char, place = _char(template, place)
        text += char
    return text, None, True


def written(segments: list[Segment]) -> str:
    r"""The template that gives these segments back.

    >>> written(parse(r"<p:\<|a|\>><speech>\n"))
    '<p:\\<|a|\\>><speech>\\n'
    """
    parts = []
    for segment in segments:
        escaped = segment.text.replace("\\", "\\\\").replace("\n", "\\n")
        if segment.kind == TEXT:
            parts.append(re.sub(r"<(?=p:|speech>|chat>)", r"\\<", escaped))
        elif segment.kind in (SPEECH, CHAT):
            parts.append(SLOT if segment.kind == SPEECH else CHAT_MARK)
        elif segment.count:
            parts.append(f"<p:{segment.count}>")
        else:
            number = "\\" if re.fullmatch(r"\d+", escaped) else ""
            escaped = re.sub("[<>]", r"\\\g<0>", escaped)
            parts.append(f"<p:{number}{escaped}>")
    return "".join(parts)


def projectable(segments: list[Segment]) -> bool:
    """Is there text for a projector: in learnable tokens, or where there are none, at all?"""
    learned = [segment for segment in segments if segment.kind == LEARNED]
    return any(segment.text for segment in learned or segments)


def read_template(text: str, folder: Path = Path()) -> str:
    """A template as it is, or what a YAML file of llm-asr-prompt's holds: `prompt`, put into its `prompt_template`.

    Raises `RecipeError` for a file that is not there or holds neither, and for a `prompt_template` without `{prompt}`.
    """
    if not text.endswith((".yaml", ".yml")):
        return text
    path = folder / text
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, IsADirectoryError):
        raise RecipeError(f"{path}: no such file; write a template, or name its YAML file") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: not YAML: {str(error).splitlines()[0]}; mend it") from None
    found = found.get("dataset_config", found) if isinstance(found, dict) else None
    if not isinstance(found, dict) or not isinstance(found.get("prompt"), str):
        raise RecipeError(
            f"{path}: holds no `prompt`; write `prompt: ...`, and `prompt_template` around it if you like"
        )
    prompt, around = found["prompt"], found.get("prompt_template")
    if around is None:
        return prompt
    if not isinstance(around, str) or "{prompt}" not in around:
        raise RecipeError(f"{path}: its prompt_template {around!r} holds no {{prompt}}; put it where the prompt goes")
    return around.replace("{prompt}", prompt)
