"""What may be shown of a count, what one column says of the class, and how far it lies from its public range.

Why it exists: a column that knows the outcome makes a model that is useless where the outcome isn't known yet; a
column in another unit makes one that is wrong for everybody else.

Rules:
    * A count from 1 to k - 1 is `< k`; one that leaves so few others hides them as well.
    * Every other figure is of at least k records and rounded to a tenth.
    * A column is cut into cells of many records before it is compared, so that a key of a patient doesn't count as
      knowledge.

What it does not do: judge (see `readiness`).
"""

import math
from collections.abc import Iterator, Mapping
from typing import Final

import numpy as np
import polars as pl

from fedmed.data.schema import Column

_CUTS: Final = 20
_FEWEST: Final = 50
_FAR: Final = 2.0
_NARROW, _WIDE = 0.1, 4.0
_SAME: Final = 0.98


def shown(count: int, *, k: int, of: int | None = None) -> str:
    """Return a count as it may be shown.

    >>> shown(0, k=5), shown(3, k=5), shown(40, k=5), shown(98, k=5, of=100)
    ('0', '< 5', '40', '> 95')
    """
    if 0 < count < k:
        return f"< {k}"
    if of is not None and 0 < of - count < k:
        return f"> {of - k}" if of - k > 0 else f"at least {k}"
    return str(count)


def shown_parts(counts: Mapping[str, int], *, k: int) -> dict[str, str]:
    """Return the counts of parts of a known whole, so that no small one follows from the others.

    The next smallest are hidden with them until each small part may be anything from 1 to k - 1 for all that is shown;
    where that can't be, all parts are hidden.

    >>> shown_parts({"alive": 90, "dead": 3, "lost": 20}, k=5)
    {'alive': '90', 'dead': '< 5', 'lost': '5 or more'}
    >>> shown_parts({"alive": 5, "dead": 1}, k=5)
    {'alive': 'hidden', 'dead': 'hidden'}
    """
    found = {name: shown(count, k=k) for name, count in counts.items()}
    small = [count for count in counts.values() if 0 < count < k]
    if not small:
        return found
    hidden, room = 0, sum(small) - (len(small) - 1)
    for count, name in sorted((count, name) for name, count in counts.items() if count >= k):
        if hidden and room >= k - 1:
            break
        found[name] = f"{k} or more"
        hidden += 1
        room += count - k
    if not hidden or room < k - 1:
        return {name: "0" if count == 0 else "hidden" for name, count in counts.items()}
    return found


def determines(values: pl.Series, labels: pl.Series, column: Column, *, k: int) -> float:
    """Return the share of the class's entropy that the column removes, less what chance removes (Theil's U), in [0, 1].

    Numbers are cut into at most 20 parts of equal size, and missing is a value, since it may tell as much. Chance is
    taken off as by Miller (1955). Fewer than 50 labelled rows give 0.
    """
    frame = pl.DataFrame({"value": _parts(values, column), "label": labels}).drop_nulls("label")
    rows = frame.height
    if rows < max(_FEWEST, 2 * k):
        return 0.0
    whole = _entropy(frame["label"].value_counts()["count"].to_list())
    if whole == 0:
        return 0.0
    joint = _entropy(frame.group_by("value", "label").len()["len"].to_list())
    alone = _entropy(frame["value"].value_counts()["count"].to_list())
    by_chance = (frame["value"].n_unique() - 1) * (frame["label"].n_unique() - 1) / (2 * rows)
    return min(1.0, max(0.0, (whole + alone - joint - by_chance) / whole))


def shift_of(values: pl.Series, column: Column, *, k: int) -> float | None:
    """Return how many public scales the mean lies from the public centre, of a number with k values or more.

    None where the values are all nearly alike: the mean would then be the value of each.
    """
    if column.centre is None or column.scale is None or not spread_of(values, column, k=k):
        return None
    return round((_mean(values) - column.centre) / column.scale, 1) + 0.0


def spread_of(values: pl.Series, column: Column, *, k: int) -> float | None:
    """Return the standard deviation in public scales, of a number with k values or more."""
    if column.scale is None or len(values) - values.null_count() < k:
        return None
    centred = values.drop_nulls().cast(pl.Float64) - _mean(values)
    return round(math.sqrt(_mean(centred * centred)) / column.scale, 1)


def drifted(values: pl.Series, column: Column, *, k: int) -> Iterator[str]:
    """Yield in words what differs from what the schema expects."""
    present = values.drop_nulls()
    if not column.is_feature or len(present) < max(k, _FEWEST):
        return
    if column.kind == "category":
        if present.value_counts()["count"].to_numpy().max() >= _SAME * len(present):
            yield f"one value in {_SAME:.0%} of the rows or more"
        return
    shift, spread = shift_of(values, column, k=k), spread_of(values, column, k=k)
    if shift is not None and abs(shift) > _FAR:
        yield f"the mean lies {shift:+g} public scales from the public centre"
    if spread is not None and spread < _NARROW:
        yield "all values are nearly alike"
    elif spread is not None and spread > _WIDE:
        yield f"the spread is {spread:g} public scales"


def _parts(values: pl.Series, column: Column) -> pl.Series:
    """Return the cell of each value, as text; missing is a cell of its own."""
    if column.kind != "number":
        return values.cast(pl.String).fill_null("missing")
    present = values.drop_nulls().sort()
    if present.is_empty():
        return pl.Series(["missing"] * len(values))
    cuts = sorted({float(present[len(present) * step // _CUTS]) for step in range(1, _CUTS)})
    places = np.searchsorted(cuts, values.cast(pl.Float64).fill_null(0.0).to_numpy(), side="right")
    return pl.Series([None if value is None else str(place) for value, place in zip(values, places, strict=True)],
                     dtype=pl.String).fill_null("missing")  # fmt: skip


def _mean(values: pl.Series) -> float:
    return float(np.mean(values.drop_nulls().cast(pl.Float64).to_numpy()))


def _entropy(counts: list[int]) -> float:
    total = sum(counts)
    return -sum(count / total * math.log(count / total) for count in counts)
