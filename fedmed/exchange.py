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
from typing import Any, Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from fedmed.records import canonical_json, require
from fedmed.tensors import pack, unpack

Work = Literal["query.statistics", "train.fit", "train.fisher"]
"""What sites compute that is summed over them."""
SEGMENTS: Final[Mapping[Work, str]] = {
    "query.statistics": "delta",
    "train.fit": "delta",
    "train.fisher": "fisher",
}
"""The segment of a secure sum that each kind of work goes into; weights go into `aux`."""
Phase = Literal["query.offer", "train.share", "train.mask", "query.certify", "query.unmask", "query.end"]
"""The phases of secure aggregation, and its end; `fedmed.secagg.messages` says what each carries."""
Action = Literal["query.describe", "evaluate.held_out"] | Work | Phase
ACTIONS: tuple[Action, ...] = ("query.describe", "evaluate.held_out", *get_args(Work), *get_args(Phase))
Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Task:
    """What the coordinator asks of a site under a plan that the site already holds.

    In a phase of secure aggregation `works` says what the round is for and `message` is the protocol's. `receipt`: how
    the coordinator settled the last attempt that the site took part in, see `fedmed.receipts`.
    """

    action: Action
    plan_digest: str
    round: int = 0
    arrays: Arrays = field(default_factory=dict)
    works: tuple[Work, ...] = ()
    message: bytes = b""
    receipt: bytes = b""

    def __post_init__(self) -> None:
        require(self.round >= 0, f"round must be at least 0, got {self.round}")

    def digest(self) -> str:
        """Return the SHA-256 over what is asked; a receipt that rides along asks nothing."""
        head = [self.action, self.plan_digest, self.round, list(self.works), self.message.hex()]
        return _digest(b"FedMed-task/v2\0", head, self.arrays)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Round:
    """One round of work that is summed over sites: what, from which model, and how long each vector is."""

    works: tuple[Work, ...]
    plan_digest: str
    number: int = 0
    arrays: Arrays = field(default_factory=dict)
    size: int

    def __post_init__(self) -> None:
        require(bool(self.works), "works must name at least one kind of work")
        require(self.size >= 1, f"size must be at least 1, got {self.size}")

    def task(self, work: Work) -> Task:
        """Return the task of one kind of work of this round."""
        return Task(action=work, plan_digest=self.plan_digest, round=self.number, arrays=self.arrays)

    def digest(self) -> bytes:
        """Return the 32-byte hash of all that sites start from; sites of one sum must agree on it."""
        head = [list(self.works), self.plan_digest, self.number, self.size]
        return bytes.fromhex(_digest(b"FedMed-round/v1\0", head, self.arrays))

    def __str__(self) -> str:
        return f"{'+'.join(self.works)} {self.number}"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Answer:
    """What a site sends back; `message` is its part of a phase of secure aggregation, `receipt` its word for that."""

    site: str
    arrays: Arrays = field(default_factory=dict)
    facts: Mapping[str, str | float] = field(default_factory=dict)
    message: bytes = b""
    receipt: bytes = b""

    def digest(self) -> str:
        """Return the SHA-256 over what the answer says; `receipt` only repeats and signs a part of it."""
        return _digest(b"FedMed-answer/v2\0", [self.site, dict(self.facts), self.message.hex()], self.arrays)


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


def run_of(plan_digest: str, works: tuple[Work, ...]) -> str:
    """Return the name under which secure aggregation counts the rounds of one kind of work of a plan.

    >>> run_of("ab" * 32, ("train.fit",))
    'abababababababababababababababababababab.fit'
    """
    return f"{plan_digest[:40]}.{'-'.join(work.partition('.')[2] for work in works)}"


def answer_to_bytes(answer: Answer) -> bytes:
    """Return `answer`, which holds no message, as bytes to store."""
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
        total.update(array.reshape(-1).data)
    return total.hexdigest()
