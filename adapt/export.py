"""`adapt export`: an adapted model with its adapter merged, its processor and a model card."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
import yaml

from adapt.errors import DataError, ModelError
from adapt.model import adapter
from adapt.model.bases import built_in, config_of, find_base, fingerprint
from adapt.model.families import OWN_TYPE
from adapt.model.load import load_speech_llm
from adapt.model.save import save_speech_llm
from adapt.run import read_json
from adapt.stages import plan
from adapt.stages.transcribe import stage_name

MARK = "adapt_export.json"  # marks the folders that an export may overwrite
PLAIN = """```python
from transformers import AutoProcessor, {cls}
processor = AutoProcessor.from_pretrained("{folder}")
model = {cls}.from_pretrained("{folder}")
```"""
WITH_TOOLKIT = """```
pip install adapt-asr
adapt transcribe call.wav --base {folder}
```"""
LORA = """```python
from peft import PeftModel
model = PeftModel.from_pretrained(base, "{folder}")
```"""


def export(run: Path, out: Path, adapter_only: bool = False) -> Path:
    """Write the adapted model of a run, or its LoRA alone, to the folder `out`, and return that.

    The weights have the names, shapes and data type of the base. Raises DataError if the run has no adapter or the
    folder holds other files, and ModelError if the written model differs from the adapted one.
    """
    source = run / plan.ADAPTER
    metadata_file = source / "adapt.json"
    if not metadata_file.exists():
        raise DataError(f"{run}: has no adapter; name a folder in which `adapt run` has tuned a decoder")
    metadata = adapter.metadata_of(source)
    trained = (run / plan.TRAINED_BASE).resolve()
    if trained.exists() and fingerprint(str(trained)) == metadata.get("base_sha"):
        metadata["base"] = str(trained)  # the run may have been moved
        metadata |= {"trained": read_json(run / "project/log.json")}
        if adapter_only:
            problem = "its LoRA fits the model that was trained in this run, not its base"
            raise DataError(f"{run}: {problem}; leave out --adapter-only")
    if out.exists() and any(out.iterdir()) and not (out / MARK).exists():
        raise DataError(f"{out}: holds other files already; choose another folder with -o")
    if out.resolve() == find_base(metadata["base"]).resolve():
        raise DataError(f"{out}: is the base that was adapted; choose another folder with -o")
    unfinished = out.with_name(f"{out.name}.part")  # an earlier export stays until this one is complete
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        if adapter_only:
            shutil.copytree(source, unfinished, ignore=shutil.ignore_patterns("soft_prompt.safetensors", "README.md"))
            usage = LORA.format(folder=out.name)
        else:
            usage = _write_merged(metadata["base"], source, unfinished).format(folder=out.name)
        (unfinished / "README.md").write_text(_card(run, metadata, usage), encoding="utf-8")
        shutil.copyfile(metadata_file, unfinished / MARK)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    shutil.rmtree(out, ignore_errors=True)
    unfinished.replace(out)
    return out


def _write_merged(base: str, source: Path, out: Path) -> str:
    """Write the base with the adapter in `source` merged, and return instructions for its use, with a `{folder}`."""
    llm = adapter.attach(load_speech_llm(base, "cpu", dtype="fp32"), source)
    rows = llm.prompt(llm.model.get_input_embeddings().weight[:4])[None]  # a prompt may consist of its slot alone
    with torch.no_grad():
        adapted = llm.forward(rows)
        model = llm.adapters.merge_and_unload()
        merged = llm.forward(rows)
    if not torch.allclose(adapted, merged, atol=1e-2 * float(adapted.std()), rtol=1e-2):
        raise ModelError(f"{source}: merged into {base} its logits differ; export --adapter-only")
    try:
        save_speech_llm(llm, out)
    except ModelError as error:
        raise ModelError(f"{error}; export --adapter-only") from None
    # No other software puts the learned prompt around the slot.
    needs_toolkit = config_of(find_base(base))["model_type"] == OWN_TYPE or llm.learned is not None
    return WITH_TOOLKIT if needs_toolkit else PLAIN.replace("{cls}", type(model).__name__)


def _scored(run: Path) -> bool:
    """Whether the scores of a run are those of its present adapter."""
    stages = read_json(run / "run.json")["stages"] if (run / "run.json").exists() else {}
    names = [stage_name("transcribe", name, "adapted") for name in plan.SCORED]
    transcribed = [stages[name] for name in names if name in stages]
    if not transcribed or "score" not in stages or not (run / "scores/metrics.json").exists():
        return False
    weights = f"{plan.ADAPTER}/{adapter.WEIGHTS}"
    hashes = {weights: stages["decoder"]["outputs"][weights]}
    hashes |= {path: sha for stage in transcribed for path, sha in stage["outputs"].items()}
    readers = [*transcribed, stages["score"]]
    return all(sha == hashes.get(path, sha) for stage in readers for path, sha in stage["inputs"].items())


def _card(run: Path, metadata: dict, usage: str) -> str:
    """The model card: header, usage, scores, figures that got worse, licence and recipe."""
    rows = read_json(run / "scores/metrics.json")["rows"] if _scored(run) else []
    measured = {(row["set"], row["system"]): row for row in rows if row["system"] in ("base", "adapted")}
    name = metadata["name"]
    results = [
        {
            "task": {"type": "automatic-speech-recognition"},
            "dataset": {"name": f"{name}, {row['set']}", "type": name},
            "metrics": [
                {"type": key, "value": round(100 * row[key], 2)} for key in ("wer", "eer") if row[key] is not None
            ],
        }
        for (_, system), row in measured.items()
        if system == "adapted"
    ]
    base, trained = metadata["base"], ""
    if project := metadata.get("trained"):
        base, trained = project["base"], f" {' and '.join(project['parts'])} trained on paired audio,"
    header = {
        "base_model": base,
        "license": "apache-2.0" if base in built_in() else "other",
        "pipeline_tag": "automatic-speech-recognition",
        "tags": ["domain-adaptation", "adapt-asr"],
        "model-index": [{"name": name, "results": results}],
    }
    table = ["| set | system | WER | EER |", "|---|---|---|---|"]
    for (name_of_set, system), row in measured.items():
        eer = "" if row["eer"] is None else f"{100 * row['eer']:.1f}"
        table.append(f"| {name_of_set} | {system} | {100 * row['wer']:.1f} | {eer} |")
    worse = [
        f"- {key.upper()} on {name_of_set}: {100 * before[key]:.1f} -> {100 * row[key]:.1f}"
        for (name_of_set, system), row in measured.items()
        for key in ("wer", "eer")
        if system == "adapted"
        and (before := measured.get((name_of_set, "base")))
        and None not in (before[key], row[key])
        if row[key] > before[key]
    ]
    recipe = run / "recipe.yaml"
    parts = [
        "---\n" + yaml.safe_dump(header, sort_keys=False, allow_unicode=True).rstrip() + "\n---",
        f"# {name}",
        f"`{base}`,{trained} its decoder adapted to a domain with adapt-asr on text alone "
        f"(pseudo audio in its slot while it was tuned: {metadata['pseudo_audio']}).",
        usage,
        "## Scores" if measured else "",
        "\n".join(table) if measured else "This adapter has not been scored.",
        "## What got worse",
        "\n".join(worse) or ("No figure that was measured." if measured else "Nothing has been measured."),
        "## Licence",
        "The terms of its base apply. The licence of the text that it learned from may add its own.",
    ]
    if recipe.exists():
        parts += ["## Recipe", f"```yaml\n{recipe.read_text(encoding='utf-8').rstrip()}\n```"]
    return "\n\n".join(part for part in parts if part) + "\n"
