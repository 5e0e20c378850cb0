import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from adapt.errors import DataError
from adapt.run import RunFolder, StageResult, read_json, write_json, write_text


class Pipeline:
    """Two stages as a caller has them: prompt reads the text, decoder reads what prompt wrote."""

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


def test_the_second_time_nothing_is_done(pipeline):
    first = pipeline()
    assert [(r.name, r.skipped, r.reason) for r in first] == [
        ("prompt", False, "never run"),
        ("decoder", False, "never run"),
    ]
    before = (pipeline.run / "run.json").read_bytes()
    pipeline.prompt = pipeline.decoder = None
    assert pipeline() == [StageResult(r.name, True, "unchanged", r.seconds) for r in first]
    assert (pipeline.run / "run.json").read_bytes() == before


def test_what_changed_is_told_and_only_what_reads_it_is_redone(pipeline):
    pipeline()
    pipeline.steps = 300
    assert pipeline.reasons() == ["unchanged", "decoder.steps changed: 400 -> 300"]
    pipeline.text.write_text("play that\n")  # prompt is redone, and writes what it wrote before
    assert pipeline.reasons() == ["music/text.txt changed", "music/text.txt changed"]
    pipeline.length, pipeline.prompt = 50, lambda _: write_text(pipeline.run / "soft_prompt", "longer")
    assert pipeline.reasons() == ["prompt.length changed: 30 -> 50", "stage prompt was redone"]
    pipeline.length = 40
    assert pipeline.reasons() == ["prompt.length changed: 50 -> 40", "unchanged"]


def test_inputs_that_come_and_go(tmp_path):
    file = tmp_path / "run/soft_prompt"
    with RunFolder(tmp_path / "run") as run:
        run.stage("prompt", {}, [], ["soft_prompt"], lambda _: write_text(file, "a"))
        reasons = [run.stage("decoder", {}, read, [], lambda _: None).reason for read in ([], [file], [])]
    assert reasons == ["never run", "soft_prompt read now", "soft_prompt no longer read"]


def test_outputs_are_watched(pipeline):
    pipeline()
    (pipeline.run / "adapter/card/README.md").unlink()
    assert pipeline.reasons() == ["unchanged", "adapter/card/README.md is missing"]
    (pipeline.run / "adapter/weights").write_text("mine")
    assert pipeline.reasons() == ["unchanged", "adapter/weights is not what the stage wrote"]
    assert (pipeline.run / "adapter/weights").read_text() == "400"


def test_the_record(pipeline):
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


def test_a_killed_stage_goes_on_and_a_changed_one_starts_anew(pipeline):
    found = []

    def killed(scratch: Path) -> None:
        found.append((scratch / "step").exists())
        (scratch / "step").write_text("7")
        raise KeyboardInterrupt

    work, pipeline.decoder = pipeline.decoder, killed
    for steps in (400, 400, 300):
        pipeline.steps = steps
        with pytest.raises(KeyboardInterrupt):
            pipeline()
    assert found == [False, True, False]

    def finished(scratch: Path) -> None:
        found.append((scratch / "step").exists())
        work(scratch)

    pipeline.decoder = finished
    assert pipeline.reasons() == ["unchanged", "never run; continues where it stopped"]
    assert found[-1] is True
    assert not (pipeline.run / "checkpoints/decoder").exists()
    (pipeline.run / "adapter/weights").unlink()
    pipeline()
    assert found[-1] is False


def test_a_changed_input_starts_anew(pipeline):
    pipeline.prompt, work = (lambda scratch: (scratch / "step").write_text("7")), pipeline.prompt
    with pytest.raises(RuntimeError, match="stage prompt did not write soft_prompt"):
        pipeline()
    pipeline.text.write_text("play that\n")
    pipeline.prompt = lambda scratch: work(scratch) if not (scratch / "step").exists() else None
    assert pipeline.reasons() == ["never run", "never run"]


def test_missing_inputs_are_named_at_once(tmp_path):
    with RunFolder(tmp_path / "run") as run, pytest.raises(DataError) as caught:
        run.stage("prompt", {}, [tmp_path / "a", tmp_path / "b"], [], lambda scratch: None)
    assert [p.partition(":")[0] for p in caught.value.problems] == [str(tmp_path / "a"), str(tmp_path / "b")]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"format": 1, "sta', "not the JSON that a run writes; delete it"),
        ("\xff", "not the JSON"),
        ('{"format": 9, "stages": {}}', "format 9, but this version writes 1"),
        ('{"format": 1}', "its stages are broken"),
        ('{"format": 1, "stages": {"prompt": {"settings": []}}}', "its stages are broken"),
    ],
)
def test_a_broken_record_is_told_and_the_lock_let_go(tmp_path, text, told):
    (tmp_path / "run.json").write_bytes(text.encode("latin-1"))
    for _ in range(2):
        with pytest.raises(DataError, match=f"run.json: {told}"):
            RunFolder(tmp_path)


@pytest.mark.parametrize("text", ['{"base": "ti', "[]", "\xff"])
def test_a_file_that_is_not_whole_is_named(tmp_path, text):
    (tmp_path / "tuned.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match=r"tuned.json: not a JSON object; write or copy the file again"):
        read_json(tmp_path / "tuned.json")


def test_a_file_in_the_place_of_the_folder(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(DataError, match=r"run: cannot be a run folder: .*; choose another"):
        RunFolder(tmp_path / "run")


def test_files_of_others_are_not_written_over(tmp_path):
    (tmp_path / "recipe.yaml").write_text("# mine\n")
    with pytest.raises(DataError, match="holds files that no run has written; choose another"):
        RunFolder(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.yaml"]


def test_two_processes_do_not_share_a_folder(tmp_path):
    pytest.importorskip("fcntl")
    code = "import sys; from adapt.run import RunFolder; RunFolder(sys.argv[1])"
    command = [sys.executable, "-c", code, tmp_path / "music"]
    with RunFolder(tmp_path / "music"):
        second = subprocess.run(command, capture_output=True, text=True)
    assert f"{tmp_path / 'music'}: in use by process {os.getpid()}; wait until it ends" in second.stderr
    subprocess.run(command, check=True)


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    file = tmp_path / "scores/metrics.json"
    write_json(file, {"é": None})
    assert file.read_bytes() == '{\n  "é": null\n}\n'.encode()

    with open(file, encoding="utf-8") as reader:
        write_json(file, {"é": 0})
        assert json.load(reader) == {"é": None}  # who has it open never sees a mixture

    def no_space(_):
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(OSError, match="no space"):
        write_json(file, {"é": 1})
    with pytest.raises(ValueError, match=r"nan|NaN|JSON"):
        write_json(file, {"é": float("nan")})
    assert json.loads(file.read_text(encoding="utf-8")) == {"é": 0}
    assert os.listdir(file.parent) == ["metrics.json"]
