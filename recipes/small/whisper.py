"""Transcribe a manifest with Whisper itself, as an outside row beside the base `small`.

python recipes/small/whisper.py recipes/music/natural/test.jsonl whisper.jsonl --num-beams 5
adapt score recipes/music/natural/test.jsonl whisper.jsonl
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click
import torch
from tqdm import tqdm
from transformers import AutoTokenizer, WhisperFeatureExtractor, WhisperForConditionalGeneration

from adapt.errors import AdaptError
from adapt.model.features import SAMPLE_RATE, read_audio
from adapt.text.manifest import read_manifest

PROMPT = "<|startoftranscript|><|en|><|transcribe|><|notimestamps|>"
BATCH = 8


@click.command()
@click.argument("manifest", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--model", default="openai/whisper-base", show_default=True, help="Name on the hub, or folder.")
@click.option("--num-beams", default=1, show_default=True)
@torch.no_grad()
def main(manifest: Path, out: Path, model: str, num_beams: int) -> None:
    """Write the transcripts of MANIFEST to OUT, as JSONL."""
    whisper = WhisperForConditionalGeneration.from_pretrained(model).eval()
    extractor, tokenizer = WhisperFeatureExtractor.from_pretrained(model), AutoTokenizer.from_pretrained(model)
    prompt = torch.tensor([tokenizer.encode(PROMPT, add_special_tokens=False)])
    utterances = read_manifest(manifest)
    with out.open("w", encoding="utf-8") as file:
        for start in tqdm(range(0, len(utterances), BATCH), file=sys.stderr):
            batch = utterances[start : start + BATCH]
            audio = [read_audio(utterance.audio) for utterance in batch]
            features = extractor(audio, sampling_rate=SAMPLE_RATE, return_tensors="pt").input_features
            ids = whisper.generate(
                features,
                decoder_input_ids=prompt.repeat(len(batch), 1),
                num_beams=num_beams,
                max_new_tokens=100,
            )
            for utterance, text in zip(batch, tokenizer.batch_decode(ids, skip_special_tokens=True), strict=True):
                file.write(json.dumps({"id": utterance.id, "text": text.strip()}) + "\n")


if __name__ == "__main__":
    try:
        main()
    except AdaptError as error:
        sys.exit(str(error))
