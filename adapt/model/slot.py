"""Find the slot in the prompt of a processor, and the embeddings that a model puts into it."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable

import numpy as np
import torch
from transformers import BatchFeature, PreTrainedConfig, PreTrainedModel, ProcessorMixin

from adapt.errors import ModelError
from adapt.model.families import (
    Family,
    Request,
    by_chat_template,
    by_tokenizer_chat_template,
    family_of,
    sampling_rate,
)

PROBES = (1.0, 2.57)  # seconds of silence; the parts of the prompt that are the same for both do not depend on audio


def audio_token_id(config: PreTrainedConfig) -> int:
    """The token that stands for an audio embedding. Raises `ModelError` if the config names none."""
    for part in (config, getattr(config, "audio_config", None)):
        for key in ("audio_token_id", "audio_token_index"):
            if isinstance(token := getattr(part, key, None), int):
                return token
    raise ModelError(f"{config.model_type}: its config names no audio token; `adapt ls models` lists supported models")


def ids_around_slot(
    processor: ProcessorMixin,
    request: Callable[[ProcessorMixin, Request], BatchFeature],
    audio_token: int,
    language: str,
    model_name: str,
    with_names: Callable[[Request], Request] | None = None,
) -> tuple[list[int], list[int]]:
    """Token ids of a processor's prompt before and after the slot, which are the same for any audio.

    request: that of the family. with_names: puts names into a request; None: none. The slot is everything between the
    two: usually one run of audio tokens; some families put marks between its parts, and one writes the duration after
    it. Raises `ValueError` for a prompt without audio tokens.
    """
    requests = [
        Request(np.zeros(int(sampling_rate(processor) * seconds), np.float32), language, model_name)
        for seconds in PROBES
    ]
    requests = list(map(with_names, requests)) if with_names else requests
    short, long = (request(processor, probe)["input_ids"][0].tolist() for probe in requests)
    after_audio = len(short) - 1 - short[::-1].index(audio_token)
    same = 0
    while same < len(short) - 1 - after_audio and short[-1 - same] == long[-1 - same]:
        same += 1
    return short[: short.index(audio_token)], short[len(short) - same :]


def chat_ids_around_slot(
    processor: ProcessorMixin, config: PreTrainedConfig, model_name: str, user_text: tuple[str, str]
) -> tuple[list[int], list[int]]:
    """As `ids_around_slot`, for the chat template. user_text: the text of the user before and after the audio."""
    request = family_of(config).request
    if request not in (by_chat_template, by_tokenizer_chat_template):
        request = by_chat_template

    def with_user_text(processor: ProcessorMixin, probe: Request) -> BatchFeature:
        return request(processor, dataclasses.replace(probe, user_text=user_text))

    return ids_around_slot(processor, with_user_text, audio_token_id(config), "en", model_name)


def merged_embeddings(model: PreTrainedModel, inputs: BatchFeature, family: Family) -> torch.Tensor:
    """The input embeddings `[batch, length, hidden]` of a model's decoder, with audio embeddings in the slot.

    inputs: the processor's output for a request. The gradient is kept. The forward pass stops at the decoder.
    """
    captured: list[torch.Tensor] = []

    class Captured(Exception):
        pass

    def before_decoder(module, args, kwargs):
        captured.append(kwargs["inputs_embeds"])
        raise Captured

    def after_merging(module, args, output):
        captured.append(output)
        raise Captured

    decoder = model.get_decoder()
    if family.merging_module:
        hook = decoder.get_submodule(family.merging_module).register_forward_hook(after_merging)
    else:
        hook = decoder.register_forward_pre_hook(before_decoder, with_kwargs=True)
    try:
        with contextlib.suppress(Captured):
            model(**inputs, **family.forward_arguments)
    finally:
        hook.remove()
    return captured[0]
