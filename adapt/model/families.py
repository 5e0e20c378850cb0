"""What differs between the families of speech LLMs in transformers: how one asks for a transcript, and little more.

A family's own processor writes the prompt; what stands in it before, in and after the audio is found by looking. Audio
goes through the family's own forward pass up to the decoder, and what the decoder would be given is taken from there.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from transformers import BatchFeature, PreTrainedConfig, PreTrainedModel, ProcessorMixin

from adapt.errors import ModelError

INSTRUCTION = "Transcribe the speech into text."


@dataclass(frozen=True)
class Request:
    """What is asked of a processor: samples (mono, at its `rate_of`), the language (ISO 639-1), the model's name.

    said: what a user says before and behind the audio, where it is asked by `chat`.
    """

    samples: np.ndarray
    language: str
    name: str
    said: tuple[str, str] = ("", INSTRUCTION)


def rate_of(processor: ProcessorMixin) -> int:
    """Samples a second that a processor takes."""
    features = getattr(processor, "feature_extractor", None) or getattr(processor, "audio_processor", None)
    return getattr(features, "sampling_rate", 16_000)


def _turn(request: Request) -> list[dict]:
    before, behind = ([{"type": "text", "text": text}] if text else [] for text in request.said)
    content = [*before, {"type": "audio", "audio": request.samples}, *behind]
    return [{"role": "user", "content": content}]


def _settings(processor: ProcessorMixin) -> dict:
    # Some processors default to none of this; a flat `padding` would reach their audio too.
    told = {"text_kwargs": {"padding": True}, "audio_kwargs": {"sampling_rate": rate_of(processor)}}
    return {"return_tensors": "pt", "processor_kwargs": told}


def chat(processor: ProcessorMixin, request: Request) -> BatchFeature:
    """By the chat template: one turn of audio and instruction."""
    return processor.apply_chat_template(
        [_turn(request)], add_generation_prompt=True, tokenize=True, return_dict=True, **_settings(processor)
    )


def tokenizers_chat(processor: ProcessorMixin, request: Request) -> BatchFeature:
    """As `chat`, of processors whose tokenizer has the template."""
    text = processor.tokenizer.apply_chat_template(_turn(request), tokenize=False, add_generation_prompt=True)
    return processor(text=[text], audio=[request.samples], sampling_rate=rate_of(processor), return_tensors="pt")


def transcription(processor: ProcessorMixin, request: Request) -> BatchFeature:
    """By the method that some processors have for it."""
    return processor.apply_transcription_request(audio=[request.samples], **_settings(processor))


def in_language(processor: ProcessorMixin, request: Request) -> BatchFeature:
    """As `transcription`, with the language, so that the transcript comes without one in front of it."""
    return processor.apply_transcription_request(
        audio=[request.samples], language=request.language, **_settings(processor)
    )


def mistral(processor: ProcessorMixin, request: Request) -> BatchFeature:
    """As `in_language`, of Mistral's tokenizer."""
    more = {"model_id": request.name, "sampling_rate": rate_of(processor), "format": ["wav"]}
    return processor.apply_transcription_request(audio=[request.samples], language=request.language, **more)


def same(text: str) -> str:
    return text


def unquoted(text: str) -> str:
    """What is spoken, out of a sentence that says so.

    >>> unquoted("The spoken content of the audio is 'play it'."), unquoted("play it")
    ('play it', 'play it')
    """
    said = re.fullmatch(
        r"The (?:spoken content|transcription|content) of the (?:input )?audio is ['\"](.*)['\"]\.?", text
    )
    return said[1] if said else text


def of_segments(text: str) -> str:
    """What is spoken, out of a JSON list of segments.

    >>> of_segments('[{"Start": 0, "End": 1, "Speaker": 0, "Content": "play it"}]'), of_segments("play it")
    ('play it', 'play it')
    """
    return " ".join(re.findall(r'"Content": ?"((?:[^"\\]|\\.)*)"', text)) or text


def untimed(text: str) -> str:
    """What is spoken, without times and speakers.

    >>> untimed("[0.00][S01]play it[3.00]")
    'play it'
    """
    return " ".join(re.sub(r"\[(?:[\d.:]+|S\d+)\]", " ", text).split())


def thought(text: str) -> str:
    """What is written after thinking.

    >>> thought("<think>hm</think>play it")
    'play it'
    """
    return text.rpartition("</think>")[2].strip()


def plain(model: PreTrainedModel, ids: torch.Tensor) -> torch.Tensor:
    """Token embeddings `[..., hidden]`."""
    return model.get_input_embeddings()(ids)


def three_tables(model: PreTrainedModel, ids: torch.Tensor) -> torch.Tensor:
    """As `plain`, of Gemma 3n: the marks around images and audio have tables of their own, behind that of the text."""
    rows = plain(model, ids)
    for table in (model.model.embed_vision, model.model.embed_audio):
        inside = ids >= table.vocab_offset
        last = table.vocab_offset + table.vocab_size - 1
        own = table(input_ids=torch.where(inside, ids, last).clamp(max=last))
        rows = torch.where(inside[..., None], own.to(rows.dtype), rows)
    return rows


@dataclass(frozen=True)
class Family:
    """request: asks a processor for the inputs of one recording. more: further arguments of a forward pass on audio.

    embed: embeddings of token ids. merging: the module in the decoder that puts the audio in its place, where the
    decoder does that itself. spoken: takes the transcript out of what is written.
    """

    request: Callable[[ProcessorMixin, Request], BatchFeature] = chat
    more: tuple[tuple[str, object], ...] = ()
    embed: Callable[[PreTrainedModel, torch.Tensor], torch.Tensor] = plain
    merging: str = ""
    spoken: Callable[[str], str] = same


FAMILIES = {
    "audioflamingo3": Family(transcription, spoken=unquoted),
    "fun_asr_nano": Family(transcription),
    "gemma3n": Family(embed=three_tables),
    "glmasr": Family(transcription),
    "moss_transcribe_diarize": Family(transcription, spoken=untimed),
    "musicflamingo": Family(spoken=unquoted),
    "nemo_speechlm": Family(transcription),
    "nemotron_h_omni": Family(spoken=thought),
    "phi4_multimodal": Family(tokenizers_chat, merging="embed_tokens_extend"),
    "qwen3_asr": Family(in_language),
    "vibevoice_asr": Family(transcription, (("sample", False),), spoken=of_segments),  # it would draw its latents
    "voxtral": Family(mistral),
}
MAX_SECONDS = 30.0  # Whisper's encoders, of which many are, take no more; some cut the rest off without a word


def family_of(config: PreTrainedConfig) -> Family:
    """That of a config; most need nothing of their own."""
    return FAMILIES.get(config.model_type, Family())


def audio_token_id(config: PreTrainedConfig) -> int:
    """The token that stands for an audio embedding. Raises `ModelError` where a config names none."""
    for part in (config, getattr(config, "audio_config", None)):
        for key in ("audio_token_id", "audio_token_index"):
            if isinstance(found := getattr(part, key, None), int):
                return found
    raise ModelError(f"{config.model_type}: its config names no audio token; see `adapt ls models`")


def in_chat(processor: ProcessorMixin, config: PreTrainedConfig, name: str, said: tuple[str, str]) -> tuple[list, list]:
    """As `around`, in the chat template, with what a user says before and behind the audio."""
    family = family_of(config)
    asks = family.request if family.request in (chat, tokenizers_chat) else chat
    family = Family(lambda processor, request: asks(processor, dataclasses.replace(request, said=said)))
    return around(processor, family, audio_token_id(config), "en", name)


def around(processor: ProcessorMixin, family: Family, audio: int, language: str, name: str) -> tuple[list, list]:
    """Token ids before and behind the slot: what a processor writes whatever the audio.

    The slot is all between: one run of audio tokens, as a rule; some put marks between its parts, and one says behind
    it how long it is. Raises ValueError where there is no audio token at all.
    """
    short, long = (
        family.request(processor, Request(np.zeros(int(rate_of(processor) * seconds), np.float32), language, name))
        for seconds in (1.0, 2.57)
    )
    short, long = (inputs["input_ids"][0].tolist() for inputs in (short, long))
    behind = len(short) - 1 - short[::-1].index(audio)
    same = 0
    while same < len(short) - 1 - behind and short[-1 - same] == long[-1 - same]:
        same += 1
    return short[: short.index(audio)], short[len(short) - same :]


# Where a projector stands, in whole or as the last layers of its encoder. The first of these that a model has is it:
# in families that see as well `multi_modal_projector` may be for pictures.
_PROJECTORS = (r"embed_audio", r"audio_tower\.(?:proj\d?|post_proj_norm|adapter)", r"multi_modal_projector|projector")
_ENCODER = r"audio_tower|encoder|\w+_tokenizer_encoder"


def audio_parameters(model: PreTrainedModel, part: str) -> list[torch.nn.Parameter]:
    """The parameters of a part, `encoder` or `projector`. Raises `ModelError` for a model that has none apart."""
    named = dict(model.named_parameters())

    def inside(pattern: str) -> set[str]:
        return {name for name in named if re.match(rf"(?:model\.)?(?:{pattern})\.", name)}

    projector = next(filter(None, map(inside, _PROJECTORS)), set())
    found = projector if part == "projector" else inside(_ENCODER) - projector
    if not found:
        raise ModelError(f"{model.config.model_type}: has no {part} of its own to train; keep it frozen")
    return [named[name] for name in named if name in found]


def merged_embeddings(model: PreTrainedModel, inputs: BatchFeature, family: Family) -> torch.Tensor:
    """What a model gives its decoder for inputs of its processor's: `[batch, length, hidden]`, with its gradient."""
    found: list[torch.Tensor] = []

    class Seen(Exception):
        pass

    def before(module, args, kwargs):
        found.append(kwargs["inputs_embeds"])
        raise Seen

    def behind(module, args, output):
        found.append(output)
        raise Seen

    decoder = model.get_decoder()
    if family.merging:
        hook = decoder.get_submodule(family.merging).register_forward_hook(behind)
    else:
        hook = decoder.register_forward_pre_hook(before, with_kwargs=True)
    try:
        with contextlib.suppress(Seen):
            model(**inputs, **dict(family.more))
    finally:
        hook.remove()
    return found[0]
