"""The audio encoder and the projector of any speech LLM, found by the names of their parameters."""

from __future__ import annotations

import re

import torch
from transformers import PreTrainedModel

from adapt.errors import ModelError

# The names of projectors, as modules or as the last layers of the encoder. The first pattern that matches counts: in
# families with images, `multi_modal_projector` may be the projector of the images.
_PROJECTORS = (r"embed_audio", r"audio_tower\.(?:proj\d?|post_proj_norm|adapter)", r"multi_modal_projector|projector")
_ENCODER = r"audio_tower|encoder|\w+_tokenizer_encoder"


def audio_parameters(model: PreTrainedModel, part: str) -> list[torch.nn.Parameter]:
    """The parameters of a part, `encoder` or `projector`. Raises `ModelError` for a model without such a part."""
    named = dict(model.named_parameters())

    def names_in(pattern: str) -> set[str]:
        return {name for name in named if re.match(rf"(?:model\.)?(?:{pattern})\.", name)}

    projector = next(filter(None, map(names_in, _PROJECTORS)), set())
    names = projector if part == "projector" else names_in(_ENCODER) - projector
    if not names:
        raise ModelError(f"{model.config.model_type}: has no {part} of its own to train; keep it frozen")
    return [named[name] for name in named if name in names]
