"""Subtraction of the decoder's internal language model (Meng et al. 2021, "Internal language model estimation")."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import DynamicCache, LogitsProcessor, PreTrainedModel

from adapt.decode.beam_tracker import BeamTracker
from adapt.model.packing import logits_after
from adapt.model.speech_llm import SpeechLLM


class InternalLM(LogitsProcessor):
    """Subtracts weight times the log probabilities of the internal LM: those of the decoder without audio.

    prompt: embeddings `[length, hidden]` of the prompt without audio: its slot is empty, or has a soft prompt. The
    decoder predicts the next token after it, in a second forward pass in each step. special: tokens that keep their
    scores. prompt_length: as in `NgramFusion`.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        prompt: torch.Tensor,
        weight: float,
        special: Sequence[int] = (),
        prompt_length: int = 0,
    ):
        self.model, self.prompt, self.weight = model, prompt, weight
        self.special, self.prompt_length = list(special), prompt_length
        self._tracker = BeamTracker()
        self._cache: DynamicCache | None = None

    @torch.no_grad()
    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        ids = input_ids[:, self.prompt_length :]
        previous, logits = self._tracker.previous_rows(ids), None
        if previous is None:
            self._cache = DynamicCache(config=self.model.config.get_text_config(decoder=True))
            if len(self.prompt):
                logits = self._logits_after(self.prompt[None])
            # All rows begin with the same prompt.
            self._cache.reorder_cache(torch.zeros(len(ids), dtype=torch.long, device=ids.device))
        else:
            self._cache.reorder_cache(previous)
            ids = ids[:, -1:]
        if ids.shape[1]:
            logits = self._logits_after(self.model.get_input_embeddings()(ids))
        if logits is None:  # nothing stands before the first token of a prompt that is the slot alone
            return scores
        subtracted = self.weight * logits.to(scores.dtype).log_softmax(-1)
        subtracted[:, self.special] = 0
        return scores - subtracted

    def _logits_after(self, rows: torch.Tensor) -> torch.Tensor:
        """Logits of the next token after rows that continue the cache, `[batch, vocabulary]`."""
        output = self.model(inputs_embeds=rows, past_key_values=self._cache, use_cache=True, logits_to_keep=1)
        return output.logits[:, -1]


@torch.no_grad()
def sequence_scores(
    speech_llm: SpeechLLM, prompts: Sequence[torch.Tensor], tokens: Sequence[Sequence[int]]
) -> torch.Tensor:
    """The decoder's log probability `[rows]` of each token sequence and the end of the sentence, after its prompt."""
    targets = [[*t, speech_llm.ends[0]] for t in tokens]
    losses = torch.nn.functional.cross_entropy(*logits_after(speech_llm, prompts, targets), reduction="none")
    return -torch.stack([row.sum() for row in losses.split(list(map(len, targets)))])
