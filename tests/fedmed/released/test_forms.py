"""Forms of a released model: each gives, without FedMed or PEFT, what base and adapter gave."""

import json
import re
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
import transformers
from numpy.typing import NDArray
from released_results import CHARACTERS, SIDE, TABLE, released_outputs, write_result

from fedmed.data.schema import Column, Schema, Target, TextPart
from fedmed.errors import IntegrityError, UsageError
from fedmed.models import folder_digest, load_module, scores
from fedmed.models.ngrams import hashed
from fedmed.released import onnx_form, open_released
from fedmed.released.forms import export
from fedmed.rows import text_rows

pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),  # PEFT's own
]
needs_onnx = pytest.mark.skipif(
    any(find_spec(name) is None for name in ("onnx", "onnxscript", "onnxruntime")),
    reason="the extra onnx is not installed",
)
TEXTS = ["fever and cough", "b", "knee pain, mild, left"]
DRAWN = torch.Generator().manual_seed(5)
NUMBERS = torch.randn(3, TABLE, generator=DRAWN)
PICTURES = torch.rand(3, SIDE**2, generator=DRAWN) * 2 - 1


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    """Keep tiny matrices on one core."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def rows_of(kind: str) -> torch.Tensor:
    """Return three records as rows for a kind of model."""
    texts = torch.from_numpy(text_rows(TEXTS, characters=CHARACTERS))
    images = torch.cat([torch.ones(3, 1), PICTURES], dim=1)
    return {
        "ngrams": torch.cat([texts, NUMBERS], dim=1),
        "text-encoder": texts,
        "causal-lm": texts,
        "image-encoder": images,
        "fusion": torch.cat([texts, images, NUMBERS], dim=1),
    }.get(kind.partition(":")[0], NUMBERS)


def pixels_of(facts: dict[str, Any]) -> NDArray[np.float32]:
    """Return the pictures as the facts beside a form say."""
    image = facts["preprocessing"]["image"]
    assert (image["data_size"], image["channels"]) == (SIDE, 3)
    images = PICTURES.view(3, 1, SIDE, SIDE)
    size = (image["size"], image["size"])
    images = torch.nn.functional.interpolate(images, size=size, mode="bilinear", antialias=True)
    scaled = ((images + 1) / 2).expand(-1, 3, -1, -1)
    mean, deviation = (torch.tensor(image[key])[None, :, None, None] for key in ("mean", "deviation"))
    return ((scaled - mean) / deviation).numpy()


def tokens_of(out: Path, facts: dict[str, Any]) -> dict[str, NDArray[np.int64]]:
    """Return the texts as the tokenizer beside a form and the facts say."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(out), local_files_only=True)
    text = facts["preprocessing"]["text"]
    texts = [text[:CHARACTERS] for text in TEXTS]
    if "prompt" in text:
        asked = [[{"role": "user", "content": text["prompt"].replace("{text}", words)}] for words in texts]
        texts = [tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True) for turns in asked]
        made = tokenizer(texts, padding=True, padding_side="left", add_special_tokens=False, return_tensors="np")
    else:
        made = tokenizer(texts, padding=True, truncation=True, max_length=text["max_tokens"], return_tensors="np")
    return {name: made[name].astype(np.int64) for name in ("input_ids", "attention_mask")}


def inputs_of(kind: str, out: Path, facts: dict[str, Any]) -> dict[str, NDArray[Any]]:
    """Return the records as a form takes them, made from its folder alone."""
    family = kind.partition(":")[0]
    if family == "ngrams":
        buckets = facts["preprocessing"]["text"]["buckets"]
        counted = hashed(torch.from_numpy(text_rows(TEXTS, characters=CHARACTERS)), buckets=buckets)
        return {"features": torch.cat([counted, NUMBERS], dim=1).numpy()}
    if family in {"text-encoder", "causal-lm"}:
        return {**tokens_of(out, facts)}
    if family == "image-encoder":
        return {"pixel_values": pixels_of(facts)}
    if family == "fusion":
        present = np.ones((3, 3), dtype=np.float32)
        beside = {"pixel_values": pixels_of(facts), "table": NUMBERS.numpy(), "present": present}
        return {**tokens_of(out, facts), **beside}
    return {"features": NUMBERS.numpy()}


SMALL = ("linear", "mlp", "tabular-transformer", "survival", "ngrams")
LARGE = (
    "text-encoder:bert", "text-encoder:roberta", "text-encoder:distilbert", "text-encoder:modernbert", "causal-lm:gpt2",
    "causal-lm:llama", "causal-lm:qwen2", "causal-lm:qwen3", "image-encoder:vit", "image-encoder:resnet", "fusion",
)  # fmt: skip


@needs_onnx
@pytest.mark.parametrize("kind", [*SMALL, *(pytest.param(kind, marks=pytest.mark.slow) for kind in LARGE)])
def test_a_graph_gives_what_the_released_model_gives(kind: str, tmp_path: Path):
    """From its folder alone, with onnxruntime; nothing of this machine is in the file."""
    import onnxruntime  # noqa: PLC0415  an extra

    folder = write_result(tmp_path, kind)
    out = tmp_path / "graph"
    export(open_released(folder), "onnx", out, schema=None)
    facts = json.loads((out / "fedmed.json").read_text())
    assert facts["parity"]["largest_difference"] <= facts["parity"]["allowed"]
    assert facts["classes"] == (["no", "yes"] if kind.startswith("causal") else None)
    session = onnxruntime.InferenceSession(str(out / "model.onnx"), providers=["CPUExecutionProvider"])
    assert [port["name"] for port in facts["inputs"]] == [port.name for port in session.get_inputs()]
    outputs = [port["name"] for port in facts["outputs"]]
    found = dict(zip(outputs, session.run(outputs, inputs_of(kind, out, facts)), strict=True))
    expected = scores(released_outputs(folder, rows_of(kind)))
    if kind == "survival":
        assert found["survival"].shape == (3, 3)
        hazards = torch.from_numpy(found["logits"]).sigmoid()
        assert np.allclose(found["survival"], (1 - hazards).cumprod(1), atol=1e-5)
    else:
        assert np.allclose(found["probabilities"], expected, atol=1e-4)
    kept = session.get_modelmeta().custom_metadata_map
    assert json.loads(kept["fedmed.plan_digest"]) == facts["plan_digest"]
    assert json.loads(kept["fedmed.preprocessing"]) == facts["preprocessing"]
    whole = (out / "model.onnx").read_bytes()
    assert b"site-packages" not in whole
    assert b"fedmed/models" not in whole
    assert not list(tmp_path.glob(".*"))


@needs_onnx
def test_numbers_that_a_file_of_protobuf_can_not_hold_lie_beside_the_graph(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Beyond a bound, here a low one; the folder is whole wherever it is carried, and answers the same."""
    import onnx  # noqa: PLC0415  an extra
    import onnxruntime  # noqa: PLC0415  likewise

    released = open_released(write_result(tmp_path, "tabular-transformer"))
    numbers, found = [], {}
    real = onnx_form._bytes_of
    monkeypatch.setattr(onnx_form, "_bytes_of", lambda model: numbers.append(real(model)) or numbers[-1])
    for name, most in (("one", None), ("exact", 0), ("beside", -1)):
        if most is not None:
            monkeypatch.setattr(onnx_form, "_ONE_FILE", numbers[0] + most)
        out = tmp_path / name
        export(released, "onnx", out, schema=None)
        carried = shutil.copytree(out, tmp_path / f"{name} elsewhere")
        shutil.rmtree(out)
        session = onnxruntime.InferenceSession(str(carried / "model.onnx"), providers=["CPUExecutionProvider"])
        facts = json.loads((carried / "fedmed.json").read_text())
        given = inputs_of("tabular-transformer", carried, facts)
        found[name] = session.run(None, given)
        beside = {path.name for path in carried.iterdir() if "onnx" in path.name} - {"model.onnx"}
        assert beside == ({"model.onnx.data"} if name == "beside" else set())
        graph = onnx.load(str(carried / "model.onnx"), load_external_data=False)
        outside = [value.name for value in graph.graph.initializer if value.data_location == onnx.TensorProto.EXTERNAL]
        assert bool(outside) == (name == "beside")
    outside_bytes = (tmp_path / "beside elsewhere" / "model.onnx.data").stat().st_size
    assert 0 < outside_bytes <= numbers[0] < (tmp_path / "one elsewhere" / "model.onnx").stat().st_size
    for one, exact, beside_it in zip(found["one"], found["exact"], found["beside"], strict=True):
        assert np.array_equal(one, exact)
        assert np.array_equal(one, beside_it)


def test_the_bound_of_one_file_is_below_protobufs():
    """A file of protobuf ends at two gibibytes, its graph and facts among them."""
    assert onnx_form._ONE_FILE <= 1 << 30


@needs_onnx
@pytest.mark.slow
def test_a_model_of_free_answers_gives_logits_alone(tmp_path: Path):
    """It has no classes: whoever generates reads the logits after each token."""
    released = open_released(write_result(tmp_path, "causal-lm:gpt2:free"))
    export(released, "onnx", tmp_path / "graph", schema=None)
    facts = json.loads((tmp_path / "graph" / "fedmed.json").read_text())
    assert [port["name"] for port in facts["outputs"]] == ["logits"]
    assert facts["outputs"][0]["axes"] == ["records", "tokens", 300]
    assert facts["classes"] is None
    assert "answers" not in facts["preprocessing"]["text"]


@pytest.mark.parametrize("kind", [kind for kind in LARGE if kind != "fusion"])
def test_a_merged_folder_loads_in_plain_transformers(kind: str, tmp_path: Path):
    """Base and adapter are one; without PEFT the logits are those of the released model."""
    folder = write_result(tmp_path, kind)
    out = tmp_path / "merged"
    export(open_released(folder), "merged", out, schema=None)
    assert not (out / "adapter_config.json").exists()
    facts = json.loads((out / "fedmed.json").read_text())
    auto = {
        "text-encoder": transformers.AutoModelForSequenceClassification,
        "causal-lm": transformers.AutoModelForCausalLM,
        "image-encoder": transformers.AutoModelForImageClassification,
    }[kind.partition(":")[0]]
    plain = auto.from_pretrained(str(out), local_files_only=True).eval()
    given = {name: torch.from_numpy(value) for name, value in inputs_of(kind, out, facts).items()}
    if kind.startswith("causal"):
        given["position_ids"] = (given["attention_mask"].cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        found = plain(**given).logits
    if kind.startswith("causal"):
        found = found[:, -1, [answer["first_token"] for answer in facts["preprocessing"]["text"]["answers"]]]
        assert plain.config.use_cache
    expected = released_outputs(folder, rows_of(kind))
    assert torch.allclose(found, expected, atol=1e-4 * max(1.0, float(expected.abs().max())))
    assert {path.suffix for path in out.iterdir()} <= {".json", ".safetensors", ".md", ".jinja", ".txt"}


def test_a_merged_classifier_carries_the_names_of_its_classes(tmp_path: Path):
    """Where the data set's schema is given: transformers shows them to whoever runs the model."""
    stages = ("early", "late", "none")
    schema = Schema(
        name="tiny",
        file="{site}.csv",
        columns=(
            Column(name="note", kind="text", role="free-text"),
            Column(name="stage", kind="category", role="target", values=stages),
        ),
        targets=(Target(name="stage", column="stage", one_of=stages, classes=stages),),
        text=TextPart(column="note", characters=CHARACTERS),
    )
    folder = write_result(tmp_path, "text-encoder:bert", schema=schema, target="stage")
    export(open_released(folder), "merged", tmp_path / "merged", schema=schema)
    config = transformers.AutoConfig.from_pretrained(str(tmp_path / "merged"), local_files_only=True)
    assert config.id2label == dict(enumerate(stages))
    assert json.loads((tmp_path / "merged" / "fedmed.json").read_text())["classes"] == list(stages)


@pytest.mark.parametrize("kind", ["tabular-transformer", "fusion"])
def test_a_family_of_fedmed_is_merged_into_a_model_folder(kind: str, tmp_path: Path):
    """No class of transformers: `load_module` loads it, and the adapter is gone."""
    folder = write_result(tmp_path, kind)
    out = tmp_path / "merged"
    export(open_released(folder), "merged", out, schema=None)
    _, module = load_module(out, expected_digest=folder_digest(out))
    assert not any("lora" in name for name, _ in module.named_parameters())
    with torch.no_grad():
        found = module.eval()(rows_of(kind))
    assert torch.allclose(found, released_outputs(folder, rows_of(kind)), atol=1e-4)
    assert "load_module('.'" in (out / "README.md").read_text()


def test_the_facts_beside_a_form_are_documented(tmp_path: Path):
    """The how-to lists every key of fedmed.json, and no other."""
    export(open_released(write_result(tmp_path, "tabular-transformer")), "merged", tmp_path / "merged", schema=None)
    facts = json.loads((tmp_path / "merged" / "fedmed.json").read_text())
    page = (Path(__file__).parents[3] / "docs/how-to/use-the-model-elsewhere.md").read_text()
    section = page.partition("## What lies beside the weights")[2].partition("\n## ")[0]
    rows = [line.split(" | ")[0] for line in section.splitlines() if line.startswith("| `")]
    assert {key for row in rows for key in re.findall(r"`([^`]+)`", row)} == set(facts)


@pytest.mark.parametrize("kind", ["linear", "survival", "ngrams"])
def test_what_was_trained_in_full_has_nothing_to_merge(kind: str, tmp_path: Path):
    """The message says what the whole model is and what else there is; nothing is written."""
    released = open_released(write_result(tmp_path, kind))
    with pytest.raises(UsageError, match=r"trained in full: load .*model with fedmed.models.load_module, or take"):
        export(released, "merged", tmp_path / "merged", schema=None)
    assert not (tmp_path / "merged").exists()


def test_a_form_that_differs_is_not_written(tmp_path: Path):
    """Weights so large that sums of them are no numbers: no comparison can succeed, and nothing is left."""
    folder = write_result(tmp_path, "tabular-transformer")
    path = folder / "model" / "adapter_model.safetensors"
    state = safetensors.torch.load(path.read_bytes())
    path.write_bytes(safetensors.torch.save({name: torch.full_like(value, 3e38) for name, value in state.items()}))
    with pytest.raises(IntegrityError, match=r"the merged form differs by nan in logits.*nothing is written"):
        export(open_released(folder), "merged", tmp_path / "merged", schema=None)
    assert {path.name for path in tmp_path.iterdir()} == {"state", "base"}


def test_what_is_there_is_not_overwritten(tmp_path: Path):
    """Not even an empty folder."""
    released = open_released(write_result(tmp_path, "tabular-transformer"))
    (tmp_path / "merged").mkdir()
    with pytest.raises(UsageError, match="expected nothing there yet, found something; nothing was overwritten"):
        export(released, "merged", tmp_path / "merged", schema=None)
    assert not list((tmp_path / "merged").iterdir())


def test_a_card_that_somebody_filled_in_goes_along(tmp_path: Path):
    """What the consortium wrote stays; what is said of the form is added."""
    folder = write_result(tmp_path, "tabular-transformer")
    card = folder / "model" / "README.md"
    card.write_text(card.read_text().replace("Not stated.", "For the planning of beds."))
    export(open_released(folder), "merged", tmp_path / "merged", schema=None)
    found = (tmp_path / "merged" / "README.md").read_text()
    assert "For the planning of beds." in found
    assert found.startswith("---\nlibrary_name: fedmed\n")
    assert "## This form\nExported as `merged`" in found
