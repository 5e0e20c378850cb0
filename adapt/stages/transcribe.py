"""Stage `transcribe`: each system on each scored set. Other commands use `transcription` for stages of their own."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from adapt.run import RunFolder, StageResult
from adapt.score.files import hypotheses_path
from adapt.stages import plan
from adapt.stages.context import Run
from adapt.stages.systems import System, fused_files, fusion_of, names_of, system_model, systems
from adapt.text.transcripts import read_hypotheses

DECODERS = {"ctc": "ctc", "first pass": "first-pass"}  # of systems of the encoder alone


def stage_name(*words: str) -> str:
    """The name of a stage in run.json, from words that may contain spaces.

    >>> stage_name("transcribe", "target", "base + LM")
    'transcribe-target-base-+-LM'
    """
    return "-".join(words).replace(" ", "-")


def transcription(
    folder: RunFolder, name: str, settings: dict, inputs: Sequence[Path], out: Path, write: Callable[[Path], None]
) -> StageResult:
    """Run a stage that transcribes recordings to `out`, a path in the run folder; after a kill it continues.

    write: transcribes to the given file (`decode.transcribe.transcribe`). The other parameters are those of
    `RunFolder.stage`.
    """

    def work(scratch: Path) -> None:
        unfinished = scratch / "hyps.jsonl"
        write(unfinished)
        if not folder.ranks.is_first:
            return
        (folder.path / out).parent.mkdir(parents=True, exist_ok=True)
        unfinished.replace(folder.path / out)

    return folder.stage(name, settings, inputs, [out.as_posix()], work, shared=True)


def transcribe(run: Run, names: Collection[str] | None = None) -> None:
    """Write `hyps/<set>.<system>.jsonl` for each set that the recipe scores, and these systems; None: all of them."""
    for label, system in systems(run).items():
        if names is not None and label not in names:
            continue
        for name, manifest in plan.scored_sets(run.recipe).items():
            out = hypotheses_path(Path(), name, label)
            result = transcription(
                run.folder,
                stage_name("transcribe", name, label),
                _record(run, system),
                _inputs(run, system, manifest),
                out,
                functools.partial(_write, run, system, manifest, f"{name}, {label}"),
            )
            run.report(result, f"{len(read_hypotheses(run.path(str(out))))} utterances of {name}, {label}")


def _record(run: Run, system: System) -> dict:
    """The settings that the transcripts of a system depend on."""
    recipe = run.recipe
    record = {"transcribe": recipe.transcribe.search(), "base": plan.base_record(recipe)}
    if system.weights:
        record |= plan.normaliser_record(recipe)
        record["fusion"] = system.weights | {"ilm_slot": recipe.fusion.ilm_slot}
    if system.prompted:
        record |= plan.normaliser_record(recipe) | plan.in_prompt(recipe)
    return record


def _inputs(run: Run, system: System, manifest: Path) -> list[Path]:
    """The files that the transcripts of a system depend on."""
    inputs = run.manifests.files(manifest)
    inputs += run.paths(plan.ADAPTER) if system.of == "adapted" else []
    inputs += run.paths(plan.projected(run.recipe)) if system.of in ("projected", "adapted") else []
    return inputs + fused_files(run, system)


def _write(run: Run, system: System, manifest: Path, label: str, out: Path) -> None:
    """Transcribe a manifest with a system to `out`."""
    from adapt.decode.transcribe import transcribe as transcribe_file

    transcribe_file(
        system_model(run, system.of),
        run.manifests.spoken(manifest),
        out,
        decoder=DECODERS.get(system.of, "llm"),
        fusion=fusion_of(run, system),
        names=names_of(run, system),
        label=label,
        **run.recipe.transcribe.search(),
    )
