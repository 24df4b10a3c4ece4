"""In half precision the trained part, the clip bound and each record's independence stay what they are in float32."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from small_transformers import Case, losses, transformer
from torch import Tensor, nn

from fedmed.errors import ModelError
from fedmed.model_spec import Precision
from fedmed.privacy import precision as precisions
from fedmed.privacy.eight_bits import in_eight_bits
from fedmed.privacy.engine import hooked_capture, per_record_gradients, train_private
from fedmed.privacy.gradients import Capturing, loss_scale, training_mode
from fedmed.privacy.noise import NoiseSource, SeededNoise
from fedmed.privacy.per_record import direct_capture
from fedmed.privacy.precision import block_size, computing

TOKENS = 8
LOW: list[Precision] = ["bf16", "fp16"]
EIGHT = ["BERT", "Qwen2"]
WAYS = [("Qwen2", direct_capture), ("BERT", direct_capture), ("BERT", hooked_capture), ("ViT", direct_capture)]


@pytest.fixture(params=["BERT", "GPT-2", "Llama", "Qwen2", "ViT"])
def case(request: pytest.FixtureRequest) -> Case:
    """Return each kind of transformer in turn."""
    return transformer(request.param)


@pytest.fixture(params=LOW)
def low(request: pytest.FixtureRequest) -> Precision:
    """Return each half precision in turn."""
    found: Precision = request.param
    return found


def rows_of(case: Case, precision: Precision, **settings: Any) -> Tensor:
    """Return per-record gradients, the parts of a record in one row."""
    module, inputs, labels = case
    return torch.cat(
        list(per_record_gradients(module, loss=losses, inputs=inputs, labels=labels, precision=precision, **settings))
    )


def explicit(case: Case) -> Tensor:
    """Return the gradients of single records in float32, one forward and backward pass each."""
    module, inputs, labels = case
    parameters = [value for value in module.parameters() if value.requires_grad]
    found = []
    with training_mode(module):
        for row in range(len(inputs)):
            total = losses(module(inputs[row : row + 1]), labels[row : row + 1]).sum()
            found.append(torch.cat([part.flatten() for part in torch.autograd.grad(total, parameters)]))
    return torch.stack(found)


def step(case: Case, precision: Precision, **changes: Any) -> tuple[Tensor, int]:
    """Return how far one private step moves what is trained, with how many records counted as zero; and undo it."""
    module, inputs, labels = case
    before = {name: value.detach().clone() for name, value in module.named_parameters() if value.requires_grad}
    settings: dict[str, Any] = {
        "steps": 1, "sample_rate": 1.0, "expected_batch": 1.0, "clip_norm": 0.5, "noise_multiplier": 1e-9,
        "learning_rate": 1.0, "momentum": 0.0, "noise": SeededNoise(b"k"),
    } | changes  # fmt: skip
    report = train_private(module, loss=losses, inputs=inputs, labels=labels, precision=precision, **settings)
    now = dict(module.named_parameters())
    moved = torch.cat([(before[name] - now[name].detach()).flatten() for name in before])
    with torch.no_grad():
        for name, value in before.items():
            now[name].copy_(value)
    return moved, report.nonfinite


# --- what is computed --------------------------------------------------------------------------


def test_rows_are_near_those_of_float32_and_not_equal_to_them(case: Case, low: Precision):
    """The frozen base really computes in half precision, and rounds no more than that."""
    found, expected = rows_of(case, low), explicit(case)
    assert found.dtype == torch.float32
    errors = (found - expected).norm(dim=1) / expected.norm(dim=1)
    assert 1e-5 < float(errors.max()) < (0.1 if low == "bf16" else 0.02)


def test_trained_layers_compute_in_float32(low: Precision):
    """Factors and heads see float32 and give float32, forward and backward; frozen layers give half precision."""
    module, inputs, labels = transformer("BERT")
    dtypes: dict[str, set[torch.dtype]] = {"trained": set(), "frozen": set()}

    def watch(layer: nn.Module) -> None:
        trained = any(value.requires_grad for value in layer.parameters())

        def seen(_layer: nn.Module, given: Any, found: Tensor) -> None:
            dtypes["trained" if trained else "frozen"] |= {found.dtype, *({given[0].dtype} if trained else ())}
            if found.requires_grad and trained:
                found.register_hook(lambda gradient: dtypes["trained"].add(gradient.dtype))

        layer.register_forward_hook(seen)

    with computing(module, low):
        for layer in module.modules():
            if isinstance(layer, nn.Linear):
                watch(layer)
        losses(module(inputs), labels).sum().backward()
    assert dtypes == {"trained": {torch.float32}, "frozen": {precisions.DTYPES[low]}}


def test_the_module_comes_back_as_it_was(low: Precision):
    """No method, hook, gradient or cast is left on any layer."""
    case = transformer("Qwen2")
    module = case[0]
    seen = {name: set(vars(layer)) for name, layer in module.named_modules()}
    hooks = sum(len(layer._forward_pre_hooks) for layer in module.modules())
    step(case, low)
    assert {name: set(vars(layer)) for name, layer in module.named_modules()} == seen
    assert sum(len(layer._forward_pre_hooks) for layer in module.modules()) == hooks
    assert {value.dtype for value in module.parameters()} == {torch.float32}
    assert not any(value.grad is not None for value in module.parameters())


def test_a_way_to_capture_that_fails_leaves_the_next_one_float32_layers():
    """What computing put on a trained layer is there again when direct capture lets go of it."""
    module, _, _ = transformer("BERT")
    layer = next(layer for name, layer in module.named_modules() if name.endswith("lora_B.default"))
    with computing(module, "bf16"):
        before = vars(layer)["forward"]
        with direct_capture(module, losses):
            assert vars(layer)["forward"] is not before
        assert vars(layer)["forward"] is before


def test_private_and_plain_training_take_one_step_without_clip_and_noise(low: Precision):
    """Switching privacy off changes clip and noise and nothing else, in half precision too."""
    from fedmed.privacy.engine import train_plain  # noqa: PLC0415  beside what it is compared with

    case = transformer("Qwen2")
    module, inputs, labels = case
    moved, _ = step(case, low, clip_norm=1e6, noise_multiplier=1e-12)
    before = torch.cat([value.detach().flatten().clone() for value in module.parameters() if value.requires_grad])
    train_plain(
        module, loss=losses, inputs=inputs, labels=labels, steps=1, sample_rate=1.0, expected_batch=1.0,
        learning_rate=1.0, momentum=0.0, noise=SeededNoise(b"k"), precision=low,
    )  # fmt: skip
    plain = before - torch.cat([value.detach().flatten() for value in module.parameters() if value.requires_grad])
    assert float((moved - plain).norm() / plain.norm()) < 0.02


# --- what privacy stands on --------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "capturing"), WAYS)
def test_a_row_does_not_change_by_a_bit_with_its_neighbours(kind: str, low: Precision, capturing: Capturing):
    """Another neighbour, another place, and one record fewer leave each record's gradient as it is, bit for bit."""
    module, inputs, labels = case = transformer(kind)
    whole = rows_of(case, low, physical_batch=4, capturing=capturing)
    fewer = rows_of((module, inputs[1:], labels[1:]), low, physical_batch=4, capturing=capturing)
    assert torch.equal(whole[1:], fewer)


def test_blocks_are_filled_to_one_size_and_the_fillers_dropped(low: Precision):
    """The module sees one shape whoever was sampled, and gradients of real records alone."""
    module, inputs, labels = transformer("BERT")
    sizes: list[int] = []
    module.model.register_forward_pre_hook(lambda _layer, given: sizes.append(len(given[0])))  # type: ignore[union-attr]
    assert len(rows_of((module, inputs[:5], labels[:5]), low, physical_batch=4)) == 5
    assert set(sizes[-3:]) == {2}


def test_the_size_of_a_block_follows_public_numbers_alone():
    """It is a power of two below the memory's limit and about a quarter of what a step expects; float32 takes all."""
    assert [block_size("fp32", 256, expected) for expected in (1.0, 1e6)] == [256, 256]
    assert [block_size("bf16", 256, expected) for expected in (0.5, 4.0, 5.0, 64.0, 1e6)] == [1, 1, 2, 16, 256]
    assert [block_size("bf16", most, 1e6) for most in (1, 7, 255)] == [1, 4, 128]


@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0])
def test_one_record_moves_the_sum_by_at_most_the_clip_norm(low: Precision, scale: float, no_noise: NoiseSource):
    """However large a gradient is, in whatever precision it was computed, it is clipped in float32."""
    module, inputs, labels = transformer("ViT")

    def loud(logits: Tensor, labels: Tensor) -> Tensor:
        return scale * losses(logits, labels)

    ends = []
    for kept in (slice(0, None), slice(1, None)):
        case = (module, inputs[kept], labels[kept])
        before = [value.detach().clone() for value in module.parameters() if value.requires_grad]
        train_private(
            module, loss=loud, inputs=case[1], labels=case[2], steps=1, sample_rate=1.0, expected_batch=1.0,
            clip_norm=0.5, noise_multiplier=1.0, learning_rate=1.0, momentum=0.0, noise=no_noise, precision=low,
            physical_batch=2,
        )  # fmt: skip
        after = [value for value in module.parameters() if value.requires_grad]
        ends.append(torch.cat([(a - b).flatten().detach() for a, b in zip(after, before, strict=True)]))
        with torch.no_grad():
            for value, old in zip(after, before, strict=True):
                value.copy_(old)
    moved = float((ends[0] - ends[1]).norm())
    assert 0 < moved <= 0.5 * (1 + 1e-5)
    if scale == 30.0:
        assert moved > 0.499


def test_a_record_that_overflows_half_precision_counts_as_zero(low: Precision):
    """A non-finite gradient is a contribution of zero, counted, and spoils nobody else's."""
    module, inputs, labels = transformer("ViT")
    spoilt = inputs.clone()
    spoilt[2] = float("inf")
    moved, nonfinite = step((module, spoilt, labels), low, physical_batch=2)
    kept = torch.arange(len(inputs)) != 2
    expected, none = step((module, inputs[kept], labels[kept]), low, physical_batch=2)
    assert (nonfinite, none) == (1, 0)
    assert torch.allclose(moved, expected, rtol=1e-5, atol=1e-6)


def test_float16_keeps_gradients_that_it_could_not_hold():
    """The loss is scaled before the backward pass and divided out before the clip, so small gradients survive."""
    module, inputs, labels = transformer("Qwen2")

    def faint(logits: Tensor, labels: Tensor) -> Tensor:
        return 1e-6 * losses(logits, labels)

    def found(precision: Precision) -> Tensor:
        rows = per_record_gradients(module, loss=faint, inputs=inputs, labels=labels, precision=precision)
        return torch.cat(list(rows))

    exact, scaled = found("fp32"), found("fp16")
    assert float(((scaled - exact).norm(dim=1) / exact.norm(dim=1)).max()) < 0.1
    assert loss_scale("fp16") == 2.0 ** round(torch.log2(torch.tensor(loss_scale("fp16"))).item())
    assert (loss_scale("fp32"), loss_scale("bf16")) == (1.0, 1.0)


def test_noise_is_that_of_float32(low: Precision):
    """An empty batch moves the parameters by the noise, to float32's last digit, whatever the base computes in."""
    case = transformer("Qwen2")
    exact, _ = step(case, "fp32", sample_rate=1e-12, noise_multiplier=1.0)
    assert torch.equal(step(case, low, sample_rate=1e-12, noise_multiplier=1.0)[0], exact)


# --- eight bits --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", EIGHT)
def test_eight_bits_round_each_record_by_itself(kind: str):
    """Rows stay near those of float32, differ from bfloat16's, and don't change by a bit with their neighbours."""
    case = transformer(kind)
    module, inputs, labels = case
    exact, half, found = explicit(case), rows_of(case, "bf16"), rows_of(case, "fp8", physical_batch=4)
    error = float(((found - exact).norm(dim=1) / exact.norm(dim=1)).max())
    assert float(((half - exact).norm(dim=1) / exact.norm(dim=1)).max()) < error < 0.5
    assert torch.equal(found[1:], rows_of((module, inputs[1:], labels[1:]), "fp8", physical_batch=4))


def test_the_largest_value_of_one_record_rounds_no_other_in_eight_bits():
    """Each token is scaled by its own values: a scale of the whole batch would crush the others."""
    layer = nn.Linear(32, 16).requires_grad_(requires_grad=False)
    inputs = torch.randn(4, 32, generator=torch.Generator().manual_seed(1))
    loud = inputs.clone()
    loud[0] *= 1e6
    forward = in_eight_bits(layer)
    assert torch.equal(forward(inputs)[1:], forward(loud)[1:])
    assert float((forward(inputs) - layer(inputs)).norm() / layer(inputs).norm()) < 0.1


# --- the trial on synthetic records --------------------------------------------------------------


class Coupled(nn.Module):
    """A frozen base that mixes the records of a batch, under a trained head."""

    def __init__(self, mix: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.base, self.head = nn.Linear(5, 16).requires_grad_(requires_grad=False), nn.Linear(16, 2)
        self.mix = mix

    def forward(self, inputs: Tensor) -> Tensor:
        """Return two logits per record."""
        return self.head(self.mix(torch.tanh(self.base(inputs))))


COUPLINGS: dict[str, Callable[[Tensor], Tensor]] = {
    "centred": lambda hidden: hidden - hidden.mean(0),
    "a little centred": lambda hidden: hidden - 0.02 * hidden.float().mean(0),
    "divided by the count": lambda hidden: hidden / len(hidden),
    "the first one leaks": lambda hidden: hidden + 0.02 * hidden[:1].float(),
}


@pytest.mark.parametrize("kind", COUPLINGS)
def test_a_module_that_couples_records_is_refused(kind: str, low: Precision):
    """Couplings that are smaller than half precision rounds are seen too: neighbours must not change a record's row."""
    module = Coupled(COUPLINGS[kind])
    with pytest.raises(ModelError, match="isn't that record's own"):
        rows_of((module, torch.randn(4, 5), torch.arange(4) % 2), low)


def test_a_loss_that_couples_records_is_refused(low: Precision):
    """A mean over the batch, dressed up as one loss a record, is refused as in float32."""
    module, inputs, labels = transformer("BERT")
    with pytest.raises(ModelError, match=r"depends on its batch|isn't that record's own"):
        list(
            per_record_gradients(
                module, loss=lambda logits, labels: losses(logits, labels) / len(labels), inputs=inputs, labels=labels,
                precision=low,
            )
        )  # fmt: skip


def test_a_verdict_holds_for_its_precision_alone(monkeypatch: pytest.MonkeyPatch):
    """What stood the trial in float32 is tried anew in bfloat16, and once."""
    from fedmed.privacy import trials  # noqa: PLC0415  its own memory of verdicts

    module, inputs, labels = transformer("BERT", rank=3)
    tried: list[Precision] = []
    check = trials.check_per_record

    def counting(*given: Any, precision: Precision, **named: Any) -> None:
        tried.append(precision)
        check(*given, precision=precision, **named)

    monkeypatch.setattr(trials, "check_per_record", counting)
    trials._verdicts.clear()
    for precision in ("fp32", "bf16", "bf16", "fp16"):
        rows_of((module, inputs, labels), precision)  # type: ignore[arg-type]
    assert tried == ["fp32", "bf16", "fp16"]
