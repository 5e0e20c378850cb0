r"""The prompt template: the text around the slot where audio embeddings go, and the learnable tokens in it.

    USER: <p:Transcribe speech to text. ><speech><p:4>\n ASSISTANT:

- `<speech>` is the slot. In a template without it, the slot comes first.
- `<p:4>` stands for four learnable tokens.
- `<p:some text>` stands for as many learnable tokens as the text has; they start as the embeddings of the text.
- `\n` is a new line.
- A backslash before `<`, `>`, `{`, a digit or another backslash makes that character plain text: in
  `<p:\<|im_start|\>user>` and `<p:\4>` the learnable tokens have a text.
- Any other `<...>` is text.

    <chat>Repeat what is said: <speech>

`<chat>` at the very beginning makes the rest the user's message in the chat template of the model.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import yaml

from adapt.errors import RecipeError
from adapt.text.files import LONGEST, SafeLoader

SLOT = "<speech>"
CHAT_MARK = "<chat>"
TEXT, SPEECH, LEARNED, CHAT = "text", "speech", "learned", "chat"
_LEARNED = "<p:"


@dataclass(frozen=True)
class Segment:
    """A part of a template. kind: TEXT, SPEECH (the slot), LEARNED, or CHAT, which comes first.

    text: of TEXT and of LEARNED. count: the number of learnable tokens without a text; 0 if they have a text.
    """

    kind: str
    text: str = ""
    count: int = 0


def parse(template: str) -> list[Segment]:
    """The segments of a template, exactly one of them SPEECH. Raises RecipeError with the column of every fault.

    >>> [(s.kind, s.text or s.count) for s in parse("USER: <p:2><speech><p:now>.")]
    [('text', 'USER: '), ('learned', 2), ('speech', 0), ('learned', 'now'), ('text', '.')]
    """
    segments: list[Segment] = []
    problems, place, text = [], 0, ""

    def fault(column: int, problem: str) -> None:
        problems.append(f"prompt template, column {column + 1}: {problem}")

    def flush() -> None:
        nonlocal text
        if text:
            segments.append(Segment(TEXT, text))
        text = ""

    if template.startswith(CHAT_MARK):
        segments.append(Segment(CHAT))
        place = len(CHAT_MARK)
    while place < len(template):
        if template.startswith(SLOT, place):
            flush()
            if any(segment.kind == SPEECH for segment in segments):
                fault(place, f"a second {SLOT}; keep one")
            segments.append(Segment(SPEECH))
            place += len(SLOT)
        elif template.startswith(_LEARNED, place):
            flush()
            inside, end, plain = _until_closed(template, place + len(_LEARNED))
            if end is None or (plain and inside.endswith(SLOT[:-1])):
                fault(place, f"{_LEARNED!r} is not closed; write `>` at its end, or `\\<` for a plain `<`")
                break
            if plain and re.fullmatch(r"\d+", inside):
                if not int(inside):
                    fault(place, "no learnable tokens; write how many, or a text that they start as")
                segments.append(Segment(LEARNED, count=int(inside)))
            elif not inside:
                fault(place, "neither a number nor a text; write <p:4> or <p:some text>")
            else:
                segments.append(Segment(LEARNED, inside))
            place = end
        else:
            char, place = _char(template, place)
            text += char
    flush()
    if problems:
        raise RecipeError(*problems)
    if not any(segment.kind == SPEECH for segment in segments):
        segments.insert(int(template.startswith(CHAT_MARK)), Segment(SPEECH))
    return segments


def _char(template: str, place: int) -> tuple[str, int]:
    """The character at `place`, without its escape, and the place after it."""
    following = template[place + 1 : place + 2]
    if template[place] == "\\" and following == "n":
        return "\n", place + 2
    if template[place] == "\\" and following and (following in "\\<>{" or following.isdigit()):
        return following, place + 2
    return template[place], place + 1


def _until_closed(template: str, place: int) -> tuple[str, int | None, bool]:
    """The text up to the next plain `>`, the place after that (None: not closed), whether the text has no escape."""
    text, begin = "", place
    while place < len(template):
        if template[place] == ">":
            return text, place + 1, text == template[begin:place]
        char, place = _char(template, place)
        text += char
    return text, None, True


def written(segments: list[Segment]) -> str:
    r"""The template that `parse` turns into these segments.

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
    """Whether a prompt projector has text to work on: that of the learnable tokens or, without any, of the template."""
    learned = [segment for segment in segments if segment.kind == LEARNED]
    return any(segment.text for segment in learned or segments)


def read_template(text: str, folder: Path = Path()) -> str:
    """The template in `text` or, if that names a YAML file of llm-asr-prompt, `prompt` within its `prompt_template`.

    folder: what the name of the file is relative to. Raises RecipeError for a file that is missing, that has no
    `prompt` or whose `prompt_template` lacks `{prompt}`.
    """
    if not text.endswith((".yaml", ".yml")):
        return text
    path = folder / text
    try:
        content = path.read_bytes()
        if len(content) > LONGEST:
            raise RecipeError(f"{path}: {len(content):,} bytes are no template; write at most {LONGEST:,}")
        content = yaml.load(content.decode("utf-8"), SafeLoader)
    except (FileNotFoundError, IsADirectoryError):
        raise RecipeError(f"{path}: no such file; write a template, or name its YAML file") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: not YAML: {str(error).splitlines()[0]}; correct it") from None
    content = content.get("dataset_config", content) if isinstance(content, dict) else None
    if not isinstance(content, dict) or not isinstance(content.get("prompt"), str):
        raise RecipeError(
            f"{path}: holds no `prompt`; write `prompt: ...` and, if there is text around it, `prompt_template: ...`"
        )
    prompt, around = content["prompt"], content.get("prompt_template")
    if around is None:
        return prompt
    if not isinstance(around, str) or "{prompt}" not in around:
        raise RecipeError(f"{path}: prompt_template {around!r} holds no {{prompt}}; write it where the prompt goes")
    return around.replace("{prompt}", prompt)
