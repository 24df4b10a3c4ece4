"""The trial on synthetic records: quiet about good modules, loud about bad ones, at every scale, blind to data."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from small_transformers import Case, losses, transformer
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fedmed.errors import ModelError
from fedmed.model_spec import Precision
from fedmed.privacy.engine import hooked_capture, per_record_gradients
from fedmed.privacy.per_record import direct_capture
from fedmed.privacy.per_record_trial import check_per_record

Loss = Callable[[Tensor, Tensor], Tensor]
Records = tuple[Tensor, Tensor]


def capture_by_loop(
    module: nn.Module, loss: Loss, factor: float = 1.0
) -> Callable[[Tensor, Tensor], Mapping[str, Tensor]]:
    """Return a right capture for `factor` 1, and a wrong one for another."""
    parameters = dict(module.named_parameters())

    def capture(inputs: Tensor, labels: Tensor) -> Mapping[str, Tensor]:
        rows = [
            torch.autograd.grad(loss(module(inputs[row : row + 1]), labels[row : row + 1]).sum(), parameters.values())
            for row in range(len(inputs))
        ]
        return {
            name: factor * torch.stack(column) for name, column in zip(parameters, zip(*rows, strict=True), strict=True)
        }

    return capture


def test_a_right_capture_passes(records: Records, loss: Loss):
    """Nothing is raised for gradients that are the records' own."""
    module = nn.Linear(5, 1)
    check_per_record(module, loss=loss, inputs=records[0], labels=records[1], capture=capture_by_loop(module, loss))


@pytest.mark.parametrize("factor", [0.99, 1.01, 2.0, 0.0])
def test_a_capture_that_is_off_by_a_factor_is_refused(records: Records, loss: Loss, factor: float):
    """A mean over the batch, or a double count, changes the scale."""
    module = nn.Linear(5, 1)
    capture = capture_by_loop(module, loss, factor)
    with pytest.raises(ModelError, match="isn't that record's own"):
        check_per_record(module, loss=loss, inputs=records[0], labels=records[1], capture=capture)


def test_the_trial_does_not_look_at_records(records: Records, loss: Loss):
    """What the capture is shown is the same for any data of the same shape."""
    shown: list[Tensor] = []
    module = nn.Linear(5, 1)
    right = capture_by_loop(module, loss)

    def capture(inputs: Tensor, labels: Tensor) -> Mapping[str, Tensor]:
        shown.extend((inputs, labels))
        return right(inputs, labels)

    for scale in (1.0, 1e9):
        check_per_record(module, loss=loss, inputs=scale * records[0], labels=records[1], capture=capture)
    assert torch.equal(shown[0], shown[2])
    assert torch.equal(shown[1], shown[3])


def test_dropout_does_not_disturb_the_trial(records: Records, loss: Loss):
    """Layers without trainable parameters stand still during the trial and move again afterwards."""
    module = nn.Sequential(nn.Linear(5, 50), nn.Dropout(0.5), nn.Linear(50, 1)).train()
    check_per_record(module, loss=loss, inputs=records[0], labels=records[1], capture=capture_by_loop(module, loss))
    assert module[1].training


def test_the_trial_puts_every_weight_back(records: Records, loss: Loss):
    """What is stirred for the trial, frozen zeros too, comes back to the bit, even after a refusal."""
    module = nn.Sequential(nn.Linear(5, 5), nn.Linear(5, 1))
    nn.init.zeros_(module[1].weight)  # type: ignore[arg-type]
    module[1].weight.requires_grad_(requires_grad=False)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    with pytest.raises(ModelError):
        check_per_record(
            module, loss=loss, inputs=records[0], labels=records[1], capture=lambda inputs, _: {"0.bias": inputs}
        )
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_a_trial_that_shows_nothing_is_refused(records: Records):
    """A gradient that isn't finite on synthetic records equals nothing, so it's no proof."""
    module = nn.Linear(5, 1)
    broken: Loss = lambda logits, labels: (logits.squeeze(-1) * 0).sqrt() + 0 * labels  # noqa: E731
    with pytest.raises(ModelError, match="isn't finite"):
        check_per_record(
            module, loss=broken, inputs=records[0], labels=records[1], capture=capture_by_loop(module, broken)
        )


def test_a_module_that_fails_is_named_as_such(records: Records, loss: Loss):
    """The cause is chained; the message holds its type only, since it could quote data."""
    module = nn.Linear(4, 1)
    with pytest.raises(ModelError, match=r"can't be captured from this module \(RuntimeError\)"):
        check_per_record(module, loss=loss, inputs=records[0], labels=records[1], capture=capture_by_loop(module, loss))


# --- at every scale of an adapter ----------------------------------------------------------------

RATIOS = (1, 16, 256, 4096)


def scaled_adapter(kind: str, ratio: float) -> Case:
    """Return a small transformer whose adapter counts `ratio` times (alpha over rank)."""
    from peft.tuners.lora import LoraLayer  # noqa: PLC0415  seconds, and only some tests want it

    module, inputs, labels = transformer(kind)
    for layer in module.modules():
        if isinstance(layer, LoraLayer):
            layer.scaling = dict.fromkeys(layer.scaling, float(ratio))
    return module, inputs, labels


def gradients(case: Case, precision: Precision = "fp32", loss: Loss = losses, **settings: Any) -> Tensor:
    """Return per-record gradients, after the trial."""
    module, inputs, labels = case
    return torch.cat(
        list(per_record_gradients(module, loss=loss, inputs=inputs, labels=labels, precision=precision, **settings))
    )


@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(("kind", "capturing"), [("BERT", direct_capture), ("BERT", hooked_capture), ("ViT", None)])
def test_a_large_adapter_is_not_refused_for_rounding(kind: str, capturing: Any, precision: Precision, ratio: float):
    """Attention saturates, and what is left of its gradient is less than its terms round to: that is no breach."""
    found = gradients(scaled_adapter(kind, ratio), precision, capturing=capturing)
    assert torch.isfinite(found).all()


@pytest.mark.parametrize("ratio", RATIOS)
def test_rounding_alone_made_the_difference(ratio: float):
    """In float64 the rows are those of the single records to nine digits, so what was seen in float32 was rounding."""
    module, inputs, labels = scaled_adapter("BERT", ratio)
    module = module.double().eval()
    parameters = [value for value in module.parameters() if value.requires_grad]
    rows = [losses(module(inputs[i : i + 1]), labels[i : i + 1]).sum() for i in range(len(inputs))]
    alone = [torch.cat([g.flatten() for g in torch.autograd.grad(row, parameters)]) for row in rows]
    each = losses(module(inputs), labels)
    together = [
        torch.cat([g.flatten() for g in torch.autograd.grad(row, parameters, retain_graph=True)]) for row in each
    ]
    for one, other in zip(alone, together, strict=True):
        assert float((one - other).norm() / one.norm()) < 1e-9


class Breached(nn.Module):
    """A small transformer whose trained part sees other records."""

    def __init__(self, inner: nn.Module, breach: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.inner, self.breach = inner, breach

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits, mixed over the batch."""
        return self.breach(self.inner(inputs))


class BatchNormalised(nn.Module):
    """A normalisation over the batch that hides from the check for torch's own, as a home-made layer does."""

    def forward(self, values: Tensor) -> Tensor:
        """Return values less the batch's mean, over its deviation."""
        return (values - values.mean(0)) / (values.std(0, unbiased=False) + 1.0)


BREACHES: dict[str, Callable[[Tensor], Tensor]] = {
    "batch normalisation": BatchNormalised(),
    "a little of the mean": lambda logits: logits - 0.02 * logits.mean(0),
    "the first one leaks": lambda logits: logits + 0.02 * logits[:1].tanh(),
}


@pytest.mark.parametrize("ratio", [1 / 4096, *RATIOS])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("breach", BREACHES)
def test_coupling_is_refused_at_every_scale_of_the_adapter(breach: str, precision: Precision, ratio: float):
    """Rounding excuses no breach: what it hides at one scale of the weights is looked at again at a smaller one."""
    module, inputs, labels = scaled_adapter("BERT", ratio)
    with pytest.raises(ModelError, match=r"isn't that record's own|depends on its batch"):
        gradients((Breached(module, BREACHES[breach]), inputs, labels), precision)


@pytest.mark.parametrize("ratio", [1 / 4096, *RATIOS])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_coupling_inside_the_attention_is_refused_at_every_scale(precision: Precision, ratio: float):
    """A query that sees its neighbours' is refused also where attention saturates and queries hardly count."""
    module, inputs, labels = scaled_adapter("BERT", ratio)
    for name, layer in module.named_modules():
        if name.endswith("attention.self.query"):
            layer.register_forward_hook(lambda _layer, _given, found: found + 0.2 * found.mean(0))
    with pytest.raises(ModelError, match="isn't that record's own"):
        gradients((module, inputs, labels), precision)


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e6])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_token_mean_is_refused_at_every_scale_of_the_loss(precision: Precision, scale: float):
    """A coupling is a share of the loss, whatever the loss is multiplied by."""
    module, inputs, labels = transformer("GPT-2")

    def token_mean(logits: Tensor, labels: Tensor) -> Tensor:
        each = cross_entropy(logits.transpose(1, 2), labels, reduction="none").sum(1)
        return scale * each / (labels != -100).sum() * len(labels)

    def record_mean(logits: Tensor, labels: Tensor) -> Tensor:
        each = cross_entropy(logits.transpose(1, 2), labels, reduction="none").sum(1)
        return scale * each / (labels != -100).sum(1).clamp(min=1)

    with pytest.raises(ModelError, match="depends on its batch"):
        gradients((module, inputs, labels), precision, loss=token_mean)
    assert torch.isfinite(gradients((module, inputs, labels), precision, loss=record_mean)).all()


@pytest.mark.parametrize("scale", [1e-9, 1e-3, 1.0, 1e6])
def test_a_small_gradient_is_held_to_the_same(records: Records, loss: Loss, scale: float):
    """A fixed bound would pass a loss that is multiplied by a millionth, whatever its records do to each other."""
    module = nn.Linear(5, 1)
    small: Loss = lambda logits, labels: scale * loss(logits, labels)  # noqa: E731
    check_per_record(module, loss=small, inputs=records[0], labels=records[1], capture=capture_by_loop(module, small))
    with pytest.raises(ModelError, match="isn't that record's own"):
        check_per_record(
            module, loss=small, inputs=records[0], labels=records[1], capture=capture_by_loop(module, small, 0.9)
        )


def test_a_part_with_nothing_but_rounding_is_no_reason_to_refuse():
    """The bias of a key moves all scores of a query alike, so its gradient is zero: what is computed is rounding."""

    class Attends(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.query, self.key, self.head = nn.Linear(1, 4), nn.Linear(1, 4), nn.Linear(5, 1)

        def forward(self, inputs: Tensor) -> Tensor:
            tokens = inputs[:, :, None]
            weights = (self.query(tokens) @ self.key(tokens).transpose(1, 2)).softmax(2)
            return self.head((weights @ tokens).squeeze(2))

    torch.manual_seed(1)
    inputs, labels = torch.randn(6, 5), torch.arange(6) % 2

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        return nn.functional.binary_cross_entropy_with_logits(logits[:, 0], labels.float(), reduction="none")

    assert torch.isfinite(gradients((Attends(), inputs, labels), loss=loss)).all()
