"""Beam search written out, against which the searches of transformers are compared."""

from __future__ import annotations

import torch


def reference(model, prompt, num_beams, length, score) -> list[int]:
    """The best tokens of one utterance, in float64. score: of the tokens so far, `[vocabulary]`, which is added."""
    beams, finished = [(0.0, [])], []
    for _ in range(length):
        found = []
        for total, tokens in beams:
            embeds = torch.cat([prompt, model.get_input_embeddings()(torch.tensor(tokens, dtype=torch.long))])[None]
            logits = model(inputs_embeds=embeds, logits_to_keep=1).logits[0, -1].double().log_softmax(-1)
            fused = logits + score(tokens)
            found += [(total + float(s), [*tokens, t]) for t, s in enumerate(fused)]
        found.sort(key=lambda pair: -pair[0])
        for total, tokens in found[:num_beams]:
            if tokens[-1] == 2:
                finished.append((total / len(tokens), tokens))
        beams = [pair for pair in found if pair[1][-1] != 2][:num_beams]
        if num_beams == 1 and finished:  # greedy search ends at the first end
            beams = []
    finished += [(total / len(tokens), tokens) for total, tokens in beams]
    best = max(finished, key=lambda pair: pair[0])[1]
    return best[: best.index(2)] if 2 in best else best
