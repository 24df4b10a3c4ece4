"""Equal structures run the same code; what can't be compared has none."""

import copy
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fedmed.privacy.structure import structure

RECORDS = (torch.zeros(4, 5), torch.zeros(4))


def loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return something per record."""
    return logits.squeeze(-1) - labels


def built() -> nn.Module:
    """Return a module with a few kinds of attributes."""
    module = nn.Sequential(nn.Linear(5, 5), nn.Dropout(0.1), nn.BatchNorm1d(5), nn.Linear(5, 1))
    module.settings = {"mode": ("a", 1.5), "act": torch.tanh}  # type: ignore[assignment]
    return module


def freeze(module: Any) -> None:
    """Freeze one layer."""
    module[0].requires_grad_(requires_grad=False)


def tie(module: Any) -> None:
    """Use one layer's bias in two places."""
    module[2].bias = module[0].bias


def share(module: Any) -> None:
    """Use one layer in two places, with parameters shaped as before."""
    module[0] = nn.Linear(5, 5)
    module.add_module("4", module[0])


def replace_forward(module: Any) -> None:
    """Give one layer another class with the same attributes."""
    module[1].__class__ = type("Dropout", (nn.Dropout,), {})


def set_number(module: Any) -> None:
    """Change a number deep inside."""
    module.settings["mode"] = ("a", 2.5)


CHANGES: dict[str, Callable[[Any], Any]] = {
    "a frozen layer": freeze,
    "a tied parameter": tie,
    "a shared layer": share,
    "another class": replace_forward,
    "a nested number": set_number,
    "a dropout rate": lambda module: setattr(module[1], "p", 0.2),
    "the mode": lambda module: module[2].eval(),
    "a precision": lambda module: module[0].double(),
    "a new attribute": lambda module: setattr(module[3], "extra", 1),
    "a function": lambda module: setattr(module, "settings", {"mode": ("a", 1.5), "act": torch.sigmoid}),
}


def test_a_module_that_is_built_anew_is_the_same():
    """Neither weights nor the number of records count."""
    one = structure(built(), loss, *RECORDS)
    assert one is not None
    assert one == structure(built(), loss, torch.ones(9, 5), torch.ones(9))
    assert hash(one) == hash(structure(copy.deepcopy(built()), loss, *RECORDS))


@pytest.mark.parametrize("change", CHANGES)
def test_another_structure_differs(change: str):
    """Whatever could change the code that runs changes the structure."""
    module = built()
    CHANGES[change](module)
    changed = structure(module, loss, *RECORDS)
    assert changed is not None
    assert changed != structure(built(), loss, *RECORDS)


def test_another_loss_or_shape_differs():
    """The trial depends on both."""
    one = structure(built(), loss, *RECORDS)
    scaled = [structure(built(), functools.partial(torch.sub, alpha=alpha), *RECORDS) for alpha in (1, 2)]
    assert None not in scaled
    assert len({one, *scaled}) == 3
    assert structure(built(), loss, torch.zeros(4, 6), RECORDS[1]) != one
    assert structure(built(), loss, RECORDS[0].double(), RECORDS[1]) != one


def closing_over(number: Any) -> Callable[[Tensor, Tensor], Tensor]:
    """Return a loss made anew on each call."""
    return lambda logits, labels: number * loss(logits, labels)


def test_functions_are_compared_by_code_and_closure():
    """A lambda of the same line with the same number is the same; with another number it isn't."""
    one, again, other = (structure(built(), closing_over(number), *RECORDS) for number in (1, 1, 2))
    assert one is not None
    assert one == again
    assert one != other


def test_a_class_whose_forward_was_replaced_differs(monkeypatch: pytest.MonkeyPatch):
    """The same class may run other code than before."""
    before = structure(built(), loss, *RECORDS)
    monkeypatch.setattr(nn.Dropout, "forward", lambda _, inputs: inputs - inputs.mean(0))
    assert structure(built(), loss, *RECORDS) != before


@dataclass
class Recursive:
    """Something that may contain itself."""

    inner: Any = None


def hold_itself(module: Any) -> None:
    """Add an attribute without end."""
    module.loop = Recursive()
    module.loop.inner = module.loop


INCOMPARABLE: dict[str, Callable[[Any], Any]] = {
    "a hook": lambda module: module[0].register_forward_hook(print),
    "a hook on gradients": lambda module: module[0].register_full_backward_hook(print),
    "a bound method": lambda module: setattr(module[0], "forward", module[3].forward),
    "a tensor": lambda module: setattr(module, "kept", torch.zeros(1)),
    "an object": lambda module: setattr(module, "kept", object()),
    "an endless one": hold_itself,
}


@pytest.mark.parametrize("change", INCOMPARABLE)
def test_what_is_more_than_its_value_has_no_structure(change: str):
    """Nothing is remembered about a module that can't be compared."""
    module = built()
    INCOMPARABLE[change](module)
    assert structure(module, loss, *RECORDS) is None
    assert structure(built(), closing_over(object()), *RECORDS) is None
