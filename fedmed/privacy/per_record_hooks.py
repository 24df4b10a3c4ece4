"""What Opacus leaves on a module: read, checked, and removed.

Why it exists: hooks keep activations, counts and gradients on layers and parameters, also when a
pass breaks off half-way. A module that keeps them leaks records and counts the next pass wrongly.

Rules:
    * Each captured row is one record's, or the batch is refused.
    * After `clean` a module has no hook, attribute or gradient of Opacus.

What it does not do: attach hooks (see `engine`).
"""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor, nn

from fedmed.errors import ModelError
from fedmed.privacy.gradients import forget_gradients


def captured_samples(parameters: Mapping[str, nn.Parameter], records: int) -> dict[str, Tensor]:
    """Return what the hooks left on the parameters, (records, *shape) by name.

    Raises:
        ModelError: A row isn't one record.
    """
    captured = {}
    for name, value in parameters.items():
        sample = getattr(value, "grad_sample", None)
        if sample is None:
            continue
        if not isinstance(sample, Tensor) or sample.shape != (records, *value.shape):
            raise ModelError(
                f"parameter {name!r}: expected one gradient for each of the batch's records; keep records "
                "on the first dimension of every layer"
            )
        captured[name] = sample
    return captured


def forget_samples(parameters: Mapping[str, nn.Parameter]) -> None:
    """Make parameters ready for the next pass of the hooks."""
    forget_gradients(parameters)
    for value in parameters.values():
        value.grad_sample = None  # type: ignore[attr-defined]
        value._forward_counter = 0  # type: ignore[attr-defined]  # noqa: SLF001  an aborted pass leaves a count


@contextmanager
def expected_warnings() -> Iterator[None]:
    """Silence torch on hooks of layers that read the records themselves: Opacus needs outputs' gradients only."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Full backward hook is firing", category=UserWarning)
        yield


def clean(module: nn.Module) -> None:
    """Remove every trace of Opacus, also of hooks that were attached half-way or ran half-way."""
    for handle in module.__dict__.pop("autograd_grad_sample_hooks", []):
        handle.remove()
    for layer in module.modules():
        for name in ("activations", "max_batch_len", "ft_compute_sample_grad"):
            layer.__dict__.pop(name, None)
    for value in module.parameters():
        value.grad = None
        for name in ("grad_sample", "summed_grad", "_forward_counter", "_current_grad_sample", "_norm_sample"):
            value.__dict__.pop(name, None)
