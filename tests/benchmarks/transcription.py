"""What transcription costs: the search alone, with CTC beside it, and from recordings to transcripts."""

from __future__ import annotations

import tempfile
from pathlib import Path
from unittest.mock import patch

from timing import MUSIC, interleaved


def beam_search(utterances: int = 16, beams: int = 4, slots: int = 100, tokens: int = 24) -> dict:
    """Transcripts of `generate` in `adapt.decode.beam_search` beside those of the model's own `generate`."""
    import torch
    from transformers import LogitsProcessorList, SuppressTokensLogitsProcessor

    from adapt.decode.beam_search import generate
    from adapt.model.load import load_speech_llm

    llm = load_speech_llm("tiny")
    prompts = [llm.prompt(torch.randn(slots, llm.hidden, device=llm.device)) for _ in range(utterances)]
    embeds = torch.stack(prompts)
    mask = torch.ones(embeds.shape[:2], dtype=torch.long, device=embeds.device)
    endless = LogitsProcessorList([SuppressTokensLogitsProcessor(llm.ends, device=llm.device)])  # of one length, all

    def ours() -> None:
        generate(llm, prompts, beams, tokens, endless)

    @torch.no_grad()
    def plain() -> None:
        llm.model.generate(
            inputs_embeds=embeds,
            attention_mask=mask,
            num_beams=beams,
            max_new_tokens=tokens,
            do_sample=False,
            logits_processor=endless,
        ).tolist()  # waits for a GPU

    ours(), plain()
    fast, slow = interleaved(ours, plain, repetitions=7)
    return {"name": "beam_search", "device": str(llm.device), "ours_s": fast, "plain_s": slow, "ratio": fast / slow}


def joint_ctc(utterances: int = 64, beams: int = 4, batch: int = 16) -> dict:
    """Beam search over recordings of `recipes/music` with CTC beside the decoder, and without."""
    from adapt.decode.beam_search import generate
    from adapt.decode.fusion import Fusion
    from adapt.decode.parts import Batch
    from adapt.decode.weights import Weights
    from adapt.model.features import read_audio
    from adapt.model.heard import embeddings_and_heard
    from adapt.model.load import load_speech_llm
    from adapt.text.manifest import read_manifest
    from adapt.text.normalise import none

    llm = load_speech_llm("tiny")
    spoken = read_manifest(MUSIC / "dev.jsonl")[:utterances]
    slots, posteriors = embeddings_and_heard(llm, [read_audio(u.audio) for u in spoken])
    prompts, fusion = [llm.prompt(slot) for slot in slots], Fusion(llm, Weights(ctc=0.1), normalise=none)
    batches = [slice(start, start + batch) for start in range(0, utterances, batch)]

    def joint() -> None:
        for rows in batches:
            processors = fusion.processors(Batch([None] * batch, posteriors[rows]))
            generate(llm, prompts[rows], beams, processors=processors)

    def plain() -> None:
        for rows in batches:
            generate(llm, prompts[rows], beams)

    joint(), plain()
    slow, fast = interleaved(joint, plain, repetitions=5)
    return {"name": "joint_ctc", "device": str(llm.device), "ours_s": slow, "plain_s": fast, "ratio": slow / fast}


def transcription(recordings: int = 96, beams: int = 4, longest: int = 120) -> dict:
    """`adapt.decode.transcribe` beside the model's own `generate`, from files to transcripts, without CTC.

    plain: recording by recording, in the order of the manifest; padded: in batches of 8 in that order; staying: ours,
    but finished utterances stay in their batch. rtf: seconds for a second of audio.
    """
    import torch
    from torch.nn.utils.rnn import pad_sequence

    from adapt.decode.beam_search import _Batch
    from adapt.decode.transcribe import transcribe
    from adapt.model.features import read_audio
    from adapt.model.load import load_speech_llm
    from adapt.text.manifest import durations, read_manifest
    from adapt.text.transcripts import read_hypotheses

    llm = load_speech_llm("tiny")
    spoken = read_manifest(MUSIC / "test.jsonl")[:recordings]
    audio_s = sum(durations(spoken).values())
    texts: dict[str, dict[str, str]] = {}

    def ours(name: str = "ours") -> None:
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "hyps.jsonl"
            transcribe(llm, spoken, out, num_beams=beams, max_new_tokens=longest, ctc_weight=0.0)
            texts[name] = read_hypotheses(out)

    def staying() -> None:
        with patch.object(_Batch, "_let_leave", lambda *_: None):
            ours("staying")

    @torch.no_grad()
    def generated(name: str, batch: int) -> None:
        texts[name] = {}
        for start in range(0, recordings, batch):
            rows = spoken[start : start + batch]
            prompts = [llm.prompt(slot) for slot in llm.audio_embeddings([read_audio(u.audio) for u in rows])]
            embeds = pad_sequence(prompts, batch_first=True, padding_side="left")
            ones = [torch.ones(len(prompt), dtype=torch.long, device=llm.device) for prompt in prompts]
            tokens = llm.model.generate(
                inputs_embeds=embeds,
                attention_mask=pad_sequence(ones, batch_first=True, padding_side="left"),
                num_beams=beams,
                max_new_tokens=longest,
                do_sample=False,
                eos_token_id=llm.ends,
                pad_token_id=llm.tokenizer.pad_token_id,
            )
            texts[name] |= {u.id: llm.decode(row) for u, row in zip(rows, tokens.tolist(), strict=True)}

    names = ("ours", "plain", "padded", "staying")
    ways = (ours, lambda: generated("plain", 1), lambda: generated("padded", 8), staying)
    seconds = dict(zip(names, interleaved(*ways, repetitions=3), strict=True))
    row = {"name": "transcription", "device": str(llm.device), "audio_s": audio_s}
    row |= {f"{name}_s": taken for name, taken in seconds.items()}
    row |= {f"{name}_rtf": taken / audio_s for name, taken in seconds.items()}
    row |= {f"{name}_differing": sum(texts["ours"][i] != text for i, text in texts[name].items()) for name in names[1:]}
    row |= {f"{name}_ratio": seconds["ours"] / seconds[name] for name in names[2:]}
    return row | {"ratio": seconds["ours"] / seconds["plain"]}
