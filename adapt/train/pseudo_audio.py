"""Pseudo audio: what the slot holds in place of audio embeddings while the decoder is trained on text alone.

A new kind is one function and one row of PSEUDO_AUDIO, besides its choice of `decoder.pseudo_audio` in the recipe.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedTokenizerBase

from adapt.errors import ModelError
from adapt.model.speech_llm import BLANK, SpeechLLM
from adapt.train.unit_selection import UnitInventory


@dataclass(frozen=True)
class Source:
    """What the functions of PSEUDO_AUDIO use.

    noise: share of the letters of a simulated slot that are disturbed, 0 to 1. soft_prompt: pseudo audio embeddings
    `[length, hidden]`; None for kinds without one. inventory: for unit selection; None simulates with the embeddings
    of single-letter tokens, one or two frames a letter.
    """

    speech_llm: SpeechLLM
    noise: float
    soft_prompt: torch.Tensor | None = None
    inventory: UnitInventory | None = None


def disturbed(text: str, alphabet: str, noise: float, rng: random.Random) -> str:
    """`text` with letters substituted (half of those disturbed), deleted (a quarter) and inserted (a quarter).

    The share that is disturbed is drawn for each sentence, between 0 and twice `noise`.

    >>> disturbed("go on", "gon ", 0.0, random.Random(1)), disturbed("go on", "gon ", 0.4, random.Random(2))
    ('go on', 'ggonoo')
    """
    noise *= 2 * rng.random()
    letters = []
    for letter in text:
        chance = rng.random()
        if chance < noise / 2:
            letter = rng.choice(alphabet)
        elif chance < 0.75 * noise:
            continue
        elif chance < noise:
            letters.append(rng.choice(alphabet))
        letters.append(letter)
    return "".join(letters)


def timed(letters: str, rng: random.Random) -> str:
    """A CTC path of `letters` at 25 frames a second, with the durations and blanks of the built-in model.

    >>> timed("hello", random.Random(1))
    'hhel_loo_______'
    """
    frames: list[str] = []
    for letter in letters:
        if frames and frames[-1] == letter:
            frames.append(BLANK)
        frames += letter * (1 + (rng.random() < 0.3))
        if rng.random() < 0.12:
            frames.append(BLANK)
    return "".join(frames) + BLANK * rng.randrange(8)


def symbol_ids(speech_llm: SpeechLLM) -> dict[str, int]:
    """Token id of each character of the CTC alphabet, space included, and of the blank (`_`), which is the padding.

    Raises `ModelError` where the tokenizer has no token for a character alone.
    """
    tokenizer, alphabet = speech_llm.tokenizer, speech_llm.model.config.alphabet
    if missing := unspelled(tokenizer, alphabet):
        raise ModelError(f"{speech_llm.name}: no single-letter token for {missing[0]!r}; use pseudo_audio: soft-prompt")
    ids = {character: tokenizer.convert_tokens_to_ids(_token_of(character)) for character in alphabet}
    return {**ids, BLANK: tokenizer.pad_token_id}


def unspelled(tokenizer: PreTrainedTokenizerBase, alphabet: str) -> str:
    """The characters of `alphabet` for which the tokenizer has no token of that character alone."""
    unknown = (None, tokenizer.unk_token_id)
    return "".join(c for c in alphabet if tokenizer.convert_tokens_to_ids(_token_of(c)) in unknown)


def _token_of(character: str) -> str:
    return "▁" if character == " " else character


def simulated_path(source: Source, text: str, rng: random.Random) -> str:
    """A CTC path, one symbol a frame, such as an encoder might output for `text`."""
    return timed(_letters(source, text, rng), rng)


def simulated_ids(source: Source, text: str, rng: random.Random) -> list[int]:
    """The token id of each symbol of a `simulated_path`."""
    ids = symbol_ids(source.speech_llm)
    return [ids[c] for c in simulated_path(source, text, rng)]


def _letters(source: Source, text: str, rng: random.Random) -> str:
    alphabet = source.speech_llm.model.config.alphabet
    return disturbed("".join(c for c in text if c in alphabet), alphabet, source.noise, rng)


def simulate(source: Source, text: str, rng: random.Random) -> torch.Tensor:
    """A simulated slot for each sentence: by unit selection, or without an inventory of single-letter tokens."""
    if source.inventory:
        return source.inventory.select(_letters(source, text, rng), rng)
    return source.speech_llm.embed(simulated_ids(source, text, rng)).detach()


def soft_prompt(source: Source, text: str, rng: random.Random) -> torch.Tensor:
    """The soft prompt, the same for every sentence (2412.06967)."""
    return source.soft_prompt


def soft_prompt_and_simulate(source: Source, text: str, rng: random.Random) -> torch.Tensor:
    """The soft prompt, then the simulated slot."""
    return torch.cat([source.soft_prompt, simulate(source, text, rng)])


def mixed(source: Source, text: str, rng: random.Random) -> torch.Tensor:
    """The soft prompt or a simulated slot, drawn for each sentence."""
    return rng.choice([soft_prompt, simulate])(source, text, rng)


def empty(source: Source, text: str, rng: random.Random) -> torch.Tensor:
    """The prompt with an empty slot."""
    return source.speech_llm.empty_slot


def none(source: Source, text: str, rng: random.Random) -> None:
    """No prompt at all: the text alone."""
    return None


PSEUDO_AUDIO: dict[str, Callable[[Source, str, random.Random], torch.Tensor | None]] = {
    "soft-prompt": soft_prompt,
    "simulate": simulate,
    "soft-prompt+simulate": soft_prompt_and_simulate,
    "mixed": mixed,
    "empty": empty,
    "none": none,
}


def fill_slots(kind: str, source: Source, texts: Sequence[str], rng: random.Random) -> list[torch.Tensor | None]:
    """Pseudo audio embeddings `[slots, hidden]` of `kind` for each text; None for no prompt."""
    return [PSEUDO_AUDIO[kind](source, text, rng) for text in texts]
