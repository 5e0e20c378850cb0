"""Which room may import which, that no imports form a circle, and what starts without torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pyarrow.parquet
import pytest

PACKAGE = Path(__file__).parent.parent / "adapt"
# room -> rooms that it may import; a room may always import itself
ARROWS = {
    "__main__": {"cli"},
    "errors": set(),
    "ranks": set(),
    "text": {"errors"},
    "recipe": {"errors", "text"},
    "score": {"errors", "text"},
    "run": {"errors", "ranks"},
    "lm": {"errors", "text"},
    "model": {"errors", "text"},
    "train": {"errors", "ranks", "text", "recipe", "model"},
    "decode": {"errors", "ranks", "text", "recipe", "lm", "model"},
    "stages": {"errors", "text", "recipe", "score", "run", "lm", "model", "train", "decode"},
    "pipeline": {"errors", "text", "recipe", "run", "stages"},
    "compare": {"errors", "recipe", "run", "model", "stages", "pipeline"},
    "build": {"errors", "text", "recipe", "score", "run", "model", "train", "decode", "stages"},
    "check": {"errors", "text", "recipe", "score", "model", "decode", "stages"},
    "export": {"errors", "run", "model", "stages"},
    "inspect": {"errors", "run", "model", "stages"},
    "prompts": {"errors", "text", "score", "run", "model", "train", "decode", "stages"},
    "robustness": {"errors", "text", "score", "model", "decode", "stages"},
    "tune": {"errors", "text", "recipe", "score", "run", "model", "decode", "stages"},
    "cli": {
        *("errors", "ranks", "text", "recipe", "score", "run", "lm", "model", "decode", "stages", "pipeline", "build"),
        *("check", "compare", "export", "inspect", "prompts", "robustness", "tune"),
    },
}
FILES = sorted(PACKAGE.rglob("*.py"))
MODULES = {".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__") for path in FILES}


def imports(path: Path) -> set[str]:
    """Modules of the package that a file imports: at its top, within functions, and for types alone."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "adapt":
            submodules = {f"{node.module}.{alias.name}" for alias in node.names} & MODULES
            found |= submodules or {node.module}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.split(".")[0] == "adapt"}
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_arrows_point_one_way(path):
    here = path.relative_to(PACKAGE).with_suffix("").parts[0]
    for module in imports(path):
        room = module.split(".")[1] if "." in module else ""
        assert room in ARROWS[here] | {here}, f"{here} imports {module}"


def test_no_module_imports_itself_by_way_of_others():
    graph = {}
    for path in FILES:
        name = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
        graph[name] = imports(path) - {name}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_no_file_is_longer_than_400_lines():
    tests = Path(__file__).parent.rglob("*.py")
    recipes = (PACKAGE.parent / "recipes").rglob("*.py")
    long = {str(path): lines for path in [*FILES, *tests, *recipes] if (lines := len(path.open().readlines())) > 400}
    assert long == {}


@pytest.mark.parametrize(
    "command",
    [
        *(["--help"], ["score", "--help"], ["score", "REFS", "HYPS"], ["run", "typo"]),
        *(["check", "RECIPE"], ["check", "RECIPE", "-s", "data.text=text.parquet"]),
    ],
)
def test_light_commands_never_import_torch(command, tmp_path):
    refs, hyps = tmp_path / "refs.jsonl", tmp_path / "hyps.jsonl"
    refs.write_text('{"id": "a", "audio": "a.wav", "text": "play it"}\n')
    hyps.write_text('{"id": "a", "text": "play"}\n')
    (tmp_path / "recipe/model").mkdir(parents=True)
    (tmp_path / "recipe/model/config.json").write_text("{}")
    (tmp_path / "recipe/model/model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    lines = [f"line {'abcdefghij'[i % 10] * (i + 1)}" for i in range(20)]
    (tmp_path / "recipe/text.txt").write_text("\n".join(lines))
    pyarrow.parquet.write_table(pyarrow.table({"text": lines}), tmp_path / "recipe/text.parquet")
    (tmp_path / "recipe/recipe.yaml").write_text("base: ./model\ndata:\n  text: text.txt\n  dev_lines: 3\n")
    places = {"RECIPE": str(tmp_path / "recipe"), "REFS": str(refs), "HYPS": str(hyps)}
    arguments = [places.get(word, word) for word in command]
    program = (
        "import sys, adapt\nfrom adapt.cli import main\n"
        f"try: main({arguments!r})\nexcept SystemExit as e: code = e.code\n"
        "print(code, *{'torch', 'numpy'} & sys.modules.keys(), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path)
    code, *loaded = done.stderr.splitlines()[-1].split()
    assert code == ("1" if "typo" in command else "0"), done.stderr
    assert "torch" not in loaded and ("--help" not in command or not loaded), "what takes long to import"
