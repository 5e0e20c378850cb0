"""What stands in the slot where audio would stand, while the decoder is trained on text alone."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from adapt.errors import ModelError
from adapt.model.speech_llm import SpeechLLM


@dataclass(frozen=True)
class Source:
    """What the functions of `PSEUDO_AUDIO` draw from.

    `soft_prompt`: pseudo audio embeddings `[length, hidden]`, None before they are learnt.
    `noise`: share of the symbols of a simulated slot that are disturbed, 0 to 1.
    """

    speech_llm: SpeechLLM
    soft_prompt: torch.Tensor | None = None
    noise: float = 0.12


def spelled(text: str, alphabet: str, noise: float, rng: random.Random) -> str:
    """`text` letter by letter as a CTC encoder might hear it; letters are substituted, dropped and inserted.

    Half of the disturbed symbols are substituted, a quarter dropped, a quarter preceded by an insertion; one in
    seven gaps between symbols holds a blank, written `_`.

    >>> spelled("go on", "gon ", 0.0, random.Random(1)), spelled("go on", "gon ", 0.9, random.Random(2))
    ('go on_', 'ggng ')
    """
    symbols = []
    for symbol in text:
        chance = rng.random()
        if chance < noise / 2:
            symbol = rng.choice(alphabet)
        elif chance < 0.75 * noise:
            continue
        elif chance < noise:
            symbols.append(rng.choice(alphabet))
        symbols.append(symbol)
        if rng.random() < 0.15:
            symbols.append("_")
    return "".join(symbols)


def symbol_ids(speech_llm: SpeechLLM) -> dict[str, int]:
    """Token id of each character of the CTC alphabet, the space and the blank (`_`) among them.

    Raises `ModelError` when the tokenizer has no piece for a character.
    """
    tokenizer, alphabet = speech_llm.tokenizer, speech_llm.model.config.alphabet
    pieces = {character: "▁" if character == " " else character for character in alphabet}
    ids = {character: tokenizer.convert_tokens_to_ids(piece) for character, piece in pieces.items()}
    missing = [c for c, i in ids.items() if i is None or i == tokenizer.unk_token_id]
    if missing:
        raise ModelError(f"{speech_llm.name}: no single-letter piece for {missing[0]!r}; use pseudo_audio: soft-prompt")
    return {**ids, "_": tokenizer.pad_token_id}


def simulate(source: Source, text: str, rng: random.Random) -> torch.Tensor:
    """The sentence spelled in single-letter token embeddings, with noise like a CTC encoder's."""
    ids = symbol_ids(source.speech_llm)
    symbols = [c for c in text if c in ids]
    heard = spelled("".join(symbols), source.speech_llm.model.config.alphabet, source.noise, rng)
    return source.speech_llm.embed([ids[c] for c in heard]).detach()


def soft_prompt(source: Source, text: str, rng: random.Random) -> torch.Tensor:
    """The learnt pseudo audio embeddings, the same for every sentence (2412.06967)."""
    return source.soft_prompt


def before_simulated(source: Source, text: str, rng: random.Random) -> torch.Tensor:
    """The soft prompt, then the simulated slot."""
    return torch.cat([source.soft_prompt, simulate(source, text, rng)])


def mixed(source: Source, text: str, rng: random.Random) -> torch.Tensor:
    """For each sentence at random the soft prompt or a simulated slot."""
    return rng.choice([soft_prompt, simulate])(source, text, rng)


def empty(source: Source, text: str, rng: random.Random) -> torch.Tensor:
    """The prompt with nothing in its slot."""
    return source.speech_llm.embed([])


def none(source: Source, text: str, rng: random.Random) -> None:
    """No prompt at all: the text alone."""
    return None


PSEUDO_AUDIO: dict[str, Callable[[Source, str, random.Random], torch.Tensor | None]] = {
    "soft-prompt": soft_prompt,
    "simulate": simulate,
    "soft-prompt+simulate": before_simulated,
    "mixed": mixed,
    "empty": empty,
    "none": none,
}


def slots(kind: str, source: Source, texts: Sequence[str], rng: random.Random) -> list[torch.Tensor | None]:
    """Pseudo audio of `kind` for each text: `[slots, hidden]`, or None for no prompt."""
    return [PSEUDO_AUDIO[kind](source, text, rng) for text in texts]
