"""Stage `encoder`: train the audio encoder."""

from __future__ import annotations

from pathlib import Path

from adapt.build.context import Build, last_figure
from adapt.build.starts import check_starts, folder_inputs, load_audio_encoder, loading
from adapt.run import StageResult, write_json


def encoder(build: Build) -> StageResult:
    """Train the audio encoder by CTC over the characters of the transcripts, and write `encoder/`."""
    recipe, settings = build.recipe, build.recipe.encoder

    def work(scratch: Path) -> None:
        import torch

        from adapt.model.encoders import conformer
        from adapt.train.encoder import train_encoder

        alphabet = "".join(sorted(set().union(*(item.text for item in build.speech.items))))
        check_starts(recipe, alphabet)
        torch.manual_seed(recipe.seed)
        if settings.start:
            with loading("encoder.start", settings.start):
                model = load_audio_encoder(settings, alphabet)
        else:
            sizes = ("hidden_size", "layers", "heads", "channels", "subsampling")
            model = conformer(alphabet, **{name: getattr(settings, name) for name in sizes})
        model.to(build.torch_device).freeze(settings.frozen)
        log = []
        if settings.steps:
            training = {**build.training(), "frames": build.frames(model), "temperature": recipe.data.temperature}
            log = train_encoder(model, build.speech, build.dev, settings, folder=scratch, **training)
        if build.folder.ranks.is_first:
            model.save_pretrained(build.path("encoder"))
            write_json(build.path("encoder/log.json"), log)

    inputs = [recipe.data.train, recipe.data.dev, *folder_inputs(settings.start)]
    record = {**build.settings("encoder"), "recordings": build.recordings}
    result = build.folder.stage("encoder", record, inputs, ["encoder"], work, shared=True)
    build.report(result, last_figure(build.path("encoder/log.json"), "wer", "WER {:.1%} on dev, greedy CTC"))
    return result
