"""Soft prompts: trainable vectors in the slot, in place of audio embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from adapt.errors import ModelError
from adapt.model.speech_llm import SpeechLLM

SLOT_EXAMPLES = "slot_examples.safetensors"  # audio embeddings of real audio, in the folder of a base


def slot_examples(speech_llm: SpeechLLM, replayed: Sequence[torch.Tensor] = ()) -> list[torch.Tensor]:
    """Audio embeddings `[slots, hidden]` of real audio: `replayed` if not empty, else those in the base's folder.

    Raises `ModelError` if there are neither.
    """
    if heard := [slot for slot in replayed if len(slot)]:  # an encoder that transcribes may hear nothing
        return heard
    path = Path(speech_llm.model.name_or_path) / SLOT_EXAMPLES
    if not path.exists():
        raise ModelError(
            f"{speech_llm.name}: its folder has no examples of audio embeddings; give audio embeddings of source audio"
        )
    tensors = load_file(path, device=str(speech_llm.device))
    return list(tensors["vectors"].float().split(tensors["lengths"].tolist()))


def save_slot_examples(path: Path, slots: Sequence[torch.Tensor]) -> None:
    """Write audio embeddings `[slots, hidden]` of real audio to a file that `slot_examples` reads."""
    counts = torch.tensor([len(slot) for slot in slots])
    save_file({"vectors": torch.cat(list(slots)).cpu().contiguous(), "lengths": counts}, path)


def initial(kind: str, length: int, examples: Sequence[torch.Tensor], speech_llm: SpeechLLM) -> torch.Tensor:
    """The initial vectors `[length, hidden]` of a soft prompt.

    kind: `audio` takes the audio embeddings of `examples` one after another; `stats` draws from a normal distribution
    with their mean and standard deviation in each dimension; `text` takes embeddings of random tokens; `random` draws
    from a normal distribution with the standard deviation of all token embeddings.
    """
    vectors = torch.cat(list(examples)) if examples else speech_llm.empty_slot
    if kind == "audio":
        repeats = -(-length // len(vectors))
        return vectors.repeat(repeats, 1)[:length].clone()
    if kind == "stats":
        noise = torch.randn(length, vectors.shape[1], device=vectors.device)
        return vectors.mean(0) + vectors.std(0) * noise
    count = min(len(speech_llm.tokenizer), speech_llm.vocabulary)
    # By the model, not from its embedding table: some models scale the embeddings.
    drawn = speech_llm.embed(torch.randint(count, (max(length, 256),)).tolist())[:, : speech_llm.hidden].detach()
    if kind == "text":
        return drawn[:length].clone()
    return torch.randn(length, speech_llm.hidden, device=drawn.device) * drawn.float().std()


def save_soft_prompt(path: Path, vectors: torch.Tensor) -> None:
    """Write `[length, hidden]` vectors as safetensors under the key `soft_prompt`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({"soft_prompt": vectors.detach().cpu().contiguous()}, path)


def load_soft_prompt(path: Path, speech_llm: SpeechLLM) -> torch.Tensor:
    """The vectors `[length, hidden]` that `save_soft_prompt` wrote. Raises `ModelError` for another file or width."""
    try:
        vectors = load_file(path, device=str(speech_llm.device)).get("soft_prompt")
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path}: cannot be read: {error}; `adapt prompt` writes one") from None
    if vectors is None or vectors.dim() != 2:
        raise ModelError(f"{path}: holds no soft prompt; `adapt prompt` writes one")
    hidden = speech_llm.hidden
    if vectors.shape[1] != hidden:
        problem = f"its vectors have {vectors.shape[1]} dimensions, but those of {speech_llm.name} have {hidden}"
        raise ModelError(f"{path}: {problem}; learn it again")
    return vectors
