"""What stands in the slot where audio would stand, while the decoder is trained on text alone."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedTokenizerBase

from adapt.errors import ModelError
from adapt.model.speech_llm import BLANK, SpeechLLM
from adapt.train.unit_selection import UnitInventory

SPACES = ("▁", "Ġ")  # how tokenizers write it: sentencepiece, byte-level BPE


@dataclass(frozen=True)
class Source:
    """What the functions of `PSEUDO_AUDIO` draw from.

    `soft_prompt`: pseudo audio embeddings `[length, hidden]`, None before they are learnt.
    `noise`: share of the letters of a simulated slot that are disturbed, 0 to 1.
    `inventory`: how the base hears letters; None spells them in their own embeddings, a frame or two each.
    """

    speech_llm: SpeechLLM
    soft_prompt: torch.Tensor | None = None
    noise: float = 0.12
    inventory: UnitInventory | None = None


def disturbed(text: str, alphabet: str, noise: float, rng: random.Random) -> str:
    """`text` with letters substituted (half of those disturbed), dropped (a quarter) and inserted (a quarter).

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
    """A CTC path at 25 frames a second that says `letters`; durations and blanks are those of the built-in model.

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
    """Token id of each character of the CTC alphabet, the space and the blank (`_`) among them.

    Raises `ModelError` when the tokenizer has no piece for a character.
    """
    tokenizer, alphabet = speech_llm.tokenizer, speech_llm.model.config.alphabet
    if missing := unspelled(tokenizer, alphabet):
        raise ModelError(f"{speech_llm.name}: no single-letter piece for {missing[0]!r}; use pseudo_audio: soft-prompt")
    ids = {character: tokenizer.convert_tokens_to_ids(_piece(character)) for character in alphabet}
    return {**ids, BLANK: tokenizer.pad_token_id}


def unspelled(tokenizer: PreTrainedTokenizerBase, alphabet: str) -> str:
    """Those of `alphabet` for which the tokenizer has no piece of that letter alone."""
    unknown = (None, tokenizer.unk_token_id)
    return "".join(c for c in alphabet if tokenizer.convert_tokens_to_ids(_piece(c)) in unknown)


def _piece(character: str) -> str:
    return "▁" if character == " " else character


def simulated_path(source: Source, text: str, rng: random.Random) -> str:
    """Letters and blanks, frame by frame, as a CTC encoder might hear `text`."""
    return timed(_letters(source, text, rng), rng)


def simulated_ids(source: Source, text: str, rng: random.Random) -> list[int]:
    """Token ids of single-letter pieces and blanks for each frame of a `simulated_path`."""
    ids = symbol_ids(source.speech_llm)
    return [ids[c] for c in simulated_path(source, text, rng)]


def _letters(source: Source, text: str, rng: random.Random) -> str:
    alphabet = source.speech_llm.model.config.alphabet
    return disturbed("".join(c for c in text if c in alphabet), alphabet, source.noise, rng)


def simulate(source: Source, text: str, rng: random.Random) -> torch.Tensor:
    """The sentence letter by letter as the base hears it; without an inventory, in single-letter token embeddings."""
    if source.inventory:
        return source.inventory.select(_letters(source, text, rng), rng)
    return source.speech_llm.embed(simulated_ids(source, text, rng)).detach()


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
    return source.speech_llm.empty_slot


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
