"""A ceiling of memory decides how many records are computed at a time, and nothing of what comes out."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fedmed.errors import RefusedError
from fedmed.privacy import descent
from fedmed.privacy.ceiling import fitting, peak_bytes
from fedmed.privacy.engine import clipped_sum, per_record_gradients, train_plain, train_private
from fedmed.privacy.noise import SeededNoise

RECORDS, WIDE = 40, 4096
Loss = Callable[[Tensor, Tensor], Tensor]


class Wide(nn.Module):
    """A module whose records need far more memory than its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(5, 64), nn.Linear(64, 1)
        self.sizes: list[int] = []

    def forward(self, inputs: Tensor) -> Tensor:
        """Return one logit per record."""
        self.sizes.append(len(inputs))
        hidden = torch.tanh(self.first(inputs))
        spread = torch.sin(hidden[:, :, None] * torch.ones(WIDE // 64))
        return self.head(torch.tanh(spread).mean(2))


@pytest.fixture
def wide() -> Wide:
    """Return the module with seeded weights."""
    torch.manual_seed(1)
    return Wide()


@pytest.fixture
def many() -> tuple[Tensor, Tensor]:
    """Return forty records."""
    inputs = torch.randn(RECORDS, 5, generator=torch.Generator().manual_seed(2))
    return inputs, (inputs[:, 0] > 0).float()


def plain_step(module: nn.Module, many: tuple[Tensor, Tensor], loss: Loss, **settings: Any) -> None:
    """Take one private step on all records."""
    train_private(
        module, loss=loss, inputs=many[0], labels=many[1], steps=1, sample_rate=1.0, expected_batch=40.0,
        clip_norm=0.5, noise_multiplier=1.0, learning_rate=0.5, momentum=0.0, noise=SeededNoise(b"k"), **settings,
    )  # fmt: skip


def step(module: Wide, many: tuple[Tensor, Tensor], loss: Loss, **settings: Any) -> tuple[Tensor, list[int]]:
    """Return the parameters after two steps on Poisson samples, and how many records each pass had."""
    before = {name: value.clone() for name, value in module.state_dict().items()}
    module.sizes.clear()
    train_private(
        module, loss=loss, inputs=many[0], labels=many[1], steps=2, sample_rate=0.7, expected_batch=28.0, clip_norm=0.5,
        noise_multiplier=1.0, learning_rate=0.5, momentum=0.5, noise=SeededNoise(b"k"), **settings,
    )  # fmt: skip
    found = torch.cat([value.detach().flatten().clone() for value in module.parameters()])
    module.load_state_dict(before)
    return found, list(module.sizes)


def held_under(most: int, run: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> int:
    """Return the most bytes that tensors hold in a training under a ceiling; torch measures one thing at a time."""
    sizes: list[int] = []

    def remember(*args: Any, **settings: Any) -> int:
        sizes.append(fitting(*args, **settings))
        return sizes[-1]

    with monkeypatch.context() as patched:
        patched.setattr(descent, "fitting", remember)
        run()
        patched.setattr(descent, "fitting", lambda *_, **__: sizes[0])
        held = peak_bytes(run, torch.device("cpu"))
    assert held > most // 10
    return held


@pytest.mark.parametrize("size", [1, 7, 256])
def test_the_result_does_not_depend_on_how_many_records_fit(
    size: int, wide: Wide, many: tuple[Tensor, Tensor], loss: Loss, monkeypatch: pytest.MonkeyPatch
):
    """Samples, clips and noise are those of the whole batch, for one record at a time or all, but for rounding."""
    expected, _ = step(wide, many, loss)
    monkeypatch.setattr(descent, "fitting", lambda *_, **__: size)
    found, sizes = step(wide, many, loss, memory_bytes=1 << 40)
    assert max(sizes) <= size
    assert torch.allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_a_lower_ceiling_takes_fewer_records_at_a_time_and_holds(
    wide: Wide, many: tuple[Tensor, Tensor], loss: Loss, monkeypatch: pytest.MonkeyPatch
):
    """What torch really holds in a step stays below the ceiling, and the update is that of no ceiling."""
    expected, _ = step(wide, many, loss)
    weights = sum(value.nbytes for value in wide.parameters())
    largest = []
    for most in (1_500_000, 400_000):
        found, sizes = step(wide, many, loss, memory_bytes=most)
        largest.append(max(sizes))
        assert torch.allclose(found, expected, rtol=1e-5, atol=1e-6)
        held = held_under(most, lambda most=most: step(wide, many, loss, memory_bytes=most), monkeypatch)  # type: ignore[misc]
        assert held + weights <= most
    assert 3 <= largest[1] < largest[0] < 28


def test_plain_training_keeps_below_the_ceiling_too(
    wide: Wide, many: tuple[Tensor, Tensor], loss: Loss, monkeypatch: pytest.MonkeyPatch
):
    """Without privacy the same ceiling holds, and the update is that of no ceiling."""
    weights, ends = sum(value.nbytes for value in wide.parameters()), []
    start = {name: value.clone() for name, value in wide.state_dict().items()}

    def train(most: int | None) -> None:
        wide.load_state_dict(start)
        train_plain(
            wide, loss=loss, inputs=many[0], labels=many[1], steps=1, sample_rate=1.0, expected_batch=40.0,
            learning_rate=0.5, momentum=0.0, noise=SeededNoise(b"k"), memory_bytes=most,
        )  # fmt: skip
        ends.append(torch.cat([value.detach().flatten().clone() for value in wide.parameters()]))

    assert held_under(500_000, lambda: train(500_000), monkeypatch) + weights <= 500_000
    assert peak_bytes(lambda: train(None), torch.device("cpu")) > 500_000
    assert torch.allclose(ends[0], ends[-1], rtol=1e-5, atol=1e-6)


def test_records_that_are_not_finite_need_no_more(
    many: tuple[Tensor, Tensor], loss: Loss, monkeypatch: pytest.MonkeyPatch
):
    """Broken records can't make a site pass its ceiling in the middle of a round that is paid for."""
    inputs, labels = many[0].clone(), many[1]
    inputs[::3, 0] = float("nan")
    module = nn.Sequential(nn.Linear(5, 600), nn.Tanh(), nn.Linear(600, 1))
    held = held_under(600_000, lambda: plain_step(module, (inputs, labels), loss, memory_bytes=600_000), monkeypatch)
    assert held + sum(value.nbytes for value in module.parameters()) <= 600_000


@pytest.mark.parametrize("fisher", ["coordinates", "sum of gradients"])
def test_joined_rows_keep_below_the_ceiling(
    fisher: str, many: tuple[Tensor, Tensor], loss: Loss, monkeypatch: pytest.MonkeyPatch
):
    """Under shared noise, and for Fisher information, what torch really holds stays below the ceiling too."""
    module = nn.Sequential(nn.Linear(5, 60), nn.Tanh(), nn.Linear(60, 60), nn.Tanh(), nn.Linear(60, 1))
    most = 1_500_000

    def run() -> Tensor:
        total = torch.zeros(sum(value.numel() for value in module.parameters()), dtype=torch.float64)
        blocks = per_record_gradients(module, loss=loss, inputs=many[0], labels=many[1], memory_bytes=most)
        for block in (block.square() for block in blocks) if fisher == "coordinates" else blocks:
            total += clipped_sum(block, 0.5)
        return total

    assert held_under(most, run, monkeypatch) + sum(value.nbytes for value in module.parameters()) <= most


def test_rows_that_are_made_late_count_too(monkeypatch: pytest.MonkeyPatch):
    """Gradients of a convolution that are made only when they are clipped stay below the ceiling too."""
    module = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.Flatten(), nn.Linear(64, 2))
    inputs = torch.randn(64, 16, 2, 2, generator=torch.Generator().manual_seed(2))

    def run() -> None:
        train_private(
            module, loss=lambda outputs, labels: cross_entropy(outputs, labels, reduction="none"), inputs=inputs,
            labels=torch.arange(64) % 2, steps=1, sample_rate=1.0, expected_batch=64.0, clip_norm=0.5,
            noise_multiplier=1.0, learning_rate=0.5, momentum=0.0, noise=SeededNoise(b"k"), memory_bytes=300_000,
        )  # fmt: skip

    assert held_under(300_000, run, monkeypatch) + sum(value.nbytes for value in module.parameters()) <= 300_000


def test_rows_that_are_joined_count_too(many: tuple[Tensor, Tensor]):
    """Where gradients of all records are joined and summed in float64, fewer records of a large model fit."""
    module = nn.Linear(5, 4000)
    alone, joined = (
        fitting(module, lambda inputs, _: module(inputs), *many, memory_bytes=20_000_000, joined=both)
        for both in (False, True)
    )
    each = 20 * sum(value.numel() for value in module.parameters())
    assert 1 <= joined < alone
    assert joined * each < 20_000_000


def test_a_ceiling_below_one_record_is_refused_in_one_line(wide: Wide, many: tuple[Tensor, Tensor], loss: Loss):
    """It says what is there and what one record needs."""
    with pytest.raises(RefusedError, match=r"of memory at most; one record of this model needs about .* GiB"):
        step(wide, many, loss, memory_bytes=1000)


def test_measuring_looks_at_no_record(wide: Wide, many: tuple[Tensor, Tensor], loss: Loss):
    """Records of nothing but NaN lead to the same size as others."""
    _, sizes = step(wide, many, loss, memory_bytes=500_000)
    _, other = step(wide, (torch.full_like(many[0], float("nan")), many[1]), loss, memory_bytes=500_000)
    assert sizes[-4:] == other[-4:]


def test_a_peak_is_what_is_held_at_once_not_what_was_ever_made():
    """Two tensors one after the other count once, two at the same time twice."""

    def one_after_another() -> None:
        for _ in range(2):
            torch.ones(100_000)

    def together() -> float:
        return float((torch.ones(100_000), torch.ones(100_000))[0][0])

    device = torch.device("cpu")
    assert 400_000 <= peak_bytes(one_after_another, device) < 500_000
    assert 800_000 <= peak_bytes(together, device) < 900_000
