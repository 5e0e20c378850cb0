"""The tokenizer of a new decoder, and letters that are added to that of an existing one."""

from __future__ import annotations

import pytest
import torch
import transformers

from adapt.errors import DataError
from adapt.model.load import load_speech_llm
from adapt.model.tokenizer import train_tokenizer, unwritable, with_letters


def test_a_new_tokenizer_has_a_token_for_each_letter_of_the_encoder():
    texts = ["good day to you", "a day in may", "you and me", "the dog ran", "we go home", "no more of it"]
    tokenizer = train_tokenizer(texts, 36, "abcdefghijklmnopqrstuvwxyz' ")
    ids = tokenizer.convert_tokens_to_ids([*"abcdefghijklmnopqrstuvwxyz'▁"])
    assert tokenizer.unk_token_id not in ids and len(set(ids)) == 28
    assert tokenizer.decode(tokenizer.encode("jazz day", add_special_tokens=False)) == "jazz day"
    for vocab_size, problem in (
        (12, "more letters than that; give at least"),
        (500, "few different words; give at most"),
    ):
        with pytest.raises(DataError, match=problem):
            train_tokenizer(texts, vocab_size)


@pytest.mark.parametrize("tied", [True, False])
def test_an_existing_decoder_gets_the_letters_that_it_lacks(tied, tmp_path):
    tokenizer = load_speech_llm("tiny").tokenizer
    shape = {"vocab_size": 1000, "hidden_size": 8, "num_attention_heads": 1, "intermediate_size": 8}
    config = transformers.LlamaConfig(**shape, num_hidden_layers=1, tie_word_embeddings=tied)
    llm = transformers.LlamaForCausalLM(config)
    assert unwritable(tokenizer, "abc' äßø") == "äßø" and unwritable(tokenizer, "abc' ") == ""
    assert with_letters(llm, tokenizer, "abc' ") == (llm, tokenizer)
    before = [w.detach().clone() for w in (llm.get_input_embeddings().weight, llm.get_output_embeddings().weight)]
    llm, extended = with_letters(llm, tokenizer, "abc' äßø")
    extended.save_pretrained(tmp_path)
    for each in (extended, transformers.AutoTokenizer.from_pretrained(tmp_path)):
        ids = each.encode("straße spät", add_special_tokens=False)
        assert {1000, 1001} < set(ids) and each.decode(ids) == "straße spät"
        assert each.encode("play the song") == tokenizer.encode("play the song")
        assert each.decode([*each.encode("<speech>ä"), 2, 3], skip_special_tokens=True) == "ä"
    after = llm.get_input_embeddings().weight, llm.get_output_embeddings().weight
    a = tokenizer.convert_tokens_to_ids("a")
    for old, new in zip(before, after, strict=True):
        assert len(new) == llm.config.vocab_size == 1003 and torch.equal(old, new[:1000])
        assert torch.equal(new[1000], old[a]) and torch.allclose(new[1001], old.mean(0), atol=1e-6)
