from __future__ import annotations

import torch

from adapt.model.compose import compose


def test_a_composed_model_has_the_weights_of_its_parts_and_a_new_projector(tiny):
    parts = (tiny.model.encoder, tiny.model.language_model)
    model = compose(*parts, tiny.tokenizer, stack=3, projector="linear", projector_size=8, prompt="a <speech>")
    for ours, theirs in zip((model.encoder, model.language_model), parts, strict=True):
        state = ours.state_dict()
        assert all(torch.equal(value, state[name]) for name, value in theirs.state_dict().items())
    assert model.projector.linear.in_features == 3 * 16
    assert model.config.audio_token_id == tiny.tokenizer.convert_tokens_to_ids("<speech>")
    assert model.config.max_seconds == 30.0 and not model.config.whole_stacks, "the defaults of the config"


def test_a_tokenizer_without_padding_and_slot_gets_them(tiny):
    tokenizer = tiny.tokenizer
    tokenizer.pad_token = None
    tokenizer.get_vocab = lambda: {}
    settings = {"stack": 1, "projector": "mlp", "projector_size": 8, "prompt": "<speech>"}
    model = compose(tiny.model.encoder, tiny.model.language_model, tokenizer, **settings)
    assert tokenizer.pad_token == tokenizer.eos_token, "padding is the end of sentence"
    assert model.config.audio_token_id == len(tokenizer), "the slot's token is beyond the vocabulary"
