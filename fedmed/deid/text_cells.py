"""The cells of a table that hold notes.

Why it exists: a remark in a table is as free as a note, and is cleaned by what the caller gives for notes.

Rules:
    * A note that can't be cleaned has a reason, not a value; nothing of it stands in a message.

What it does not do: clean (see `fedmed.deid.text`).
"""

from collections.abc import Sequence
from typing import Protocol

import polars as pl

from fedmed.deid.cells import Parsed

NOT_CLEANED = "text that could not be cleaned"


class TextCleaner(Protocol):
    """What removes identifiers from a note; `fedmed.deid.text` holds one."""

    def __call__(self, text: str, *, patient: str) -> str:
        """Return `text` without identifiers; `patient` is whose note it is, as the table names them."""


def cleaned_cells(cells: Sequence[str], identities: Sequence[str], clean: TextCleaner | None) -> Parsed:
    """Return what `clean` makes of each note; a note that it cannot clean has a reason, not a value."""
    if clean is None:
        raise AssertionError("policy and cleaner were checked before")
    values: list[str | None] = []
    reasons: list[str | None] = []
    for cell, patient in zip(cells, identities, strict=True):
        try:
            values.append(clean(cell, patient=patient) if cell else None)
            reasons.append(None)
        except Exception:  # noqa: BLE001  whatever went wrong, the note stays out and its text out of the message
            values.append(None)
            reasons.append(NOT_CLEANED)
    return Parsed(values=pl.Series(values, dtype=pl.String), reasons=pl.Series(reasons, dtype=pl.String))
