import json
from itertools import groupby

import pytest
import soundfile
import torch

from adapt.decode.ctc import heard
from adapt.decode.transcribe import generate, transcribe
from adapt.errors import DataError
from adapt.text.corpus import Utterance


def test_one_prefill_gives_the_tokens_of_plain_beam_search(tiny, noise):
    prompts = [tiny.prompt(slot) for slot in tiny.slot_vectors(noise)]
    for num_beams in (1, 4):
        plain = []
        for prompt in prompts:
            mask = torch.ones(1, len(prompt), dtype=torch.long)
            more = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": 2, "pad_token_id": 3}
            ids = tiny.model.generate(inputs_embeds=prompt[None], attention_mask=mask, num_beams=num_beams, **more)
            plain.append(tiny.decode(ids[0].tolist()))
        assert generate(tiny, prompts, num_beams, max_new_tokens=12) == plain


def test_ctc_hears_what_the_encoder_says(tiny, noise):
    paths, _ = tiny.heard(noise)
    together, alone = heard(tiny, noise), [heard(tiny, [samples])[0] for samples in noise]
    assert any(row.text for row in together)
    for path, row, same in zip(paths, together, alone, strict=True):
        merged = [symbol for symbol, _ in groupby(path) if symbol != "_"]
        assert row.text == same.text == " ".join("".join(merged).split())


def test_goes_on_after_a_kill_to_the_same_lines(tiny, noise, tmp_path):
    utterances = []
    for i, samples in enumerate(noise):
        soundfile.write(tmp_path / f"{i}.wav", samples / abs(samples).max(), 16_000)
        utterances.append(Utterance(f"u{i}", "", tmp_path / f"{i}.wav", None))
    whole, killed = tmp_path / "whole.jsonl", tmp_path / "killed.jsonl"
    transcribe(tiny, utterances, whole, batch_size=1, max_new_tokens=8)
    lines = whole.read_text().splitlines(keepends=True)
    assert [json.loads(line)["id"] for line in lines] == ["u0", "u1", "u2"]
    killed.write_text(lines[0] + lines[1][:9])
    transcribe(tiny, utterances, killed, batch_size=1, max_new_tokens=8)
    assert killed.read_text() == whole.read_text()


def test_every_unreadable_file_is_named_before_any_work(tiny, noise, tmp_path):
    (tmp_path / "text.wav").write_text("not audio")
    soundfile.write(tmp_path / "good.wav", noise[0] / 10, 16_000)
    files = [tmp_path / name for name in ("text.wav", "good.wav", "absent.wav")]
    utterances = [Utterance(path.stem, "", path, None) for path in files]
    with pytest.raises(DataError) as caught:
        transcribe(tiny, utterances, tmp_path / "out.jsonl")
    assert [problem.split(": ")[1].split(";")[0] for problem in caught.value.problems] == [
        "not readable as audio",
        "no such file",
    ]
    assert not (tmp_path / "out.jsonl").exists()
