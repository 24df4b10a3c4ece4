"""The columns of a folder's tables, said by the description of a data set that all sites of a study share.

Why it exists: the hospitals of a consortium have agreed what the columns are. Nobody should confirm them a second
time, and what is trained on must have been made under exactly that description.

Rules:
    * A table is made under the data set's schema as it is, so that its record names the schema's digest.
    * Where the policy asks for k, each quasi-identifier goes up the ladder of its kind; a shifted date needs none.
    * JSON Lines of a schema with a text are notes: their text is cleaned, as every note is, even where the policy
      drops the free text of tables. Any other free text falls.

What it does not do: read tables, or decide what a policy is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from fedmed.data.schema import Schema
from fedmed.deid.anonymity import QuasiIdentifier
from fedmed.deid.hierarchies import HierarchyName
from fedmed.deid.policy import DeidPolicy, check_fit
from fedmed.records import digest
from fedmed_site.deidentification_columns import TablePlan

_LADDERS: Final[Mapping[str, HierarchyName]] = {
    "number": "age", "date": "date", "category": "category", "binary": "category",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class SchemaColumns:
    """The columns of a data set, in the place of confirmed ones."""

    schema: Schema

    @property
    def digest(self) -> str:
        """The SHA-256 of what decides what becomes of a table."""
        return digest({"schema": self.schema.digest})

    def table(
        self, header: Sequence[str], policy: DeidPolicy, *, name: str, delimiter: str = ",", notes: bool = False
    ) -> TablePlan:
        """Return what is done to a table of the data set.

        Args:
            header: The headings as they stand in the file; the schema says which are expected.
            policy: The site's policy; what it says of columns that the schema lacks is left out.
            name: The table's name in reports; the schema has its own.
            delimiter: The character between two cells; the schema has its own.
            notes: Whether the rows are notes, whose text is cleaned in any case.

        Raises:
            UsageError: The policy does not fit the columns.
        """
        del header, name, delimiter
        names = {column.name for column in self.schema.columns}
        fitted = replace(
            policy,
            keep=tuple(column for column in policy.keep if column in names),
            allow={column: values for column, values in policy.allow.items() if column in names},
            quasi_identifiers=tuple(quasi for quasi in policy.quasi_identifiers if quasi.column in names),
        )
        if notes and self.schema.text is not None and policy.free_text == "drop":
            text = self.schema.text.column
            others = [column.name for column in self.schema.columns if column.role != "free-text"]
            fitted = replace(fitted, free_text="clean", keep=(*(fitted.keep or others), text))
        fitted = replace(fitted, quasi_identifiers=(*fitted.quasi_identifiers, *self._ladders(fitted)))
        check_fit(fitted, self.schema)
        return TablePlan(schema=self.schema, policy=fitted)

    def _ladders(self, policy: DeidPolicy) -> list[QuasiIdentifier]:
        if policy.k == 1:
            return []
        stated = {quasi.column for quasi in policy.quasi_identifiers}
        return [
            QuasiIdentifier(column=column.name, hierarchy=_LADDERS[column.kind])
            for column in self.schema.columns
            if column.role == "quasi-identifier"
            and column.name not in stated
            and policy.action(column) not in {"drop", "shift-date"}
        ]
