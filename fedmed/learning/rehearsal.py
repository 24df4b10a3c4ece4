"""How many records at a time a site's work may compute, found out before anything is charged.

Why it exists: what a machine can't hold, or a model can't be trained for, is to be refused while it costs nothing.

Rules:
    * The width of a row and the plan are all that is known of records here: both are public.
    * What comes out is `at_once` of the work itself, which measures nothing again.

What it does not do: compute on records, or charge.
"""

import torch
from torch import nn

from fedmed.learning.local import block_rows
from fedmed.learning.machine import Machine, at_work
from fedmed.models.build import record_losses
from fedmed.models.lora import whole_weights_trained
from fedmed.models.vector import Layout
from fedmed.privacy.rehearsal import rehearse_plain, rehearse_private
from fedmed.records import ContinualSpec, ModelSpec, PrivacySpec


def rehearse_training(
    module: nn.Module, *, features: int, privacy: PrivacySpec, spec: ModelSpec | None, machine: Machine | None
) -> int:
    """Return how many records at a time `train_locally` may compute.

    Args:
        module: With a model in it; it comes back as it was.
        features: Width of a row.
        privacy: Of the plan.
        spec: Of the model.
        machine: What to compute on.

    Raises:
        ConfigError: The machine has not the precision.
        ModelError: The module can't be trained record by record.
        RefusedError: Not one record fits under the machine's ceiling.
    """
    inputs, labels = torch.zeros(1, features), torch.zeros(1, dtype=torch.int64)
    with at_work(module, machine, spec) as bounds:
        most, precision = bounds.memory_bytes, bounds.precision
        if not privacy.private:
            return rehearse_plain(
                module, loss=record_losses, inputs=inputs, labels=labels, memory_bytes=most, precision=precision
            )
        return rehearse_private(
            module, loss=record_losses, inputs=inputs, labels=labels, memory_bytes=most, precision=precision,
            joined=privacy.trust_model == "distributed",
        )  # fmt: skip


def rehearse_fisher(
    module: nn.Module, *, features: int, continual: ContinualSpec, spec: ModelSpec, machine: Machine | None
) -> int:
    """Return how many records at a time `fisher_sum` may compute; arguments and errors are `rehearse_training`'s."""
    inputs, labels = torch.zeros(1, features), torch.zeros(1, dtype=torch.int64)

    def rehearsed() -> int:
        with at_work(module, machine, spec) as bounds:
            return rehearse_private(
                module, loss=record_losses, inputs=inputs, labels=labels, memory_bytes=bounds.memory_bytes,
                precision=bounds.precision, joined=True,
            )  # fmt: skip

    if continual.fisher == "coordinates":
        return rehearsed()
    with whole_weights_trained(module):
        return min(block_rows(Layout.of(module)), rehearsed())
