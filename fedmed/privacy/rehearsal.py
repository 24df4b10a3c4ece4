"""What can be known of a training before any record is read: that its gradients can be captured, and how many fit.

Why it exists: a machine that turns out too small after the ledger was charged has paid for nothing.

Rules:
    * The same trial and the same measurement as in the training itself, on synthetic records alone.
    * What comes out is given to the training, which then measures nothing again.

What it does not do: train, charge, or look at a record.
"""

from contextlib import nullcontext

from torch import Tensor, nn

from fedmed.model_spec import Precision
from fedmed.privacy.ceiling import fitting
from fedmed.privacy.descent import plain_backward
from fedmed.privacy.engine import tried_capture
from fedmed.privacy.gradients import Loss, dropout_off, trainable, training_mode
from fedmed.privacy.precision import computing, scaled

LARGEST_BATCH = 256
"""Most records that are computed at a time, whatever fits."""


def rehearse_private(
    module: nn.Module,
    *,
    loss: Loss,
    inputs: Tensor,
    labels: Tensor,
    memory_bytes: int | None,
    precision: Precision,
    joined: bool,
) -> int:
    """Return how many records at a time a training by per-record gradients may compute.

    Args:
        module: As it will be trained.
        loss: One loss per record.
        inputs: Of which only shape and dtype are used.
        labels: Likewise.
        memory_bytes: Most bytes in tensors; None is no ceiling.
        precision: What frozen layers compute in.
        joined: Whether gradients of records are joined to one matrix (`per_record_gradients`), or not.

    Raises:
        ModelError: The module or the loss can't be trained record by record.
        RefusedError: Not one record fits under `memory_bytes`.
    """
    still = dropout_off(module) if joined else nullcontext()
    with (
        training_mode(module),
        still,
        tried_capture(module, loss, inputs, labels, chosen=None, precision=precision) as capture,
    ):
        if memory_bytes is None:
            return LARGEST_BATCH
        found = fitting(module, capture, inputs, labels, memory_bytes=memory_bytes, joined=joined)
    return min(LARGEST_BATCH, found)


def rehearse_plain(
    module: nn.Module, *, loss: Loss, inputs: Tensor, labels: Tensor, memory_bytes: int | None, precision: Precision
) -> int:
    """Return how many records at a time a training without privacy may compute; arguments are `rehearse_private`'s.

    Raises:
        ModelError: The module has nothing to train.
        RefusedError: Not one record fits under `memory_bytes`.
    """
    parameters = trainable(module)
    if memory_bytes is None:
        return LARGEST_BATCH
    loss = scaled(loss, precision)

    def backward(some_inputs: Tensor, some_labels: Tensor) -> int:
        return plain_backward(module, loss, some_inputs, some_labels)

    try:
        with training_mode(module), computing(module, precision):
            found = fitting(module, backward, inputs, labels, memory_bytes=memory_bytes)
    finally:
        for value in parameters.values():
            value.grad = None
    return min(LARGEST_BATCH, found)
