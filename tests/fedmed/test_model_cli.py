"""`fedmed model` as somebody at a keyboard meets it: one line for each mistake, and nothing left behind."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from federation import tiny_dataset
from released_results import write_result

from fedmed import config
from fedmed.cli import main
from fedmed.data.schema import DataSet

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # PEFT's own


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """Return the one line that a command ends with."""
    assert main(["model", *map(str, words)]) == 2
    shown = capsys.readouterr()
    assert not shown.out
    assert shown.err.count("\n") == 1
    return shown.err


def test_show_says_what_a_result_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """For a person: model, base, classes, training, privacy."""
    folder = write_result(tmp_path, "text-encoder:bert")
    assert main(["model", "show", str(folder)]) == 0
    shown = capsys.readouterr().out
    for text in (
        "tiny study", "text-encoder, trained lora; LoRA rule ffa, rank 2", "bert, reads the text", "3: give --data",
        "4 rounds over 3 sites, of which 2 evaluated it", "epsilon 8.0 at delta 1e-05", "secure",
    ):  # fmt: skip
        assert text in shown
    assert "aberdeen" not in shown


def test_show_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """For a machine; a causal model's answers are its classes."""
    folder = write_result(tmp_path, "causal-lm:gpt2")
    assert main(["model", "show", str(folder), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["version"] == 1
    assert shown["towers"] == {"text": "gpt2"}
    assert shown["class_names"] == ["no", "yes"]
    assert shown["sites"] == 3
    assert len(shown["weights"]["sha256"]) == 64


def test_the_data_sets_yaml_gives_the_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """By the name of one that ships, where the plan's schema is its own; features come with their ranges."""
    shipped = config.load(DataSet, config.config_dir() / "data" / "heart_disease.yaml")
    target = shipped.schema.targets[0]
    folder = write_result(tmp_path, "tabular-transformer", schema=shipped.schema, target=target.name)
    assert main(["model", "show", str(folder), "--data", "heart_disease"]) == 0
    assert f"2: {', '.join(target.classes)}" in capsys.readouterr().out
    out = tmp_path / "merged"
    words = ["--form", "merged", "--out", str(out), "--data", "heart_disease"]
    assert main(["model", "export", str(folder), *words]) == 0
    facts = json.loads((out / "fedmed.json").read_text())
    assert facts["classes"] == list(target.classes)
    columns = {column["name"]: column for column in facts["preprocessing"]["table"]["columns"]}
    assert columns["age"]["rule"] == "(value - centre) / scale, clipped to plus or minus clip"
    assert columns["age"]["centre"] == shipped.schema.column("age").centre


def test_another_data_sets_yaml_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Names that belong to other classes are worse than none."""
    folder = write_result(tmp_path, "tabular-transformer", schema=tiny_dataset().schema)
    shown = refused(capsys, "show", folder, "--data", "heart_disease")
    assert "--data: expected the schema tiny with digest" in shown
    words = ("--form", "merged", "--out", tmp_path / "out", "--data", "heart_disease")
    assert "--data: expected the schema tiny" in refused(capsys, "export", folder, *words)
    assert not (tmp_path / "out").exists()


def test_a_yaml_file_is_taken_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """A hospital's own data set does not ship."""
    mine = tmp_path / "mine.yaml"
    shipped = yaml.safe_load((config.config_dir() / "data" / "heart_disease.yaml").read_text())
    shipped["name"] = shipped["schema"]["name"] = "mine"
    mine.write_text(yaml.safe_dump(shipped))
    schema = config.load(DataSet, mine).schema
    folder = write_result(tmp_path, "tabular-transformer", schema=schema, target=schema.targets[0].name)
    assert main(["model", "show", str(folder), "--data", str(mine)]) == 0
    assert schema.targets[0].classes[1] in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("show", "NOWHERE"), "found no plan.json; it is coordinator/study-N/result of a run"),
        (("export", "RESULT", "--form", "merged", "--out", "NOWHERE/out"), "around it, found none; make it first"),
        (("export", "RESULT", "--form", "merged", "--out", "RESULT"), "expected nothing there yet, found something"),
        (("export", "RESULT", "--form", "gguf", "--out", "OUT"), "invalid choice: 'gguf'"),
        (("export", "RESULT", "--form", "merged"), "required: --out"),
        (("show", "RESULT", "--data", "nothing"), "--data: expected a data set's YAML or one of cmedtc,"),
        ((), "required: COMMAND"),
    ],
)
def test_a_mistake_is_one_line(words: Any, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """It says what was expected and what came, and nothing is left behind."""
    folder = write_result(tmp_path, "tabular-transformer")
    places = {"RESULT": folder, "NOWHERE": tmp_path / "nowhere", "OUT": tmp_path / "out"}
    words = [str(places.get(word, word)).replace("NOWHERE", str(tmp_path / "nowhere")) for word in words]
    assert message in refused(capsys, *words)
    assert {path.name for path in tmp_path.iterdir()} == {"state", "base"}


def test_without_the_extra_the_message_names_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    """Nothing is computed before."""
    folder = write_result(tmp_path, "linear")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    shown = refused(capsys, "export", folder, "--form", "onnx", "--out", tmp_path / "out")
    assert "onnxruntime, not installed here; pip install 'fedmed[onnx]'" in shown
    assert not (tmp_path / "out").exists()
