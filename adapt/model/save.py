"""A changed speech LLM as a folder of its base's own layout, with whatever else lies beside a base."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch

from adapt.errors import ModelError
from adapt.model import learned
from adapt.model.bases import config_of, locate, tensors
from adapt.model.load import load
from adapt.model.prompt import SLOT_EXAMPLES
from adapt.model.speech_llm import SpeechLLM


def save(speech_llm: SpeechLLM, out: Path) -> None:
    """Write the weights, the processor and the learned prompt, so that `load`, or the base's own class, reads them.

    The weights have the names, shapes and precision of the base that the model was loaded from; the model is turned
    into that precision. Raises `ModelError` where the base's layout is not kept, or where what was written says
    something else than the model; then it is better to keep what was learned apart.
    """
    path, model = locate(speech_llm.name), speech_llm.model
    config = config_of(path)
    rows = speech_llm.prompt(speech_llm.nothing)[None]
    with torch.no_grad():
        wanted = speech_llm.forward(rows).float().cpu()
    kept = str(config.get("dtype") or config.get("torch_dtype") or "float32")
    model.to(getattr(torch, kept.removeprefix("torch."))).save_pretrained(out)
    # All but the weights is copied: some processors lose settings of theirs when they are saved.
    for file in path.iterdir():
        beside = file.suffix in (".jinja", ".txt", ".model", ".tiktoken") or file.name.startswith(("LICENSE", "NOTICE"))
        beside |= file.suffix == ".json" and not file.name.startswith(("adapter_", "params", "model", "pytorch_model"))
        if (beside or file.name == SLOT_EXAMPLES) and file.is_file() and not (out / file.name).exists():
            shutil.copyfile(file, out / file.name)
    if model.config.model_type == config["model_type"]:
        shutil.copyfile(path / "config.json", out / "config.json")  # as it was, without the defaults of today
    if speech_llm.learned:
        speech_llm.learned.save(out / learned.FILE, speech_llm)
    before, after = (tensors(folder) for folder in (path, out))
    if before != after:
        amiss = sorted(before.items() ^ after.items())
        raise ModelError(f"{out}: its weights are not laid out as those of {speech_llm.name}, first {amiss[0][0]!r}")
    with torch.no_grad():
        again = load(str(out), "cpu", dtype="fp32")
        read = again.forward(again.prompt(again.nothing)[None])
    if not torch.allclose(wanted, read, atol=5e-2 * float(wanted.std()), rtol=5e-2):
        raise ModelError(f"{out}: read again it says something else than what was written")
