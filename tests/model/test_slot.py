"""The slot in what a processor writes: everything that depends on the audio, and nothing else."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from adapt.errors import ModelError
from adapt.model.slot import audio_token_id, ids_around_slot

AUDIO, DURATION, PROCESSOR = 9, 100, SimpleNamespace()


def ids_of(*, duration: bool = False, marks: bool = False, audio: bool = True):
    """A request that writes 1 2 [audio] 3 4, with an audio token for each half second."""

    def request(processor, request):
        count = len(request.samples) // 8_000
        slot = [AUDIO] * count if audio else []
        slot = [AUDIO, 5, *slot] if marks else slot
        slot += [DURATION + count] if duration else []
        return {"input_ids": torch.tensor([[1, 2, *slot, 3, 4]])}

    return request


@pytest.mark.parametrize("written", [{}, {"duration": True}, {"marks": True}])
def test_the_slot_is_everything_that_depends_on_the_audio(written):
    before, after = ids_around_slot(PROCESSOR, ids_of(**written), AUDIO, "en", "it")
    assert (before, after) == ([1, 2], [3, 4])


def test_a_prompt_without_audio_tokens_has_no_slot():
    with pytest.raises(ValueError):
        ids_around_slot(PROCESSOR, ids_of(audio=False), AUDIO, "en", "it")


def test_the_audio_token_is_in_the_config_or_in_that_of_the_encoder():
    inner = SimpleNamespace(audio_token_index=7)
    assert audio_token_id(SimpleNamespace(audio_token_id=3, audio_config=inner)) == 3
    assert audio_token_id(SimpleNamespace(audio_config=inner)) == 7
    with pytest.raises(ModelError, match="its config names no audio token"):
        audio_token_id(SimpleNamespace(model_type="it"))
