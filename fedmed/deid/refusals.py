"""When a table is refused whole: its headings don't fit, or too many of its rows are bad.

Why it exists: a few bad rows are set aside; many bad rows mean that the export or the schema is wrong, and what is
left would be a table that nobody meant.

Rules:
    * A message names the caller's columns and shares, never a cell, and never a heading of the file: without a line
      of headings it would be a patient.

What it does not do: judge a cell (see `cells`).
"""

from collections import Counter
from collections.abc import Mapping, Sequence

from fedmed.deid.policy import ColumnFacts, DeidPolicy, SchemaFacts
from fedmed.deid.rejected import WHOLE_ROW, Rejected
from fedmed.deid.text_cells import NOT_CLEANED
from fedmed.errors import DataError

_FAULTS: Mapping[str, str] = {
    "number": "text where numbers belong, or numbers out of range,",
    "category": "values that the schema does not list",
    "binary": "values that the schema does not list",
    "identifier": "no patient key",
    "icd10": "no ICD-10 codes",
    "date": "no dates",
    "text": NOT_CLEANED,
}


def check_header(header: Sequence[str], schema: SchemaFacts, vouched: Sequence[ColumnFacts], *, file: str) -> int:
    """Return how many columns the schema does not list.

    Raises:
        DataError: A column of the schema stands there twice, or one that is kept does not.
    """
    names = [column.name for column in schema.columns]
    twice = sorted(name for name in names if header.count(name) > 1)
    if twice:
        raise DataError(f"{file}: the header names column {twice[0]!r} more than once; remove or rename one")
    lacking = [column.name for column in vouched if column.name not in header]
    if lacking:
        raise DataError(
            f"{file}: the header lacks column {', '.join(map(repr, lacking))}; expected all the columns of schema "
            f"{schema.name} that are kept; check the delimiter {schema.delimiter!r} and the export"
        )
    return len([name for name in header if name not in names])


def refuse_bad_rows(
    rejected: Rejected,
    incomplete: Counter[str],
    vouched: Sequence[ColumnFacts],
    policy: DeidPolicy,
    *,
    file: str,
    rows: int,
    left: int,
) -> None:
    """Refuse a file of which too much was rejected, or of which nothing is left.

    Args:
        rejected: The rows that were not kept, and why.
        incomplete: Rows without a required value, by column.
        vouched: The columns that are kept.
        policy: Says how much may be rejected.
        file: What messages call the file.
        rows: How many rows were parsed.
        left: How many rows are kept.

    Raises:
        DataError: It is refused.
    """
    limit, total = policy.max_quarantine_fraction, rows + rejected.by_column[WHOLE_ROW]
    if total == 0:
        raise DataError(f"{file}: no rows; expected at least one patient; export the table again")
    for column in vouched:
        share = rejected.by_column[column.name] / total
        if share > limit:
            raise DataError(
                f"{file}: column {column.name!r} holds {_FAULTS[column.kind]} in {share:.0%} of the rows, above "
                f"max_quarantine_fraction {limit:.0%}; correct the export, or the column's kind, range, values or "
                "missing tokens in the schema"
            )
    share = rejected.rows / total
    if share > limit:
        raise DataError(
            f"{file}: {share:.0%} of the rows cannot be parsed, above max_quarantine_fraction {limit:.0%}; most of "
            f"them for {rejected.by_column.most_common(1)[0][0]}; correct the export"
        )
    if left == 0:
        columns = ", ".join(f"{name!r}" for name, _ in incomplete.most_common(3))
        raise DataError(f"{file}: no row is complete; missing most often: {columns}; required columns need values")
