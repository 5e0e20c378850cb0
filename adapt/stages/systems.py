"""The systems that are transcribed: base, ctc, projected, adapted, and what is fused into each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from adapt.model.bases import has_ctc
from adapt.run import read_json
from adapt.stages import plan
from adapt.stages.context import Run
from adapt.text.lexicon import read_lexicon
from adapt.text.normalise import NORMALISERS

NAMES = ("base", "ctc", "projected", "adapted")  # ctc: the encoder's CTC hypothesis, which adapting does not change


@dataclass(frozen=True)
class System:
    """What is transcribed. of: one of NAMES. weights: of what is fused into its search; None: nothing."""

    of: str
    weights: dict[str, float] | None = None


def systems(run: Run) -> dict[str, System]:
    """By label: NAMES, and behind each those with fusion, as `adapt tune` found them or else as the recipe has them.

    The first is the baseline, and the last what the report looks at.
    """
    from adapt.decode.weights import Weights

    fused = {}
    if run.path(plan.TUNED_WEIGHTS).exists():
        tuned = read_json(run.path(plan.TUNED_WEIGHTS))
        fused = {label: System(row["of"], row["weights"]) for label, row in tuned["systems"].items()}
    elif label := Weights(**plan.fusion_weights(run.recipe)).label:
        fused = {f"{name} + {label}": System(name, plan.fusion_weights(run.recipe)) for name in ("base", "adapted")}
    found = {}
    for name in NAMES:
        if (name == "ctc" and not has_ctc(run.recipe.base)) or (name == "projected" and not plan.projected(run.recipe)):
            continue
        found |= {name: System(name), **{label: system for label, system in fused.items() if system.of == name}}
    return found


def reads_ngrams(system: System) -> bool:
    """Whether an n-gram LM of the stage `lm` has a weight."""
    return any((system.weights or {}).get(part) for part in ("lm", "source"))


def fused_files(run: Run, system: System) -> list[Path]:
    """The files that the weights of a system give a part in it."""
    weights, ctc = system.weights or {}, system.of == "ctc"
    files = {
        "lm": run.path("lm/words.arpa" if ctc else "lm/tokens.arpa"),
        "source": run.path("lm/source.arpa"),
        "boost": run.recipe.data.lexicon,
    }
    if weights.get("ilm") and run.recipe.fusion.ilm_slot == "soft-prompt":
        files["ilm"] = run.path(plan.SOFT_PROMPT)
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
        internal = llm.prompt(soft_prompt.load_soft_prompt(run.path(plan.SOFT_PROMPT), llm))
    elif weights.ilm:
        internal = llm.prompt_without_audio()
    return Fusion(llm, weights, lm=paths.get("tokens"), source=paths.get("source"), internal=internal, **common)


def system_of(run: Run, system: str):
    """The speech LLM that is one of NAMES, loaded once."""
    if system == "projected":
        return run.prompted(run.speech_llm(run.start))
    if system != "adapted":
        return run.speech_llm()
    return run.adapted()
