"""What each round of a study starts from, and what follows from its aggregate, under each LoRA rule.

Why it exists: under most rules a model is its trained vector. Where factors take turns (`rolora`) or
are refreshed (`fedsvd`), the frozen ones belong to it too, and they change from round to round.

Rules:
    * What is aggregated in a round is the trained part alone: one vector, of one size for all sites.
    * Whatever follows from an aggregate has the same product B A of every layer, to float64 rounding.
    * A model is released in the layout of the first round: B and the head trained, A frozen.

What it does not do: aggregate, consolidate, or talk to anyone.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import nn

from fedmed.aggregation import refactored
from fedmed.learning.ewc import Knowledge, consolidate
from fedmed.learning.weights import WeightPull, weight_layout
from fedmed.models import enter_round
from fedmed.models.lora import factors_of, is_a, layer_of, round_layouts
from fedmed.records import FisherKind, ModelSpec

Vector = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Start:
    """What sites start a round from."""

    model: Vector
    """What the round trains, shape `[size]`."""
    frozen: Vector | None
    """The other factors, where rounds change them; else each site makes them from the plan's seed."""


class LoraRounds:
    """The rounds of one study at the coordinator, over the module that every site builds too."""

    def __init__(self, module: nn.Module, spec: ModelSpec) -> None:
        self._module = module
        self._spec = spec
        self._reference, self._seeded = round_layouts(module, spec)
        self._seeded_values = self._seeded.read(module).astype(np.float64) if self._seeded.names else None

    @property
    def size(self) -> int:
        """Length of the released model."""
        return self._reference.size

    @property
    def frozen(self) -> Vector | None:
        """The factors that the plan's seed freezes first; None without an adapter."""
        return self._seeded_values

    def first(self) -> Start:
        """Return what a first study starts from."""
        model = self._reference.read(self._module).astype(np.float64)
        return Start(model=model, frozen=self._seeded_values if self._spec.refreshed else None)

    def fisher_size(self, kind: FisherKind) -> int:
        """Return the length of Fisher information of that kind."""
        return weight_layout(self._module).size if kind == "delta-w" else self.size

    def consolidated(
        self, aggregate: Vector, knowledge: Knowledge | None, *, start: Start, number: int, strength: float
    ) -> Vector:
        """Return the closed form of elastic weight consolidation on what round `number` trained."""
        if knowledge is None or strength == 0 or knowledge.kind == "coordinates":
            return consolidate(aggregate, knowledge, strength=strength)
        enter_round(self._module, self._spec, number=number, frozen=start.frozen)
        return WeightPull.of(self._module, self._spec, knowledge).minimise(aggregate, strength=strength)

    def curvature(self, knowledge: Knowledge, *, frozen: Vector | None) -> float:
        """Return the largest curvature of the pull towards `knowledge` in a first round, at strength 1."""
        if knowledge.kind == "coordinates":
            return float(knowledge.fisher.max())
        enter_round(self._module, self._spec, number=0, frozen=frozen)
        return WeightPull.of(self._module, self._spec, knowledge).steepest()

    def following(self, start: Start, *, number: int) -> Start:
        """Return what round `number + 1` starts from.

        Args:
            start: The model that round `number` led to, in that round's layout, with its frozen factors.
            number: The round that is over.
        """
        return start if start.frozen is None else self._laid_out(self._refreshed(start, number), number + 1)

    def released(self, start: Start, *, number: int) -> Start:
        """Return the model of round `number`'s layout in the layout that models are released in."""
        return start if start.frozen is None else self._laid_out(self._parts(start, number), 0)

    def _parts(self, start: Start, number: int) -> dict[str, Vector]:
        trained, frozen = round_layouts(self._module, self._spec, number=number)
        found = trained.parts(start.model)
        return found if start.frozen is None else {**found, **frozen.parts(start.frozen)}

    def _refreshed(self, start: Start, number: int) -> dict[str, Vector]:
        parts = self._parts(start, number)
        if self._spec.lora_rule == "fedsvd":
            for layer in [layer_of(name) for name in parts if is_a(name)]:
                name_a, name_b, _ = factors_of(str(layer))
                parts[name_b], parts[name_a] = refactored(parts[name_b], parts[name_a])
        return parts

    def _laid_out(self, parts: dict[str, Vector], number: int) -> Start:
        trained, frozen = round_layouts(self._module, self._spec, number=number)
        return Start(model=trained.flat(parts), frozen=frozen.flat(parts))
