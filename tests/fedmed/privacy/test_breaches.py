"""The ten breaches that stock Opacus lets through: each test fails without its guard.

Each holds by either way of capturing per-record gradients. Breach 5 is in test_noise.py and breach 10
in test_accountant.py, beside what closes them.
"""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from fedmed.errors import ModelError
from fedmed.privacy import engine
from fedmed.privacy.engine import per_record_gradients, train_private
from fedmed.privacy.noise import NoiseSource, SeededNoise

Loss = Callable[[Tensor, Tensor], Tensor]
Records = tuple[Tensor, Tensor]


@pytest.fixture(autouse=True, params=["direct where it applies", "opacus"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run each test with the way of capture that the engine chooses, and with Opacus' hooks alone."""
    if request.param == "opacus":
        monkeypatch.setattr(engine, "covers", lambda _: False)
    name: str = request.param
    return name


def train(module: nn.Module, records: Records, loss: Loss, noise: NoiseSource, **changes: Any) -> engine.TrainReport:
    """Run private training of one full-batch step with clip norm 0.5 and learning rate 1."""
    inputs, labels = records
    settings: dict[str, Any] = {
        "steps": 1, "sample_rate": 1.0, "expected_batch": 1.0, "clip_norm": 0.5, "noise_multiplier": 1.0,
        "learning_rate": 1.0, "momentum": 0.0,
    } | changes  # fmt: skip
    return train_private(module, loss=loss, inputs=inputs, labels=labels, noise=noise, **settings)


def flat(module: nn.Module) -> Tensor:
    """Return the trainable parameters as one vector."""
    return torch.cat([value.detach().flatten() for value in module.parameters() if value.requires_grad])


def test_breach_1_every_gradient_is_clipped(module: nn.Module, no_noise: NoiseSource):
    """A record with an enormous gradient moves the parameters by the clip norm at most."""
    record = (1e4 * torch.ones(1, 5), torch.zeros(1))
    before = flat(module)
    train(module, record, lambda logits, labels: 1e4 * (logits.squeeze(-1) - labels), no_noise)
    assert 0 < float((before - flat(module)).norm()) <= 0.5 * (1 + 1e-6)


def test_breach_1_ghost_clipping_is_not_offered():
    """No name in the engine leads to Opacus' ghost clipping."""
    assert not [name for name in vars(engine) if "ghost" in name.lower() or "fastgradient" in name.lower()]


def test_breach_2_a_penalty_joins_after_clip_and_noise(records: Records, loss: Loss, no_noise: NoiseSource):
    """The penalty's gradient is added in full: neither clipped, nor scaled by the batch, nor dropped."""
    one, other = nn.Linear(5, 1), nn.Linear(5, 1)
    other.load_state_dict(one.state_dict())
    train(one, records, loss, no_noise, expected_batch=11.0)
    train(
        other, records, loss, no_noise, expected_batch=11.0,
        penalty_gradient=lambda parameters: {"weight": 100 * torch.ones_like(parameters["weight"])},
    )  # fmt: skip
    assert torch.allclose(one.weight - other.weight, torch.full((1, 5), 100.0), rtol=1e-5)
    assert torch.equal(one.bias, other.bias)


@pytest.mark.parametrize("penalty", [{"nobody": torch.zeros(1)}, {"weight": torch.zeros(1)}])
def test_breach_2_a_penalty_names_parameters_in_their_shape(
    records: Records, loss: Loss, no_noise: NoiseSource, penalty: dict[str, Tensor]
):
    """A misspelt or broadcast penalty is an error, not a silent no-op."""
    with pytest.raises(ModelError, match="penalty on"):
        train(nn.Linear(5, 1), records, loss, no_noise, penalty_gradient=lambda _: penalty)


def test_breach_3_frozen_batch_norm_neither_mixes_records_nor_drifts(
    records: Records, loss: Loss, no_noise: NoiseSource
):
    """Running statistics stay put, and a record's gradient doesn't depend on its neighbours."""
    norm = nn.BatchNorm1d(5).requires_grad_(requires_grad=False)
    module = nn.Sequential(nn.Linear(5, 5), norm, nn.Linear(5, 1))
    statistics = {name: value.clone() for name, value in norm.named_buffers()}
    inputs, labels = records
    together = torch.cat(list(per_record_gradients(module, loss=loss, inputs=inputs, labels=labels)))
    alone = next(per_record_gradients(module, loss=loss, inputs=inputs[:1], labels=labels[:1]))
    assert torch.allclose(together[:1], alone, rtol=1e-5, atol=1e-7)
    train(module, records, loss, no_noise)
    for name, value in norm.named_buffers():
        assert torch.equal(value, statistics[name])


def test_breach_3_trainable_batch_norm_is_refused(records: Records, loss: Loss, no_noise: NoiseSource):
    """It can't be trained record by record at all."""
    module = nn.Sequential(nn.Linear(5, 5), nn.BatchNorm1d(5), nn.Linear(5, 1))
    with pytest.raises(ModelError, match="batch normalisation"):
        train(module, records, loss, no_noise)


def test_breach_3_any_other_running_statistic_is_refused_and_undone(
    records: Records, loss: Loss, no_noise: NoiseSource
):
    """A home-made layer that remembers a mean of its inputs would release it without noise."""

    class Remembers(nn.Module):
        seen: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("seen", torch.zeros(5))

        def forward(self, inputs: Tensor) -> Tensor:
            if self.training:
                self.seen += inputs.detach().mean(0)
            return inputs

    module = nn.Sequential(Remembers(), nn.Linear(5, 1))
    with pytest.raises(ModelError, match=r"buffer '0\.seen'"):
        train(module, records, loss, no_noise)
    assert torch.equal(module[0].seen, torch.zeros(5))  # type: ignore[arg-type]


class Tagger(nn.Module):
    """A token classifier: one logit vector per token, as a causal language model has."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(7, 4), nn.Linear(4, 7)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return (records, tokens, 7)."""
        return self.head(self.embed(tokens))


def token_records(lengths: list[int]) -> Records:
    """Return records of six tokens, of which the first `lengths` count."""
    tokens = torch.randint(0, 7, (len(lengths), 6), generator=torch.Generator().manual_seed(3))
    labels = tokens.roll(1, 1)
    for row, length in enumerate(lengths):
        labels[row, length:] = -100
    return tokens, labels


def token_mean(logits: Tensor, labels: Tensor) -> Tensor:
    """The causal language model's loss: a mean over the tokens of the whole batch, dressed up per record."""
    each = cross_entropy(logits.transpose(1, 2), labels, reduction="none").sum(1)
    return each / (labels != -100).sum() * len(labels)


def record_mean(logits: Tensor, labels: Tensor) -> Tensor:
    """The loss to use: a mean over each record's own tokens."""
    each = cross_entropy(logits.transpose(1, 2), labels, reduction="none").sum(1)
    return each / (labels != -100).sum(1).clamp(min=1)


def test_breach_4_a_loss_that_couples_records_is_refused(no_noise: NoiseSource):
    """A mean over the batch's tokens lets one record change the weight of all others."""
    with pytest.raises(ModelError, match="depends on its batch"):
        train(Tagger(), token_records([6, 5, 2, 1]), token_mean, no_noise)


def test_breach_4_one_record_moves_the_sum_by_at_most_the_clip_norm(no_noise: NoiseSource):
    """With the per-record mean the released sum has the sensitivity that the noise is made for."""
    torch.manual_seed(4)
    module, records = Tagger(), token_records([6, 5, 2, 1])
    start = {name: value.clone() for name, value in module.state_dict().items()}
    ends = []
    for kept in (records, (records[0][1:], records[1][1:])):
        module.load_state_dict(start)
        train(module, kept, record_mean, no_noise)
        ends.append(flat(module))
    assert float((ends[0] - ends[1]).norm()) <= 0.5 * (1 + 1e-5)


def test_breach_4_a_mean_over_the_batch_is_refused(records: Records, no_noise: NoiseSource):
    """A loss that returns one number for the batch isn't one per record."""
    with pytest.raises(ModelError, match="loss per record"):
        train(nn.Linear(5, 1), records, lambda logits, labels: ((logits.squeeze(-1) - labels) ** 2).mean(), no_noise)


def test_breach_4_centring_over_the_batch_is_refused(records: Records, loss: Loss, no_noise: NoiseSource):
    """A module whose outputs depend on the batch gives no record a gradient of its own."""

    class Centred(nn.Linear):
        def forward(self, inputs: Tensor) -> Tensor:
            return super().forward(inputs - inputs.mean(0))

    with pytest.raises(ModelError, match="isn't that record's own"):
        train(nn.Sequential(Centred(5, 5), nn.Linear(5, 1)), records, loss, no_noise)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 3e38])
def test_breach_6_a_non_finite_record_is_zeroed_and_counted(
    module: nn.Module, records: Records, loss: Loss, no_noise: NoiseSource, bad: float
):
    """The step equals the one without that record, and the report says how many were dropped."""
    inputs, labels = records
    start = {name: value.clone() for name, value in module.state_dict().items()}
    train(module, (inputs[1:], labels[1:]), loss, no_noise)
    expected = flat(module)
    module.load_state_dict(start)
    spoilt = inputs.clone()
    spoilt[0] = bad
    report = train(module, (spoilt, labels), loss, no_noise)
    if report.nonfinite:
        assert report.nonfinite == 1
        assert torch.allclose(flat(module), expected, rtol=1e-5, atol=1e-6)
    else:  # a layer normalisation may tame a huge input
        assert abs(bad) < math.inf
    assert torch.isfinite(flat(module)).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_breach_7_trainable_parameters_are_float32(
    records: Records, loss: Loss, no_noise: NoiseSource, dtype: torch.dtype
):
    """Noise rounded to half precision protects less than the ledger says."""
    with pytest.raises(ModelError, match="expected float32"):
        train(nn.Linear(5, 1).to(dtype), (records[0].to(dtype), records[1]), loss, no_noise)


def test_breach_7_half_precision_may_be_frozen(records: Records, no_noise: NoiseSource, loss: Loss):
    """A base model in bfloat16 under float32 adapters is fine."""

    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.base = nn.Linear(5, 5).to(torch.bfloat16).requires_grad_(requires_grad=False)
            self.adapter = nn.Linear(5, 1)

        def forward(self, inputs: Tensor) -> Tensor:
            return self.adapter(self.base(inputs.to(torch.bfloat16)).float())

    assert train(Mixed(), records, loss, no_noise).records == 11


def test_breach_8_an_empty_batch_is_a_step_of_pure_noise(loss: Loss, records: Records):
    """Nobody sampled: the parameters move by the noise, as on every other step."""

    class NoEmptyBatch(nn.Linear):
        def forward(self, inputs: Tensor) -> Tensor:
            assert len(inputs), "transformers crash on an empty batch"
            return super().forward(inputs)

    module = NoEmptyBatch(5, 1)
    before = flat(module)
    report = train(module, records, loss, SeededNoise(b"k"), sample_rate=1e-9, steps=2)
    assert [step.records for step in report.steps] == [0, 0]
    source = SeededNoise(b"k")
    noise = torch.from_numpy(source.normal(6) + source.normal(6)).float()
    assert torch.allclose(before - flat(module), 0.5 * noise, rtol=1e-4, atol=1e-5)


def test_breach_8_a_site_without_records_still_answers(loss: Loss):
    """An empty data set is as private as any other."""
    module = nn.Linear(5, 1)
    before = flat(module)
    train(module, (torch.zeros(0, 5), torch.zeros(0)), loss, SeededNoise(b"k"))
    assert not torch.equal(before, flat(module))


class Checkpointed(nn.Module):
    """Blocks whose activations are recomputed in the backward pass."""

    def __init__(self, *, reentrant: bool) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(5, 5), nn.Linear(5, 1)
        self.block = nn.Sequential(nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 5))
        self.reentrant = reentrant

    def forward(self, inputs: Tensor) -> Tensor:
        """Return one logit per record."""
        return self.head(checkpoint(self.block, self.first(inputs), use_reentrant=self.reentrant))


@pytest.mark.parametrize("reentrant", [True, False])
def test_breach_9_checkpointing_is_captured_rightly_or_refused(records: Records, loss: Loss, reentrant: bool):  # noqa: FBT001
    """Recomputed layers fire their hooks twice: rows are the records' own gradients, or there are none."""
    inputs, labels = records
    module, single = Checkpointed(reentrant=reentrant), Checkpointed(reentrant=False)
    single.load_state_dict(module.state_dict())
    try:
        captured = torch.cat(list(per_record_gradients(module, loss=loss, inputs=inputs, labels=labels)))
    except ModelError:
        assert not reentrant, "re-entrant checkpointing is the one that works"
        return
    for row in range(len(inputs)):
        total = loss(single(inputs[row : row + 1]), labels[row : row + 1]).sum()
        expected = torch.cat([value.flatten() for value in torch.autograd.grad(total, list(single.parameters()))])
        assert torch.allclose(captured[row], expected, rtol=1e-4, atol=1e-6)


def test_breach_9_a_second_pass_over_a_layer_is_counted_rightly_or_refused(
    records: Records, loss: Loss, no_noise: NoiseSource, way: str
):
    """A forward pass that runs a layer without using it would misalign Opacus' stack of activations."""

    class Wasteful(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.head = nn.Linear(5, 5), nn.Linear(5, 1)

        def forward(self, inputs: Tensor) -> Tensor:
            used = self.layer(inputs)
            self.layer(2 * inputs)
            return self.head(used)

    module = Wasteful()
    if way == "opacus":
        with pytest.raises(ModelError):
            train(module, records, loss, no_noise)
        return
    thrifty = nn.Sequential(nn.Linear(5, 5), nn.Linear(5, 1))
    with torch.no_grad():
        for ours, theirs in zip(thrifty.parameters(), module.parameters(), strict=True):
            ours.copy_(theirs)
    train(thrifty, records, loss, no_noise)
    train(module, records, loss, no_noise)
    assert torch.allclose(flat(module), flat(thrifty), rtol=1e-5, atol=1e-7)


def test_breach_4_centring_behind_frozen_zeros_is_refused(records: Records, loss: Loss, no_noise: NoiseSource):
    """Behind a frozen factor of zeros all gradients are zero, which is no proof for the round that fills it."""

    class Centred(nn.Linear):
        def forward(self, inputs: Tensor) -> Tensor:
            return super().forward(inputs - inputs.mean(0))

    module = nn.Sequential(Centred(5, 5), nn.Linear(5, 1))
    nn.init.zeros_(module[1].requires_grad_(requires_grad=False).weight)  # type: ignore[arg-type]
    before = flat(module)
    with pytest.raises(ModelError, match="isn't that record's own"):
        train(module, records, loss, no_noise)
    assert torch.equal(flat(module), before)


def test_breach_9_a_layer_that_hides_records_is_refused(records: Records, loss: Loss, no_noise: NoiseSource):
    """A reshape between records and features gives the hooks rows that aren't records."""

    class Reshapes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Linear(1, 4), nn.Linear(20, 1)

        def forward(self, inputs: Tensor) -> Tensor:
            return self.head(self.embed(inputs.reshape(-1, 1)).reshape(len(inputs), -1))

    with pytest.raises(ModelError, match="first dimension"):
        train(Reshapes(), records, loss, no_noise)


def test_breach_9_a_layer_that_behaves_in_the_trial_only_is_refused(
    records: Records, loss: Loss, no_noise: NoiseSource
):
    """Rows are counted on every batch, so a module that looks at the size of its batch gains nothing."""

    class Halves(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Linear(5, 4)
            self.head = nn.Linear(4, 1)

        def forward(self, inputs: Tensor) -> Tensor:
            if len(inputs) <= 3:
                return self.head(self.embed(inputs))
            pairs = self.embed(inputs[:10].reshape(5, 10)[:, :5])
            return self.head(pairs).repeat(3, 1)[: len(inputs)]

    with pytest.raises(ModelError, match="first dimension"):
        train(Halves(), records, loss, no_noise)


def test_breach_9_a_transposed_batch_is_refused(no_noise: NoiseSource, loss: Loss):
    """Tokens on the first dimension would be clipped as if they were records, even where the sizes agree."""

    class SequenceFirst(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Linear(2, 4), nn.Linear(4, 1)

        def forward(self, inputs: Tensor) -> Tensor:
            return self.head(self.embed(inputs.transpose(0, 1)).mean(0))

    with pytest.raises(ModelError, match=r"first dimension|isn't that record's own"):
        train(SequenceFirst(), (torch.randn(3, 3, 2), torch.zeros(3)), loss, no_noise)
