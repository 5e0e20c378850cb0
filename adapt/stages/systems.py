"""The systems that are transcribed: base, ctc, projected, adapted, and what is fused into each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from adapt.model.bases import has_ctc
from adapt.run import read_json
from adapt.stages.context import Run
from adapt.stages.plan import SOFT_PROMPT, SYSTEMS, TUNED, projected_files, weights_of
from adapt.text.lexicon import read_lexicon
from adapt.text.normalise import NORMALISERS


@dataclass(frozen=True)
class System:
    """What is transcribed: one of SYSTEMS, and the weights of what is fused into it; None: nothing."""

    of: str
    weights: dict[str, float] | None = None


def systems(run: Run) -> dict[str, System]:
    """By label: SYSTEMS, and behind each those with fusion, as `adapt tune` found them or else as the recipe has them.

    The first is the baseline, and the last what the report looks at.
    """
    from adapt.decode.weights import Weights

    fused = {}
    if run.path(TUNED).exists():
        tuned = read_json(run.path(TUNED))
        fused = {label: System(row["of"], row["weights"]) for label, row in tuned["systems"].items()}
    elif label := Weights(**weights_of(run.recipe)).label:
        fused = {f"{name} + {label}": System(name, weights_of(run.recipe)) for name in ("base", "adapted")}
    found = {}
    for name in SYSTEMS:
        if (name == "ctc" and not has_ctc(run.recipe.base)) or (name == "projected" and not projected_files(run)):
            continue
        found |= {name: System(name), **{label: system for label, system in fused.items() if system.of == name}}
    return found


def fused_files(run: Run, system: System) -> list[Path]:
    """The files that the weights of a system give a part in it."""
    weights, ctc = system.weights or {}, system.of == "ctc"
    files = {
        "lm": run.path("lm/words.arpa" if ctc else "lm/tokens.arpa"),
        "source": run.path("lm/source.arpa"),
        "boost": run.recipe.data.lexicon,
    }
    if weights.get("ilm") and run.recipe.fusion.ilm_slot == "soft-prompt":
        files["ilm"] = run.path(SOFT_PROMPT)
    return [path for key, path in files.items() if path and weights.get(key)]


def fusion_of(run: Run, system: System):
    """What is fused into the search of a system; None: nothing."""
    from adapt.decode.ctc import CtcFusion
    from adapt.decode.fusion import Fusion
    from adapt.decode.weights import Weights
    from adapt.model import soft_prompt

    if not system.weights:
        return None
    llm, weights = system_of(run, system.of), Weights(**system.weights)
    files = fused_files(run, system)
    paths = {key: path for key in ("tokens", "source", "words") if (path := run.path(f"lm/{key}.arpa")) in files}
    common = {
        "lexicon": read_lexicon(run.recipe.data.lexicon) if weights.boost else None,
        "normalise": NORMALISERS[run.recipe.data.normaliser],
    }
    if system.of == "ctc":
        return CtcFusion(llm, weights, lm=paths.get("words"), **common)
    internal = None
    if weights.ilm and run.recipe.fusion.ilm_slot == "soft-prompt":
        internal = llm.prompt(soft_prompt.load_soft_prompt(run.path(SOFT_PROMPT), llm))
    elif weights.ilm:
        internal = llm.prompt_without_audio()
    return Fusion(llm, weights, lm=paths.get("tokens"), source=paths.get("source"), internal=internal, **common)


def system_of(run: Run, system: str):
    """The speech LLM that is one of SYSTEMS, loaded once."""
    from adapt.model import adapter

    if system == "projected":
        return run.prompted(run.speech_llm(run.start))
    if system != "adapted":
        return run.speech_llm()
    if "adapted" not in run._loaded:
        run._loaded["adapted"] = adapter.attach(run.load(run.start), run.path("adapter"))
    return run._loaded["adapted"]
