"""The share of a machine's multiplications that a training reaches.

With frozen weights a token takes 4 operations for each parameter that it passes: 2 forward, and 2 for the gradients of
the activations. Every token that is computed passes the layers, padding too; only tokens with a loss pass the output
layer. Attention, norms and the LoRA itself are not counted.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from timing import seconds

SIDE = 2_048  # of the square matrices


@dataclass
class Tokens:
    """The tokens that passed the layers of a decoder in training."""

    computed: int = 0


@contextmanager
def counted(llm) -> Iterator[Tokens]:
    """Count tokens while the decoder of a SpeechLLM is trained."""
    import torch

    tokens = Tokens()

    def count(_: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        if torch.is_grad_enabled():
            tokens.computed += inputs[0].shape[:2].numel()

    hook = _layers(llm)[0].register_forward_pre_hook(count)
    try:
        yield tokens
    finally:
        hook.remove()


def operations(llm, computed: int, with_loss: int) -> int:
    """Those of a training of the decoder. computed, with_loss: tokens in all, and those with a loss."""
    inside = sum(parameter.numel() for name, parameter in _layers(llm).named_parameters() if "lora_" not in name)
    return 4 * (inside * computed + llm.model.get_output_embeddings().weight.numel() * with_loss)


def _layers(llm):
    """The layers of the decoder of a composed base."""
    return llm.model.language_model.get_decoder().layers


def matmul_gflops() -> float:
    """Billions of operations a second of torch.mm on square matrices in fp32, over ten of them."""
    import torch

    left, right = torch.randn(2, SIDE, SIDE)
    out = left @ right
    taken = seconds(lambda: [torch.mm(left, right, out=out) for _ in range(10)])
    return 10 * 2 * SIDE**3 / taken / 1e9
