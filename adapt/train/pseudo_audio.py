"""Pseudo audio: vectors in the slot in place of audio embeddings, while the decoder is trained on text alone.

To add a kind, write a function (inputs, sentence, random -> vectors), its row in PSEUDO_AUDIO, and its name in the list
of that name in `adapt.recipe.choices`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from transformers import PreTrainedTokenizerBase

from adapt.errors import ModelError
from adapt.model.encoders import BLANK
from adapt.model.slot_generator import SlotGenerator
from adapt.model.speech_llm import SpeechLLM
from adapt.train.mishearing import misheard
from adapt.train.unit_selection import UnitInventory


@dataclass(frozen=True)
class PseudoAudioInputs:
    """Inputs of the functions of PSEUDO_AUDIO.

    noise: mean share of the letters that are changed at random, or of the tokens that are masked, 0 to 1. soft_prompt:
    `[length, hidden]`; None for kinds that use none. inventory: for unit selection; None simulates with the embeddings
    of single-letter tokens, one or two frames a letter. For an encoder that transcribes, it is a
    `mishearing_inventory`; None simulates transcripts without errors. misheard: mean share of the words of a simulated
    transcript that are misheard. spoken: the audio embeddings of each sentence, for `speech`. slots_per_token: mean
    number of audio embeddings for a token of the sentence, for `upsample-mask`. generator: for `generate`.
    """

    speech_llm: SpeechLLM
    noise: float
    soft_prompt: torch.Tensor | None = None
    inventory: UnitInventory | None = None
    misheard: float = 0.0
    spoken: Mapping[str, torch.Tensor] = field(default_factory=dict)
    slots_per_token: float = 2.0
    generator: SlotGenerator | None = None


def with_noise(text: str, alphabet: str, noise: float, rng: random.Random) -> str:
    """`text` with letters substituted (half of the changes), deleted (a quarter) and inserted (a quarter).

    The share of changed letters is drawn for each sentence, between 0 and twice `noise`.

    >>> with_noise("go on", "gon ", 0.0, random.Random(1)), with_noise("go on", "gon ", 0.4, random.Random(2))
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


def with_durations(letters: str, rng: random.Random) -> str:
    """A CTC path of `letters` at 25 frames a second, with durations and blanks like those of the built-in model.

    >>> with_durations("hello", random.Random(1))
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
    """Token id of each character of the CTC alphabet, space included, and of the blank (`_`): the padding token.

    Raises `ModelError` if the tokenizer has no token for a character alone.
    """
    tokenizer, alphabet = speech_llm.tokenizer, speech_llm.model.config.alphabet
    if missing := unspelled(tokenizer, alphabet):
        raise ModelError(
            f"{speech_llm.name}: no single-letter token for {missing[0]!r}; use a soft prompt as pseudo audio"
        )
    ids = {character: tokenizer.convert_tokens_to_ids(_token_of(character)) for character in alphabet}
    return {**ids, BLANK: tokenizer.pad_token_id}


def unspelled(tokenizer: PreTrainedTokenizerBase, alphabet: str) -> str:
    """The characters of `alphabet` for which the tokenizer has no token of that character alone."""
    unknown = (None, tokenizer.unk_token_id)
    return "".join(c for c in alphabet if tokenizer.convert_tokens_to_ids(_token_of(c)) in unknown)


def _token_of(character: str) -> str:
    """The token of a character alone, as sentencepiece writes it."""
    return "▁" if character == " " else character


def simulated_path(inputs: PseudoAudioInputs, text: str, rng: random.Random) -> str:
    """A CTC path, one symbol a frame, such as an encoder might output for `text`."""
    return with_durations(_letters(inputs, text, rng), rng)


def simulated_ids(inputs: PseudoAudioInputs, text: str, rng: random.Random) -> list[int]:
    """The token id of each symbol of a `simulated_path`."""
    ids = symbol_ids(inputs.speech_llm)
    return [ids[c] for c in simulated_path(inputs, text, rng)]


def _letters(inputs: PseudoAudioInputs, text: str, rng: random.Random) -> str:
    """The letters of `text` that the CTC alphabet has, with noise."""
    alphabet = inputs.speech_llm.model.config.alphabet
    return with_noise("".join(c for c in text if c in alphabet), alphabet, inputs.noise, rng)


def transcript_ids(speech_llm: SpeechLLM, transcript: str) -> list[int]:
    """The tokens of the decoder that stand in the slot for a transcript of the encoder."""
    return speech_llm.tokenizer.encode(transcript, add_special_tokens=False)


def simulate(inputs: PseudoAudioInputs, text: str, rng: random.Random) -> torch.Tensor:
    """A simulated slot for each sentence: by unit selection or, without an inventory, from single-letter tokens.

    For an encoder that transcribes, it holds the tokens of a transcript with errors.
    """
    if inputs.speech_llm.transcribes:
        heard = misheard(_letters(inputs, text, rng), inputs.inventory, inputs.misheard, rng)
        return inputs.speech_llm.embed(transcript_ids(inputs.speech_llm, heard)).detach()
    if inputs.inventory:
        stacks = inputs.inventory.select(_letters(inputs, text, rng), rng)
        return inputs.speech_llm.model.slots([stacks])[0].detach()
    return inputs.speech_llm.embed(simulated_ids(inputs, text, rng)).detach()


def soft_prompt(inputs: PseudoAudioInputs, text: str, rng: random.Random) -> torch.Tensor:
    """The soft prompt, the same for every sentence (2412.06967)."""
    return inputs.soft_prompt


def soft_prompt_and_simulate(inputs: PseudoAudioInputs, text: str, rng: random.Random) -> torch.Tensor:
    """The soft prompt, then the simulated slot."""
    return torch.cat([inputs.soft_prompt, simulate(inputs, text, rng)])


def mixed(inputs: PseudoAudioInputs, text: str, rng: random.Random) -> torch.Tensor:
    """The soft prompt or a simulated slot, drawn for each sentence."""
    return rng.choice([soft_prompt, simulate])(inputs, text, rng)


def denoise(inputs: PseudoAudioInputs, text: str, rng: random.Random) -> torch.Tensor:
    """The tokens of the sentence itself, with random noise in its letters (2601.20900)."""
    llm, noisy = inputs.speech_llm, with_noise(text, "".join(sorted(set(text))), inputs.noise, rng)
    return llm.embed(transcript_ids(llm, noisy))[:, : llm.hidden].detach()


def upsample_mask(inputs: PseudoAudioInputs, text: str, rng: random.Random) -> torch.Tensor:
    """The tokens of the sentence, repeated to the length of audio, some of them masked (2204.03409, 2210.07353).

    A token has half to one and a half times `slots_per_token` copies, at least one. A masked token is zeros in all of
    them: with a copy left, the decoder would have no gap to fill. The share of masked tokens is drawn for each
    sentence, between 0 and twice `noise`.
    """
    llm, share = inputs.speech_llm, 2 * inputs.noise * rng.random()
    tokens = llm.embed(transcript_ids(llm, text))[:, : llm.hidden].detach()
    masked = [rng.random() < share for _ in tokens]
    copies = [max(1, round(inputs.slots_per_token * rng.uniform(0.5, 1.5))) for _ in tokens]
    masked, copies = torch.tensor([masked, copies], dtype=torch.long, device=tokens.device)
    return tokens.masked_fill(masked.bool()[:, None], 0.0).repeat_interleave(copies, dim=0)


def generate(inputs: PseudoAudioInputs, text: str, rng: random.Random) -> torch.Tensor:
    """Audio embeddings that a network generates for the sentence, with residuals of real audio."""
    return inputs.generator.generate(text, rng)


def speech(inputs: PseudoAudioInputs, text: str, rng: random.Random) -> torch.Tensor:
    """The audio embeddings of the sentence as a speech synthesiser has spoken it."""
    return inputs.spoken[text]


def empty(inputs: PseudoAudioInputs, text: str, rng: random.Random) -> torch.Tensor:
    """The prompt with an empty slot."""
    return inputs.speech_llm.empty_slot


def none(inputs: PseudoAudioInputs, text: str, rng: random.Random) -> None:
    """No prompt at all: the text alone."""
    return None


PSEUDO_AUDIO: dict[str, Callable[[PseudoAudioInputs, str, random.Random], torch.Tensor | None]] = {
    "soft-prompt": soft_prompt,
    "simulate": simulate,
    "soft-prompt+simulate": soft_prompt_and_simulate,
    "mixed": mixed,
    "denoise": denoise,
    "upsample-mask": upsample_mask,
    "generate": generate,
    "speech": speech,
    "empty": empty,
    "none": none,
}


def fill_slots(
    kind: str, inputs: PseudoAudioInputs, texts: Sequence[str], rng: random.Random
) -> list[torch.Tensor | None]:
    """Pseudo audio embeddings `[slots, hidden]` of `kind` for each text; None for no prompt."""
    return [PSEUDO_AUDIO[kind](inputs, text, rng) for text in texts]
