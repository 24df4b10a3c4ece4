"""Verdicts of the trial on synthetic records, remembered by structure.

Why it exists: the trial costs more than half a training step, and a site builds the same module
anew in every round.

Rules:
    * A verdict is remembered for a module of the same structure, loss and shape of records, for one
      precision and one way to capture. Where there is no structure to compare, every trial is made.
    * A refusal is remembered too, in the words in which it was made: they never hold data.

What it does not do: make the trial (see `per_record_trial`), or replace the checks made on every batch.
"""

import logging
from collections import OrderedDict
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor, nn

from fedmed.errors import ModelError
from fedmed.model_spec import Precision
from fedmed.privacy.gradients import Capture, Capturing, Loss
from fedmed.privacy.per_record_trial import check_per_record
from fedmed.privacy.precision import scaled, unscaled

_log = logging.getLogger(__name__)

_REMEMBERED = 64
_verdicts: OrderedDict[Hashable, str | None] = OrderedDict()


@contextmanager
def first_that_stands(
    candidates: Sequence[Capturing],
    module: nn.Module,
    key: Hashable | None,
    *,
    loss: Loss,
    inputs: Tensor,
    labels: Tensor,
    precision: Precision,
) -> Iterator[Capture]:
    """Lend the first way to capture that stands the trial.

    Args:
        candidates: Ways to capture, the preferred one first.
        module: Stands in training mode and computes in `precision`.
        key: As for `require_stood`.
        loss: One loss per record.
        inputs: Real inputs, of which only shape, dtype and device are used.
        labels: Real labels, likewise.
        precision: What frozen layers compute in.

    Raises:
        ModelError: None does; the refusal is the last one's.
    """
    loss = scaled(loss, precision)
    for capturing in candidates:
        with capturing(module, loss) as raw:
            capture = unscaled(raw, precision)
            try:
                require_stood(
                    module, key, loss=loss, inputs=inputs, labels=labels, capturing=capturing, capture=capture,
                    precision=precision,
                )  # fmt: skip
            except ModelError as error:
                if capturing is candidates[-1]:
                    raise
                _log.info("per-record gradients go through Opacus: %s", error)
                continue
            yield capture
            return


def require_stood(
    module: nn.Module,
    key: Hashable | None,
    *,
    loss: Loss,
    inputs: Tensor,
    labels: Tensor,
    capturing: Capturing,
    capture: Capture,
    precision: Precision = "fp32",
) -> None:
    """Raise unless `module` stands the trial, or one of the same structure stood it before.

    Args:
        module: Stands in training mode.
        key: Its `structure`, taken before it was prepared for capture; None makes the trial every time.
        loss: One loss per record.
        inputs: Real inputs, of which only shape, dtype and device are used.
        labels: Real labels, likewise.
        capturing: The way to capture.
        capture: What it lent.
        precision: What frozen layers compute in.

    Raises:
        ModelError: As `check_per_record`.
    """
    if key is not None and (key, capturing) in _verdicts:
        _verdicts.move_to_end((key, capturing))
        refusal = _verdicts[key, capturing]
        if refusal is not None:
            raise ModelError(refusal)
        return
    try:
        check_per_record(module, loss=loss, inputs=inputs, labels=labels, capture=capture, precision=precision)
    except ModelError as error:
        _remember(key, capturing, str(error))
        raise
    _remember(key, capturing, None)


def _remember(key: Hashable | None, capturing: Capturing, refusal: str | None) -> None:
    if key is None:
        return
    _verdicts[key, capturing] = refusal
    while len(_verdicts) > _REMEMBERED:
        _verdicts.popitem(last=False)
