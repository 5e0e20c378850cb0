"""Finished runs: each command is run once, and every test that builds on it gets a copy of its folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from ..session import adapt


@dataclass(frozen=True)
class Finished:
    """A recipe, its run folder beside it, and what the command printed. base: as the recipe names it."""

    recipe: Path
    run: Path
    base: str
    stdout: str

    def rows(self) -> list[dict]:
        """The rows of the score table."""
        return json.loads((self.run / "scores/metrics.json").read_text())["rows"]

    def first_transcript(self, name: str) -> dict:
        """The first line of a file in hyps/, such as `target.base`."""
        return json.loads((self.run / f"hyps/{name}.jsonl").read_text().splitlines()[0])


def overrides(*settings: str) -> list[str]:
    """`-s SETTING` for each setting."""
    return [word for setting in settings for word in ("-s", setting)]


def write_paired(recipe: Path) -> None:
    """A manifest `paired.jsonl` of twelve utterances."""
    rows = [{"id": str(i), "audio": f"{i % 3}.wav", "text": "play the song"} for i in range(12)]
    (recipe / "paired.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="session")
def originals() -> dict[str, tuple[Path, str]]:
    """By name, the folder of a finished run and what the command printed."""
    return {}


@pytest.fixture
def finish(request, originals, tmp_path, tmp_path_factory) -> Callable[..., Finished]:
    """`finish(name, command, *options)`: a copy of the finished run of this name, which is made the first time.

    prepare: called with the folder of the recipe before the command. after: a finished run that is copied for the
    command to go on from. run: where the command writes; the folder above both is the working directory.
    """

    def finished(name: str, command: str, *options: object, prepare=None, after=None, run="run") -> Finished:
        if name not in originals:
            home = tmp_path_factory.mktemp(name)
            if after:
                shutil.copytree(after.recipe.parent, home, dirs_exist_ok=True)
            else:
                shutil.copytree(request.getfixturevalue("recipe"), home / "recipe")
            if prepare:
                prepare(home / "recipe")
            out = ["-o", home / run] if run == "run" else []
            with pytest.MonkeyPatch.context() as patch:
                patch.chdir(home)
                result = adapt(command, home / "recipe", *out, *options)
            assert result.exit_code == 0, result.output
            originals[name] = home, result.stdout
        original, stdout = originals[name]
        home = shutil.copytree(original, tmp_path / name)
        base = (home / "recipe/recipe.yaml").read_text().split()[1]
        return Finished(home / "recipe", home / run, base, stdout.replace(str(original), str(home)))

    return finished


@pytest.fixture
def finished_run(finish) -> Finished:
    """`adapt run` of the recipe as it is."""
    return finish("plain", "run")


FUSED = overrides("fusion.lm=0.2", "fusion.ilm=0.1", "fusion.boost=1", "fusion.ilm_slot=soft-prompt")


@pytest.fixture
def fused_run(finish) -> Finished:
    """`adapt run` with the weights of FUSED."""
    return finish("fused", "run", *FUSED)


@pytest.fixture
def lm_run(finish) -> Finished:
    """`adapt lm --json` of the recipe."""
    return finish("lm", "lm", "--json")
