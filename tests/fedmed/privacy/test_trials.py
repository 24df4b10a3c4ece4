"""One trial speaks for all modules of its structure, and a refusal stays one."""

from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor, nn

from fedmed.errors import ModelError
from fedmed.privacy.engine import hooked_capture, train_private
from fedmed.privacy.noise import SeededNoise
from fedmed.privacy.per_record import direct_capture
from fedmed.privacy.structure import structure
from fedmed.privacy.trials import require_stood

Loss = Callable[[Tensor, Tensor], Tensor]
Records = tuple[Tensor, Tensor]


def own_class() -> type[nn.Module]:
    """Return a class that no other test has tried, and that counts its forward passes."""

    class Counted(nn.Module):
        passes: list[int] = []  # noqa: RUF012  shared on purpose

        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(5, 1)

        def forward(self, inputs: Tensor) -> Tensor:
            self.passes.append(len(inputs))
            return self.layer(inputs)

    return Counted


def train(module: nn.Module, records: Records, loss: Loss) -> None:
    """Take one private step."""
    train_private(
        module, loss=loss, inputs=records[0], labels=records[1], steps=1, sample_rate=1.0, expected_batch=11.0,
        clip_norm=1.0, noise_multiplier=1.0, learning_rate=0.1, momentum=0.0, noise=SeededNoise(b"k"),
    )  # fmt: skip


def test_the_second_training_makes_no_trial(records: Records, loss: Loss):
    """A module that's built anew in the same way runs forward once for its step, and not for synthetic records."""
    counted = own_class()
    train(counted(), records, loss)
    first = list(counted.passes)  # type: ignore[attr-defined]
    train(counted(), records, loss)
    assert len(first) > 1
    assert counted.passes[len(first) :] == [11]  # type: ignore[attr-defined]


def test_another_structure_is_tried(records: Records, loss: Loss):
    """What was shown for one module isn't shown for a different one."""
    counted = own_class()
    train(counted(), records, loss)
    before = len(counted.passes)  # type: ignore[attr-defined]
    train(nn.Sequential(counted()), records, loss)
    assert len(counted.passes) > before + 1  # type: ignore[attr-defined]


def test_a_module_without_structure_is_tried_every_time(records: Records, loss: Loss):
    """A hook may do anything, so nothing is remembered."""
    counted = own_class()
    module = counted()
    module.register_forward_hook(lambda *_: None)
    train(module, records, loss)
    first = len(counted.passes)  # type: ignore[attr-defined]
    train(module, records, loss)
    assert len(counted.passes) == 2 * first  # type: ignore[attr-defined]


def test_a_refusal_is_remembered_for_its_way_of_capture_only(records: Records, loss: Loss):
    """A wrong capture is refused again without being asked; another way is tried on its own."""
    module, (inputs, labels) = nn.Linear(5, 1), records
    key = ("a refusal", structure(module, loss, inputs, labels))
    asked = []

    def wrong(some_inputs: Tensor, some_labels: Tensor) -> Mapping[str, Tensor]:
        asked.append(len(some_inputs))
        return {"weight": torch.ones(3, 1, 5), "bias": torch.ones(3, 1)}

    for _ in range(2):
        with pytest.raises(ModelError, match="isn't that record's own"):
            require_stood(module, key, loss=loss, inputs=inputs, labels=labels, capturing=direct_capture, capture=wrong)
    assert asked == [3]
    with hooked_capture(module, loss) as capture:
        require_stood(module, key, loss=loss, inputs=inputs, labels=labels, capturing=hooked_capture, capture=capture)


def test_what_stood_stays_so_without_asking(records: Records, loss: Loss):
    """The verdict is remembered, not the module."""
    key = ("stood", structure(nn.Linear(5, 1), loss, *records))
    module = nn.Linear(5, 1)
    with direct_capture(module, loss) as capture:
        require_stood(
            module, key, loss=loss, inputs=records[0], labels=records[1], capturing=direct_capture, capture=capture
        )

    def never(some_inputs: Tensor, some_labels: Tensor) -> Mapping[str, Tensor]:
        raise AssertionError(f"asked for {len(some_inputs)} of {len(some_labels)}")

    require_stood(
        nn.Linear(5, 1), key, loss=loss, inputs=records[0], labels=records[1], capturing=direct_capture, capture=never
    )
