"""The directions of the imports, and what starts without torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "adapt"
# room -> rooms that it may import; a room may always import itself
ARROWS = {
    "errors": set(),
    "text": {"errors"},
    "score": {"errors", "text"},
    "recipe": {"errors", "text"},
    "base_recipe": {"errors", "text", "recipe"},
    "run": {"errors", "text"},
    "model": {"errors", "text"},
    "train": {"errors", "text", "model"},
    "lm": {"errors", "text"},
    "decode": {"errors", "text", "lm", "model"},
    "pipeline": {"errors", "text", "score", "recipe", "run", "lm", "model", "train", "decode"},
    "tune": {"errors", "text", "score", "run", "model", "decode", "pipeline"},
    "robustness": {"errors", "text", "score", "model", "decode", "pipeline"},
    "export": {"errors", "model", "run"},
    "sensitivity": {"errors", "text", "score", "run", "model", "train", "decode", "pipeline"},
    "check": {"errors", "text", "score", "recipe", "model", "decode", "pipeline"},
    "build": {"errors", "text", "score", "base_recipe", "run", "model", "train", "decode"},
    "cli": {
        "errors",
        "text",
        "score",
        "recipe",
        "run",
        "model",
        "decode",
        "lm",
        "pipeline",
        "check",
        "export",
        "sensitivity",
        "tune",
        "robustness",
        "base_recipe",
        "build",
    },
}


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_arrows_point_one_way(path):
    here = path.relative_to(PACKAGE).with_suffix("").parts[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "adapt":
            names = [f"adapt.{a.name}" for a in node.names] if node.module == "adapt" else [node.module]
        elif isinstance(node, ast.Import):
            names = [a.name for a in node.names if a.name.split(".")[0] == "adapt"]
        for name in names:
            assert room(name) in ARROWS[here] | {here}, f"{here} imports {name}"


@pytest.mark.parametrize(
    "command", [["--help"], ["score", "--help"], ["check", "RECIPE"], ["score", "REFS", "HYPS"], ["run", "typo"]]
)
def test_light_commands_never_import_torch(command, tmp_path):
    refs, hyps = tmp_path / "refs.jsonl", tmp_path / "hyps.jsonl"
    refs.write_text('{"id": "a", "audio": "a.wav", "text": "play it"}\n')
    hyps.write_text('{"id": "a", "text": "play"}\n')
    (tmp_path / "recipe/model").mkdir(parents=True)
    (tmp_path / "recipe/model/config.json").write_text("{}")
    (tmp_path / "recipe/model/model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    (tmp_path / "recipe/text.txt").write_text("".join(f"line {'abcdefghij'[i % 10] * (i + 1)}\n" for i in range(20)))
    (tmp_path / "recipe/recipe.yaml").write_text("base: ./model\ndata:\n  text: text.txt\n  dev_lines: 3\n")
    places = {"RECIPE": str(tmp_path / "recipe"), "REFS": str(refs), "HYPS": str(hyps)}
    arguments = [places.get(word, word) for word in command]
    program = (
        "import sys, adapt\nfrom adapt.cli import main\n"
        f"try: main({arguments!r})\nexcept SystemExit as e: code = e.code\n"
        "print('torch' in sys.modules, code, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path)
    assert done.stderr.splitlines()[-1] == ("False 1" if "typo" in command else "False 0"), done.stderr
