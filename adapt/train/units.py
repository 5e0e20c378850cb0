"""Units of the LLM that transcripts are written in for CTC: letters, pieces, its own tokens, or tokens and pieces.

With tokens an audio embedding is a whole word, which the LLM reads at once, but only words that were heard often are
learned. With letters or pieces every word can be written, but the LLM has to learn to read them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from transformers import PreTrainedTokenizerBase

from adapt.errors import ModelError

PIECE = 3  # letters of the longest piece, the space before a word included
OFTEN = 10  # occurrences from which on a word is heard often


def unit_writer(
    kind: str, tokenizer: PreTrainedTokenizerBase, transcripts: Iterable[str]
) -> Callable[[str], list[int]]:
    """The function that writes a text in units (token ids).

    kind: `letters`; `pieces`, the longest tokens of at most PIECE letters, from the left; `tokens`, as the tokenizer
    writes the text; or `mixed`, tokens for words that occur at least OFTEN times in `transcripts`, else pieces. The
    function raises ModelError for a letter that is no token.
    """
    if kind == "tokens":
        return lambda text: tokenizer.encode(text, add_special_tokens=False)
    spell = _speller(tokenizer, 1 if kind == "letters" else PIECE)
    if kind != "mixed":
        return spell
    counts = Counter(word for text in transcripts for word in text.split())
    often = {word: tokenizer.encode(" " + word, add_special_tokens=False) for word, n in counts.items() if n >= OFTEN}
    return lambda text: [unit for word in text.split() for unit in often.get(word) or spell(" " + word)]


def _speller(tokenizer: PreTrainedTokenizerBase, longest: int) -> Callable[[str], list[int]]:
    """The function that writes a text in the longest tokens of at most `longest` letters, from the left."""
    ids = tokenizer.get_vocab()
    space = "Ġ" if any(token.startswith("Ġ") for token in ids) else "▁"

    def write(text: str) -> list[int]:
        symbols, place, units = text.replace(" ", space), 0, []
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
