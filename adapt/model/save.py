"""A changed speech LLM as a folder of its base's own layout, with whatever else lies beside a base."""

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

DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
OTHERS = ("adapter_", "params", "model", "pytorch_model", "log.json", "adapt_")  # JSON that is not the base's own


def precision(speech_llm: SpeechLLM) -> torch.dtype:
    """What the weights of the base are written in.

    Raises `ModelError` for a base that `save` could not write: one of several precisions, one that was loaded in less,
    and one of which only a part was loaded.
    """
    path = find_base(speech_llm.name)
    found = {kind for kind, _ in tensors(path).values() if "F" in kind}  # counters are whole numbers
    kept = DTYPES.get(next(iter(found)))
    kind, whole = speech_llm.model.config.model_type, config_of(path)["model_type"]
    if kind != whole:
        raise ModelError(f"{speech_llm.name}: of a {whole} model only the {kind} is here; save that one, and take it")
    if len(found) > 1 or kept is None:
        told = f"its weights are in {', '.join(sorted(found))}"
        raise ModelError(f"{speech_llm.name}: {told}; save it in one of float32, bfloat16 or float16")
    if kept == torch.float32 != speech_llm.model.dtype:
        told = f"is in float32, and was loaded in {speech_llm.model.dtype}"
        raise ModelError(f"{speech_llm.name}: {told}, which would be written; leave out dtype")
    return kept


def save_speech_llm(speech_llm: SpeechLLM, out: Path) -> None:
    """Write the weights, the processor and the learned prompt, so that `load`, or the base's own class, reads them.

    The weights have the names, shapes and precision of the base that the model was loaded from; the model is turned
    into that precision. Raises `ModelError` where it is none that can be written, where the base's layout is not kept,
    and where what is read again is not what was written.
    """
    path, model = find_base(speech_llm.name), speech_llm.model
    model.to(precision(speech_llm)).save_pretrained(out)
    (speech_llm.processor or speech_llm.tokenizer).save_pretrained(out)
    for file in path.iterdir():  # some processors lose settings of theirs when they are saved; no other weights
        own = file.suffix in (".jinja", ".txt", ".model", ".tiktoken") or file.name.startswith(("LICENSE", "NOTICE"))
        own |= file.suffix == ".json" and not file.name.startswith(OTHERS)
        if (own or file.name == SLOT_EXAMPLES) and file.is_file():
            shutil.copyfile(file, out / file.name)
    if speech_llm.learned:
        speech_llm.learned.save(out / learned_prompt.FILE, speech_llm)
    before, after = (tensors(folder) for folder in (path, out))
    if before != after:
        amiss = sorted(before.items() ^ after.items())
        raise ModelError(f"{out}: its weights are not laid out as those of {speech_llm.name}, first {amiss[0][0]!r}")
    written, read = model.state_dict(), load_speech_llm(str(out), "cpu", dtype="fp32").model.state_dict()
    amiss = sorted(written.keys() ^ read.keys())
    for name in written.keys() & read.keys():
        if not torch.equal(written[name].cpu().float(), read[name].float()):
            amiss.append(name)
    if amiss:
        raise ModelError(f"{out}: {len(amiss)} weights read again are not those that were written, first {amiss[0]!r}")
