"""Stage `align`: train projector, decoder and encoder together on real audio."""

from __future__ import annotations

from pathlib import Path

from adapt.build.context import Build, last_figure
from adapt.build.starts import check_starts, folder_inputs, load_decoder, loading, path_or_name, takes_decoder_as_is
from adapt.errors import RecipeError
from adapt.recipe.base import BaseRecipe
from adapt.recipe.domain import Transcribe
from adapt.run import StageResult, write_json
from adapt.text.lexicon import read_lexicon
from adapt.text.normalise import NORMALISERS


def align(build: Build) -> StageResult:
    """Train the composed model on real audio, and write `model/`."""
    recipe = build.recipe
    llm = path_or_name(recipe.llm.start) if takes_decoder_as_is(recipe) else str(build.path("llm"))

    def work(scratch: Path) -> None:
        from adapt.model.trained import TRAINED, save_trained
        from adapt.train.align import align as train
        from adapt.train.mishearing import save_mishearings

        speech_llm = _initial_model(build, llm)
        training = {**build.training(), "temperature": recipe.data.temperature}
        training["frames"] = build.frames(speech_llm.model.encoder)
        training["lists"] = _lists(build, speech_llm) if lists_names(recipe) else None
        alignment = train(speech_llm, build.speech, build.dev, build.texts(), recipe.align, folder=scratch, **training)
        if not build.folder.ranks.is_first:
            return
        speech_llm.model.eval().save_pretrained(build.path("model"))
        speech_llm.tokenizer.save_pretrained(build.path("model"))
        _save_examples(build, speech_llm)
        if speech_llm.transcribes:
            save_mishearings(build.path("model"), alignment.mishearings)
        write_json(build.path("model/log.json"), alignment.log)
        if recipe.encoder.frozen == "all" and recipe.align.decoder != "full" and takes_decoder_as_is(recipe):
            save_trained(speech_llm.model, alignment.lora, build.path("model", TRAINED))

    inputs = [recipe.data.train, recipe.data.dev, build.path("encoder"), *folder_inputs(llm)]
    inputs += [recipe.data.text] if recipe.data.text else []
    inputs += [recipe.data.lexicon] if lists_names(recipe) else []
    settings = {**build.settings("align"), "llm": recipe.llm.start, "recordings": build.recordings}
    result = build.folder.stage("align", settings, inputs, ["model"], work, shared=True)
    build.report(result, last_figure(build.path("model/log.json"), "dev_loss", "loss {:.2f} on dev audio"))
    return result


def _initial_model(build: Build, llm_name: str):
    """The composed speech LLM with the decoder `llm_name`, and the projector of `llm.start` if the shapes agree."""
    recipe, alphabet = build.recipe, build.encoder_alphabet
    check_starts(recipe, alphabet)
    with loading("llm.start", recipe.llm.start or llm_name):
        llm, tokenizer, _ = load_decoder(llm_name, alphabet)
        projector = recipe.llm.start and load_decoder(path_or_name(recipe.llm.start), alphabet)[2]
    speech_llm = build.compose(llm, tokenizer, units=_units(build, tokenizer), letters=_letters(build))
    if projector and _shapes(projector) == _shapes(speech_llm.model.projector):
        speech_llm.model.projector.load_state_dict(projector.state_dict())
    return speech_llm


def lists_names(recipe: BaseRecipe) -> bool:
    """Whether prompts list names in the alignment. Raises RecipeError where they cannot."""
    if not recipe.align.names:
        return False
    if not recipe.data.lexicon:
        raise RecipeError("recipe.yaml: align.names: there is no lexicon; name one in data.lexicon, or leave it out")
    if recipe.encoder.first_pass != "none":
        problem = "Whisper, which transcribes (encoder.first_pass), reads the names, not the decoder; leave it out"
        raise RecipeError(f"recipe.yaml: align.names: {problem}")
    return True


def _lists(build: Build, speech_llm):
    """The names in the prompts of sentences, as many as a recipe of a domain has by default."""
    from adapt.decode.names import NamesInPrompt, drawn_lists

    data = build.recipe.data
    names = NamesInPrompt(
        speech_llm, read_lexicon(data.lexicon), Transcribe.names_in_prompt, NORMALISERS[data.normaliser]
    )
    return drawn_lists(names, build.recipe.align.names)


def _units(build: Build, tokenizer) -> list[int]:
    """The units of `align.units` that occur in the training transcripts; [] for none."""
    from adapt.train.units import inventory, unit_writer

    if (kind := build.recipe.align.units) == "none":
        return []
    heard = [item.text for item in build.speech.items]
    return inventory(list(map(unit_writer(kind, tokenizer, heard), heard)))


def _letters(build: Build):
    """The letters of Whisper's tokens, for the projector `first-pass`; None for other projectors."""
    from transformers import AutoTokenizer

    from adapt.model.encoders import CtcEncoder
    from adapt.model.first_pass import token_letters

    if build.recipe.align.projector != "first-pass":
        return None
    name = path_or_name(build.recipe.encoder.start)
    with loading("encoder.start", name):
        whisper = AutoTokenizer.from_pretrained(name)
    config = CtcEncoder.config_class.from_pretrained(build.path("encoder"))
    return token_letters(whisper, config.audio_config.first_pass["end"])


def _shapes(module) -> dict:
    """The shapes of the weights of a module by name."""
    return {name: weights.shape for name, weights in module.state_dict().items()}


def _save_examples(build: Build, speech_llm) -> None:
    """Write audio embeddings of some recordings beside the model, as initial values of soft prompts."""
    from adapt.model.soft_prompt import SLOT_EXAMPLES, save_slot_examples
    from adapt.train.common import EXAMPLES

    items = build.speech.items
    _, samples, lengths = build.speech.audio(items[:: max(1, len(items) // EXAMPLES)][:EXAMPLES])
    rows = [row[:n].numpy() for row, n in zip(samples, lengths.tolist(), strict=True)]
    save_slot_examples(build.path("model", SLOT_EXAMPLES), speech_llm.audio_embeddings(rows))
