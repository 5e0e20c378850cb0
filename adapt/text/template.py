"""The prompt template: the text around the slot where audio embeddings go."""

from __future__ import annotations

from adapt.errors import RecipeError

SLOT = "<speech>"


def split_template(template: str) -> tuple[str, str]:
    """The text before and after the slot. Raises `RecipeError` unless there is exactly one slot.

    >>> split_template("Transcribe: <speech>\\n")
    ('Transcribe: ', '\\n')
    """
    if template.count(SLOT) != 1:
        count = template.count(SLOT)
        raise RecipeError(f"prompt template {template!r}: holds {count} {SLOT}; write exactly one")
    before, _, after = template.partition(SLOT)
    return before, after
