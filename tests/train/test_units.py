"""Units of the LLM that transcripts are written in, and CTC over them."""

from __future__ import annotations

import pytest
import torch

from adapt.errors import ModelError
from adapt.model.tokenizer import with_leading_space
from adapt.model.unit_ctc import UnitCtc
from adapt.train.units import inventory, unit_writer
from tests.model.builders.parts import byte_level_tokenizer

HEARD = ["please transcribe the pain", *["the drug"] * 12]


@pytest.fixture(scope="module")
def tokenizer():
    return with_leading_space(byte_level_tokenizer())


@pytest.mark.parametrize("kind", ["letters", "pieces", "tokens", "mixed"])
def test_units_spell_the_text(kind, tokenizer):
    write = unit_writer(kind, tokenizer, HEARD)
    assert tokenizer.decode(write("the drug and pain")).strip() == "the drug and pain"
    lengths = [len(tokenizer.convert_ids_to_tokens(unit)) for unit in write("please transcribe")]
    assert max(lengths) <= {"letters": 1, "pieces": 3, "tokens": 99, "mixed": 3}[kind]


def test_words_that_are_heard_often_are_tokens_and_others_pieces(tokenizer):
    write, pieces = unit_writer("mixed", tokenizer, HEARD), unit_writer("pieces", tokenizer, HEARD)
    assert write("the") == tokenizer.encode(" the") and write("transcribe") == pieces(" transcribe")
    assert inventory([[5, 2], [2]]) == [2, 5]


def test_a_letter_without_a_token_is_an_error(tiny):
    with pytest.raises(ModelError, match="no token for 'ß' alone; give tokens"):
        unit_writer("letters", tiny.tokenizer, [])("straße")


def test_an_audio_embedding_like_a_token_is_heard_as_that_token():
    torch.manual_seed(0)
    table, head = torch.randn(30, 16) + 2, UnitCtc(4, 16)
    head.units.copy_(torch.tensor([3, 7, 20, 29]))
    logits = head(table[None, [7, 29, 3, 20]], table)
    assert logits.shape == (1, 4, 5) and logits.argmax(-1).tolist() == [[1, 3, 0, 2]]


def test_the_head_can_be_sure_of_one_unit_among_thousands():
    torch.manual_seed(1)
    table, head = torch.randn(4_000, 576), UnitCtc(4_000, 576)
    head.units.copy_(torch.arange(4_000))
    logits = head(table[None, :8], table)[0]
    assert logits[:, :-1].softmax(-1)[range(8), range(8)].min() > 0.9


def test_one_embedding_is_left_for_each_unit_that_is_heard():
    table, head = torch.eye(30, 32), UnitCtc(4, 32)
    head.units.copy_(torch.tensor([3, 7, 20, 29]))
    blank = head.blank.data = 4 * torch.eye(32)[31]
    stacks = torch.stack([blank, table[7], 3 * table[7], blank, table[7], table[29], blank])
    heard = head.heard(stacks, table)
    assert heard.shape == (3, 32), "a blank parts two of the same unit, a change of the unit parts two as well"
    assert torch.allclose(heard[1:], table[[7, 29]], atol=1e-6)
    assert torch.allclose(heard[0], 2 * table[7], atol=1e-5), "the mean, with the mean norm"
    assert head.heard(stacks[[0, 3, 6]], table).shape == head.heard(stacks[:0], table).shape == (0, 32)
    stacks.requires_grad_(True)
    head.heard(stacks, table).sum().backward()
    assert (stacks.grad.abs().sum(1) > 0).tolist() == [False, True, True, False, True, True, False]
