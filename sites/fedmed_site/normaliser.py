"""Which statistics a study's features are standardised by, at one site.

Why it exists: normalisation by a site's own statistics or by federated ones is
computed from patients, so under differential privacy it is a noised, charged
release like any other; by public ranges it costs nothing.

Rules:
    * Statistics are fixed once per view of the data and stored, so that training,
      evaluation and a later study see the same numbers.
    * Federated statistics come with the first round's task and are then pinned for that plan; a
      later study that looks back at the view uses the latest ones.

What it does not do: charge the ledger itself (the agent passes how).
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedmed.data.source import Cohort, standardise
from fedmed.errors import RefusedError
from fedmed.exchange import Task
from fedmed.files import write_atomic
from fedmed.records import DataSpec, digest, require
from fedmed.tensors import pack, unpack

Floats = NDArray[np.float32]
LARGEST = 4.0
SMALLEST_SCALE = 0.05
"""What `statistics_from_sum` can give for values clipped at 4; anything else is a fault or an attack."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Statistics:
    """Mean and scale of every feature in public-range units, each of shape `[features]`."""

    mean: Floats
    scale: Floats

    def apply(self, cohort: Cohort) -> Cohort:
        """Return `cohort` standardised."""
        return standardise(cohort, self.mean, self.scale)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Head:
    version: int = 1

    def __post_init__(self) -> None:
        require(self.version == 1, f"version must be 1, got {self.version}")


class Normaliser:
    """The stored statistics of one site."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def statistics(
        self, data: DataSpec, task: Task | None, compute: Callable[[DataSpec], Statistics]
    ) -> Statistics | None:
        """Return the statistics of a view, or None where public ranges are enough.

        Args:
            data: The view and its kind of normalisation.
            task: The task at hand, whose arrays may bring federated statistics; None for an earlier view.
            compute: How to make the site's own statistics, charged and noised as the plan demands.

        Raises:
            RefusedError: Federated statistics are needed and neither stored nor sent.
        """
        if data.normalisation == "public":
            return None
        if data.normalisation == "site":
            return self._read(digest(data)) or self._keep(compute(data), digest(data))
        name = digest(data) if task is None else f"{task.plan_digest}-{digest(data)}"
        stored = self._read(name)
        if stored is not None:
            return stored
        if task is None or "mean" not in task.arrays or "scale" not in task.arrays:
            raise RefusedError("expected federated statistics with the first round, got none")
        mean, scale = (np.asarray(task.arrays[name], dtype=np.float32) for name in ("mean", "scale"))
        inside = (np.abs(mean) <= LARGEST).all() and ((scale >= SMALLEST_SCALE) & (scale <= LARGEST)).all()
        if not inside:  # also where a value is not a number
            raise RefusedError(
                f"expected federated means within {LARGEST} and scales from {SMALLEST_SCALE}, got others"
            )
        return self._keep(Statistics(mean=mean, scale=scale), name, digest(data))

    def stored(self, data: DataSpec, plan_digest: str) -> Statistics | None:
        """Return what a study that was trained standardises by, or None where public ranges are enough.

        Raises:
            RefusedError: Its statistics are not here.
        """
        if data.normalisation == "public":
            return None
        found = self._read(f"{plan_digest}-{digest(data)}") or self._read(digest(data))
        if found is None:
            raise RefusedError("expected the statistics that the study was trained with, found none; it never ran here")
        return found

    def _read(self, name: str) -> Statistics | None:
        path = self._path(name)
        if not path.is_file():
            return None
        _, arrays = unpack(path.read_bytes(), _Head)
        return Statistics(mean=arrays["mean"], scale=arrays["scale"])

    def _keep(self, statistics: Statistics, *names: str) -> Statistics:
        arrays = {"mean": statistics.mean, "scale": statistics.scale}
        for name in names:
            write_atomic(self._path(name), pack(_Head(), arrays))
        return statistics

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.tensors"
