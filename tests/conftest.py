"""Tiny real models, built once: a composed speech LLM with random weights and the tokenizer it needs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from .session import WORDS, write_manifest


@pytest.fixture
def tiny(tmp_path_factory):
    """A speech LLM of 60,000 random weights, on disk and in memory, the same each time."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, ParakeetCTCConfig, PreTrainedTokenizerFast

    from adapt.model.composed import ComposedConfig, ComposedForSpeechRecognition
    from adapt.model.load import load_speech_llm

    words = [
        "▁" + w
        for w in [
            "play",
            "the",
            "song",
            "by",
            "stop",
            "music",
            "now",
            "tell",
            "me",
            "what",
            "is",
            "it",
            "louder",
            "again",
            "please",
        ]
    ]
    pieces = [
        "<unk>",
        "<s>",
        "</s>",
        "<pad>",
        "<speech>",
        "<text>",
        "▁",
        *"abcdefghijklmnopqrstuvwxyz'",
        *words,
    ]
    tokenizer = Tokenizer(models.Unigram([(p, -1.0 * len(p) ** -1) for p in pieces], unk_id=0))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        additional_special_tokens=["<speech>", "<text>"],
    )
    encoder = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "subsampling_factor": 4,
        "subsampling_conv_channels": 4,
        "num_mel_bins": 80,
        "scale_input": False,
        "layerdrop": 0.0,
    }
    config = ComposedConfig(
        audio_config=ParakeetCTCConfig(vocab_size=29, pad_token_id=28, encoder_config=encoder),
        text_config=LlamaConfig(
            vocab_size=len(pieces),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=3,
            tie_word_embeddings=True,
        ),
        prompt="<speech><text>",
        projector_size=16,
    )
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("tiny")
    model = ComposedForSpeechRecognition(config)
    for parameter in model.parameters():  # wide enough apart that no two logits are near
        torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    fast.save_pretrained(folder)
    return load_speech_llm(str(folder), device="cpu")


@pytest.fixture(scope="session")
def noise() -> list[np.ndarray]:
    """Three recordings of coloured noise, 0.5 to 1.3 seconds at 16 kHz."""
    rng = np.random.default_rng(0)
    return [np.cumsum(rng.standard_normal(n)).astype(np.float32) / 100 for n in (8_000, 14_321, 20_800)]


@pytest.fixture
def manifest(tmp_path) -> Path:
    """Twenty 'utterances' in which each letter is a tone of its own, 0.2 s long; wav, flac, ogg and mp3."""
    rng = np.random.default_rng(0)
    time = np.arange(4_410) / 22_050
    tones = {c: np.sin(2 * np.pi * pitch * time) for c, pitch in zip("abcd", (300, 900, 2_000, 4_500), strict=True)}
    rows = []
    for i in range(20):
        text = "".join(rng.choice(list("abcd"), 3))
        name = f"{i}.{('wav', 'flac', 'ogg', 'mp3')[i % 4]}"
        soundfile.write(tmp_path / name, 0.3 * np.concatenate([tones[c] for c in text]), 22_050)
        rows.append({"id": str(i), "audio": name, "text": text, "language": "xy"[i >= 16]})
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "train.jsonl"


@pytest.fixture
def recipe(tiny, noise, tmp_path) -> Path:
    """The folder of a recipe over `tiny` that trains, transcribes and scores in seconds."""
    folder = tmp_path / "recipe"
    folder.mkdir()
    for i, samples in enumerate(noise):
        soundfile.write(folder / f"{i}.wav", samples / abs(samples).max(), 16_000)
    write_manifest(folder / "test.jsonl", [0, 1])
    write_manifest(folder / "source.jsonl", [1, 2], "tell me what it is", entities=False)
    lines = [f"{a} {b} the song" for a in WORDS for b in WORDS]
    (folder / "text.txt").write_text("\n".join(lines) + "\n")
    (folder / "lexicon.tsv").write_text("the song\ttrack\nabsent name\ttrack\n")
    (folder / "recipe.yaml").write_text(
        f"""base: {tiny.name}
data:
  text: text.txt
  lexicon: lexicon.tsv
  test: test.jsonl
  source_replay: source.jsonl
  source_dev: source.jsonl
  source_test: source.jsonl
  dev_lines: 8
prompt: {{length: 4, steps: 4, batch_size: 4, eval_every: 2}}
decoder: {{steps: 4, batch_size: 4, eval_every: 2, pseudo_audio: soft-prompt+simulate}}
transcribe: {{num_beams: 2, max_new_tokens: 8}}
score: {{resamples: 50}}
"""
    )
    return folder
