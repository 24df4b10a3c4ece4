"""What a target's column becomes: the class, the span of time, or the presence of an answer, row by row.

Why it exists: a label decides whether a record is used at all, so what has none must be told from what has one.

Rules:
    * A row without a label is null, never class 0.
    * An answer of which a model would read a part only is none: what is learnt must be what was said.
    * A time is an event's if its flag says so and it is within the bounds; whoever is censored counts only for the
      spans that were seen to their end.

What it does not do: choose rows (see `tabular`).
"""

import numpy as np
import polars as pl

from fedmed.data.schema import Schema, Target
from fedmed.rows import SAID, TURN


def labels_of(table: pl.DataFrame, target: Target, schema: Schema) -> pl.Series:
    """Return the class of each row of a de-identified table, null where it has none."""
    if target.answered:
        return _answers(table[target.column], schema)
    column, values = schema.column(target.column), table[target.column]
    if target.timed:
        return _outcomes(values, table[str(target.event)], target)
    if target.above is not None:
        return (values > target.above).cast(pl.Int8)
    if target.multiclass:
        places = {value: place for place, value in enumerate(target.one_of)}
        return values.replace_strict(places, default=None, return_dtype=pl.Int16)
    if column.kind == "binary":  # stored as the position of its value
        return values.is_in([column.values.index(value) for value in target.one_of]).cast(pl.Int8)
    return values.is_in(list(target.one_of)).cast(pl.Int8)


def _answers(values: pl.Series, schema: Schema) -> pl.Series:
    """Return 1 where the last turn is an answer that holds something and is read to its end, else null."""
    last = values.str.replace_all("\0", "", literal=True).str.split(TURN).list.last()
    answered = last.str.contains(f"^assistant{SAID}\\s*\\S")
    if schema.text is not None:
        answered &= last.str.len_chars() + len(TURN) <= schema.text.characters
    return pl.select(pl.when(answered).then(pl.lit(1, pl.Int8))).to_series()


def _outcomes(times: pl.Series, events: pl.Series, target: Target) -> pl.Series:
    """Return 2 k for no event until the end of span k, 2 k + 1 for an event in it.

    A censored record without a whole span, a negative time, or a missing value gives null.
    """
    time, event = times.cast(pl.Float64).to_numpy(), events.cast(pl.Float64).to_numpy()
    bounds = np.asarray(target.bounds)
    known = np.isfinite(time) & np.isfinite(event) & (time >= 0)
    span_of_event = np.searchsorted(bounds, time, side="left")  # the span that ends at or after the time
    spans_seen = np.searchsorted(bounds, time, side="right")  # spans that ended before the last look
    happened = (event == 1) & (span_of_event < len(bounds))
    label = np.where(happened, 2 * span_of_event + 1, 2 * (np.minimum(spans_seen, len(bounds)) - 1))
    usable = known & (happened | (spans_seen > 0))
    return pl.Series([int(value) if good else None for value, good in zip(label, usable, strict=True)], dtype=pl.Int16)
