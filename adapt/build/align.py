"""Stage `align`."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from adapt.build.context import Build
from adapt.build.encoder import last_figure
from adapt.build.read import compose, encoder_alphabet
from adapt.build.starts import check_starts, folder_inputs, load_decoder, loading, place_of, takes_decoder_as_is
from adapt.run import StageResult, write_json

EXAMPLES = 12  # recordings whose audio embeddings are kept beside the model, for soft prompts to start from


def _shapes(module) -> dict:
    return {name: weights.shape for name, weights in module.state_dict().items()}


def align(build: Build) -> StageResult:
    """The projector, and the decoder beside it, on real audio: `model/`."""
    recipe, settings = build.recipe, build.recipe.align
    place = place_of(recipe.llm.start) if takes_decoder_as_is(recipe) else str(build.path("llm"))

    def work(scratch: Path) -> None:
        from adapt.model.soft_prompt import SLOT_EXAMPLES, save_slot_examples
        from adapt.train.align import AlignSettings
        from adapt.train.align import align as train

        alphabet = encoder_alphabet(build)
        check_starts(recipe, alphabet)
        with loading("llm.start", recipe.llm.start or place):
            llm, tokenizer, _ = load_decoder(place, alphabet)
            projector = recipe.llm.start and load_decoder(place_of(recipe.llm.start), alphabet)[2]
        speech_llm = compose(build, llm, tokenizer)
        if projector and _shapes(projector) == _shapes(speech_llm.model.projector):
            speech_llm.model.projector.load_state_dict(projector.state_dict())
        names = {f.name for f in dataclasses.fields(AlignSettings)} - {"temperature"}
        given = AlignSettings(**{name: getattr(settings, name) for name in names}, temperature=recipe.data.temperature)
        log = train(speech_llm, build.speech, build.dev, build.texts(), given, folder=scratch, **build.training())
        speech_llm.model.eval().save_pretrained(build.path("model"))
        tokenizer.save_pretrained(build.path("model"))
        items = build.speech.items
        _, samples, lengths = build.speech.audio(items[:: max(1, len(items) // EXAMPLES)][:EXAMPLES])
        slots = speech_llm.audio_embeddings([row[:n].numpy() for row, n in zip(samples, lengths.tolist(), strict=True)])
        save_slot_examples(build.path("model", SLOT_EXAMPLES), slots)
        write_json(build.path("model/log.json"), log)

    inputs = [recipe.data.train, recipe.data.dev, build.path("encoder"), *folder_inputs(place)]
    inputs += [recipe.data.text] if recipe.data.text else []
    keys = {**build.settings("align"), "llm": recipe.llm.start, "recordings": build.recordings}
    result = build.folder.stage("align", keys, inputs, ["model"], work)
    build.report(result, last_figure(build.path("model/log.json"), "dev_loss", "loss {:.2f} on dev audio"))
    return result
