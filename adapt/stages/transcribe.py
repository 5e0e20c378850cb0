"""Stage `transcribe`."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from adapt.stages.context import Run
from adapt.stages.plan import audio_of, base_of, projected_files, reading_settings, scored, with_audio
from adapt.stages.systems import fused_files, fusion_of, system_of, systems
from adapt.text.corpus import read_hypotheses, read_manifest


def transcribe(run: Run) -> None:
    """Each of `systems` on every set that the recipe names: `hyps/<set>.<system>.jsonl`."""
    from adapt.score.files import hypotheses_path

    recipe = run.recipe
    for label, system in systems(run).items():
        for name, manifest in scored(recipe).items():
            out = hypotheses_path(Path(), name, label).as_posix()

            def work(scratch: Path, label=label, system=system, name=name, manifest=manifest, out=out) -> None:
                from adapt.decode.transcribe import transcribe as write

                partial = scratch / "hyps.jsonl"
                write(
                    system_of(run, system.of),
                    with_audio(read_manifest(manifest)),
                    partial,
                    decoder="ctc" if system.of == "ctc" else "llm",
                    fusion=fusion_of(run, system),
                    label=f"{name}, {label}",
                    **dataclasses.asdict(recipe.transcribe),
                )
                run.path("hyps").mkdir(exist_ok=True)
                partial.replace(run.path(out))

            settings = {"transcribe": dataclasses.asdict(recipe.transcribe), "base": base_of(recipe)}
            inputs = [manifest, *audio_of(manifest)]
            inputs += [run.path("adapter")] if system.of == "adapted" else []
            inputs += projected_files(run) if system.of in ("projected", "adapted") else []
            if system.weights:
                settings |= reading_settings(recipe) | {"fusion": system.weights | {"ilm_slot": recipe.fusion.ilm_slot}}
                inputs += fused_files(run, system)
            stage = f"transcribe {name} {label}"
            result = run.folder.stage(stage.replace(" ", "-"), settings, inputs, [out], work)
            run.report(result, f"{len(read_hypotheses(run.path(out)))} utterances of {name}, {label}")
