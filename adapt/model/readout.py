"""What the states of a Whisper decoder write: logits, tokens, and states that write given tokens."""

from __future__ import annotations

import torch
from torch.nn import functional as F

CHOSEN, STEPS = 1.0, 50  # nats and most steps of `choosing`
STATES_AT_ONCE = 256  # whose logits are computed together


def written_logits(states: torch.Tensor, readout: torch.Tensor, settings: dict) -> torch.Tensor:
    """Logits in float32, `[..., tokens]`, of the tokens of text and, last, the end; -inf for those never written.

    readout: that of `TranscribingWhisper.readout`. settings: `first_pass_settings`. What is chosen from them does not
    change with the batch or the data type, as it might with logits in half precision.
    """
    with torch.autocast(states.device.type, enabled=False):
        logits = F.linear(states.float(), readout)
    logits[..., settings["never"]] = -torch.inf
    return logits


def choosing(states: torch.Tensor, tokens: torch.Tensor, readout: torch.Tensor, settings: dict) -> torch.Tensor:
    """States `[states, hidden]`, moved as little as makes each of `tokens`, `[states]`, the likeliest by CHOSEN nats.

    A transcript is read from its states, of which each tells the token that is the likeliest there, not always the one
    that a beam search chose.
    """
    likeliest = [written_logits(some, readout, settings).argmax(-1) for some in states.split(STATES_AT_ONCE)]
    (others,) = (torch.cat(likeliest) != tokens).nonzero(as_tuple=True)
    if not len(others):
        return states
    moved, tokens = states[others].float(), tokens[others]
    for _ in range(STEPS):
        logits = written_logits(moved, readout, settings)
        best = logits.scatter(1, tokens[:, None], -torch.inf).max(1)
        missing = best.values + CHOSEN - logits.gather(1, tokens[:, None])[:, 0]
        if not (missing > 0).any():
            break
        towards = readout[tokens] - readout[best.indices]
        moved = moved + (missing.clamp_min(0) / towards.square().sum(1))[:, None] * towards
    return states.index_put((others,), moved.to(states.dtype))


def written_tokens(states: torch.Tensor, readout: torch.Tensor, settings: dict) -> torch.Tensor:
    """The likeliest token of text for each of `[states, hidden]`."""
    return torch.cat(
        [written_logits(some, readout, settings)[:, :-1].argmax(-1) for some in states.split(STATES_AT_ONCE)]
    )
