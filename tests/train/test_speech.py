from __future__ import annotations

import logging

import pytest

from adapt.errors import DataError
from adapt.train.speech import Speech, batches, read_speech


def test_audio_of_any_format_and_rate_is_read_as_16_khz(manifest):
    speech = read_speech(manifest, str)
    items, samples, lengths = speech.audio(speech.items)
    assert len(items) == 20 and samples.shape[1] == lengths.max()
    assert all(abs(n - 9_600) < 1_200 for n in lengths.tolist())  # mp3 pads


def test_bad_files_are_named_counted_and_skipped_up_to_a_limit(manifest, caplog):
    folder = manifest.parent
    (folder / "4.wav").write_bytes(b"RIFF")
    (folder / "5.flac").unlink()
    whole = (folder / "9.flac").read_bytes()
    (folder / "9.flac").write_bytes(whole[: len(whole) // 2])  # the header is complete: only reading finds it
    with pytest.raises(DataError) as caught:
        read_speech(manifest, str, bad=0.05)
    assert [problem.split(": ")[1].split(";")[0] for problem in caught.value.problems] == [
        "not readable as audio",
        "no such file",
    ], "above the limit, each file has its problem"
    with caplog.at_level(logging.WARNING):
        speech = read_speech(manifest, str, bad=0.15)
        items, samples, _ = speech.audio(speech.items)
    assert len(speech.items) == 18, "files that cannot be opened are left out"
    assert len(items) == len(samples) == 17, "a file that cannot be read to its end is left out of the batch"
    assert len(speech.bad) == 3, "all bad files are counted"
    assert "9.flac" in caplog.text and "skipped, 3 so far" in caplog.text, "a skipped file is reported"
    speech.audio(speech.items)
    assert len(speech.bad) == 3, "a file that is read again counts once"
    speech.max_bad = 2
    speech.bad = speech.bad[:2]
    with pytest.raises(DataError, match="3 recordings cannot be used, 2 are allowed; repair them"):
        speech.audio(speech.items)


def test_batches_have_similar_lengths_and_languages_follow_the_temperature(manifest):
    speech = read_speech(manifest, str)
    rows = [item._replace(seconds=0.6 + 0.05 * i, id=f"{i}") for i in range(200) for item in speech.items[:1]]
    rows = [item._replace(language="xy"[i % 10 == 0]) for i, item in enumerate(rows)]
    shares = {}
    for temperature in (1.0, 5.0):
        draw = batches(Speech(rows), steps=300, batch_seconds=60, temperature=temperature, short_first=0.3)
        drawn = [draw(step) for step in range(300)]
        for batch in drawn:
            longest, shortest = max(batch).seconds, min(batch).seconds
            assert len(batch) * longest <= max(60, longest), "a batch has at most batch_seconds with padding"
            assert longest - shortest <= 0.08 * 200 * 0.05 + 0.5, "the lengths in a batch are similar"
        longest = [max(batch).seconds for batch in drawn]
        assert max(longest[:5]) < 3 < max(longest), "the first batches have short recordings alone"
        languages = [item.language for batch in drawn for item in batch]
        shares[temperature] = languages.count("y") / len(languages)
    assert shares[1.0] == pytest.approx(0.1, abs=0.02), "temperature 1 keeps the proportions"
    even = 20**0.2 / (20**0.2 + 180**0.2)
    assert shares[5.0] == pytest.approx(even, abs=0.03), "temperature 5 evens the proportions out"
