"""Write a changed speech LLM to a folder, with the layout of its base and the other files of a base."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch

from adapt.errors import ModelError
from adapt.model import learned_prompt
from adapt.model.bases import config_of, find_base, tensors
from adapt.model.load import load_speech_llm
from adapt.model.soft_prompt import SLOT_EXAMPLES
from adapt.model.speech_llm import SpeechLLM

SAVED_DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
NOT_OF_BASE = ("adapter_", "params", "model", "pytorch_model", "log.json", "adapt_")  # beginnings of JSON files


def saved_dtype(speech_llm: SpeechLLM) -> torch.dtype:
    """The data type of the weights in the base's files.

    Raises `ModelError` for a base that `save_speech_llm` could not write: its weights have several data types, it was
    loaded in a coarser data type, or only a part of it was loaded.
    """
    path = find_base(speech_llm.name)
    dtypes = {dtype for dtype, _ in tensors(path).values() if "F" in dtype}  # counters are integers
    dtype = SAVED_DTYPES.get(next(iter(dtypes)))
    kind, kind_on_disk = speech_llm.model.config.model_type, config_of(path)["model_type"]
    if kind != kind_on_disk:
        problem = f"only the {kind} of a {kind_on_disk} model was loaded"
        raise ModelError(f"{speech_llm.name}: {problem}; save the {kind} as a separate model, and load that")
    if len(dtypes) > 1 or dtype is None:
        problem = f"its weights are in {', '.join(sorted(dtypes))}"
        raise ModelError(f"{speech_llm.name}: {problem}; save it in one of float32, bfloat16 or float16")
    if dtype == torch.float32 != speech_llm.model.dtype:
        problem = f"is in float32, and was loaded in {speech_llm.model.dtype}, which loses precision"
        raise ModelError(f"{speech_llm.name}: {problem}; load it without a dtype")
    return dtype


def save_speech_llm(speech_llm: SpeechLLM, out: Path) -> None:
    """Write weights, processor and learned prompt so that `load_speech_llm` and the base's own class read them.

    The weights have the names, shapes and data type of the base that the model was loaded from; the model is cast to
    that data type in place. Raises `ModelError` as `saved_dtype` does, and if the written weights differ from those of
    the model, or in their layout from the base.
    """
    path, model = find_base(speech_llm.name), speech_llm.model
    model.to(saved_dtype(speech_llm)).save_pretrained(out)
    (speech_llm.processor or speech_llm.tokenizer).save_pretrained(out)
    for file in path.iterdir():  # some processors lose settings when they are saved; weights are not copied
        of_base = file.suffix in (".jinja", ".txt", ".model", ".tiktoken")
        of_base |= file.name.startswith(("LICENSE", "NOTICE"))
        of_base |= file.suffix == ".json" and not file.name.startswith(NOT_OF_BASE)
        if (of_base or file.name == SLOT_EXAMPLES) and file.is_file():
            shutil.copyfile(file, out / file.name)
    if speech_llm.learned:
        speech_llm.learned.save(out / learned_prompt.FILE, speech_llm)
    before, after = (tensors(folder) for folder in (path, out))
    if before != after:
        wrong = sorted(before.items() ^ after.items())
        raise ModelError(
            f"{out}: its weights are not laid out as those of {speech_llm.name}, first {wrong[0][0]!r}; save it again"
        )
    written, read = model.state_dict(), load_speech_llm(str(out), "cpu", dtype="fp32").model.state_dict()
    wrong = sorted(written.keys() ^ read.keys())
    for name in written.keys() & read.keys():
        if not torch.equal(written[name].cpu().float(), read[name].float()):
            wrong.append(name)
    if wrong:
        raise ModelError(
            f"{out}: {len(wrong)} weights differ from those of the model, first {wrong[0]!r}; save it again"
        )
