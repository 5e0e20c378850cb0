"""The systems that are transcribed: base, what the encoder hears, projected and adapted, alone and with fusion."""

from __future__ import annotations

import dataclasses
import os
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from adapt.model.bases import has_ctc, transcribes
from adapt.recipe.domain import DomainData, Recipe, Transcribe
from adapt.run import read_json
from adapt.stages import plan
from adapt.stages.context import Run
from adapt.text.lexicon import read_lexicon
from adapt.text.normalise import NORMALISERS

if TYPE_CHECKING:
    from adapt.decode.ctc import CtcFusion
    from adapt.decode.fusion import Fusion
    from adapt.decode.names import NamesInPrompt
    from adapt.model.speech_llm import SpeechLLM

# first pass and ctc: the encoder's own transcripts and its CTC hypotheses, which adaptation does not change.
NAMES = ("base", "first pass", "ctc", "projected", "adapted")
# What the run needs for a system of the name.
NEEDS: dict[str, Callable[[Recipe], object]] = {
    "first pass": lambda recipe: transcribes(recipe.base),
    "ctc": lambda recipe: has_ctc(recipe.base),
    "projected": plan.projected,
}


@dataclass(frozen=True)
class System:
    """A system that is transcribed.

    of: one of NAMES. weights: of the parts of fusion by key; None: no fusion. prompted: whether its prompt holds
    names or sentences (`plan.in_prompt`).
    """

    of: str
    weights: dict[str, float] | None = None
    prompted: bool = False


def systems(run: Run) -> dict[str, System]:
    """The systems by name: each of NAMES that the run has, followed by the same with more in its prompt and fusion.

    The weights are those that `adapt tune` found, else those of the recipe. The first system is the baseline, and the
    report shows examples of the last.
    """
    from adapt.decode.parts import label, part_of
    from adapt.decode.weights import Weights

    fused, use = {}, run.recipe.transcribe.names
    weights = {key: w for key, w in plan.fusion_weights(run.recipe).items() if key != "boost" or use in plan.BOOSTS}
    if run.path(plan.TUNED_WEIGHTS).exists():
        tuned = read_json(run.path(plan.TUNED_WEIGHTS))
        rows = [(row["of"], row["weights"]) for row in tuned["systems"].values()]
        boosts = use in plan.BOOSTS
        rows = [(of, {key: w for key, w in own.items() if w and (boosts or key != "boost")}) for of, own in rows]
        for of, own in rows:
            if own:
                fused.setdefault(f"{of} + {label(Weights(**own))}", System(of, own))
    elif parts := label(Weights(**weights)):
        fused = {f"{of} + {parts}": System(of, weights) for of in ("base", "adapted")}
        of_texts = {k: w for k, w in weights.items() if part_of(k).of_texts}
        if parts := label(Weights(**of_texts)):
            fused[f"first pass + {parts}"] = System("first pass", of_texts)
    ordered = {}
    for of in NAMES:
        if of in NEEDS and not NEEDS[of](run.recipe):
            continue
        plain = {of: System(of), **{name: system for name, system in fused.items() if system.of == of}}
        ordered |= plain
        if (held := plan.in_prompt(run.recipe)) and of != "ctc":
            prompted = " + ".join((of, *held))
            ordered |= {
                name.replace(of, prompted, 1): dataclasses.replace(system, prompted=True)
                for name, system in plain.items()
            }
    return ordered


def reads_ngrams(system: System) -> bool:
    """Whether a part of fusion reads an LM that the stage `lm` estimates."""
    return any((system.weights or {}).get(part) for part in ("lm", "source"))


def _inputs_of(run: Run, system: System) -> dict[str, Path]:
    """The input file of each part of fusion by key, for the parts with a weight in the system."""
    weights = system.weights or {}
    files = {
        "lm": run.path(plan.WORDS_LM if system.of == "ctc" else plan.TOKENS_LM),
        "source": run.path(plan.SOURCE_LM),
        "boost": run.lexicon,
        "ilm": run.path(plan.SOFT_PROMPT) if run.recipe.fusion.ilm_slot == "soft-prompt" else None,
    }
    return {key: path for key, path in files.items() if path and weights.get(key)}


def fused_files(run: Run, system: System) -> list[Path]:
    """The input files of the parts of fusion with a weight in the system, and of what its prompt holds."""
    held = plan.in_prompt(run.recipe) if system.prompted else ()
    files = [*_inputs_of(run, system).values()]
    files += [run.lexicon] if "names" in held else []
    files += [run.path(plan.TRAIN)] if "sentences" in held else []
    return list(dict.fromkeys(files))


def fusion_of(run: Run, system: System) -> Fusion | CtcFusion | None:
    """The fusion of a system: a `CtcFusion` for ctc, else a `Fusion`; None without fusion."""
    from adapt.decode.ctc import CtcFusion
    from adapt.decode.fusion import Fusion
    from adapt.decode.weights import Weights
    from adapt.model.soft_prompt import load_soft_prompt

    if not system.weights:
        return None
    llm, weights, files = system_model(run, system.of), Weights(**system.weights), _inputs_of(run, system)
    normalise = NORMALISERS[run.recipe.data.normaliser]
    lexicon = read_lexicon(files["boost"]) if "boost" in files else None
    if system.of == "ctc":
        return CtcFusion(llm, weights, lm=files.get("lm"), lexicon=lexicon, normalise=normalise)
    internal = None
    if weights.ilm:
        internal = llm.prompt(load_soft_prompt(files["ilm"], llm)) if "ilm" in files else llm.prompt_without_audio()
    inputs = {"lm": files.get("lm"), "source": files.get("source"), "boost": lexicon, "ilm": internal}
    return Fusion(llm, weights, inputs, normalise=normalise)


def names_of(run: Run, system: System) -> NamesInPrompt | None:
    """The names and sentences for the prompts of a system; None for none."""
    from adapt.decode.names import NamesInPrompt

    if not system.prompted:
        return None
    recipe, counts = run.recipe, plan.in_prompt(run.recipe)
    return NamesInPrompt(
        system_model(run, system.of),
        read_lexicon(run.lexicon) if "names" in counts else None,
        counts.get("names", 0),
        NORMALISERS[recipe.data.normaliser],
        text=run.lines(plan.TRAIN) if "sentences" in counts else (),
        sentences=counts.get("sentences", 0),
    )


def transcribe_command(run: Run) -> tuple[str, list[str]]:
    """The command that transcribes as the last system does, and the parts of its fusion that have no option."""
    recipe, system = run.recipe, list(systems(run).values())[-1]
    words = ["adapt", "transcribe", "AUDIO", "--base", run.start, "--adapter", run.path(plan.ADAPTER)]
    weights = {key: weight for key, weight in (system.weights or {}).items() if weight}
    files = _inputs_of(run, system)
    without = [key for key in weights if key not in ("lm", "ilm", "boost", "reward") or (key == "ilm" and key in files)]
    words += ["--lm", files["lm"], "--lm-weight", f"{weights['lm']:g}"] if "lm" in weights else []
    words += ["--ilm", f"{weights['ilm']:g}"] if "ilm" in weights and "ilm" not in without else []
    held = plan.in_prompt(recipe) if system.prompted else ()
    if "boost" in weights or "names" in held:
        words += ["--lexicon", os.path.relpath(run.lexicon)]
    words += ["--boost", f"{weights['boost']:g}"] if "boost" in weights else []
    words += ["--reward", f"{weights['reward']:g}"] if "reward" in weights else []
    if "names" in held:
        words += ["--names", "both" if "boost" in weights else "prompt"]
    if "sentences" in held:
        words += ["--text", run.path(plan.TRAIN), "--sentences", recipe.transcribe.sentences]
    options = {
        "--num-beams": (recipe.transcribe.num_beams, Transcribe.num_beams),
        "--max-new-tokens": (recipe.transcribe.max_new_tokens, Transcribe.max_new_tokens),
        "--names-in-prompt": (recipe.transcribe.names_in_prompt, Transcribe.names_in_prompt),
        "--normaliser": (recipe.data.normaliser, DomainData.normaliser),
        "--dtype": (recipe.dtype, Recipe.dtype),
        "--quantise": (recipe.quantise, Recipe.quantise),
        "--language": (recipe.language, Recipe.language),
    }
    if has_ctc(recipe.base):
        options["--ctc-weight"] = (recipe.transcribe.ctc_weight, Transcribe.ctc_weight)
    for option, (value, default) in options.items():
        words += [option, value] if value != default else []
    return shlex.join(map(str, words)), without


def system_model(run: Run, of: str) -> SpeechLLM:
    """The speech LLM of a system, loaded once. of: one of NAMES."""
    if of == "projected":
        return run.prompted(run.speech_llm(run.start))
    return run.adapted() if of == "adapted" else run.speech_llm()
