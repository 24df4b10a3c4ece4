"""Text encoders from a local folder: two private federated rounds, and the adapter loads in plain PEFT."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from fedmed.data.schema import Column, Schema, Target, TextPart
from fedmed.errors import IntegrityError, ModelError
from fedmed.models import (
    Architecture,
    attach_adapter,
    build_module,
    folder_digest,
    load_module,
    record_losses,
    save_base,
    state_digest,
)
from fedmed.models.vector import Layout
from fedmed.privacy.engine import per_record_gradients
from fedmed.privacy.precision import computing, longest
from fedmed.records import LoraRule, ModelSpec, Precision, TrainingSpec
from fedmed.rows import text_rows

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # PEFT's own
FAMILIES = ("bert", "roberta", "xlm-roberta", "deberta", "deberta-v2", "electra", "distilbert", "mpnet")
SCHEMA = Schema(
    name="tiny",
    file="{site}.csv",
    columns=(
        Column(name="id", kind="identifier", role="patient-key"),
        Column(name="note", kind="text", role="free-text"),
        Column(name="ill", kind="binary", role="target", values=("0", "1")),
    ),
    targets=(Target(name="ill", column="ill", one_of=("1",)),),
    text=TextPart(column="note", characters=48),
)


def spec_of(folder: Path | None, **changes: Any) -> ModelSpec:
    """Return a text encoder with a small adapter."""
    settings = {"path": None if folder is None else str(folder), "characters": 48, "max_tokens": 24, "lora_rank": 4}
    return ModelSpec(family="text-encoder", adapter="lora", lora_alpha=8.0, **settings | changes)


def tables(make: Callable[..., list[tuple[str, int]]]) -> list[list[str]]:
    """Return three clinics' notes."""
    return [
        ["id,note,ill", *(f"p{i},{text},{label}" for i, (text, label) in enumerate(make(30, seed=seed)))]
        for seed in range(3)
    ]


@pytest.mark.parametrize("family", FAMILIES)
def test_two_private_rounds_and_the_adapter_loads_in_plain_peft(
    family: str, text_folder: Any, clinics: Any, some_notes: Any, tmp_path: Path
):
    """The result has moved from its start; transformers and PEFT alone give its logits on a note."""
    sites = clinics(SCHEMA, tables(some_notes))
    plan = sites.plan(spec_of(text_folder(family)), features=48)
    result = sites.train(plan, tmp_path / "state")
    assert plan.model.path is None
    _, module = load_module(result / "base", expected_digest=folder_digest(result / "base"))
    ours = attach_adapter(module, plan.model, seed=plan.seed)
    start = Layout.of(ours).read(ours)
    plain = AutoModelForSequenceClassification.from_pretrained(str(result / "base" / "text"), local_files_only=True)
    plain = PeftModel.from_pretrained(plain, str(result / "model")).eval()
    tokenizer = AutoTokenizer.from_pretrained(str(result / "base" / "text"), local_files_only=True)
    text = "fever and cough 7"
    with torch.no_grad():
        expected = plain(**tokenizer([text], truncation=True, max_length=24, return_tensors="pt")).logits
        ours.load_adapter(str(result / "model"), "released")
        ours.set_adapter("released")
        found = ours.eval()(torch.from_numpy(text_rows([text], characters=48)))
        ours.set_adapter("default")
        before = ours(torch.from_numpy(text_rows([text], characters=48)))
    assert torch.allclose(found, expected, atol=1e-5)
    assert not torch.allclose(before, expected, atol=1e-3)
    assert np.isfinite(start).all()


@pytest.mark.parametrize("rule", ["fedsvd", "rolora", "fedit", "mr-mtl"])
def test_every_rule_trains_an_encoder(rule: LoraRule, text_folder: Any, clinics: Any, some_notes: Any, tmp_path: Path):
    """Factors that are refreshed, alternate, are both averaged, or stay at the site: two private rounds each."""
    sites = clinics(SCHEMA, tables(some_notes))
    training = TrainingSpec(
        rounds=2, local_steps=1, sample_rate=0.5, learning_rate=0.1, proximal=0.5 if rule == "mr-mtl" else 0.0
    )
    plan = sites.plan(spec_of(text_folder("bert"), lora_rule=rule), features=48, training=training)
    assert (sites.train(plan, tmp_path / "state") / "model" / "adapter_model.safetensors").is_file()


def architecture(folder: Path | None, **changes: Any) -> Architecture:
    """Return the architecture of a two-class encoder."""
    return Architecture.of(spec_of(folder, **changes), features=48, classes=2)


@pytest.mark.parametrize("family", ["bert", "deberta-v2"])
def test_a_note_alone_has_the_gradient_that_it_has_beside_a_longer_one(family: str, text_folder: Any):
    """Padding is not read, so a clipped sum is one of the records' own gradients."""
    spec = spec_of(text_folder(family))
    module = attach_adapter(build_module(architecture(Path(str(spec.path))), seed=1), spec, seed=1)
    batch = torch.from_numpy(text_rows(["a", "b much longer note, is it not", ""], characters=48))
    labels = torch.tensor([0, 1, 1])
    together = torch.cat(list(per_record_gradients(module, loss=record_losses, inputs=batch, labels=labels)))
    for place in range(3):
        part = slice(place, place + 1)
        alone = next(iter(per_record_gradients(module, loss=record_losses, inputs=batch[part], labels=labels[part])))
        assert torch.allclose(together[part], alone, atol=1e-4 * float(together.abs().max()))


def test_many_notes_are_evaluated_as_one_by_one(text_folder: Any):
    """Without gradients rows are read in small batches, which shows in nothing but memory."""
    module = build_module(architecture(text_folder("bert")), seed=1).eval()
    rows = torch.from_numpy(text_rows([f"note {number}" for number in range(40)], characters=48))
    with torch.no_grad():
        assert torch.allclose(module(rows), torch.cat([module(row[None]) for row in rows]), atol=1e-5)


def test_the_head_depends_on_the_seed_and_chance_on_nothing(text_folder: Any):
    """Every site starts from one function, and there is no dropout to differ in."""
    folder = text_folder("bert")
    one, other, third = (build_module(architecture(folder), seed=seed) for seed in (1, 1, 2))
    assert state_digest(one) == state_digest(other) != state_digest(third)
    rows = torch.from_numpy(text_rows(["cough"], characters=48))
    assert torch.equal(one.train()(rows), one.train()(rows))


def test_a_base_is_complete_and_keeps_no_path(text_folder: Any, tmp_path: Path):
    """It loads after the source is gone, and no file of it says where that was."""
    source = text_folder("roberta")
    built = build_module(architecture(source), seed=1)
    name = save_base(tmp_path / "base", architecture(source), built)
    rows = torch.from_numpy(text_rows(["cough"], characters=48))
    expected = built.eval()(rows)
    shutil.rmtree(source)
    shutil.move(str(tmp_path / "base"), str(tmp_path / "moved"))
    _, module = load_module(tmp_path / "moved", expected_digest=name)
    assert torch.equal(module.eval()(rows), expected)
    for path in (tmp_path / "moved").rglob("*.json"):
        assert str(tmp_path) not in path.read_text()


def test_a_flipped_bit_in_a_tower_is_another_model(text_folder: Any, tmp_path: Path):
    """The digest of a base names that of every file of its towers: weights, configuration and tokenizer."""
    source = text_folder("bert")
    name = save_base(tmp_path / "base", architecture(source), build_module(architecture(source), seed=1))
    for path in sorted((tmp_path / "base" / "text").iterdir()):
        whole = path.read_bytes()
        path.write_bytes(whole[:-3] + bytes([whole[-3] ^ 1]) + whole[-2:])
        with pytest.raises(IntegrityError, match=path.name):
            load_module(tmp_path / "base", expected_digest=name)
        path.write_bytes(whole)
    load_module(tmp_path / "base", expected_digest=name)


def _without_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def _pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def _cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:300])


def _configured(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | changes))

    return change


def _adapter(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("{}")


def _no_tokenizer(folder: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()


def _other_tokenizer(folder: Path) -> None:
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    tokenizer["model"]["vocab"]["unheard"] = 999
    path.write_text(json.dumps(tokenizer))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_without_weights, r"expected weights \(\*.safetensors\).*found none"),
        (_pickled, r"the weights are a pickle \(pytorch_model.bin\).*not opened"),
        (_cut, "can't be read"),
        (lambda folder: (folder / "config.json").unlink(), "expected config.json"),
        (_configured(model_type="telepathy"), "can't be read"),
        (_configured(model_type="telepathy", auto_map={"AutoModel": "evil.Model"}), "can't be read"),
        (_configured(num_hidden_layers=3), "the weights are not those of its config.json"),
        (_configured(hidden_size=32), "the weights are not those of its config.json"),
        (_adapter, "expected a whole model, found an adapter"),
        (_no_tokenizer, r"expected a tokenizer \(tokenizer.json\)"),
        (_other_tokenizer, "the tokenizer does not match the model: it makes tokens up to 999, the model has 200"),
        (_configured(pad_token_id=7), "the tokenizer does not match the model: pad is token 0"),
        (shutil.rmtree, "expected a model folder"),
    ],
)
def test_a_folder_that_cannot_be_used_is_one_line(
    spoil: Callable[[Path], None], message: str, text_folder: Any, tmp_path: Path
):
    """It says what was expected, what came and what to do; nothing in the folder runs."""
    folder = text_folder("bert")
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nModel = object\n")
    spoil(folder)
    with pytest.raises(ModelError, match=message) as refused:
        build_module(architecture(folder), seed=1)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "ran").exists()


def test_a_model_without_a_folder_is_refused():
    """The message names the setting."""
    with pytest.raises(ModelError, match=r"model.path: expected the folder"):
        architecture(None)


def test_a_window_of_text_that_is_not_the_data_sets_is_refused(text_folder: Any):
    """A row of 48 values holds no 64 characters."""
    with pytest.raises(ModelError, match="does not fit the data set"):
        architecture(text_folder("bert"), characters=64)


def test_a_plan_names_nobodys_folder(text_folder: Any, clinics: Any, some_notes: Any):
    """What travels says which model by digest, not where it was."""
    sites = clinics(SCHEMA, tables(some_notes))
    plan = sites.plan(spec_of(text_folder("bert")), features=48)
    assert plan.model.path is None
    assert np.isfinite(plan.training.learning_rate)


@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "deberta"])
def test_every_family_gives_gradients_in_half_precision(family: str, text_folder: Any):
    """The trial passes, and each record's row is near that of float32 and no other one's when a neighbour changes."""
    spec = spec_of(text_folder(family))
    module = attach_adapter(build_module(architecture(Path(str(spec.path))), seed=1), spec, seed=1)
    with torch.no_grad():
        for name, value in module.named_parameters():
            if "lora_B" in name:
                value.normal_(std=0.1, generator=torch.Generator().manual_seed(1))
    labels = torch.tensor([0, 1, 0, 1])

    def gradients(texts: list[str], precision: Precision) -> torch.Tensor:
        batch = torch.from_numpy(text_rows(texts, characters=48))
        found = per_record_gradients(
            module, loss=record_losses, inputs=batch, labels=labels, precision=precision, physical_batch=2
        )
        return torch.cat(list(found))

    texts = ["a", "b much longer note, is it not", "some other one", "fever"]
    exact, half = gradients(texts, "fp32"), gradients(texts, "bf16")
    assert 0 < float(((half - exact).norm(dim=1) / exact.norm(dim=1)).max()) < 0.2
    texts[1] = "b"
    assert torch.equal(gradients(texts, "bf16")[[0, 2, 3]], half[[0, 2, 3]])


def test_a_family_that_can_not_compute_in_half_precision_is_refused(text_folder: Any):
    """The first DeBERTa masks with a number that bfloat16 has not; the trial says no before a note is read."""
    spec = spec_of(text_folder("deberta"))
    module = attach_adapter(build_module(architecture(Path(str(spec.path))), seed=1), spec, seed=1)
    batch = torch.from_numpy(text_rows(["a", "b"], characters=48))
    gradients = per_record_gradients(
        module, loss=record_losses, inputs=batch, labels=torch.tensor([0, 1]), precision="bf16"
    )
    with pytest.raises(ModelError, match="can't be captured from this module"):
        next(gradients)


def test_a_plan_of_such_a_precision_is_refused_by_name(text_folder: Any):
    """Whoever makes or gets the plan reads which model it is, why, and what to take instead."""
    for kind, precision in (("deberta", "bf16"), ("deberta", "fp16"), ("deberta", "fp8"), ("deberta-v2", None)):
        spec = spec_of(text_folder(kind))
        module = build_module(architecture(Path(str(spec.path))), seed=1)
        if precision is None:
            attach_adapter(module, replace(spec, precision="bf16"), seed=1)
            continue
        message = f"a deberta model can't be computed in {precision}: .*; take model.precision=fp32, or another model"
        with pytest.raises(ModelError, match=message):
            attach_adapter(module, replace(spec, precision=precision), seed=1)  # type: ignore[arg-type]
        attach_adapter(module, spec, seed=1)


def test_texts_are_filled_up_to_one_length_where_a_shape_must_not_tell_of_others(text_folder: Any):
    """Then the module sees the most tokens whatever the notes, and gives the same outputs."""
    spec = spec_of(text_folder("bert"))
    module = attach_adapter(build_module(architecture(Path(str(spec.path))), seed=1), spec, seed=1).eval()
    widths: list[int] = []
    layer = next(layer for layer in module.modules() if isinstance(layer, torch.nn.LayerNorm))
    layer.register_forward_hook(lambda _layer, _given, found: widths.append(found.shape[1]))
    batch = torch.from_numpy(text_rows(["a", "b much"], characters=48))
    with torch.no_grad():
        short = module(batch)
        with longest(module):
            filled = module(batch)
        again = module(batch)
        with computing(module, "bf16"):
            module(batch)
    assert widths == [7, 24, 7, 24]
    assert torch.allclose(short, filled, atol=1e-6)
    assert torch.equal(short, again)
