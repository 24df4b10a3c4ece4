"""The rows of a table that were not kept, by line and column.

Why it exists: a row that is left out is one that somebody must be able to find and correct in the hospital.

Rules:
    * Lines, columns and reasons only, never what a cell holds.

What it does not do: decide which rows those are (see `tabular`).
"""

import csv
import io
from collections import Counter
from dataclasses import dataclass, field

WHOLE_ROW = "(row)"


@dataclass(slots=True, kw_only=True)
class Rejected:
    """Rows that were not kept; a row may be counted in several columns."""

    entries: list[tuple[int, str, str]] = field(default_factory=list)
    by_column: Counter[str] = field(default_factory=Counter)
    rows: int = 0

    def add_lines(self, first: int, last: int, reason: str) -> None:
        """Reject physical lines that make no row: each counts, since each may have been a row."""
        self.entries += [(line, WHOLE_ROW, reason) for line in range(first, last + 1)]
        self.by_column[WHOLE_ROW] += last + 1 - first
        self.rows += last + 1 - first

    def as_csv(self) -> bytes:
        r"""Return line, column and reason of each, sorted.

        >>> Rejected(entries=[(3, "age", "out of range")]).as_csv()
        b'line,column,reason\n3,age,out of range\n'
        """
        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(("line", "column", "reason"))
        writer.writerows(sorted(self.entries))
        return text.getvalue().encode()
