"""The run folder: stages that are skipped, redone and resumed, their record, and files that are never half written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from adapt import run as running
from adapt.errors import DataError
from adapt.run import RunFolder, StageResult, read_json, write_json, write_text


class Pipeline:
    """Two stages: prompt reads the text, decoder reads the text and what prompt wrote."""

    def __init__(self, home: Path):
        self.run, self.text = home / "runs/music", home / "music/text.txt"
        self.text.parent.mkdir()
        self.text.write_text("play it\n")
        self.length, self.steps = 30, 400

    def __call__(self) -> list[StageResult]:
        with RunFolder(self.run, device="cpu", seed=1) as run:
            length, steps = {"prompt": {"length": self.length}}, {"decoder": {"steps": self.steps}}
            read = [run.path / "soft_prompt", self.text]
            return [
                run.stage("prompt", length, [self.text], ["soft_prompt"], self.prompt),
                run.stage("decoder", steps, read, ["adapter"], self.decoder),
            ]

    def prompt(self, scratch: Path) -> None:
        write_text(self.run / "soft_prompt", self.text.read_text()[:4])

    def decoder(self, scratch: Path) -> None:
        write_text(self.run / "adapter/weights", f"{self.steps}")
        write_text(self.run / "adapter/card/README.md", "card")

    def reasons(self) -> list[str]:
        return [result.reason for result in self()]


@pytest.fixture
def pipeline(tmp_path):
    return Pipeline(tmp_path)


def test_a_second_run_skips_every_stage_and_leaves_the_record_as_it_is(pipeline):
    first = pipeline()
    assert [(r.name, r.skipped, r.reason) for r in first] == [
        ("prompt", False, "never run"),
        ("decoder", False, "never run"),
    ]
    before = (pipeline.run / "run.json").read_bytes()
    pipeline.prompt = pipeline.decoder = None
    assert pipeline() == [StageResult(r.name, True, "unchanged", r.seconds) for r in first], "every stage is skipped"
    assert (pipeline.run / "run.json").read_bytes() == before, "run.json is not written again"


def test_a_changed_setting_redoes_its_stage_alone(pipeline):
    pipeline()
    pipeline.steps = 300
    assert pipeline.reasons() == ["unchanged", "decoder.steps changed: 400 -> 300"]


def test_a_changed_input_redoes_the_stages_that_read_it(pipeline):
    pipeline()
    pipeline.text.write_text("play that\n")  # prompt writes what it wrote before
    assert pipeline.reasons() == ["music/text.txt changed", "music/text.txt changed"]


def test_a_redone_stage_redoes_the_next_only_if_it_writes_something_else(pipeline):
    pipeline()
    pipeline.length, pipeline.prompt = 50, lambda _: write_text(pipeline.run / "soft_prompt", "longer")
    reasons = ["prompt.length changed: 30 -> 50", "stage prompt was redone"]
    assert pipeline.reasons() == reasons, "prompt writes something else"
    pipeline.length = 40
    assert pipeline.reasons() == ["prompt.length changed: 50 -> 40", "unchanged"], "prompt writes the same again"


def test_an_added_or_removed_input_redoes_the_stage(tmp_path):
    file = tmp_path / "run/soft_prompt"
    with RunFolder(tmp_path / "run") as run:
        run.stage("prompt", {}, [], ["soft_prompt"], lambda _: write_text(file, "a"))
        reasons = [run.stage("decoder", {}, read, [], lambda _: None).reason for read in ([], [file], [])]
    assert reasons == ["never run", "soft_prompt read now", "soft_prompt no longer read"]


def test_a_missing_output_redoes_its_stage(pipeline):
    pipeline()
    (pipeline.run / "adapter/card/README.md").unlink()
    assert pipeline.reasons() == ["unchanged", "adapter/card/README.md is missing"]


def test_an_output_that_somebody_changed_is_written_again(pipeline):
    pipeline()
    (pipeline.run / "adapter/weights").write_text("mine")
    assert pipeline.reasons() == ["unchanged", "adapter/weights is not what the stage wrote"]
    assert (pipeline.run / "adapter/weights").read_text() == "400"


def test_the_digest_of_files_changes_with_each_of_them(tmp_path):
    one, other = tmp_path / "one.wav", tmp_path / "other.wav"
    one.write_text("1")
    other.write_text("2")
    digests = []
    for change in ("nothing", "one", "other"):
        if change != "nothing":
            (tmp_path / f"{change}.wav").write_text("3")
        with RunFolder(tmp_path / "run") as run:
            digests.append(run.digest([one, other]))
            assert run.digest([other, one]) == digests[-1], "the order of the files does not count"
            assert run.digest([one]) != digests[-1], "a file that is left out"
            with pytest.raises(DataError, match="no such file"):
                run.digest([one, tmp_path / "none.wav"])
    assert len(set(digests)) == 3, "a changed file changes the digest"


def test_a_file_of_the_user_that_changes_while_the_run_folder_is_open_is_noticed(tmp_path):
    text, reasons, digests = tmp_path / "text.txt", [], []
    with RunFolder(tmp_path / "run") as run:
        for i, line in enumerate(("play it", "play it", "stop it", "stop it now")):
            text.write_text(line)
            os.utime(text, ns=(i, i))
            reasons.append(run.stage("prompt", {}, [text], [], lambda scratch: None).reason)
            digests.append(run.digest([text]))
    assert reasons == ["never run", "unchanged", "text.txt changed", "text.txt changed"]
    assert digests[0] == digests[1] and len(set(digests)) == 3


def test_a_file_of_the_user_is_read_once_while_the_run_folder_is_open(tmp_path, monkeypatch):
    text, read = tmp_path / "text.txt", []
    text.write_text("play it")
    sha = running._sha
    monkeypatch.setattr(running, "_sha", lambda file: read.append(file.name) or sha(file))
    with RunFolder(tmp_path / "run") as run:
        for name in ("prompt", "decoder"):
            run.stage(name, {}, [text], [], lambda scratch: None)
    assert read == ["text.txt"]


def test_what_a_stage_writes_is_read_each_time(tmp_path):
    file, reasons = tmp_path / "run/soft_prompt", []

    def write(text: str) -> None:
        write_text(file, text)
        os.utime(file, ns=(0, 0))  # a file system may give both versions one time

    with RunFolder(tmp_path / "run") as run:
        for text in "ab":
            run.stage("prompt", {"text": text}, [], ["soft_prompt"], lambda scratch, text=text: write(text))
            reasons.append(run.stage("decoder", {}, [file], [], lambda scratch: None).reason)
    assert reasons == ["never run", "stage prompt was redone"]


def test_the_record_holds_versions_settings_inputs_and_outputs(pipeline):
    pipeline()
    record = json.loads((pipeline.run / "run.json").read_text())
    assert (record["format"], record["device"], record["seed"]) == (1, "cpu", 1)
    assert record["python"] == ".".join(map(str, sys.version_info[:3]))
    assert set(record["versions"]) == {"adapt", "torch", "transformers", "peft"}
    decoder = record["stages"]["decoder"]
    assert decoder["settings"] == {"decoder": {"steps": 400}}
    assert set(decoder["inputs"]) == {"soft_prompt", "../../music/text.txt"}  # moves with the project
    assert set(decoder["outputs"]) == {"adapter/weights", "adapter/card/README.md"}
    assert decoder["finished"].endswith("+00:00")


class Killed:
    """The work of a stage that is killed after it has left a checkpoint in its scratch folder."""

    def __init__(self) -> None:
        self.found: list[bool] = []  # at each call, whether there was a checkpoint

    def __call__(self, scratch: Path) -> None:
        self.found.append((scratch / "step").exists())
        (scratch / "step").write_text("7")
        raise KeyboardInterrupt


def test_a_killed_stage_keeps_its_checkpoint_unless_its_settings_change(pipeline):
    pipeline.decoder = Killed()
    for steps in (400, 400, 300):
        pipeline.steps = steps
        with pytest.raises(KeyboardInterrupt):
            pipeline()
    assert pipeline.decoder.found == [False, True, False]


def test_a_killed_stage_goes_on_from_its_checkpoint_which_is_deleted_at_the_end(pipeline):
    work, pipeline.decoder, found = pipeline.decoder, Killed(), []
    with pytest.raises(KeyboardInterrupt):
        pipeline()

    def finished(scratch: Path) -> None:
        found.append((scratch / "step").exists())
        work(scratch)

    pipeline.decoder = finished
    assert pipeline.reasons() == ["unchanged", "never run; continues where it stopped"]
    assert found == [True], "the stage finds its checkpoint"
    assert not (pipeline.run / "checkpoints/decoder").exists(), "the checkpoint is deleted"
    (pipeline.run / "adapter/weights").unlink()
    pipeline()
    assert found == [True, False], "a finished stage that is redone has no checkpoint"


def test_a_changed_input_drops_the_checkpoint_of_a_killed_stage(pipeline):
    pipeline.prompt = Killed()
    for line in ("play it\n", "play that\n", "play that\n"):
        pipeline.text.write_text(line)
        with pytest.raises(KeyboardInterrupt):
            pipeline()
    assert pipeline.prompt.found == [False, False, True]


def test_a_stage_that_does_not_write_its_output_is_an_error(pipeline):
    work, pipeline.prompt = pipeline.prompt, lambda scratch: None
    with pytest.raises(RuntimeError, match="stage prompt did not write soft_prompt"):
        pipeline()
    pipeline.prompt = work
    assert pipeline.reasons() == ["never run", "never run"], "it does not count as done"


def test_all_missing_inputs_are_one_error(tmp_path):
    with RunFolder(tmp_path / "run") as run, pytest.raises(DataError) as caught:
        run.stage("prompt", {}, [tmp_path / "a", tmp_path / "b"], [], lambda scratch: None)
    assert [p.partition(":")[0] for p in caught.value.problems] == [str(tmp_path / "a"), str(tmp_path / "b")]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('{"format": 1, "sta', "not the JSON that a run writes; delete it"),
        ("\xff", "not the JSON"),
        ('{"format": 9, "stages": {}}', "format 9, but this version writes 1"),
        ('{"format": 1}', "its stages are broken"),
        ('{"format": 1, "stages": {"prompt": {"settings": []}}}', "its stages are broken"),
    ],
)
def test_a_broken_record_is_an_error_each_time_and_no_lock_is_left(tmp_path, text, problem):
    (tmp_path / "run.json").write_bytes(text.encode("latin-1"))
    for _ in range(2):
        with pytest.raises(DataError, match=f"run.json: {problem}"):
            RunFolder(tmp_path)


@pytest.mark.parametrize("text", ['{"base": "ti', "[]", "\xff"])
def test_a_broken_json_file_is_named(tmp_path, text):
    (tmp_path / "tuned.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match=r"tuned.json: not a JSON object; write or copy the file again"):
        read_json(tmp_path / "tuned.json")


def test_a_file_in_the_place_of_the_run_folder_is_an_error(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(DataError, match=r"run: cannot be a run folder: .*; choose another"):
        RunFolder(tmp_path / "run")


def test_a_folder_with_files_of_others_is_refused_and_left_alone(tmp_path):
    (tmp_path / "recipe.yaml").write_text("# mine\n")
    with pytest.raises(DataError, match="holds files that no run has written; choose another"):
        RunFolder(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.yaml"], "nothing is written"


def test_a_second_process_is_refused_while_the_run_folder_is_open(tmp_path):
    pytest.importorskip("fcntl")
    code = "import sys; from adapt.run import RunFolder; RunFolder(sys.argv[1])"
    command = [sys.executable, "-c", code, tmp_path / "music"]
    with RunFolder(tmp_path / "music"):
        second = subprocess.run(command, capture_output=True, text=True)
    assert f"{tmp_path / 'music'}: in use by process {os.getpid()}; wait until it ends" in second.stderr
    assert subprocess.run(command).returncode == 0, "once it is closed, another process may open it"


def test_a_reader_of_a_file_that_is_replaced_never_sees_a_mixture(tmp_path):
    file = tmp_path / "scores/metrics.json"
    write_json(file, {"é": None})
    assert file.read_bytes() == '{\n  "é": null\n}\n'.encode()
    with open(file, encoding="utf-8") as reader:
        write_json(file, {"é": 0})
        assert json.load(reader) == {"é": None}, "who has the old file open"
    assert json.loads(file.read_text(encoding="utf-8")) == {"é": 0}


def test_a_failed_write_leaves_the_old_file_and_nothing_beside_it(tmp_path, monkeypatch):
    file = tmp_path / "scores/metrics.json"
    write_json(file, {"é": 0})

    def no_space(_):
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(OSError, match="no space"):
        write_json(file, {"é": 1})
    with pytest.raises(ValueError, match=r"nan|NaN|JSON"):
        write_json(file, {"é": float("nan")})
    assert json.loads(file.read_text(encoding="utf-8")) == {"é": 0}
    assert os.listdir(file.parent) == ["metrics.json"]
