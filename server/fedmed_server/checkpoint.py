"""What a coordinator writes after every round, so that a killed study resumes at its round.

Why it exists: Flower's strategies always begin at round 1.

Rules:
    * One file, replaced atomically; a reader sees the state before or after a round.
    * It names its plan; a checkpoint of another plan is refused.
    * float64 throughout, so a resumed run has the same bits as one that was never killed.

What it does not do: hold anything of a single site.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedmed.errors import IntegrityError
from fedmed.files import write_atomic
from fedmed.records import require
from fedmed.tensors import pack, unpack

Vector = NDArray[np.float64]
_MOMENT = "moment-"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Progress:
    """A study after `round` finished rounds."""

    plan_digest: str
    round: int
    model: Vector
    average: Vector
    """Sum of the iterates that the released model averages, shape `[size]`."""
    averaged: int = 0
    moments: Mapping[str, Vector] = field(default_factory=dict)
    """What the server-side optimiser remembers, each of shape `[size]`."""
    frozen: Vector | None = None
    """The adapter's frozen factors, where rounds change them."""
    mean: NDArray[np.float32] | None = None
    scale: NDArray[np.float32] | None = None
    bytes_up: int = 0
    bytes_down: int = 0
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Head:
    version: int
    plan_digest: str
    round: int
    averaged: int
    bytes_up: int
    bytes_down: int
    seconds: dict[str, float]

    def __post_init__(self) -> None:
        require(self.version == 1, f"version must be 1, got {self.version}")


def save_progress(path: Path, progress: Progress) -> None:
    """Replace the checkpoint at `path`."""
    head = _Head(
        version=1,
        plan_digest=progress.plan_digest,
        round=progress.round,
        averaged=progress.averaged,
        bytes_up=progress.bytes_up,
        bytes_down=progress.bytes_down,
        seconds=progress.seconds,
    )
    arrays: dict[str, NDArray[np.floating]] = {"model": progress.model, "average": progress.average}
    if progress.mean is not None and progress.scale is not None:
        arrays |= {"mean": progress.mean, "scale": progress.scale}
    if progress.frozen is not None:
        arrays["frozen"] = progress.frozen
    arrays |= {f"{_MOMENT}{name}": value for name, value in progress.moments.items()}
    write_atomic(path, pack(head, arrays))


def load_progress(path: Path, *, plan_digest: str) -> Progress | None:
    """Return the checkpoint at `path`, or None where there is none.

    Raises:
        IntegrityError: The file is damaged or belongs to another plan.
    """
    if not path.is_file():
        return None
    head, arrays = unpack(path.read_bytes(), _Head)
    if not {"model", "average"} <= arrays.keys():
        raise IntegrityError(f"expected a checkpoint with model and average in {path}, got another file")
    if head.plan_digest != plan_digest:
        raise IntegrityError(f"the checkpoint {path} belongs to another plan; resume with the settings it began with")
    return Progress(
        plan_digest=head.plan_digest,
        round=head.round,
        model=arrays["model"],
        average=arrays["average"],
        averaged=head.averaged,
        moments={name[len(_MOMENT) :]: value for name, value in arrays.items() if name.startswith(_MOMENT)},
        frozen=arrays.get("frozen"),
        mean=arrays.get("mean"),
        scale=arrays.get("scale"),
        bytes_up=head.bytes_up,
        bytes_down=head.bytes_down,
        seconds=head.seconds,
    )
