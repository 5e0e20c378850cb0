"""N-best rescoring by any causal LM, an alternative to fusion: its tokenizer may differ from that of the decoder."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from adapt.decode.hypothesis import Hypothesis
from adapt.decode.weights import Weights
from adapt.errors import ModelError, first_line


class Rescorer:
    """A causal LM that rescores hypotheses. name: its folder, or its name on the hub. weight: of its log probabilities.

    Raises ModelError if the LM cannot be loaded.
    """

    def __init__(self, name: str, weight: float, device: torch.device | str = "cpu"):
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(name)
            self._model = AutoModelForCausalLM.from_pretrained(name).to(device).eval()
        except (OSError, ValueError, ImportError) as error:
            reason = first_line(error).rstrip(":. ")
            raise ModelError(
                f"rescore: {name!r} cannot be loaded: {reason}; give the folder of a causal LM, or its name on the hub"
            ) from error
        self.weight = weight

    @torch.no_grad()
    def scores(self, texts: Sequence[str]) -> list[float]:
        """The natural log probability of each text, with the end of sentence if the tokenizer has a token for it.

        If the tokenizer has no beginning-of-sentence token, the first token of a text is not scored.
        """
        special = self._tokenizer.bos_token_id, self._tokenizer.eos_token_id
        begin, end = ([i] if i is not None else [] for i in special)
        rows = [[*begin, *self._tokenizer.encode(text, add_special_tokens=False), *end] for text in texts]
        if not any(len(row) > 1 for row in rows):
            return [0.0] * len(rows)
        ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(row, dtype=torch.long) for row in rows], batch_first=True)
        lengths = torch.tensor([len(row) for row in rows])
        mask = torch.arange(ids.shape[1])[None] < lengths[:, None]
        ids, mask = ids.to(self._model.device), mask.to(self._model.device)
        logs = self._model(input_ids=ids, attention_mask=mask.long()).logits[:, :-1].float().log_softmax(-1)
        chosen = logs.gather(2, ids[:, 1:, None]).squeeze(2)
        return torch.where(mask[:, 1:], chosen, 0.0).sum(1).tolist()

    def rank(self, hypotheses: Sequence[Hypothesis], weights: Weights) -> list[tuple[float, float, Hypothesis]]:
        """Best first: the score with this LM included, the LM's log probability, and the hypothesis."""
        logs = self.scores([h.text for h in hypotheses])
        ranked = [
            (h.score(weights) + self.weight * log / (h.tokens + 1), log, h)
            for h, log in zip(hypotheses, logs, strict=True)
        ]
        return sorted(ranked, key=lambda row: -row[0])
