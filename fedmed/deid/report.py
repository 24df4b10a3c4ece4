"""What de-identification did to one table, as a record and as the flat facts of the audit log.

Why it exists: a privacy officer reads the record, an auditor verifies the log, and both say the same.

Rules:
    * Names, counts and digests only: no cell, no key, no path.

What it does not do: count (see `tabular`), or leave the site.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import fedmed
from fedmed.audit import Scalar
from fedmed.deid.anonymity import AnonymityReport

TOOL = "fedmed.deid.tabular"


@dataclass(frozen=True, slots=True, kw_only=True)
class DeidReport:
    """What happened to one table. Counts are facts about patients: the report stays at the site.

    `quarantined` and `incomplete` count rows by column; a row may count in several columns.
    `cells` counts cells by action; under `cap-age` and `cap-date` only those that changed. `rows_kept` are the rows
    written; `anonymity` says what k-anonymity cost, or is None where no column went through a ladder.
    """

    rows_read: int
    rows_kept: int
    rows_quarantined: int
    rows_incomplete: int
    quarantined: Mapping[str, int]
    incomplete: Mapping[str, int]
    dates_removed: int
    cells: Mapping[str, int]
    input_hmac: str
    output_sha256: str
    schema_name: str
    schema_digest: str
    policy_digest: str
    key_id: str
    policy_profile: str = "site-training"
    places_removed: int = 0
    anonymity: AnonymityReport | None = None

    def audit_body(self, called: Mapping[str, str] | None = None) -> dict[str, Scalar]:
        """Return the flat facts of the audit record.

        Args:
            called: What the record calls a column whose heading it must not show.
        """
        names = called or {}
        body: dict[str, Scalar] = {
            name: getattr(self, name)
            for name in (
                "rows_read", "rows_kept", "rows_quarantined", "rows_incomplete", "dates_removed", "input_hmac",
                "output_sha256", "schema_name", "schema_digest", "policy_digest", "policy_profile", "key_id",
            )
        }  # fmt: skip
        for group in ("quarantined", "incomplete", "cells"):
            body |= {f"{group}.{names.get(name, name)}": count for name, count in getattr(self, group).items()}
        if self.places_removed:
            body["places_removed"] = self.places_removed
        if self.anonymity:
            body |= self.anonymity.audit_body(names)
        return body | {"tool": TOOL, "tool_version": fedmed.__version__}
