"""Image classifiers: two private federated rounds, frozen statistics, and one view of one record at a time."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from PIL import Image as Picture
from torch import nn
from transformers import AutoModelForImageClassification

from fedmed.data.schema import Column, ImagePart, Schema, Target
from fedmed.models import Architecture, attach_adapter, build_module, folder_digest, load_module, record_losses
from fedmed.models.vision import flipped_and_shifted
from fedmed.privacy.engine import per_record_gradients, train_private
from fedmed.privacy.noise import SeededNoise
from fedmed.records import ModelSpec

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # PEFT's own
SIZE, WIDTH = 12, 12 * 12 + 1
SCHEMA = Schema(
    name="tiny",
    file="{site}.csv",
    columns=(
        Column(name="id", kind="identifier", role="patient-key"),
        Column(name="file", kind="text", role="direct-identifier"),
        Column(name="ill", kind="binary", role="target", values=("0", "1")),
    ),
    targets=(Target(name="ill", column="ill", one_of=("1",)),),
    image=ImagePart(column="file", size=SIZE),
)


def spec_of(folder: Path, **changes: Any) -> ModelSpec:
    """Return an image encoder with a small adapter."""
    settings = {"path": str(folder), "image_size": SIZE, "channels": 1, "lora_rank": 4, "lora_alpha": 8.0}
    return ModelSpec(family="image-encoder", adapter="lora", **settings | changes)


def adapted(spec: ModelSpec) -> nn.Module:
    """Return the model of `spec` behind its adapter."""
    return attach_adapter(build_module(Architecture.of(spec, features=WIDTH, classes=2), seed=1), spec, seed=1)


def images(count: int, *, seed: int = 3) -> torch.Tensor:
    """Return rows with an image each."""
    values = torch.rand(count, WIDTH, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    values[:, 0] = 1
    return values


@pytest.mark.parametrize("family", ["vit", "resnet"])
def test_two_private_rounds_and_the_adapter_loads_in_plain_peft(
    family: str, image_folder: Any, clinics: Any, tmp_path: Path
):
    """Images from files are learnt under privacy and the secure sum; transformers and PEFT give the same logits."""
    rng = np.random.default_rng(1)
    tables = []
    for place in range(3):
        rows = ["id,file,ill"]
        for number in range(40):
            label = int(rng.integers(2))
            values = rng.integers(0, 100, (SIZE, SIZE)) + 150 * label
            Picture.fromarray(values.astype(np.uint8)).save(tmp_path / f"{place}-{number}.png")
            rows.append(f"p{number},{place}-{number}.png,{label}")
        tables.append([*rows, "broken,missing.png,1"])
    sites = clinics(SCHEMA, tables)
    plan = sites.plan(spec_of(image_folder(family)), features=WIDTH)
    result = sites.train(plan, tmp_path / "state")
    _, module = load_module(result / "base", expected_digest=folder_digest(result / "base"))
    ours = attach_adapter(module, plan.model, seed=plan.seed)
    ours.load_adapter(str(result / "model"), "released")
    ours.set_adapter("released")
    plain = AutoModelForImageClassification.from_pretrained(str(result / "base" / "image"), local_files_only=True)
    plain = PeftModel.from_pretrained(plain, str(result / "model")).eval()
    rows = images(2)
    scaled = rows[:, 1:].view(2, 1, SIZE, SIZE)
    if family == "vit":
        scaled = nn.functional.interpolate(scaled, size=(16, 16), mode="bilinear", antialias=True)
    with torch.no_grad():
        expected = plain(pixel_values=scaled.expand(-1, 3, -1, -1)).logits  # no preprocessor file: mean and sd 0.5
        assert torch.allclose(ours.eval()(rows), expected, atol=1e-3 * float(expected.abs().max()))


def test_batch_statistics_of_patients_stay_out_of_the_model(image_folder: Any):
    """Training leaves running means as they were, and no record's gradient depends on the others."""
    module = adapted(spec_of(image_folder("resnet")))
    before = {name: value.clone() for name, value in module.named_buffers()}
    assert any("running_mean" in name for name in before)
    inputs, labels = images(6), torch.tensor([0, 1, 0, 1, 0, 1])
    together = torch.cat(list(per_record_gradients(module, loss=record_losses, inputs=inputs, labels=labels)))
    alone = next(iter(per_record_gradients(module, loss=record_losses, inputs=inputs[2:3], labels=labels[2:3])))
    assert torch.allclose(together[2:3], alone, atol=1e-4 * float(alone.abs().max()))
    train_private(
        module, loss=record_losses, inputs=inputs, labels=labels, steps=2, sample_rate=1.0, expected_batch=6,
        clip_norm=1.0, noise_multiplier=1.0, learning_rate=0.1, momentum=0.0, noise=SeededNoise(bytes(32)),
    )  # fmt: skip
    for name, value in module.named_buffers():
        assert torch.equal(value, before[name]), name


def test_the_view_of_a_record_depends_on_no_other_record():
    """Leaving a record out changes nobody else's view: with a common generator it would."""
    batch = images(8)[:, 1:].view(8, 1, SIZE, SIZE)
    whole = flipped_and_shifted(batch, salt=7)
    assert torch.equal(flipped_and_shifted(batch[3:], salt=7), whole[3:])
    assert torch.equal(flipped_and_shifted(batch.flip(0), salt=7), whole.flip(0))


def test_another_state_of_the_model_gives_another_view():
    """Over the steps a record is seen mirrored and moved in many ways; its values stay its own."""
    image = images(1)[:, 1:].view(1, 1, SIZE, SIZE)
    views = {tuple(flipped_and_shifted(image, salt=salt).flatten().tolist()) for salt in range(40)}
    assert len(views) >= 10
    own = {*image.flatten().tolist(), -1.0}
    assert all(own.issuperset(view) for view in views)


def test_evaluation_sees_the_image_as_it_is(image_folder: Any):
    """Augmentation belongs to training."""
    plain, moved = (adapted(spec_of(image_folder("vit"), augmentation=kind)) for kind in ("none", "flip-shift"))
    with torch.no_grad():
        for value in (*plain.parameters(), *moved.parameters()):
            if value.requires_grad:
                value.copy_(torch.linspace(-1, 1, value.numel()).view_as(value))
        assert torch.equal(plain.eval()(images(4)), moved.eval()(images(4)))
        assert not torch.equal(plain.train()(images(4)), moved.train()(images(4)))
