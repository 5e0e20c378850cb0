"""Stage `read`: train the decoder on text alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from adapt.build.context import Build, last_figure
from adapt.build.starts import check_starts, folder_inputs, load_decoder, loading, path_or_name, takes_decoder_as_is
from adapt.errors import DataError, RecipeError
from adapt.recipe.base import Llm
from adapt.run import StageResult, write_json


def read(build: Build) -> StageResult | None:
    """Train the decoder and its tokenizer on text, as a language model and to read letters in its slot: `llm/`.

    Returns None if the recipe takes a decoder as it is.
    """
    recipe, settings = build.recipe, build.recipe.llm
    if takes_decoder_as_is(recipe):
        return None
    alphabet = (
        build.encoder_alphabet
    )  # recorded in place of the encoder, so that only another alphabet repeats the stage

    def work(scratch: Path) -> None:
        import torch

        from adapt.train.reader import train_reader

        check_starts(recipe, alphabet)
        torch.manual_seed(recipe.seed)
        texts = build.texts()
        if settings.start:
            with loading("llm.start", settings.start):
                llm, tokenizer, _ = load_decoder(path_or_name(settings.start), alphabet)
        else:
            llm, tokenizer = _new_decoder(settings, texts, alphabet)
        speech_llm = build.compose(llm, tokenizer)
        dev, log = [item.text for item in build.dev.items], []
        if settings.lm_steps:
            lm_folder = scratch / "lm"
            log += train_reader(speech_llm, texts, dev, settings, reads=False, folder=lm_folder, **build.training())
        if settings.read_steps:
            read_folder = scratch / "read"
            log += train_reader(speech_llm, texts, dev, settings, reads=True, folder=read_folder, **build.training())
        if build.folder.ranks.is_first:
            speech_llm.model.language_model.save_pretrained(build.path("llm"))
            tokenizer.save_pretrained(build.path("llm"))
            write_json(build.path("llm/log.json"), log)

    inputs = [recipe.data.train, recipe.data.dev, *folder_inputs(settings.start)]
    inputs += [recipe.data.text] if recipe.data.text else []
    record = {**build.settings("llm"), "alphabet": alphabet, "prompt": recipe.align.prompt}
    result = build.folder.stage("read", record, inputs, ["llm"], work, shared=True)
    build.report(result, last_figure(build.path("llm/log.json"), "dev_loss", "loss {:.2f} on dev transcripts"))
    return result


def _new_decoder(settings: Llm, texts: Sequence[str], alphabet: str):
    """A decoder with random weights, and its tokenizer, which is trained on `texts`.

    Raises RecipeError for a vocabulary size that the text does not allow.
    """
    from transformers import AutoModelForCausalLM, LlamaConfig

    from adapt.model.tokenizer import train_tokenizer

    try:
        tokenizer = train_tokenizer(texts, settings.vocab_size, alphabet)
    except DataError as error:
        raise RecipeError(f"llm.vocab_size: {error}") from error
    shape = {
        "vocab_size": len(tokenizer),
        "hidden_size": settings.hidden_size,
        "num_hidden_layers": settings.layers,
        "num_attention_heads": settings.heads,
        "intermediate_size": settings.intermediate_size,
        "max_position_embeddings": 2048,
        # With the usual 0.02, attention in such a narrow decoder starts nearly uniform, and learns to copy late.
        "initializer_range": settings.hidden_size**-0.5,
        "tie_word_embeddings": True,
    }
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    return AutoModelForCausalLM.from_config(LlamaConfig(**shape, **ids)), tokenizer
