"""Stage `project`: learn from paired audio."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

from adapt.errors import DataError
from adapt.model.bases import TRAINED, fingerprint
from adapt.run import StageResult, read_json, write_json
from adapt.stages.context import Run
from adapt.stages.plan import PROJECTED, audio_of, base_of, reading_settings, template_of, trained
from adapt.text.corpus import Utterance
from adapt.text.normalise import NORMALISERS
from adapt.text.template import parse

HELD = 10  # of the paired utterances one in so many is kept for development


def paired(run: Run, llm, as_samples: bool = False):
    """Targets for a speech LLM, and audio embeddings or samples, of the paired audio: to train, and for development."""
    from adapt.model.features import read_audio
    from adapt.train.common import PairedAudio
    from adapt.train.ctc import ctc_ids

    if not run.recipe.data.paired:
        raise DataError("recipe.yaml: data.paired: missing; name a manifest of paired audio to learn from")
    utterances = run.recordings("paired")
    if len(utterances) < HELD:
        raise DataError(f"{run.recipe.data.paired}: {len(utterances)} utterances; give at least {HELD}")

    def pairs(utterances: list[Utterance]) -> PairedAudio:
        targets = run.targets(utterances, llm)
        if not as_samples:
            return PairedAudio(targets, embeddings=run.slots(utterances, llm))
        normalise = NORMALISERS[run.recipe.data.normaliser]
        letters = [ctc_ids(normalise(u.text), llm.model.config.alphabet) for u in utterances] if llm.has_ctc else ()
        return PairedAudio(targets, samples=[read_audio(u.audio) for u in utterances], letters=letters)

    held = utterances[::HELD]
    return pairs([u for i, u in enumerate(utterances) if i % HELD]), pairs(held)


def project(run: Run) -> StageResult:
    """From paired audio, the prompt around the slot: `project/prompt.safetensors`; or more: `project/model`."""
    recipe, settings, parts = run.recipe, run.recipe.project, trained(run.recipe)
    made = TRAINED if parts else PROJECTED

    def work(scratch: Path) -> None:
        import torch

        from adapt.model.learned_prompt import LearnedPrompt, ids_around
        from adapt.train.project import AUDIO_PARTS, learn_from_pairs, ready

        llm, learned = run.load(recipe.base) if parts else run.speech_llm(), None
        ready(llm, parts)
        ids_around(parse(template_of(recipe)), llm)
        train, dev = paired(run, llm, as_samples=any(part in AUDIO_PARTS for part in parts))
        torch.manual_seed(recipe.seed)
        if settings.method != "none":
            examples = train.embeddings[:50] or llm.audio_embeddings(train.samples[:50])
            more = {"init": settings.init, "size": settings.size, "examples": examples}
            learned = LearnedPrompt(llm, template_of(recipe), settings.method, **more)
        given = {"seed": recipe.seed, "precision": recipe.precision}
        given |= {"parts": parts, "rank": recipe.decoder.rank, "alpha": recipe.decoder.alpha}
        making = scratch / "made"  # a folder that is half written is never taken for the model
        making.unlink() if making.is_file() else shutil.rmtree(making, ignore_errors=True)
        tuned = learn_from_pairs(llm, learned, train, dev, settings, folder=scratch, out=making, **given)
        shutil.rmtree(run.path("project"), ignore_errors=True)
        run.path("project").mkdir()
        making.replace(run.path(made))
        fingerprint.cache_clear()
        about = {"base": recipe.base, "parts": parts}
        write_json(run.path("project/log.json"), dataclasses.asdict(tuned) | about)

    heeded = dataclasses.asdict(settings) | {"template": template_of(recipe)}
    if settings.method == "none":
        heeded = {key: v for key, v in heeded.items() if key not in ("template", "init", "size", "learning_rate")}
    if not parts:
        heeded = {key: v for key, v in heeded.items() if key not in ("encoder", "projector", "llm", "weights_rate")}
    keys = {"project": heeded, "base": base_of(recipe)}
    keys |= {"seed": recipe.seed, "precision": recipe.precision, **reading_settings(recipe)}
    keys |= {"lora": {"rank": recipe.decoder.rank, "alpha": recipe.decoder.alpha}} if "llm" in parts else {}
    parse(template_of(recipe))  # now, not when all audio has been through the encoder
    inputs = [p for p in (recipe.data.paired,) if p] + audio_of(recipe.data.paired)
    result = run.folder.stage("project", keys, inputs, [made, "project/log.json"], work)
    run.report(result, best_note(run.path("project/log.json")))
    return result


def best_note(log: Path) -> str:
    tuned = read_json(log)
    if not tuned["log"]:
        return "taken as it is"
    row = next(r for r in tuned["log"] if r["step"] == tuned["best_step"] and "dev_loss" in r)
    guard = f", guard {row['guard_loss']:.2f}" if "guard_loss" in row else ""
    return f"best at step {tuned['best_step']} (dev {row['dev_loss']:.2f}{guard})"
