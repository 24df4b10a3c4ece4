"""`fedmed simulate` on notes, conversations and images, from raw files to a released adapter."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
import transformers
import yaml
from PIL import Image as Picture
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from fedmed.cli import main
from fedmed.data.stored import stored_bytes
from fedmed_site.data_keys import DataKeys
from fedmed_site.home import SiteHome

SITES = ("north", "east", "south")
SIZE = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
MARKS = {"vocab_size": 300, "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1, "max_position_embeddings": 200}
KEY = {"name": "id", "kind": "identifier", "role": "patient-key"}
ILL = {"name": "ill", "kind": "binary", "role": "target", "values": ["0", "1"]}


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    """Leave torch's threads as they were: a run sets them."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def saved(model: Any, folder: Path) -> Path:
    """Write a tiny model with a tokenizer of bytes."""
    model.save_pretrained(str(folder))
    tokens = ["<s>", "<pad>", "</s>", "<unk>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE({token: place for place, token in enumerate(tokens)}, [], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", bos_token="<s>", unk_token="<unk>"
    ).save_pretrained(str(folder))  # fmt: skip
    return folder


def simulate(tmp_path: Path, schema: dict[str, Any], *words: str, target: str = "ill") -> dict[str, Any]:
    """Run two private rounds over the secure sum on the files in `tmp_path`, and return the summary."""
    conf = tmp_path / "conf"
    (conf / "data").mkdir(parents=True)
    (conf / "scenario").mkdir()
    split = {"kind": "hash", "test_fraction": 0.3, "seed": 0}
    data = {"name": "own", "root": str(tmp_path), "schema": {"name": "own", "version": 1, **schema}, "split": split}
    (conf / "data" / "own.yaml").write_text(yaml.safe_dump(data))
    (conf / "scenario" / "own.yaml").write_text(yaml.safe_dump({"studies": [{"name": "own", "target": target}]}))
    settings = [f"hydra.searchpath=[file://{conf}]", "data=own", "engine=inprocess", f"out={tmp_path / 'runs'}"]
    assert main(["simulate", *settings, "plan.rounds=2", "plan.local_steps=1", "model.lora_rank=4", *words]) == 0
    (folder,) = (tmp_path / "runs").iterdir()
    assert (folder / "coordinator/study-1/result/model/adapter_model.safetensors").is_file()
    summary: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    assert set(summary["final"]["accuracy"]) == set(SITES)
    return summary


def test_notes_reach_an_encoder_cleaned(tmp_path: Path) -> None:
    """A name in a note is gone from the table that the site keeps; the run ends with an adapter."""
    for site in SITES:
        rows = [f"p{i},{'fever' if i % 2 else 'cough'}. Patient: John Smithson,{i % 2}" for i in range(60)]
        (tmp_path / f"{site}.csv").write_text("\n".join(["id,note,ill", *rows]) + "\n")
    config = transformers.RobertaConfig(**SIZE, **MARKS)
    base = saved(transformers.RobertaModel(config), tmp_path / "model")
    schema = {
        "file": "{site}.csv", "sites": list(SITES), "text": {"column": "note", "characters": 60},
        "columns": [KEY, {"name": "note", "kind": "text", "role": "free-text"}, ILL],
        "targets": [{"name": "ill", "column": "ill", "one_of": ["1"]}],
    }  # fmt: skip
    simulate(tmp_path, schema, "model=text_encoder", f"model.path={base}", "model.max_tokens=64")
    (run,) = (tmp_path / "runs").iterdir()
    for site in SITES:
        home = SiteHome(run / "sites" / site)
        assert not (home.data("own") / "table.parquet").exists()
        key = DataKeys(home).of_dataset("own")
        plain = stored_bytes(home.data("own"), "table.parquet", data_set="own", key=key)
        notes = pl.read_parquet(io.BytesIO(plain or b""))["note"].to_list()
        assert any("Patient: [" in note for note in notes)
        assert not any("Smithson" in note for note in notes)
    plan = json.loads((run / "coordinator/study-1/result/plan.json").read_text())
    assert plan["model"]["path"] is None


def test_conversations_in_json_lines_reach_a_causal_model(tmp_path: Path) -> None:
    """The answers are learnt, in half precision, twice computed and below a ceiling; no raw table is left at a site."""
    for site in SITES:
        lines = [
            {
                "id": f"p{i}",
                "messages": [{"role": "user", "content": f"pulse {i}"}, {"role": "assistant", "content": "ok"}],
            }
            for i in range(60)
        ]
        (tmp_path / f"{site}.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    config = transformers.Qwen2Config(**SIZE, **MARKS, num_key_value_heads=1)
    base = saved(transformers.Qwen2ForCausalLM(config), tmp_path / "model")
    schema = {
        "file": "{site}.jsonl", "sites": list(SITES), "text": {"column": "talk", "characters": 60, "form": "chat"},
        "columns": [KEY, {"name": "talk", "kind": "text", "role": "free-text"}],
        "targets": [{"name": "answer", "column": "talk", "answered": True}],
    }  # fmt: skip
    words = ("model.precision=bf16", "model.checkpointing=true", "site.device=cpu", "site.memory_gb=0.05")
    summary = simulate(tmp_path, schema, "model=causal_lm", f"model.path={base}", *words, target="answer")
    assert summary["machine"].endswith("(cpu), bf16")
    (run,) = (tmp_path / "runs").iterdir()
    assert not list(run.rglob("raw.csv"))


def test_images_reach_a_classifier(tmp_path: Path) -> None:
    """Pictures beside the tables, one of them damaged."""
    rng = np.random.default_rng(0)
    for site in SITES:
        rows = ["id,file,ill"]
        for i in range(60):
            values = rng.integers(0, 100, (12, 12)) + 150 * (i % 2)
            Picture.fromarray(values.astype(np.uint8)).save(tmp_path / f"{site}-{i}.png")
            rows.append(f"p{i},{site}-{i}.png,{i % 2}")
        (tmp_path / f"{site}-3.png").write_bytes(b"damaged")
        (tmp_path / f"{site}.csv").write_text("\n".join(rows) + "\n")
    config = transformers.ViTConfig(**SIZE, image_size=12, patch_size=4)
    transformers.ViTForImageClassification(config).save_pretrained(str(tmp_path / "model"))
    schema = {
        "file": "{site}.csv", "sites": list(SITES), "image": {"column": "file", "size": 12},
        "columns": [KEY, {"name": "file", "kind": "text", "role": "direct-identifier"}, ILL],
        "targets": [{"name": "ill", "column": "ill", "one_of": ["1"]}],
    }  # fmt: skip
    simulate(
        tmp_path, schema, "model=image_encoder", f"model.path={tmp_path / 'model'}", "model.augmentation=flip-shift"
    )
    (run,) = (tmp_path / "runs").iterdir()
    assert '"unreadable":1' in (run / "sites" / "north" / "audit.jsonl").read_text()
