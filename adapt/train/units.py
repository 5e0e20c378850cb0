"""Units of the LLM that transcripts are written in for CTC: single letters, short pieces, or its own tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from transformers import PreTrainedTokenizerBase

from adapt.errors import ModelError

PIECE = 3  # letters of the longest piece, the space before a word included


def unit_writer(kind: str, tokenizer: PreTrainedTokenizerBase) -> Callable[[str], list[int]]:
    """The function that writes a transcript in units (token ids). kind: `letters`, `pieces` or `tokens`.

    Pieces are the longest tokens of at most PIECE letters, taken from the left. Raises ModelError, when it writes, for
    a text with a letter that is no token.
    """
    if kind == "tokens":
        return lambda text: tokenizer.encode(text, add_special_tokens=False)
    longest = 1 if kind == "letters" else PIECE
    in_bytes = any(token.startswith("Ġ") for token in tokenizer.get_vocab())
    ids = tokenizer.get_vocab()

    def write(text: str) -> list[int]:
        symbols, place, units = text.replace(" ", "Ġ" if in_bytes else "▁"), 0, []
        while place < len(symbols):
            lengths = range(min(longest, len(symbols) - place), 0, -1)
            piece = next((p for n in lengths if (p := symbols[place : place + n]) in ids), None)
            if piece is None:
                raise ModelError(f"align.units: the LLM has no token for {text[place]!r} alone; give tokens")
            units.append(ids[piece])
            place += len(piece)
        return units

    return write


def inventory(written: Sequence[Sequence[int]]) -> list[int]:
    """The units that occur, in order."""
    return sorted({unit for units in written for unit in units})
