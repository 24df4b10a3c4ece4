"""Is a table ready to be trained on? What would stop training, what would spoil it, and what cures both.

Why it exists: an export is wrong in ways that show hours later, as a refused file or as a model that is too good.
Whoever exports a table learns it before anything is prepared, at his own desk.

Rules:
    * No record's value is in a report: names of columns, classes and reasons are the schema's, the rest are counts.
      A mean is of at least k records that differ, and rounded.
    * A count from 1 to k - 1 is `< k`; what it would follow from is hidden as well.
    * Red is what makes training fail, yellow what may spoil a model. Each has a cure.
    * Only the columns that the schema keeps are read.

What it does not do: de-identify, keep anything, show an image, or look at names in notes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import polars as pl

import fedmed
from fedmed.data.jsonl import table_of
from fedmed.data.pooled import together
from fedmed.data.schema import Column, DataSet, Schema, Target
from fedmed_site.doctor import Finding, bad, ok, warn
from fedmed_site.raw_rows import image_names
from fedmed_site.readiness_limits import LEAST_K
from fedmed_site.readiness_measures import drifted, shift_of, shown, spread_of
from fedmed_site.readiness_table import RawTable, kept_columns, lacking_columns, opened_rows, opened_table, read_table
from fedmed_site.readiness_targets import TargetPage, target_findings, target_page

READINESS_VERSION: Final = 1
_MOST_SET_ASIDE: Final = 0.2
_OFTEN_MISSING: Final = 0.5
_FEW_ROWS: Final = 20
_FEW_PARTS: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnPage:
    """What is said of one column; counts as shown. `shift` and `spread` are in the schema's scales, of numbers."""

    name: str
    kind: str
    role: str
    missing: str
    outside: str
    shift: float | None = None
    spread: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """What is said of one table. It holds counts of patients, so it stays with who may see them."""

    table: str
    data_set: str
    schema_digest: str
    k: int
    rows: str
    usable: str
    duplicates: str
    patients: str
    patients_with_several: str
    columns: tuple[ColumnPage, ...]
    targets: tuple[TargetPage, ...]
    findings: tuple[Finding, ...]
    tool_version: str = fedmed.__version__
    version: int = READINESS_VERSION

    @property
    def ready(self) -> bool:
        """Whether nothing in the table makes training fail."""
        return all(finding.level != "bad" for finding in self.findings)


def check_table(path: Path, schema: Schema, *, targets: Sequence[str] = (), k: int = LEAST_K) -> Page:
    """Return the readiness page of one raw table.

    Args:
        path: CSV, Parquet, Excel or JSON Lines, compressed or not, as the hospital exported it; only read.
        schema: What its columns are.
        targets: The targets that are to be learned; empty: all of the schema's.
        k: The fewest records that a count may show.

    Raises:
        DataError: The file can't be read as a table, or the schema has no such target.
    """
    wanted = [schema.target(name) for name in targets] or list(schema.targets)
    with table_of(path, schema) as raw:
        return _checked(path.name, raw, path.parent, schema, wanted, k=k)


def check_published(root: Path, dataset: DataSet, *, targets: Sequence[str] = (), k: int = LEAST_K) -> Page:
    """Return the readiness page of all rows that a simulation would take from a publisher's files in `root`.

    Args:
        root: Where the files are; only read.
        dataset: Which files they are, and what their columns are.
        targets: The targets that are to be learned; empty: all of the schema's.
        k: The fewest records that a count may show.

    Raises:
        DataError: A file is missing or can't be read or joined, or the schema has no such target.
    """
    schema = dataset.schema
    wanted = [schema.target(name) for name in targets] or list(schema.targets)
    with together(root, dataset) as (table, divided):
        page = _checked(root.name, table, root, schema, wanted, k=k)
    left = [f"{shown(count, k=k)} {reason}" for reason, count in sorted(divided.left_out.items())]
    return replace(
        page, findings=(*page.findings, ok("publisher", f"rows that no site gets: {', '.join(left) or '0'}"))
    )


def _checked(name: str, raw: Path, folder: Path, schema: Schema, wanted: Sequence[Target], *, k: int) -> Page:
    reader = opened_table(raw, schema)
    lacking = lacking_columns(reader, schema)
    if lacking:
        return _page(name, schema, k=k, findings=(_missing_columns(lacking, schema),))
    table = read_table(reader, schema)
    pictures = tuple(_image_findings(raw, folder, schema, named=name, k=k)) if table.rows else ()
    return _judged(name, table, schema, wanted, pictures, k=k)


def check_rows(
    name: str, frame: pl.DataFrame, schema: Schema, *, targets: Sequence[str] = (), k: int = LEAST_K, unpaired: int = 0
) -> Page:
    """Return the readiness page of rows that were de-identified under the schema.

    Args:
        name: What the page calls them.
        frame: The rows, opened in memory.
        schema: What their columns are.
        targets: The targets that are to be learned; empty: all of the schema's.
        k: The fewest records that a count may show.
        unpaired: How many of the rows have no image because their patient has several series and several rows.

    Raises:
        DataError: The schema has no such target.
    """
    wanted = [schema.target(name) for name in targets] or list(schema.targets)
    table = opened_rows(frame, schema)
    if isinstance(table, list):
        return _page(name, schema, k=k, findings=(_missing_columns(table, schema),))
    pictures = [
        warn(
            "images", f"{shown(unpaired, k=k, of=frame.height)} rows have no image: their patients have several rows"
            " and several series", "prepare the raw table, whose rows name their images",
        )
    ]  # fmt: skip
    return _judged(name, table, schema, wanted, pictures if unpaired else (), k=k)


def _judged(
    name: str, table: RawTable, schema: Schema, wanted: Sequence[Target], pictures: Sequence[Finding], *, k: int
) -> Page:
    if table.rows == 0:
        empty = bad("rows", "the table has no rows", "export the table again, with its records below the header")
        return _page(name, schema, k=k, findings=(empty,))
    usable = table.whole & _complete(table, schema)
    columns = tuple(_column_page(column, table, k=k) for column in kept_columns(schema) if column.role != "patient-key")
    pages = tuple(target_page(target, table, usable, schema, k=k) for target in wanted)
    findings = [*_row_findings(table, usable, schema, k=k), *_patient_findings(table, schema, k=k), *pictures]
    findings += [one for target, page in zip(wanted, pages, strict=True)
                 for one in target_findings(target, page, table, usable, schema, k=k)]  # fmt: skip
    findings += [one for column in kept_columns(schema) for one in _column_findings(column, table, k=k)]
    return _page(name, schema, k=k, findings=tuple(findings), table=table, usable=usable, columns=columns,
                 targets=pages)  # fmt: skip


def _shown_rows(rows: int, *, k: int) -> str:
    """Return the number of rows; of a table of few patients not even that, since its parts would follow."""
    return shown(rows, k=_FEW_PARTS * k)


def _shown_of(count: int, rows: int, *, k: int) -> str:
    return _shown_rows(count, k=k) if count < _FEW_PARTS * k else shown(count, k=k, of=rows)


def _missing_columns(names: Sequence[str], schema: Schema) -> Finding:
    listed = ", ".join(names)
    return bad(
        "columns", f"missing, or there twice: {listed}",
        f"export them under these names, once each; check the delimiter {schema.delimiter!r} and the header",
    )  # fmt: skip


def _complete(table: RawTable, schema: Schema) -> pl.Series:
    required = [
        column.name for column in kept_columns(schema) if column.required and column.name in table.values.columns
    ]
    if not required:
        return pl.Series([True] * table.values.height, dtype=pl.Boolean)
    return table.values.select(pl.all_horizontal(pl.col(required).is_not_null())).to_series()


def _column_page(column: Column, table: RawTable, *, k: int) -> ColumnPage:
    values, reasons = table.values[column.name], table.reasons[column.name]
    outside = len(reasons) - reasons.null_count()
    missing = values.null_count() - outside
    shift = shift_of(values, column, k=k)
    return ColumnPage(
        name=column.name, kind=column.kind, role=column.role, missing=shown(missing, k=k, of=len(values)),
        outside=shown(outside, k=k, of=len(values)), shift=shift, spread=spread_of(values, column, k=k),
    )  # fmt: skip


def _row_findings(table: RawTable, usable: pl.Series, schema: Schema, *, k: int) -> Iterator[Finding]:
    read, good = table.values.height, int(table.whole.sum())
    aside, total = table.rows - good, _shown_rows(table.rows, k=k)
    if aside > _MOST_SET_ASIDE * table.rows:
        yield bad(
            "rows", f"{shown(aside, k=k, of=table.rows)} of {total} rows have a cell outside the schema or are no rows",
            "correct the export, or the ranges, values and missing tokens of the columns below",
        )  # fmt: skip
    elif not int(usable.sum()):
        yield bad("rows", "no row has every required value", "export the required columns with their values")
    elif int(usable.sum()) < max(_FEW_ROWS, k):
        yield warn("rows", f"fewer than {max(_FEW_ROWS, k)} rows can be used", "a site's policy may ask for more")
    else:
        yield ok("rows", f"{_shown_of(int(usable.sum()), table.rows, k=k)} of {total} can be used")
    if table.unreadable:
        lines = shown(table.unreadable, k=k, of=table.rows)
        yield warn("lines", f"{lines} lines are no rows", "such lines are set aside; export the table again")
    repeated = _repeated(table)
    if repeated:
        where = shown(repeated, k=k, of=read)
        yield warn("duplicates", f"{where} rows repeat an earlier one", "remove copies: they stand in train and in test"
                   if schema.patient_key is None else "remove copies; they count twice")  # fmt: skip


def _image_findings(table: Path, folder: Path, schema: Schema, *, named: str, k: int) -> Iterator[Finding]:
    """Yield how many images can be read; each is opened, and none is kept."""
    if schema.image is None:
        return
    from fedmed.data.imaging import count_images  # noqa: PLC0415  it imports pydicom

    found = count_images(image_names(table, schema, named=named), folder, schema=schema)
    rows = found.images + found.missing + found.unreadable
    if not found.images:
        yield bad("images", "no image can be read", f"put the files that {schema.image.column} names beside the table")
    elif found.missing or found.unreadable:
        parts = [(found.missing, "rows name no image"), (found.unreadable, "images are missing or damaged")]
        said = "; ".join(f"{shown(count, k=k, of=rows)} {what}" for count, what in parts if count)
        yield warn("images", said, "such records have no image; export the files again, as DICOM, PNG or NPZ")
    else:
        yield ok("images", f"{_shown_rows(found.images, k=k)} can be read")
    if found.faint:
        yield warn(
            "images", f"{shown(found.faint, k=k, of=rows)} span less than a twentieth of the range that they are given",
            "set centre and width of the schema's image to the values that matter; else a model sees one grey",
        )  # fmt: skip


def _repeated(table: RawTable) -> int:
    """Return how many rows equal an earlier one in all that is kept, the patient included."""
    frame = table.values if table.patients is None else table.values.with_columns(table.patients.alias("\0patient"))
    filled = frame.filter(~table.values.select(pl.all_horizontal(pl.all().is_null())).to_series())
    return filled.height - filled.n_unique() if filled.height else 0


def _patient_findings(table: RawTable, schema: Schema, *, k: int) -> Iterator[Finding]:
    if table.patients is None:
        yield ok("patients", "the schema has no patient key: each row is taken for a patient of its own")
        return
    lacking = table.patients.null_count()
    if lacking:
        yield warn(
            "patients", f"{shown(lacking, k=k, of=len(table.patients))} rows have no {schema.patient_key}",
            "such rows are set aside; export the key of every record",
        )  # fmt: skip
    several = _with_several(table)
    if several:
        yield ok(
            "patients", f"{shown(several, k=k)} have several records; each patient stands on one side of the split"
        )


def _with_several(table: RawTable) -> int:
    if table.patients is None:
        return 0
    return int((table.patients.drop_nulls().value_counts()["count"] > 1).sum())


def _column_findings(column: Column, table: RawTable, *, k: int) -> Iterator[Finding]:
    if column.name not in table.values.columns:
        return
    values, reasons = table.values[column.name], table.reasons[column.name]
    rows = len(values)
    outside = len(reasons) - reasons.null_count()
    if outside and column.role != "target":
        yield warn(
            f"column {column.name}", f"{shown(outside, k=k, of=rows)} cells are outside the schema",
            "such rows are set aside; correct range, values, synonyms or missing tokens, or the export",
        )  # fmt: skip
    missing = values.null_count() - outside
    if missing > _OFTEN_MISSING * rows and column.role != "target":
        share = "all cells" if missing == rows else f"{shown(missing, k=k, of=rows)} of {_shown_rows(rows, k=k)} cells"
        yield warn(f"column {column.name}", f"{share} are missing", "check the export; a model sees the public centre")
    for what in drifted(values, column, k=k):
        yield warn(
            f"drift {column.name}",
            what,
            "check unit and coding against the consortium's schema; if they are right, tell the consortium",
        )


def _page(
    name: str, schema: Schema, *, k: int, findings: tuple[Finding, ...], table: RawTable | None = None,
    usable: pl.Series | None = None, columns: tuple[ColumnPage, ...] = (), targets: tuple[TargetPage, ...] = (),
) -> Page:  # fmt: skip
    rows = 0 if table is None else table.rows
    patients = None if table is None or table.patients is None else table.patients.drop_nulls().n_unique()
    return Page(
        table=name,
        data_set=schema.name,
        schema_digest=schema.digest,
        k=k,
        rows=_shown_rows(rows, k=k),
        usable="0" if usable is None else _shown_of(int(usable.sum()), rows, k=k),
        duplicates="0" if table is None else shown(_repeated(table), k=k),
        patients="not named" if patients is None else _shown_of(patients, rows, k=k),
        patients_with_several="0" if table is None else shown(_with_several(table), k=k, of=patients),
        columns=columns,
        targets=targets,
        findings=findings,
    )
