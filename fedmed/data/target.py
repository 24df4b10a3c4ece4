"""How a column becomes a label: of a class, of a span of time, or of an answer that the text holds.

Why it exists: a study names a target; what it means is a public fact of the data set's schema.

Rules:
    * Classes have names; a value that no class has is no label, and its record is not used.
    * Time is cut at public `bounds`. A record that is censored before the first of them says nothing and is not used.
    * The outcomes of time are two for each span: that nothing happened until its end and no more is known, or that
      the event happened in it.

What it does not do: read a table (see `labels`).
"""

import itertools
import math
from dataclasses import dataclass

from fedmed.codec import require

DEFAULT_CLASSES = ("no", "yes")


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """How a column becomes a label: a number `above` a bound, a value among `one_of`, a time, or an answer.

    `classes` names label 0 and label 1. With more than two classes, `one_of` lists the value of each, in their order.
    With `event` (a binary column: whether the event happened) and `bounds`, `column` is the time until the event or
    until the last look, in the unit of the bounds; the classes are then the outcomes and are named here.
    With `answered`, `column` is that of a conversation, and every record that holds an answer has label 1.
    """

    name: str
    column: str
    above: float | None = None
    one_of: tuple[str, ...] = ()
    classes: tuple[str, ...] = DEFAULT_CLASSES
    event: str | None = None
    bounds: tuple[float, ...] = ()
    answered: bool = False

    def __post_init__(self) -> None:
        require(
            (self.event is None) == (not self.bounds),
            f"target {self.name}: event and bounds are set together or not at all",
        )
        rules = [self.above is not None, bool(self.one_of), self.timed, self.answered]
        require(
            sum(rules) == 1,
            f"target {self.name}: set above for a number, or one_of for a category or binary, not both; or event and"
            " bounds for a time, or answered for a conversation",
        )
        if self.bounds:
            self._name_outcomes()
        require(
            len(set(self.classes)) == len(self.classes) >= 2,
            f"target {self.name}: classes names two or more different classes, got {len(self.classes)}",
        )
        require(
            not self.multiclass or len(set(self.one_of)) == len(self.one_of) == len(self.classes),
            f"target {self.name}: with {len(self.classes)} classes, one_of lists a different value for each,"
            f" got {len(set(self.one_of))}",
        )

    def _name_outcomes(self) -> None:
        require(
            len(self.bounds) >= 2
            and all(math.isfinite(bound) for bound in self.bounds)
            and all(a < b for a, b in itertools.pairwise((0.0, *self.bounds))),
            f"target {self.name}: bounds are two or more rising times above 0",
        )
        named = tuple(
            name
            for start, end in itertools.pairwise((0.0, *self.bounds))
            for name in (f"no event until {end:g}", f"event in {start:g} to {end:g}")
        )
        require(self.classes in (DEFAULT_CLASSES, named), f"target {self.name}: the classes of a time name themselves")
        object.__setattr__(self, "classes", named)

    @property
    def timed(self) -> bool:
        """Whether the label is a span of time and whether the event fell into it."""
        return bool(self.bounds)

    @property
    def multiclass(self) -> bool:
        """Whether there are more than two classes, each of one value."""
        return len(self.classes) > 2 and not self.timed
