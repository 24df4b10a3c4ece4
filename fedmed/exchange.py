"""What one exchange between the coordinator and a site carries, free of any transport.

Why it exists: the site agent and the coordinator speak in these records; the
Flower rooms only translate them, so another transport changes nothing else.

Rules:
    * A `Task` names the plan by its digest; arrays hold models, never records.
    * An `Answer` holds aggregable sums and public facts about the site's software.
    * A `Failure` holds a code and a sanitised reason: no patient data, no paths, no traceback.

What it does not do: encode itself for the wire, or interpret an action.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fedmed.records import canonical_json, require
from fedmed.tensors import pack, unpack

Action = Literal["query.describe", "query.statistics", "train.fit", "train.fisher", "evaluate.held_out"]
Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Task:
    """What the coordinator asks of a site under a plan that the site already holds."""

    action: Action
    plan_digest: str
    round: int = 0
    arrays: Arrays = field(default_factory=dict)

    def __post_init__(self) -> None:
        require(self.round >= 0, f"round must be at least 0, got {self.round}")

    def digest(self) -> str:
        """Return the SHA-256 over everything that the task says."""
        return _digest(b"FedMed-task/v1\0", [self.action, self.plan_digest, self.round], self.arrays)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Answer:
    """What a site sends back."""

    site: str
    arrays: Arrays = field(default_factory=dict)
    facts: Mapping[str, str | float] = field(default_factory=dict)

    def digest(self) -> str:
        """Return the SHA-256 over everything that the answer says."""
        return _digest(b"FedMed-answer/v1\0", [self.site, dict(self.facts)], self.arrays)


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why a site did not answer, fit to leave the site."""

    site: str
    code: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Head:
    """The part of a stored answer that is not an array."""

    version: int
    site: str
    facts: dict[str, str | float]

    def __post_init__(self) -> None:
        require(self.version == 1, f"version must be 1, got {self.version}")


def answer_to_bytes(answer: Answer) -> bytes:
    """Return `answer` as bytes to store."""
    return pack(_Head(version=1, site=answer.site, facts=dict(answer.facts)), answer.arrays)


def answer_from_bytes(data: bytes) -> Answer:
    """Return the answer stored by `answer_to_bytes`.

    Raises:
        IntegrityError: The bytes are not of that form.
    """
    head, arrays = unpack(data, _Head)
    return Answer(site=head.site, arrays=arrays, facts=head.facts)


def _digest(prefix: bytes, head: list[object], arrays: Arrays) -> str:
    total = hashlib.sha256(prefix + canonical_json(head))
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        total.update(canonical_json([name, array.dtype.str, list(array.shape)]))
        total.update(array.tobytes())
    return total.hexdigest()
