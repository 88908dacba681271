"""A file of experiments says how each differs from the default, and errors say where."""

import json
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft202012Validator

from nsd_pipeline.decoding.config import TrainingConfig
from nsd_pipeline.errors import NsdError
from nsd_pipeline.experiments import chosen_file, json_schema, read_experiments

ROOT = Path(__file__).parents[2]


def read(tmp_path: Path, text: str):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return read_experiments(path)


def test_an_experiment_is_the_default_but_for_what_it_says(tmp_path: Path) -> None:
    found = read(tmp_path, "plain:\nlinear: {model: FmriLinear, description: a map}\n")
    assert list(found) == ["default", "plain", "linear"]
    assert found["plain"].training == found["default"].training == TrainingConfig()
    assert found["linear"].training == TrainingConfig(model="FmriLinear")
    assert (found["linear"].description, found["linear"].encoder) == ("a map", None)


def test_a_list_makes_a_family(tmp_path: Path) -> None:
    text = "curve:\n  sessions: [first 1, first 10]\n  hidden: [64, 128]\n  seeds: [1, 2]\n"
    found = read(tmp_path, text)
    assert list(found)[1:] == ["curve_1_64", "curve_1_128", "curve_10_64", "curve_10_128"]
    assert found["curve_10_64"].training == TrainingConfig(
        sessions="first 10", hidden=64, seeds=[1, 2]
    )
    encoders = read(tmp_path, "target:\n  encoder: [{model: lab/clip-b}, {model: lab/siglip}]\n")
    assert list(encoders)[1:] == ["target_clip-b", "target_siglip"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "a:\n  hidden: 8\nb:\n  hiden: 9\n",
            r"line 4: b: hiden: there is no such field: `hidden` is one",
        ),
        ("a:\n  hidden: many\n", r"line 2: a: hidden: .*integer"),
        ("a:\n  sessions: 1-x\n", r"line 2: a: sessions: .*'1-x' is neither"),
        ("a:\n  seeds: [1, 1]\n", r"line 2: a: seeds: .*different"),
        ("a:\n  encoder:\n    modell: x\n", r"line 3: a: encoder: modell: there is no such field"),
        ("a:\n  start_from: b\n", r"line 2: a: start_from: there is no experiment 'b'"),
        ("a: {start_from: b}\nb: {start_from: a}\n", r"line 1: a: start_from: .*a -> b -> a"),
        ("default:\n  hidden: 8\n", r"line 1: default: .*cannot be changed"),
        ("retrieval:\n  hidden: 8\n", r"line 1: retrieval: .*is taken"),
        ("a.b:\na_b:\n", r"line 2: a_b: .*is taken"),
        ("a b:\n", r"line 1: a b: .*no name"),
        ("- a\n", r"line 1: it is no mapping"),
        ("a: 3\n", r"line 1: a: it is no mapping of settings"),
        ("a: [\n", r"is not YAML"),
        ("a: !!python/object/apply:os.system [ls]\n", r"is not YAML"),
    ],
)
def test_an_error_says_line_experiment_and_field(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(NsdError, match=says):
        read(tmp_path, text)


def test_a_file_that_is_not_there_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NSD_EXPERIMENTS", str(tmp_path / "none.yaml"))
    with pytest.raises(NsdError, match=r"none\.yaml cannot be read.*\n.*NSD_EXPERIMENTS"):
        read_experiments(chosen_file())


def test_the_shipped_file_and_its_examples_are_read(tmp_path: Path) -> None:
    text = chosen_file().read_text()
    shipped = read_experiments(chosen_file())
    assert {"default", "neuralbench", "neuralbench_0.4", "linear"} <= set(shipped)
    assert shipped["neuralbench_0.4"].training.seeds == [33, 34, 35]
    # An example is a block of comments whose lines are YAML once the marks are gone.
    lines = [line.removeprefix("# ") for line in text.splitlines() if line.startswith("# ")]
    examples = [line for line in lines if line.startswith(" ") or line.endswith(":")]
    with_examples = read(tmp_path, "\n".join(examples))
    assert {"clip", "siglip", "early_visual", "curve_30", "new_subject"} <= set(with_examples)
    assert with_examples["fine_tuned_3"].training.start_from == "new_subject"


def test_the_schema_for_editors_is_that_of_the_code() -> None:
    schema = json_schema()
    kept = json.loads((ROOT / "docs" / "experiments.schema.json").read_text())
    assert kept == schema, "write json_schema() to docs/experiments.schema.json again"
    check = Draft202012Validator(schema)
    check.validate(yaml.safe_load(chosen_file().read_text()))
    check.validate({"a": {"sessions": ["first 1", "1-10"], "seeds": [0]}, "b": None})
    for wrong in ({"a": {"hiden": 1}}, {"a": {"hidden": "x"}}, {"a": {"encoder": {"x": 1}}}):
        assert not check.is_valid(wrong)
