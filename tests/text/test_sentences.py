"""Sentences from every kind of source are the same stream, and a sample of it is uniform and in order."""

from __future__ import annotations

import gzip
import json
import random
import sys
import tracemalloc
from collections import Counter
from pathlib import Path

import datasets
import huggingface_hub
import pytest

from adapt.errors import DataError
from adapt.text import hub
from adapt.text.files import PROBLEMS, read_lines
from adapt.text.sentences import sample, sentences

LINES = ["play  queen", "caf\u00e9", "stop\u2028it", " ", "", "歌", *(f"line {i}" for i in range(2_500)), "last"]
COMMIT = "0123456789" * 4


@pytest.fixture
def sources(tmp_path) -> dict[str, Path]:
    """The same sentences in files of every kind; accents are not composed, and Parquet has another column too."""
    raw = [line.replace("\u00e9", "e\u0301") for line in LINES]
    rows = "".join(json.dumps({"id": i, "text": line}) + "\n" for i, line in enumerate(raw))
    (tmp_path / "text.txt").write_bytes(b"\xef\xbb\xbf" + "\r\n".join(raw).encode())
    (tmp_path / "text.jsonl").write_text(rows)
    (tmp_path / "text.jsonl.gz").write_bytes(gzip.compress(rows.encode()))
    (tmp_path / "hub").mkdir()
    for path in (tmp_path / "text.parquet", tmp_path / "hub/train.parquet"):
        datasets.Dataset.from_dict({"id": list(range(len(raw))), "text": raw}).to_parquet(path, batch_size=300)
    return {path.suffix: path for path in tmp_path.iterdir()}


@pytest.fixture
def local_hub(sources, monkeypatch) -> list[dict]:
    """A hub whose only data set is the folder `hub`, streamed by the real library; the arguments of each look at it."""
    real, looks = datasets.load_dataset, []

    def load_dataset(name, revision, **options):
        assert name == "hf://datasets/owner/name"
        looks.append({"revision": revision, **options})
        return real(str(sources[""]), **options)

    def dataset_info(api, name, revision=None):
        assert name == "owner/name", "the hub knows no other data set"
        looks.append({"asked": revision})
        return huggingface_hub.hf_api.DatasetInfo(id=name, sha=COMMIT, tags=[])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", dataset_info)
    hub.pinned.cache_clear()
    yield looks
    hub.pinned.cache_clear()


def problem_of(source: str | Path, column: str = "text") -> str:
    """The only problem of a source."""
    with pytest.raises(DataError) as caught:
        list(sentences(source, column))
    (problem,) = caught.value.problems
    assert "\n" not in problem
    return problem


def test_every_kind_of_file_holds_the_same_sentences(sources, local_hub):
    expected = [line for line in LINES if line.strip()]
    for source in (*(sources[suffix] for suffix in (".txt", ".jsonl", ".gz", ".parquet")), "hf://datasets/owner/name"):
        assert list(sentences(source)) == expected, source
        assert sample(sentences(source), 100, seed=5) == sample(expected, 100, seed=5), source


def test_a_value_of_several_lines_is_several_sentences(tmp_path):
    path = tmp_path / "documents.jsonl"
    path.write_text(json.dumps({"body": " one\n\ntwo \r\n"}) + "\n" + json.dumps({"body": None}) + "\n")
    assert list(sentences(path, "body")) == ["one", "two"]
    datasets.Dataset.from_dict({"body": [" one\n\ntwo \r\n", None]}).to_parquet(path.with_suffix(".parquet"))
    assert list(sentences(path.with_suffix(".parquet"), "body")) == ["one", "two"]


def test_a_sample_is_uniform_and_in_order():
    lines = [f"{i:02}" for i in range(20)]
    drawn = [sample(lines, 5, seed)[0] for seed in range(4_000)]
    assert all(len(set(kept)) == 5 and kept == sorted(kept) for kept in drawn)
    counts = Counter(line for kept in drawn for line in kept)
    assert set(counts) == set(lines)
    assert all(abs(count - 1_000) < 5 * 27.4 for count in counts.values()), "five standard deviations of 4,000 draws"
    assert sample(lines, 5, seed=1) == sample(lines, 5, seed=1) != sample(lines, 5, seed=2)
    assert sample(lines, 20, seed=1) == (lines, 20), "a text that is not longer is taken whole"


@pytest.mark.parametrize("suffix", [".txt", ".jsonl", ".parquet"])
def test_memory_does_not_grow_with_the_text(tmp_path, suffix):
    path, lines = tmp_path / f"long{suffix}", [f"{random.getrandbits(800):x}" for _ in range(40_000)]  # 8 MB
    if suffix == ".parquet":
        datasets.Dataset.from_dict({"text": lines}).to_parquet(path, batch_size=len(lines))
    else:
        path.write_text("".join((json.dumps({"text": x}) if suffix == ".jsonl" else x) + "\n" for x in lines))
    del lines
    next(iter(sentences(path)))  # what is imported is not counted
    tracemalloc.start()
    kept, total = sample(sentences(path), 50, seed=1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (len(kept), total) == (50, 40_000)
    assert peak < 2_000_000


def test_a_data_set_is_read_at_the_commit_that_identifies_it(local_hub):
    assert hub.pinned("hf://datasets/owner/name@v1/*.parquet") == f"hf://datasets/owner/name@{COMMIT}/*.parquet"
    list(sentences("hf://datasets/owner/name@v1/*.parquet"))
    read = {"revision": COMMIT, "data_files": "*.parquet", "split": "train", "streaming": True}
    assert local_hub == [{"asked": "v1"}, read], "the hub is asked once for the commit"
    other = "f" * 40
    assert hub.pinned(f"hf://datasets/owner/name@{other}").endswith(other)
    assert len(local_hub) == 2, "a commit needs no look"


def test_errors_of_data_sets(local_hub, monkeypatch):
    name = "hf://datasets/owner/name"
    assert problem_of(name, "txt") == f"{name}: no column `txt`; name one of id, text in data.text_column or --column"
    assert problem_of(f"{name}/gone.parquet").startswith(f"{name}/gone.parquet: cannot be read: ")
    assert problem_of("hf://datasets/owner/other").startswith(
        "hf://datasets/owner/other: the hub does not say its commit: "
    )
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert problem_of(name) == f"{name}: needs the package datasets; pip install 'adapt-asr[datasets]'"


def test_errors_of_parquet_files(sources, tmp_path, monkeypatch):
    good, bad = sources[".parquet"], tmp_path / "bad.parquet"
    assert problem_of(good, "txt") == f"{good}: no column `txt`; name one of id, text in data.text_column or --column"
    assert (
        problem_of(good, "id")
        == f"{good}: the column `id` holds no text; name one that does in data.text_column or --column"
    )
    bad.write_text("play queen\n" * 20)
    assert problem_of(bad).startswith(f"{bad}: cannot be read as Parquet: ")
    content = bytearray(good.read_bytes())
    content[100:3_000] = bytes(2_900)
    bad.write_bytes(content)
    assert problem_of(bad).startswith(f"{bad}: cannot be read as Parquet: ")
    datasets.Dataset.from_dict({"text": ["", None, " "]}).to_parquet(bad)
    assert problem_of(bad) == f"{bad}: holds no text; write one sentence a line"
    datasets.Dataset.from_dict({"text": ["short", "a" * 1_000_001]}).to_parquet(bad)
    assert problem_of(bad) == f"{bad}: row 2: a line of 1,000,001 characters; write lines of at most 1,000,000"
    assert problem_of(tmp_path / "gone.parquet").endswith("gone.parquet: no such file; check the path")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert problem_of(good) == f"{good}: needs the package datasets; pip install 'adapt-asr[datasets]'"


def test_bad_lines_of_jsonl_are_named_together(tmp_path):
    path = tmp_path / "bad.jsonl"
    path.write_bytes(b'{"text": "fine"}\n{"txt": "a"}\n\n{"text": 5}\nplay\n{"text": "\xff"}\n')
    with pytest.raises(DataError) as caught:
        list(sentences(path))
    assert [problem.partition(" ")[0] for problem in caught.value.problems] == [f"{path}:{n}:" for n in (2, 4, 5, 6)]
    assert (
        caught.value.problems[0]
        == f"{path}:2: no key `text`; add it, or name the key of the text in data.text_column or --column"
    )


def test_only_so_many_problems_are_collected(tmp_path):
    path = tmp_path / "latin.txt"
    path.write_bytes(b"caf\xe9\n" * (2 * PROBLEMS))
    with pytest.raises(DataError) as caught:
        read_lines(path)
    assert len(caught.value.problems) == PROBLEMS


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        (b"\xef\xbb\xbf" + b"a" * 1_000_000 + b"\nb", [(1, "a" * 1_000_000), (2, "b")]),
        (b"\xef\xbb\xbf\n\xef\xbb\xbfb\x0c\n", [(2, "\ufeffb\x0c")]),  # a mark is one at the beginning alone
        (b"\n\r\n a \rb\r\n\xe2\x80\xa8\n", [(3, "a \rb")]),
    ],
)
def test_lines_keep_their_numbers(tmp_path, content, lines):
    (tmp_path / "text.txt").write_bytes(content)
    assert read_lines(tmp_path / "text.txt") == lines


@pytest.mark.parametrize("length", [1_000_001, 1_000_005, 1_000_006, 3_000_000])
def test_the_length_of_a_line_too_long_is_counted(tmp_path, length):
    path = tmp_path / "text.txt"
    path.write_bytes(b"ok\n" + b"a" * length + b"\n\xff\n" + b"a" * length)
    with pytest.raises(DataError) as caught:
        read_lines(path)
    long = f"a line of {length:,} bytes; write lines of at most 1,000,000"
    utf8 = "byte 0xff is not UTF-8; save the file as UTF-8"
    assert caught.value.problems == (f"{path}:2: {long}", f"{path}:3: {utf8}", f"{path}:4: {long}")
