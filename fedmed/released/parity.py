"""How far a form's answers are from those of the model that was released.

Why it exists: a conversion that is nearly right looks right; somebody has to compare numbers before a hospital does.

Rules:
    * What is compared is what was released: base and adapter, before anything is merged or converted.
    * The largest difference may be 1e-4 of the largest value of that output, and of 1 where all are smaller: a logit's
      own unit. A value that is not finite is refused.
    * Beyond it there is no form: an export that differs raises.

What it does not do: compute outputs.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor

from fedmed.errors import IntegrityError
from fedmed.released.ports import Ports

RELATIVE = 1e-4
"""Largest difference, relative to an output's largest value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parity:
    """What a comparison found."""

    largest_difference: float
    output: str
    """Where it was."""
    allowed: float
    """What is allowed there."""
    samples: int


def parity(
    ports: Ports,
    samples: Sequence[tuple[Tensor, ...]],
    expected: Iterable[tuple[Tensor, ...]],
    found: Iterable[tuple[Tensor, ...]],
    *,
    form: str,
) -> Parity:
    """Return the largest difference between two lists of outputs, measured by what is allowed.

    Args:
        ports: Whose outputs they are.
        samples: What went in.
        expected: The outputs of what was released, for each sample.
        found: Those of the form.
        form: Its name, for the message.

    Raises:
        IntegrityError: The form differs by more than is allowed.
    """
    worst: Parity | None = None
    for sample, one, other in zip(samples, expected, found, strict=True):
        for port, right, given in zip(ports.outputs, one, other, strict=True):
            if right.shape != given.shape:
                raise _differs(form, f"gives {port.name} of shape {list(given.shape)}, not {list(right.shape)}")
            meant = ports.compared(sample, port)
            meant = meant.expand(right.shape[: meant.ndim])
            difference = float((right[meant] - given[meant]).abs().max())
            allowed = RELATIVE * max(1.0, float(right[meant].abs().max()))
            if not difference <= allowed:  # also where it is not a number
                raise _differs(form, f"differs by {difference:.3g} in {port.name}, where {allowed:.3g} is allowed")
            if worst is None or difference / allowed > worst.largest_difference / worst.allowed:
                worst = Parity(largest_difference=difference, output=port.name, allowed=allowed, samples=len(samples))
    assert worst is not None  # noqa: S101  there are samples and outputs
    return worst


def _differs(form: str, how: str) -> IntegrityError:
    return IntegrityError(
        f"the {form} form {how}: it is not what was released, so nothing is written; load the adapter instead"
    )
