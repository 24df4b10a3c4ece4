"""Every family of pretrained models, from a local folder through `fedmed simulate` to an adapter for plain PEFT."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
import yaml
from model_folders import write_causal_folder, write_image_folder, write_text_folder
from peft import PeftModel
from PIL import Image as Picture

from fedmed.cli import main
from fedmed.released import open_released
from fedmed.rows import text_rows

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # PEFT's own
SITES = ("north", "east", "south")
PATIENTS, CHARACTERS, SIDE = 40, 24, 12
KEY = {"name": "id", "kind": "identifier", "role": "patient-key"}
ILL = {"name": "ill", "kind": "binary", "role": "target", "values": ["0", "1"]}
TARGET = {"name": "ill", "column": "ill", "one_of": ["1"]}
ENCODERS = ("bert", "roberta", "xlm-roberta", "distilbert", "electra", "deberta", "deberta-v2", "modernbert")
CAUSAL = ("gpt2", "llama", "qwen2", "qwen3", "deepseek-qwen", "deepseek-llama")
TEXTS = ["fever, mild", "cough"]


@pytest.fixture(autouse=True)
def threads() -> Any:
    """Leave torch's threads as they were: a run sets them."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def simulate(tmp_path: Path, schema: dict[str, Any], *words: str) -> Path:
    """Run two private rounds over the secure sum on the files in `tmp_path`; return the result's folder."""
    conf = tmp_path / "conf"
    schema = {"name": "own", "version": 1, "file": "{site}.csv", "sites": list(SITES), "targets": [TARGET], **schema}
    data = {"name": "own", "root": str(tmp_path), "schema": schema}
    data["split"] = {"kind": "hash", "test_fraction": 0.3, "seed": 0}
    for group, content in (("data", data), ("scenario", {"studies": [{"name": "own", "target": "ill"}]})):
        (conf / group).mkdir(parents=True)
        (conf / group / "own.yaml").write_text(yaml.safe_dump(content))
    settings = [f"hydra.searchpath=[file://{conf}]", "data=own", "engine=inprocess", f"out={tmp_path / 'runs'}"]
    training = ["plan.rounds=2", "plan.local_steps=1", f"model.path={tmp_path / 'model'}"]
    assert main(["simulate", *settings, *training, *words]) == 0
    (folder,) = (tmp_path / "runs").iterdir()
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["rounds"] == 2
    assert summary["privacy"]["trust_model"] == "local"
    assert all(spent > 0 for spent in summary["privacy"]["epsilon"].values())
    assert summary["aggregation"]["secure"]
    return folder / "coordinator/study-1/result"


def write_notes(tmp_path: Path) -> dict[str, Any]:
    """Write a table of notes for each site and return what is particular about its schema."""
    for site in SITES:
        rows = [f"p{i},{'fever' if i % 2 else 'cough'} {i} days,{i % 2}" for i in range(PATIENTS)]
        (tmp_path / f"{site}.csv").write_text("\n".join(["id,note,ill", *rows]) + "\n")
    note = {"name": "note", "kind": "text", "role": "free-text"}
    return {"text": {"column": "note", "characters": CHARACTERS}, "columns": [KEY, note, ILL]}


def write_images(tmp_path: Path) -> dict[str, Any]:
    """Write a table and its images for each site and return what is particular about its schema."""
    rng = np.random.default_rng(0)
    for site in SITES:
        rows = ["id,file,ill"]
        for i in range(PATIENTS):
            values = rng.integers(0, 100, (SIDE, SIDE)) + 150 * (i % 2)
            Picture.fromarray(values.astype(np.uint8)).save(tmp_path / f"{site}-{i}.png")
            rows.append(f"p{i},{site}-{i}.png,{i % 2}")
        (tmp_path / f"{site}.csv").write_text("\n".join(rows) + "\n")
    file = {"name": "file", "kind": "text", "role": "direct-identifier"}
    return {"image": {"column": "file", "size": SIDE}, "columns": [KEY, file, ILL]}


def logits_of(model: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return a plain model's logits."""
    with torch.no_grad():
        found: torch.Tensor = model.eval()(**inputs).logits
    return found


def check_adapter(result: Path, auto: Any, part: str, inputs: Any, rows: torch.Tensor, *, chosen: Any = None) -> None:
    """Check that transformers and PEFT give what the released module gives, and that the base alone does not."""
    base = auto.from_pretrained(str(result / "base" / part), local_files_only=True)
    before = logits_of(base, inputs)
    found = logits_of(PeftModel.from_pretrained(base, str(result / "model")), inputs)
    module, _ = open_released(result).load()
    with torch.no_grad():
        expected = module(rows)
    if chosen is not None:
        before, found = before[:, -1, chosen], found[:, -1, chosen]
    scale = max(1.0, float(expected.abs().max()))
    assert torch.allclose(found, expected, atol=1e-4 * scale)
    assert not torch.allclose(before, expected, atol=1e-5 * scale)


def asked(tokenizer: Any, texts: Sequence[str]) -> dict[str, torch.Tensor]:
    """Return questions as the folder's template writes them, padded on the left."""
    turns = [[{"role": "user", "content": f"{text} Ill?"}] for text in texts]
    written = [tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True) for turn in turns]
    made = tokenizer(written, padding=True, padding_side="left", add_special_tokens=False, return_tensors="pt")
    positions = (made["attention_mask"].cumsum(1) - 1).clamp(min=0)
    return {"input_ids": made["input_ids"], "attention_mask": made["attention_mask"], "position_ids": positions}


@pytest.mark.parametrize("family", ENCODERS)
def test_an_encoder_of_notes(family: str, tmp_path: Path) -> None:
    """Two private rounds over the secure sum; the adapter loads in plain PEFT with the same logits."""
    write_text_folder(tmp_path / "model", family)
    result = simulate(tmp_path, write_notes(tmp_path), "model=text_encoder", "model.max_tokens=32")
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(result / "base" / "text"), local_files_only=True)
    made = tokenizer(TEXTS, padding=True, return_tensors="pt")
    inputs = {name: made[name] for name in ("input_ids", "attention_mask")}
    rows = torch.from_numpy(text_rows(TEXTS, characters=CHARACTERS))
    check_adapter(result, transformers.AutoModelForSequenceClassification, "text", inputs, rows)


@pytest.mark.parametrize("family", CAUSAL)
def test_a_causal_model_that_chooses_answers(family: str, tmp_path: Path) -> None:
    """Likewise, its question asked through the folder's chat template."""
    write_causal_folder(tmp_path / "model", family)
    words = ("model=causal_lm", "model.max_tokens=96", "model.prompt='{text} Ill?'", "model.answers=[no,yes]")
    result = simulate(tmp_path, write_notes(tmp_path), *words)
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(result / "base" / "text"), local_files_only=True)
    first = [tokenizer(answer, add_special_tokens=False)["input_ids"][0] for answer in ("no", "yes")]
    rows = torch.from_numpy(text_rows(TEXTS, characters=CHARACTERS))
    auto = transformers.AutoModelForCausalLM
    check_adapter(result, auto, "text", asked(tokenizer, TEXTS), rows, chosen=first)


@pytest.mark.parametrize("family", ["vit", "resnet"])
def test_an_encoder_of_images(family: str, tmp_path: Path) -> None:
    """Likewise, from files."""
    write_image_folder(tmp_path / "model", family)
    result = simulate(tmp_path, write_images(tmp_path), "model=image_encoder")
    images = torch.rand(2, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(3)) * 2 - 1
    rows = torch.cat([torch.ones(2, 1), images.flatten(1)], dim=1)
    if family == "vit":
        images = torch.nn.functional.interpolate(images, size=(16, 16), mode="bilinear", antialias=True)
    inputs = {"pixel_values": images.expand(-1, 3, -1, -1)}  # no preprocessor file: mean and deviation 0.5
    check_adapter(result, transformers.AutoModelForImageClassification, "image", inputs, rows)
