"""The adapters that a site holds: the shared one of each study, its own, and those of its departments.

Why it exists: a hospital uses what it helped to train, and may prefer what fits it, or one of its departments, best.

Rules:
    * An adapter is what a plan trains, as one vector, under the plan's digest and a name: `shared`, `own`, or
      `COLUMN=VALUE` of a department. With the plan and the public base it is a model.
    * Nothing here leaves the site. The shared adapter came from the coordinator.
    * A file is whole or not there.

What it does not do: train, evaluate, or predict (see `departments` and `prediction`).
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fedmed.errors import IntegrityError, UsageError
from fedmed.files import private_folder, write_atomic
from fedmed.records import require, require_digest
from fedmed.tensors import pack, unpack

Vector = NDArray[np.float32]
SHARED: Final = "shared"
OWN: Final = "own"


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterEntry:
    """What is known of an adapter: its plan, its name, the round after which it was made, and when (UTC)."""

    plan: str
    name: str
    round: int
    made: str
    version: int = 1

    def __post_init__(self) -> None:
        require(self.version == 1, f"version must be 1, got {self.version}")
        require_digest("plan", self.plan)
        require(self.name in (SHARED, OWN) or "=" in self.name, "name must be shared, own or COLUMN=VALUE")
        require(self.round >= 1, f"round must be at least 1, got {self.round}")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Adapter:
    """An adapter: `vector` in the layout in which models are released, and the factors that came frozen with it."""

    entry: AdapterEntry
    vector: Vector
    frozen: Vector | None


class Adapters:
    """The adapters in one folder of a site, one file each."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def keep(self, entry: AdapterEntry, vector: Vector, frozen: Vector | None = None) -> None:
        """Store an adapter; one of the same plan and name is replaced."""
        path = self._path(entry.plan, entry.name)
        private_folder(path.parent)
        arrays = {"model": np.asarray(vector, np.float32)}
        write_atomic(path, pack(entry, arrays if frozen is None else {**arrays, "frozen": frozen}))

    def entries(self) -> tuple[AdapterEntry, ...]:
        """Return what is known of every adapter: shared, own, then departments by name, in the order of their making.

        Raises:
            IntegrityError: A file does not verify.
        """
        found = [self._read(path).entry for path in self._folder.glob("*/*.tensors")]
        order = {SHARED: 0, OWN: 1}
        shared = {entry.plan: entry.made for entry in found if entry.name == SHARED}
        return tuple(sorted(found, key=lambda e: (shared.get(e.plan, e.made), e.plan, order.get(e.name, 2), e.name)))

    def read(self, plan_digest: str, name: str) -> Adapter:
        """Return an adapter.

        Raises:
            UsageError: The site has none of this name for this plan.
            IntegrityError: Its file does not verify.
        """
        path = self._path(plan_digest, name)
        if not path.is_file():
            held = ", ".join(entry.name for entry in self.entries() if entry.plan == plan_digest) or "none"
            raise UsageError(f"expected an adapter of this study, got {name[:80]!r}; this site holds: {held}")
        return self._read(path)

    def _read(self, path: Path) -> Adapter:
        entry, arrays = unpack(path.read_bytes(), AdapterEntry)
        if path != self._path(entry.plan, entry.name) or "model" not in arrays:
            raise IntegrityError(f"{path.name}: expected the adapter that belongs here, got another file; remove it")
        return Adapter(entry=entry, vector=arrays["model"], frozen=arrays.get("frozen"))

    def _path(self, plan_digest: str, name: str) -> Path:
        require_digest("plan", plan_digest)
        return self._folder / plan_digest / f"{hashlib.sha256(name.encode()).hexdigest()[:32]}.tensors"
