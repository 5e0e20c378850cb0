import dataclasses as dc
import subprocess
import sys

import pytest
import yaml

from adapt.errors import RecipeError
from adapt.recipe.base import BaseRecipe
from adapt.recipe.domain import Recipe
from adapt.recipe.load import describe, dump, load_recipe, sections


@pytest.fixture
def folder(tmp_path):
    """Writes a recipe.yaml beside its data, and gives back its folder."""
    home = tmp_path / "music"
    (home / "text").mkdir(parents=True)
    (home / "text/train.txt").write_text("play it\n")
    (home / "test.jsonl").write_text("{}\n")

    def write(text: str | bytes):
        (home / "recipe.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
        return home

    return write


DATA = "data:\n  text: text/train.txt\n"
SETTINGS = {"text_column", "text_lines", "normaliser", "unwritable", "dev_lines", "entity_copies"}  # of `data`


def problems(home, *overrides) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        load_recipe(Recipe, home, overrides)
    return list(caught.value.problems)


def test_defaults_and_paths(folder):
    home = folder(DATA + "  test: ../music/test.jsonl\ndecoder:\n")
    got = load_recipe(Recipe, home)
    assert got == load_recipe(Recipe, home / "recipe.yaml")
    assert (got.name, got.base, got.seed, got.folder) == ("music", "tiny", 1, home)
    assert (got.data.text, got.data.test) == (home / "text/train.txt", home / "test.jsonl")
    assert got.data.dev is None
    assert dc.asdict(got.decoder)["learning_rate"] == 5e-4
    with pytest.raises(dc.FrozenInstanceError):
        got.decoder.steps = 1


def test_values_mean_what_they_say(folder):
    tuned = "decoder: {learning_rate: 1e-4, anchor: 1}\n"
    got = load_recipe(Recipe, folder("\ufeffname: no\nbase: 12:30\n" + DATA + "  lexicon: ~\n" + tuned))
    assert (got.name, got.base, got.data.lexicon) == ("no", "12:30", None)
    assert got.decoder.learning_rate == 1e-4
    assert isinstance(got.decoder.anchor, float)


@pytest.mark.parametrize("value", ["1e-4", "1E-4", "1.0e-4", ".0001", "+0.0001"])
def test_each_way_to_write_a_number(folder, value):
    assert load_recipe(Recipe, folder(DATA), [f"prompt.learning_rate={value}"]).prompt.learning_rate == 1e-4


def test_only_the_length_of_the_soft_prompt_may_be_auto(folder):
    home = folder(DATA)
    assert [load_recipe(Recipe, home, [f"prompt.length={v}"]).prompt.length for v in ("auto", "7")] == ["auto", 7]
    length, steps = problems(home, "prompt.length=Auto", "prompt.steps=auto")
    assert length.startswith("-s prompt.length=Auto: expected auto, or a whole number, at least 1, got 'Auto'; write")
    assert steps.startswith("-s prompt.steps=auto: expected a whole number, at least 1, got 'auto'")


def test_all_problems_are_one_error_in_order_of_lines(folder):
    home = folder(
        "langauge: en\n"  # 1
        "sed: 2\n"
        "data:\n"
        "  text: text/trian.txt\n"
        "  dev: text\n"  # 5
        "  normaliser: basics\n"
        "prompt:\n"
        "  steps: 010\n"
        "  steps: 20\n"
        "  rank: 8\n"  # 10
        "decoder:\n"
        "  noise: 1.5\n"
        "  steps: '300'\n"
        "  patience:\n"
        "  replay: [0.3]\n"  # 15
        "  learning_rate: 0\n"
        "  alpha: 1e3\n"
        "  rank: !!int 4\n"
        "  anchor: .nan\n"
        "on: 1\n"  # 20
        "transcribe: 4\n"
        "score.resamples: 10\n"
    )
    got = problems(home, "decoder.stesp=9", "steps=3", "decoder=1", "seed", "score.resamples=few")
    expected = [
        "recipe.yaml:1: unknown key `langauge`; did you mean `language`?",
        "recipe.yaml:2: unknown key `sed`; did you mean `seed`?",
        "recipe.yaml:4: data.text: no such file: 'text/trian.txt'; did you mean `train.txt`?",
        "recipe.yaml:5: data.dev: is a folder, not a file: 'text'",
        "recipe.yaml:6: data.normaliser: unknown choice 'basics'; did you mean `basic`? write one of none,",
        "recipe.yaml:8: prompt.steps: expected a whole number, at least 1, got '010'; write 10 ",
        "recipe.yaml:9: prompt.steps: already set on line 8; keep one of the two",
        "recipe.yaml:10: unknown key `prompt.rank`; did you mean `decoder.rank`?",
        "recipe.yaml:12: decoder.noise: out of range: '1.5'; write a number from 0 to 1 (default 0.12)",
        "recipe.yaml:13: decoder.steps: expected a whole number, at least 1, got '300'; write 300 without",
        "recipe.yaml:14: decoder.patience: no value; write a whole number, at least 1 (default 3)",
        "recipe.yaml:15: decoder.replay: expected one plain value, got a list",
        "recipe.yaml:16: decoder.learning_rate: out of range: '0'; write a number above 0",
        "recipe.yaml:17: decoder.alpha: expected a whole number, at least 1, got '1e3'; write 1000 ",
        "recipe.yaml:18: decoder.rank: expected one plain value, got a list, keys or a tag",
        "recipe.yaml:19: decoder.anchor: expected a number, at least 0, got '.nan'; write a number",
        "recipe.yaml:20: unknown key `on`;",
        "recipe.yaml:21: transcribe: expected keys with values, got '4'",
        "recipe.yaml:22: score.resamples: a dotted key; write its last part under `score:`",
        "-s decoder.stesp=9: unknown key `decoder.stesp`; did you mean `decoder.steps`?",
        "-s steps=3: unknown key `steps`; did you mean `project.steps` or `prompt.steps` or `decoder.steps`?",
        "-s decoder=1: `decoder` is a section; name a key of it, one of pseudo_audio, ",
        "-s seed: no value; write -s seed=VALUE",
        "-s score.resamples=few: expected a whole number, at least 1, got 'few'",
    ]
    assert len(got) == len(expected), "\n".join(got)
    for line, start in zip(got, expected, strict=True):
        assert line.startswith(start)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "recipe.yaml: empty; write at least `data:`"),
        ("# nothing yet\n", "recipe.yaml: empty; "),
        ("seed: 1\n", "recipe.yaml: data.text: missing; name the domain text"),
        ("- data\n", "recipe.yaml:1: holds no keys; write"),
        ("data:\n\ttext: a\n", "recipe.yaml:2: not YAML: "),
        ("seed: 1\n---\nseed: 2\n", "recipe.yaml:2: not YAML: "),
        ("seed: 1\nname: a\0b\n", "recipe.yaml:2: unprintable '\\x00'; remove it"),
        (b"seed: 1\nname: caf\xe9\n", "recipe.yaml:2: byte 0xe9 is not UTF-8"),
        (DATA + "name: ../elsewhere\n", "recipe.yaml:3: name: '../elsewhere' cannot be a name; "),
        (DATA + "base: ./bsae\n", "recipe.yaml:3: base: no such folder: './bsae'"),
        (DATA + "seed: " + "9" * 400 + "\n", "recipe.yaml:3: seed: out of range"),
    ],
)
def test_a_broken_file_is_an_error_of_one_line(folder, text, problem):
    (line,) = problems(folder(text))
    assert line.startswith(problem)


def test_the_domain_text_may_be_a_data_set_of_the_hub(folder):
    name = "hf://datasets/owner/name@v1/data/*.parquet"
    got = load_recipe(Recipe, folder(f"data: {{text: '{name}'}}\n"))
    assert got.data.text == name
    assert load_recipe(Recipe, folder(dump(got))) == got
    (line,) = problems(folder(DATA), "data.text=hf://datasets/name")
    assert line.endswith("'hf://datasets/name' is no data set; write hf://datasets/OWNER/NAME, and behind it @REVISION "
                         "or /FILES if needed")  # fmt: skip
    (line,) = problems(folder(DATA), "data.text=owner/name")
    assert line.endswith("paths are relative to the recipe, data sets of the hub hf://datasets/OWNER/NAME")
    (line,) = problems(folder(DATA), "data.test=hf://datasets/owner/name")
    assert "no such file" in line, "a manifest cannot be one"


def test_a_missing_recipe_names_a_similar_one(folder):
    home = folder(DATA)
    (line,) = problems(home.parent / "muisc")
    assert line == f"{home.parent / 'muisc'}: no such recipe; did you mean `music`?"


def test_an_override_replaces_the_line(folder):
    home = folder("data: {text: gone.txt, test: test.jsonl}\ndecoder: {steps: many}\n")
    (home / "models").mkdir()
    got = load_recipe(
        Recipe,
        home,
        [
            "data.text=text/train.txt",
            "data.test=",
            "decoder.steps=7",
            "decoder.steps=8",
            "base=./models",
            "parts=models",
        ],
    )
    assert (got.data.text.name, got.data.test, got.decoder.steps) == ("train.txt", None, 8)
    assert got.base == got.parts == str(home / "models")
    (problem,) = problems(home, "data.text=text/train.txt", "decoder.steps=7", "parts=gone")
    assert problem.startswith("-s parts=gone: no such folder: 'gone'")


def test_dump_loads_as_the_same_recipe(folder):
    home = folder(DATA + "  test: test.jsonl\n")
    (home / "models").mkdir()
    (home.parent / "music.tsv").write_text("Abba\n")
    overrides = ["name=no", "base=./models", "prompt.learning_rate=1e-5", "data.lexicon=../music.tsv"]
    before = load_recipe(Recipe, home, overrides)
    text = dump(before)
    plain = yaml.safe_load(text)  # other readers take the values the same way
    assert (plain["name"], plain["prompt"]["learning_rate"], plain["decoder"]["patience"]) == ("no", 1e-5, 3)
    files = {key: value for key, value in plain["data"].items() if key not in SETTINGS}
    assert files == {
        "text": "text/train.txt",
        "lexicon": "../music.tsv",
        "test": "test.jsonl",
        **dict.fromkeys(("dev", "paired", "source_replay", "source_dev", "source_test")),
    }
    assert load_recipe(Recipe, folder(text)) == before


def test_describe_is_a_recipe_of_all_defaults(folder):
    text = describe(Recipe)
    home = folder(text)
    (home / "text.txt").write_text("play it\n")
    assert load_recipe(Recipe, home) == load_recipe(Recipe, folder("data: {text: text.txt}\n"))
    written = yaml.safe_load(text)
    for section, cls in sections(Recipe).items():
        assert list(written[section]) == [f.name for f in dc.fields(cls)]
    lines = text.splitlines()
    keys = [i for i, line in enumerate(lines) if line and "#" not in line]
    assert all(lines[i - 1].lstrip().startswith("#") for i in keys)
    help_of_dropout = "share of LoRA's inputs that are dropped in training"
    assert f"  # {help_of_dropout} (a number from 0 to 0.9)\n  dropout: 0.0" in text


def test_describe_of_a_base_recipe_loads_as_its_defaults(folder):
    text = describe(BaseRecipe)
    assert text.startswith("# Required: `data:` with `train:` and `dev:`. Every")
    home = folder(text)
    for name in ("train.jsonl", "dev.jsonl"):
        (home / name).write_text("")
    assert load_recipe(BaseRecipe, home) == load_recipe(
        BaseRecipe, folder("data: {train: train.jsonl, dev: dev.jsonl}\n")
    )
    assert yaml.safe_load(dump(load_recipe(BaseRecipe, home, ["encoder.start=./"])))["encoder"]["start"] == "."


def test_recipes_load_without_torch():
    code = (
        "import sys, adapt.recipe.load, adapt.recipe.domain, adapt.recipe.base, adapt.run; "
        "print({'torch', 'transformers', 'peft'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("a: &a [x]\nb: [*a, *a]\n", "recipe.yaml:2: not YAML: an alias"),
        ("data: " + "[" * 60 + "]" * 60, "recipe.yaml:1: not YAML: more than 50 levels"),
        ("data: " + "[" * 90_000, "recipe.yaml:1: not YAML: more than 50 levels"),
        ("#" * 1_000_001, "recipe.yaml: 1,000,001 bytes are no recipe"),
        (DATA + "prompt: {learning_rate: 1e300}\n", "learning_rate: out of range: '1e300'"),
        (DATA + "prompt: {steps: " + "9" * 400 + "}\n", "steps: out of range"),
    ],
    ids=["alias", "deep", "very deep", "long", "large number", "very large number"],
)
def test_a_recipe_that_could_take_all_memory_is_refused(folder, content, problem):
    with pytest.raises(RecipeError) as error:
        load_recipe(Recipe, folder(content))
    assert problem in str(error.value) and len(str(error.value)) < 1_000
