"""`adapt inspect`: the vectors of a soft prompt beside audio and tokens."""

from __future__ import annotations

import json

import torch
from safetensors.torch import load_file, save_file

from adapt.model.features import read_audio
from adapt.model.load import load_speech_llm

from ..session import adapt
from .conftest import overrides


def test_a_vector_that_is_an_audio_embedding_or_a_token_is_named(finished_run):
    recipe, out = finished_run.recipe, finished_run.run
    llm = load_speech_llm(str((recipe / finished_run.base).resolve()), "cpu")
    rows = [json.loads(line) for line in (recipe / "source.jsonl").read_text().splitlines()]
    (heard,) = llm.audio_embeddings([read_audio(recipe / rows[1]["audio"])])
    path = out / "prompt/soft_prompt.safetensors"
    save_file({"soft_prompt": torch.stack([heard[0], 3 * llm.embed([9])[0]]).detach()}, recipe / "start.safetensors")
    start = overrides("prompt.start=start.safetensors")
    found = adapt("inspect", recipe, "-o", out, "--json", *start)
    assert found.exit_code == 0, found.output
    inspection, soft = json.loads(found.stdout), load_file(path)["soft_prompt"]
    audio, token = inspection["vectors"]
    assert audio["audio"] > 0.9999 and audio["word"] == audio["said"].split()[0]
    assert token["tokens"][0] == [llm.tokenizer.convert_ids_to_tokens(9), max(c for _, c in token["tokens"])]
    assert abs(token["norm"] - soft[1].norm().item()) < 1e-4
    assert set(inspection["norms"]) == {"soft prompt", "audio", "tokens"}
    assert (out / "prompt/inspect.png").exists()
    table = adapt("inspect", recipe, "-o", out, *start).stdout
    assert table.count("\n") == 8 and "soft prompt" in table


def test_without_audio_there_is_nothing_to_compare_with(recipe, tmp_path):
    missing = overrides("data.source_replay=", "data.dev=", "prompt.steps=2", "prompt.init=text")
    found = adapt("inspect", recipe, "-o", tmp_path / "run", *missing)
    assert found.exit_code == 1 and "data.source_replay: missing" in found.stderr, found.output
