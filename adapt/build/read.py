"""Stage `read`."""

from __future__ import annotations

import json
from pathlib import Path

from adapt.build.context import Build
from adapt.build.encoder import last_figure
from adapt.build.starts import check_starts, folder_inputs, load_decoder, loading, place_of, takes_decoder_as_is
from adapt.errors import DataError
from adapt.run import StageResult, write_json


def encoder_alphabet(build: Build) -> str:
    """The letters that the run's encoder hears."""
    return json.loads(build.path("encoder/config.json").read_text(encoding="utf-8"))["alphabet"]


def read(build: Build) -> StageResult | None:
    """The decoder and its tokenizer, as a language model and reading its slot, from text alone: `llm/`.

    None when the recipe takes a decoder as it is.
    """
    recipe, settings = build.recipe, build.recipe.llm
    if takes_decoder_as_is(recipe):
        return None
    alphabet = encoder_alphabet(build)  # it need not be done again for another encoder, only for other letters

    def work(scratch: Path) -> None:
        import torch
        from transformers import AutoModelForCausalLM, LlamaConfig

        from adapt.model.tokenizer import train_tokenizer
        from adapt.train.reader import train_decoder

        check_starts(recipe, alphabet)
        torch.manual_seed(recipe.seed)
        texts = build.texts()
        if settings.start:
            with loading("llm.start", settings.start):
                llm, tokenizer, _ = load_decoder(place_of(settings.start), alphabet)
        else:
            try:
                tokenizer = train_tokenizer(texts, settings.pieces, alphabet)
            except DataError as error:
                raise DataError(f"llm.vocab_size: {error}") from error
            shape = {
                "vocab_size": len(tokenizer),
                "hidden_size": settings.hidden_size,
                "num_hidden_layers": settings.layers,
                "num_attention_heads": settings.heads,
                "intermediate_size": settings.intermediate_size,
                "max_position_embeddings": 2048,
                # With the usual 0.02 attention this narrow begins nearly even, and learns to copy from the slot late.
                "initializer_range": settings.hidden_size**-0.5,
                "tie_word_embeddings": True,
            }
            ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
            llm = AutoModelForCausalLM.from_config(LlamaConfig(**shape, **ids))
        speech_llm = compose(build, llm, tokenizer)
        dev, log = [item.text for item in build.dev.items], []
        for name, steps, rate in (
            ("lm", settings.lm_steps, settings.lm_rate),
            ("read", settings.read_steps, settings.read_rate),
        ):
            if steps:
                log += train_decoder(
                    speech_llm,
                    texts,
                    dev,
                    reads=name == "read",
                    steps=steps,
                    batch_size=settings.batch_size,
                    learning_rate=rate,
                    folder=scratch / name,
                    **build.training(),
                )
        speech_llm.model.language_model.save_pretrained(build.path("llm"))
        tokenizer.save_pretrained(build.path("llm"))
        write_json(build.path("llm/log.json"), log)

    inputs = [recipe.data.train, recipe.data.dev, *folder_inputs(settings.start)]
    inputs += [recipe.data.text] if recipe.data.text else []
    keys = {**build.settings("llm"), "alphabet": alphabet, "prompt": recipe.align.prompt}
    result = build.folder.stage("read", keys, inputs, ["llm"], work)
    build.report(result, last_figure(build.path("llm/log.json"), "dev_loss", "loss {:.2f} on dev transcripts"))
    return result


def compose(build: Build, llm, tokenizer):
    """The speech LLM of encoder, a fresh projector and a decoder."""
    import torch

    from adapt.model.composed import ComposedConfig, ComposedForSpeechRecognition
    from adapt.model.encoders import CtcEncoder
    from adapt.model.load import view
    from adapt.text.template import SLOT

    settings = build.recipe.align
    trained = CtcEncoder.from_pretrained(build.path("encoder"), dtype=torch.float32)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    torch.manual_seed(build.recipe.seed)
    config = ComposedConfig(
        audio_config=trained.config.audio_config,
        alphabet=trained.config.alphabet,
        text_config=llm.config,
        stack=settings.stack,
        projector=settings.projector,
        projector_size=settings.projector_size,
        prompt=settings.prompt,
        # What the decoder has no token for stands beyond its vocabulary.
        audio_token_id=tokenizer.get_vocab().get(SLOT, max(len(tokenizer), llm.config.vocab_size)),
        max_seconds=build.recipe.data.max_seconds,
    )
    model = ComposedForSpeechRecognition(config)
    model.encoder.load_state_dict(trained.state_dict())
    model.language_model.load_state_dict(llm.state_dict())
    model.generation_config.update(**llm.generation_config.to_diff_dict())
    return view(build.recipe.name, model.to(build.torch_device), tokenizer)
