"""A site's machine is found, named and refused in one line; what a study computes on it is the same study."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from small_transformers import losses, transformer
from torch import Tensor, nn

from fedmed.data.source import Cohort
from fedmed.errors import ConfigError, ModelError
from fedmed.learning.local import evaluate, fisher_sum, train_locally
from fedmed.learning.machine import Machine, at_work
from fedmed.model_spec import MachineSpec, Precision
from fedmed.models import Architecture, Layout, attach_adapter, build_module
from fedmed.models.reading import checkpointed
from fedmed.privacy.engine import per_record_gradients
from fedmed.privacy.gradients import training_mode
from fedmed.privacy.noise import SeededNoise
from fedmed.records import ContinualSpec, ModelSpec, PrivacySpec, TrainingSpec

PROCESSOR = Machine.found(MachineSpec(device="cpu"))
PRIVATE = PrivacySpec(
    trust_model="local", epsilon=8.0, clip_norm=1.0, noise_multiplier=1e-9, release_noise_multiplier=1e-9
)
SPEC = ModelSpec(family="tabular-transformer", adapter="lora", width=16, depth=1, heads=2, lora_rank=2)
no_card = pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a graphics card")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Keep tiny matrices on one core."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def module_of(spec: ModelSpec = SPEC) -> nn.Module:
    """Return a small adapted transformer whose B isn't zero."""
    module = attach_adapter(build_module(Architecture.of(spec, features=4, classes=2), seed=0), spec, seed=0)
    with torch.no_grad():
        for value in module.parameters():
            if value.requires_grad:
                value.normal_(std=0.3, generator=torch.Generator().manual_seed(3))
    return module


def cohort(records: int = 24) -> Cohort:
    """Return records whose label follows from the first feature."""
    values = np.random.default_rng(0).normal(size=(records, 4)).clip(-4, 4).astype(np.float32)
    labels = (values[:, 0] > 0).astype(np.int64)
    return Cohort(features=values, labels=labels, feature_names=("a", "b", "c", "d"), classes=("no", "yes"))


# --- what is found -----------------------------------------------------------------------------


def test_the_processor_is_named_with_its_memory_and_precisions():
    """Name, memory, what it computes in and the ceiling are in one line, for the doctor and the report."""
    found = Machine.found(MachineSpec(device="cpu", memory_gb=1.5))
    assert (found.device, found.precisions, found.ceiling_bytes) == ("cpu", ("fp32", "bf16", "fp16"), 3 << 29)
    assert found.memory_bytes > 1 << 28
    assert found.name in str(found)
    assert "fp32 bf16 fp16, training below 1.5 GiB" in str(found)
    assert Machine.found(MachineSpec(device="cpu")).ceiling_bytes is None


@no_card
def test_without_a_card_the_processor_is_taken_or_the_card_refused():
    """`auto` computes on the processor; `cuda` is an error in one line."""
    assert Machine.found(MachineSpec()).device == "cpu"
    with pytest.raises(ConfigError, match="expected a graphics card for cuda, torch finds none here"):
        Machine.found(MachineSpec(device="cuda"))


def test_a_card_is_taken_where_torch_finds_one(monkeypatch: pytest.MonkeyPatch):
    """What it computes in follows from its compute capability, and nine tenths of what is free is its ceiling."""

    class Card:
        name, major, minor = "some card", 8, 6

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: Card)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (10 << 30, 24 << 30))
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: Card.major >= 8)
    found = Machine.found(MachineSpec())
    assert (found.device, found.name, found.precisions) == ("cuda", "some card", ("fp32", "bf16", "fp16"))
    assert found.ceiling_bytes == 9 << 30
    assert Machine.found(MachineSpec(memory_gb=2)).ceiling_bytes == 2 << 30
    assert Machine.found(MachineSpec(device="cpu")).device == "cpu"
    for major, minor, expected in ((7, 5, ("fp32", "fp16")), (8, 9, ("fp32", "bf16", "fp16", "fp8"))):
        Card.major, Card.minor = major, minor
        assert Machine.found(MachineSpec()).precisions == expected


def test_a_precision_that_the_machine_has_not_is_refused_before_anything_runs():
    """The line says what was asked for, what is there, and what eight bits need."""
    with pytest.raises(ConfigError, match=r"fp8 can't be computed on .* \(cpu\); it needs a card .* fp32, bf16, fp16"):
        PROCESSOR.require("fp8")
    module = module_of()
    with pytest.raises(ConfigError, match="fp8"), at_work(module, PROCESSOR, replace(SPEC, precision="fp8")):
        pytest.fail("nothing is computed")


# --- a module at work --------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_only_frozen_matrices_are_lowered_and_all_come_back(precision: Precision):
    """Adapters, heads, biases, norms and embeddings stay float32; afterwards every frozen bit is as it was."""
    module = module_of()
    before = {name: value.detach().clone() for name, value in module.state_dict().items()}
    wanted = {"bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    with at_work(module, PROCESSOR, replace(SPEC, precision=precision)):
        for name, value in module.named_parameters():
            matrix = value.ndim == 2 and "direction" not in name and "position" not in name
            lowered = matrix and not value.requires_grad
            assert value.dtype == (wanted if lowered else torch.float32), name
        for value in module.parameters():
            if value.requires_grad:
                value.data.add_(1.0)
    trained = {name for name, value in module.named_parameters() if value.requires_grad}
    for name, value in module.state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, before[name] + 1 if name in trained else before[name])


def test_what_an_embedding_shares_with_the_output_stays_float32():
    """Lowered, it would round the sums that run through all blocks, not only a product."""
    module, _, _ = transformer("Qwen2")
    output: Any = module.model.get_base_model().lm_head  # type: ignore[union-attr,operator]
    with at_work(module, PROCESSOR, replace(SPEC, precision="bf16")):
        assert output.weight.dtype == torch.float32
        assert any(value.dtype == torch.bfloat16 for value in module.parameters())


def test_a_module_comes_back_after_an_error():
    """Whatever ends the work, the weights are those that it came with."""
    module = module_of()
    before = {name: value.detach().clone() for name, value in module.state_dict().items()}
    with pytest.raises(ValueError, match="stop"), at_work(module, PROCESSOR, replace(SPEC, precision="bf16")):
        raise ValueError("stop")
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


@pytest.mark.parametrize("trust_model", ["none", "local", "distributed"])
def test_an_update_in_half_precision_is_near_that_of_float32(trust_model: Any):
    """Every trust model trains in the precision of the plan, with float32 or float64 results."""
    open_ = PrivacySpec(trust_model="none")
    privacy = open_ if trust_model == "none" else replace(PRIVATE, trust_model=trust_model)
    training = TrainingSpec(rounds=1, local_steps=1, sample_rate=1.0, learning_rate=0.5)
    found = {}
    for precision in ("fp32", "bf16"):
        module = module_of()
        found[precision] = train_locally(
            module, Layout.of(module).read(module), cohort(), training=training, privacy=privacy,
            noise=SeededNoise(b"k"), spec=replace(SPEC, precision=precision), machine=PROCESSOR,  # type: ignore[arg-type]
        ).delta  # fmt: skip
    error = np.linalg.norm(found["bf16"] - found["fp32"]) / np.linalg.norm(found["fp32"])
    assert 1e-6 < error < 0.05
    assert found["bf16"].dtype == found["fp32"].dtype


@pytest.mark.parametrize("kind", ["coordinates", "delta-w"])
def test_fisher_information_is_taken_in_the_precision_of_the_plan(kind: Any):
    """Also of the weights that an adapter changes, which are then float32 as whatever gradients are taken of."""
    continual = ContinualSpec(strength=0.0, release_fisher=True, fisher_clip_norm=1e3, fisher=kind)
    found = []
    for precision in ("fp32", "bf16"):
        module, spec = module_of(), replace(SPEC, precision=precision)  # type: ignore[arg-type]
        model = Layout.of(module).read(module)
        found.append(
            fisher_sum(
                module, model, cohort(), continual=continual, privacy=PRIVATE, noise=SeededNoise(b"k"), spec=spec,
                machine=PROCESSOR,
            )
        )  # fmt: skip
    assert 1e-6 < np.linalg.norm(found[1] - found[0]) / np.linalg.norm(found[0]) < 0.1


def test_held_out_records_are_scored_in_the_precision_of_the_plan():
    """Scores are float32 and near those of float32, and the module is whole again."""
    found = []
    for precision in ("fp32", "bf16"):
        module = module_of()
        model = Layout.of(module).read(module)
        spec = replace(SPEC, precision=precision)  # type: ignore[arg-type]
        found.append(evaluate(module, model, cohort(), spec=spec, machine=PROCESSOR).scores)
    assert found[1].dtype == np.float32
    assert 0 < np.abs(found[1] - found[0]).max() < 0.05


def test_a_record_without_a_finite_gradient_is_counted_where_the_sites_share_the_noise():
    """It counts as zero in the sum, and the site can tell."""
    data = cohort()
    data.features[3] = np.inf
    shared = replace(PRIVATE, trust_model="distributed")
    training = TrainingSpec(rounds=1, local_steps=1, sample_rate=1.0, learning_rate=0.5)
    module = module_of()
    found = train_locally(
        module, Layout.of(module).read(module), data, training=training, privacy=shared, noise=SeededNoise(b"k")
    )
    assert found.nonfinite == 1
    assert np.isfinite(found.delta).all()


# --- checkpointing -----------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("kind", ["BERT", "GPT-2", "Llama", "Qwen2", "ViT"])
def test_checkpointed_rows_equal_an_explicit_loop(kind: str, precision: Precision):
    """Blocks are computed a second time, and each row is that of its record alone to 1e-5, or as without it."""
    module, inputs, labels = transformer(kind, layers=3, records=4)

    def rows() -> Tensor:
        found = per_record_gradients(module, loss=losses, inputs=inputs, labels=labels, precision=precision)
        return torch.cat(list(found))

    parameters = [value for value in module.parameters() if value.requires_grad]
    expected = rows()
    if precision == "fp32":
        with training_mode(module):
            alone = [losses(module(inputs[i : i + 1]), labels[i : i + 1]).sum() for i in range(4)]
            loop = [torch.autograd.grad(loss, parameters) for loss in alone]
        expected = torch.stack([torch.cat([part.flatten() for part in parts]) for parts in loop])
    passes: list[int] = []
    block = next(layer for layer in module.modules() if type(layer).__name__.endswith(("Layer", "Block")))
    inner = next(layer for layer in block.modules() if isinstance(layer, nn.LayerNorm) or "RMS" in type(layer).__name__)
    handle = inner.register_forward_hook(lambda *_: passes.append(1))
    rows()
    once = len(passes)
    with checkpointed(module):
        passes.clear()
        found = rows()
    handle.remove()
    assert len(passes) > once
    assert float(((found - expected).norm(dim=1) / expected.norm(dim=1)).max()) < 1e-5


def test_checkpointing_ends_with_the_work_and_needs_a_transformer():
    """The module's blocks are kept again afterwards; one that has none of transformers' is refused."""
    module, _, _ = transformer("BERT")
    with checkpointed(module):
        assert any(getattr(layer, "gradient_checkpointing", False) for layer in module.modules())
    assert not any(getattr(layer, "gradient_checkpointing", False) for layer in module.modules())
    with pytest.raises(ModelError, match="compute their blocks twice"), checkpointed(nn.Linear(2, 2)):
        pytest.fail("nothing is computed")
