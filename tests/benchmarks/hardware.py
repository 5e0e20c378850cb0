"""What training gains from the hardware: half precision and huge pages."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys

from timing import interleaved


def training_bf16(rows: int = 32, slots: int = 80) -> dict:
    """A step of the decoder's LoRA on the built-in base in bf16 beside fp32, forward and backward."""
    import torch

    from adapt.model.adapter import add_lora
    from adapt.model.load import load_speech_llm
    from adapt.model.packing import target_logits
    from adapt.model.speech_llm import token_loss

    llm = load_speech_llm("tiny")
    model = add_lora(llm, rank=32, alpha=64, dropout=0.0)
    targets = [llm.target_ids("could you play the second song of that album again")] * rows
    embeddings = list(torch.randn(rows, slots, 256))

    def step(bf16: bool = True) -> None:
        with torch.autocast(llm.device.type, torch.bfloat16, enabled=bf16), llm.plain_attention():
            loss = token_loss(*target_logits(llm, embeddings, targets, through=model))
        loss.backward()
        loss.item()  # waits for a GPU

    step(), step(bf16=False)
    ours, plain = interleaved(step, lambda: step(bf16=False), repetitions=15)
    return {"name": "training_bf16", "device": str(llm.device), "ours_s": ours, "plain_s": plain, "ratio": ours / plain}


def huge_pages() -> dict:
    """A step of the built-in base's encoder on 120 s of audio, in huge pages, as the command asks for, beside without.

    The setting is read when torch is imported, so that each repetition is a process of its own.
    """
    code = (
        "import time, torch\n"
        "from adapt.model.load import load_speech_llm\n"
        "encoder = load_speech_llm('tiny', device='cpu').model.encoder.train().requires_grad_(True)\n"
        "samples, lengths = torch.randn(40, 48_000), torch.full((40,), 48_000)\n"
        "def step():\n"
        "    with torch.autocast('cpu', torch.bfloat16, torch.cpu._is_avx512_bf16_supported()):\n"
        "        encoder(*encoder.inputs(samples, lengths))[0].float().square().mean().backward()\n"
        "step()\n"
        "start = time.perf_counter()\n"
        "for _ in range(8): step()\n"
        "print((time.perf_counter() - start) / 8)"
    )

    def step(pages: str) -> float:
        environment = os.environ | {"THP_MEM_ALLOC_ENABLE": pages}
        done = subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True)
        return float(done.stdout)

    pairs = [(step("1"), step("0")) for _ in range(5)]
    ours, plain = (statistics.median(column) for column in zip(*pairs, strict=True))
    return {"name": "huge_pages", "ours_s": ours, "plain_s": plain, "ratio": ours / plain}
