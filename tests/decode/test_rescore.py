"""N-best rescoring by a causal LM."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from adapt.decode.hypothesis import Hypothesis
from adapt.decode.rescore import Rescorer
from adapt.decode.weights import Weights


def test_any_causal_lm_ranks_hypotheses(tiny, tmp_path):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=60, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    lm = LlamaForCausalLM(config).eval()
    torch.nn.init.normal_(lm.lm_head.weight, std=2.0)
    lm.save_pretrained(tmp_path)
    tiny.tokenizer.save_pretrained(tmp_path)
    texts = ["play the song", "stop", "", "tell me what it is now"]
    rescorer = Rescorer(str(tmp_path), weight=100.0)
    expected = []
    for text in texts:
        ids = torch.tensor([[1, *tiny.tokenizer.encode(text, add_special_tokens=False), 2]])
        logs = lm(input_ids=ids).logits[0, :-1].log_softmax(-1)
        expected.append(float(logs.gather(1, ids[0, 1:, None]).sum()))
    assert rescorer.scores(texts) == pytest.approx(expected, abs=1e-4), "log probabilities of the LM"
    hypotheses = [Hypothesis(text, 3, model=-1.0) for text in texts]
    ranked = rescorer.rank(hypotheses, Weights())
    assert [h.text for _, _, h in ranked] == sorted(texts, key=lambda text: -expected[texts.index(text)]), "the order"
