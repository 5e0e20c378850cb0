"""The systems that are transcribed: base, ctc, projected and adapted, alone and with the parts of fusion."""

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
    """One of SYSTEMS, and the weights of the parts of fusion by key; None: no fusion."""

    of: str
    weights: dict[str, float] | None = None


def systems(run: Run) -> dict[str, System]:
    """The systems by name: each of SYSTEMS, followed by the same with fusion.

    The weights are those that `adapt tune` found, or else those of the recipe. The first system is the baseline, and
    the report shows examples of the last.
    """
    from adapt.decode.parts import label
    from adapt.decode.weights import Weights

    fused = {}
    if run.path(TUNED).exists():
        tuned = read_json(run.path(TUNED))
        fused = {name: System(row["of"], row["weights"]) for name, row in tuned["systems"].items()}
    elif parts := label(Weights(**weights_of(run.recipe))):
        fused = {f"{of} + {parts}": System(of, weights_of(run.recipe)) for of in ("base", "adapted")}
    found = {}
    for of in SYSTEMS:
        if (of == "ctc" and not has_ctc(run.recipe.base)) or (of == "projected" and not projected_files(run)):
            continue
        found |= {of: System(of), **{name: system for name, system in fused.items() if system.of == of}}
    return found


def _inputs_of(run: Run, system: System) -> dict[str, Path]:
    """By key of the part of fusion, the file that it reads; only of parts with a weight in the system."""
    weights = system.weights or {}
    files = {
        "lm": run.path("lm/words.arpa" if system.of == "ctc" else "lm/tokens.arpa"),
        "source": run.path("lm/source.arpa"),
        "boost": run.recipe.data.lexicon,
        "ilm": run.path(SOFT_PROMPT) if run.recipe.fusion.ilm_slot == "soft-prompt" else None,
    }
    return {key: path for key, path in files.items() if path and weights.get(key)}


def fused_files(run: Run, system: System) -> list[Path]:
    """The files that the parts of fusion with a weight in the system read."""
    return list(_inputs_of(run, system).values())


def fusion_of(run: Run, system: System):
    """What is fused into the search of a system: a `CtcFusion` for ctc, else a `Fusion`; None: nothing."""
    from adapt.decode.ctc import CtcFusion
    from adapt.decode.fusion import Fusion
    from adapt.decode.weights import Weights
    from adapt.model.soft_prompt import load_soft_prompt

    if not system.weights:
        return None
    llm, weights, files = system_of(run, system.of), Weights(**system.weights), _inputs_of(run, system)
    normalise = NORMALISERS[run.recipe.data.normaliser]
    lexicon = read_lexicon(files["boost"]) if "boost" in files else None
    if system.of == "ctc":
        return CtcFusion(llm, weights, lm=files.get("lm"), lexicon=lexicon, normalise=normalise)
    internal = None
    if weights.ilm:
        internal = llm.prompt(load_soft_prompt(files["ilm"], llm)) if "ilm" in files else llm.prompt_without_audio()
    inputs = {"lm": files.get("lm"), "source": files.get("source"), "boost": lexicon, "ilm": internal}
    return Fusion(llm, weights, inputs, normalise=normalise)


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
