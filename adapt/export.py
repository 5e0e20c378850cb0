"""An adapted model as a plain one: the adapter merged into the base's own layout, its processor, and a model card."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import torch
import yaml

from adapt.errors import DataError, ModelError
from adapt.model import adapter
from adapt.model.bases import TRAINED, built_in, config_of, find_base, fingerprint
from adapt.model.families import OWN_TYPE
from adapt.model.load import load_speech_llm
from adapt.model.save import save_speech_llm
from adapt.run import read_json

MARK = "adapt_export.json"  # in the folders that an export may write over
PLAIN = """```python
from transformers import AutoProcessor, {cls}
processor = AutoProcessor.from_pretrained("{folder}")
model = {cls}.from_pretrained("{folder}")
```"""
WITH_US = """```
pip install adapt-asr
adapt transcribe call.wav --base {folder}
```"""
LORA = """```python
from peft import PeftModel
model = PeftModel.from_pretrained(base, "{folder}")
```"""


def export(run: Path, out: Path, adapter_only: bool = False) -> Path:
    """Write what a run has adapted to a folder: a whole model, or its LoRA alone.

    The weights have the base's names, shapes and precision. Raises DataError where the run has no adapter or the folder
    holds something else already, and ModelError where what was written is not what was adapted.
    """
    source = run / "adapter"
    about = source / "adapt.json"
    if not about.exists():
        raise DataError(f"{run}: has no adapter; name a run folder in which `adapt run` has tuned a decoder")
    metadata = adapter.metadata_of(source)
    trained = (run / TRAINED).resolve()
    if trained.exists() and fingerprint(str(trained)) == metadata.get("base_sha"):
        metadata["base"] = str(trained)  # wherever the run lies by now
        metadata |= {"trained": read_json(run / "project/log.json")}
        if adapter_only:
            told = "its LoRA belongs on a model that was trained there too"
            raise DataError(f"{run}: {told}, not on its base; leave out --adapter-only")
    if out.exists() and any(out.iterdir()) and not (out / MARK).exists():
        raise DataError(f"{out}: holds other files already; choose another folder with -o")
    if out.resolve() == find_base(metadata["base"]).resolve():
        raise DataError(f"{out}: is the base that was adapted; choose another folder with -o")
    making = out.with_name(f"{out.name}.part")  # what an earlier export left stays until this one is whole
    shutil.rmtree(making, ignore_errors=True)
    try:
        if adapter_only:
            shutil.copytree(source, making, ignore=shutil.ignore_patterns("soft_prompt.safetensors", "README.md"))
            use = LORA.format(folder=out.name)
        else:
            use = _merged(metadata["base"], source, making).format(folder=out.name)
        (making / "README.md").write_text(_card(run, metadata, use), encoding="utf-8")
        shutil.copyfile(about, making / MARK)
    except BaseException:
        shutil.rmtree(making, ignore_errors=True)
        raise
    shutil.rmtree(out, ignore_errors=True)
    making.replace(out)
    return out


def _merged(base: str, source: Path, out: Path) -> str:
    llm = adapter.attach(load_speech_llm(base, "cpu", dtype="fp32"), source)
    rows = llm.prompt(llm.model.get_input_embeddings().weight[:4])[None]  # a prompt may be nothing but its slot
    with torch.no_grad():
        wanted = llm.forward(rows)
        model = llm.adapters.merge_and_unload()
        given = llm.forward(rows)
    if not torch.allclose(wanted, given, atol=1e-2 * float(wanted.std()), rtol=1e-2):
        raise ModelError(f"{source}: merged into {base} it says something else; export --adapter-only")
    try:
        save_speech_llm(llm, out)
    except ModelError as error:
        raise ModelError(f"{error}; export --adapter-only") from None
    # Who else would put the learned prompt around the slot?
    ours = config_of(find_base(base))["model_type"] == OWN_TYPE or llm.learned is not None
    return WITH_US if ours else PLAIN.replace("{cls}", type(model).__name__)


def _scored(run: Path) -> bool:
    """Whether the scores of a run are of the adapter that it holds now."""
    stages = read_json(run / "run.json")["stages"] if (run / "run.json").exists() else {}
    heard = {name: stage for name, stage in stages.items() if re.fullmatch("transcribe-(target|source)-adapted", name)}
    if not heard or "score" not in stages or not (run / "scores/metrics.json").exists():
        return False
    weights = "adapter/adapter_model.safetensors"
    made = {weights: stages["decoder"]["outputs"][weights]}
    made |= {path: sha for stage in heard.values() for path, sha in stage["outputs"].items()}
    read = [*heard.values(), stages["score"]]
    return all(sha == made.get(path, sha) for stage in read for path, sha in stage["inputs"].items())


def _card(run: Path, metadata: dict, use: str) -> str:
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
    base, heard = metadata["base"], ""
    if project := metadata.get("trained"):
        base, heard = project["base"], f" {' and '.join(project['parts'])} trained on paired audio,"
    header = {
        "base_model": base,
        "license": "apache-2.0" if base in built_in() else "other",
        "pipeline_tag": "automatic-speech-recognition",
        "tags": ["domain-adaptation", "adapt-asr"],
        "model-index": [{"name": name, "results": results}],
    }
    table = ["| set | system | WER | EER |", "|---|---|---|---|"]
    for (on, system), row in measured.items():
        eer = "" if row["eer"] is None else f"{100 * row['eer']:.1f}"
        table.append(f"| {on} | {system} | {100 * row['wer']:.1f} | {eer} |")
    worse = [
        f"- {key.upper()} on {on}: {100 * before[key]:.1f} -> {100 * row[key]:.1f}"
        for (on, system), row in measured.items()
        for key in ("wer", "eer")
        if system == "adapted" and (before := measured.get((on, "base"))) and None not in (before[key], row[key])
        if row[key] > before[key]
    ]
    recipe = run / "recipe.yaml"
    parts = [
        "---\n" + yaml.safe_dump(header, sort_keys=False, allow_unicode=True).rstrip() + "\n---",
        f"# {name}",
        f"`{base}`,{heard} its decoder adapted to a domain with adapt-asr on text alone "
        f"(in its slot, while it was tuned: {metadata['pseudo_audio']}).",
        use,
        "## Scores" if measured else "",
        "\n".join(table) if measured else "It has not been scored.",
        "## What got worse",
        "\n".join(worse) or ("Nothing that was measured." if measured else "Nobody has measured it."),
        "## Licence",
        "That of its base, whose terms hold for it too; the text that it learned from may add its own.",
    ]
    if recipe.exists():
        parts += ["## Recipe", f"```yaml\n{recipe.read_text(encoding='utf-8').rstrip()}\n```"]
    return "\n\n".join(part for part in parts if part) + "\n"
