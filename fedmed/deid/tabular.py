"""A hospital's own table becomes a table of vouched columns, and the audit log says so.

Why it exists: training may read only what a policy has decided about, column by
column. This is the only door from a raw table to the learner.

Rules:
    * Default-deny: direct identifiers, free text and columns that the schema does not list never leave the reader.
    * A row that cannot be parsed is quarantined with a reason per column, an incomplete row is
      counted by column, and neither is dropped silently. Beyond the policy's fraction the file is refused.
    * Where the policy asks for k-anonymity, every quasi-identifier that is kept has a ladder, or the file is refused.
    * An error, a log entry and the quarantine list name lines and columns, never what a cell holds.
    * The table is written whole, then logged; a table that the log does not vouch for is not trained on.

What it does not do: read files (see `readers`), choose levels (see `anonymity`), or clean text (the caller's).
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl

from fedmed.audit import ChainLog
from fedmed.crypto.seal import SEALED_SUFFIX, Seal
from fedmed.deid.anonymity import Recoding, find_recoding
from fedmed.deid.cells import NO_KEY, NOT_ALLOWED, Parsed, parse_cells
from fedmed.deid.encodings import Encoding
from fedmed.deid.old_age import floored, without_old
from fedmed.deid.outgoing import Written
from fedmed.deid.policy import AGE_CAP, AGE_LIMIT, Action, ColumnFacts, DeidPolicy, SchemaFacts, check_fit
from fedmed.deid.pseudonyms import Pseudonyms, normalise
from fedmed.deid.readers import Batch, SqlTable, open_table
from fedmed.deid.refusals import check_header, refuse_bad_rows
from fedmed.deid.rejected import WHOLE_ROW, Rejected
from fedmed.deid.report import DeidReport
from fedmed.deid.spill import Spill
from fedmed.deid.text_cells import TextCleaner, cleaned_cells
from fedmed.deid.writing import write_table
from fedmed.errors import UsageError
from fedmed.files import write_atomic

__all__ = [
    "AUDIT_KIND", "PATIENT", "QUARANTINE_FILE", "TABLE_FILE", "DeidReport", "TextCleaner", "clean_table",
    "deidentify_in_memory", "deidentify_table",
]  # fmt: skip

TABLE_FILE = "table.parquet"
QUARANTINE_FILE = "quarantine.csv"
AUDIT_KIND = "table-deidentified"
PATIENT = "patient"
BATCH_ROWS = 50_000

_SHIFTED = pl.col("date") + pl.duration(days=pl.col("days"))


def deidentify_table(
    source: Path | SqlTable,
    *,
    schema: SchemaFacts,
    policy: DeidPolicy,
    key: bytes,
    out_dir: Path,
    log: ChainLog,
    clean: TextCleaner | None = None,
    seal: Seal | None = None,
    named: str | None = None,
) -> DeidReport:
    """Write the vouched columns of the table `source` to `out_dir` and log what was done.

    Guarantees: on an error, `out_dir` holds no new table and the log no new entry. Rows keep their order.
    Memory holds one batch, the reasons of quarantined rows, and the quasi-identifiers where there are any.

    Args:
        source: The table as the hospital or publisher wrote it: CSV in UTF-8 (with or without BOM) or GB18030,
            Parquet, Excel, or a database table.
        schema: What its columns are.
        policy: What happens to them.
        key: The site's pseudonym key, 32 bytes.
        out_dir: Where `table.parquet` and `quarantine.csv` (line, column, reason) go; created if absent.
        log: The site's audit log.
        clean: What cleans free text, where the policy keeps any.
        seal: The key and the name to seal the table under; it is then `table.parquet.sealed`, and none is readable.
        named: What messages call the table; None is its own name.

    Raises:
        DataError: The table is missing, empty, in another encoding, lacks a column, has more bad rows than
            the policy allows, or cannot be made k-anonymous within its suppression limit.
        UsageError: Policy and schema do not fit together, or free text is to be cleaned and `clean` is None.
    """
    folder = _existing(out_dir)
    with _clean_rows(source, schema=schema, policy=policy, key=key, clean=clean, folder=folder, named=named) as table:
        out_dir.mkdir(parents=True, exist_ok=True)
        write_atomic(out_dir / QUARANTINE_FILE, table.rejected.as_csv())
        places = (out_dir / TABLE_FILE, out_dir / f"{TABLE_FILE}{SEALED_SUFFIX}")
        written = table.write(places[seal is not None], seal)
        places[seal is None].unlink(missing_ok=True)
    report = replace(table.report, output_sha256=written.sha256)
    log.append(AUDIT_KIND, report.audit_body())
    return report


def clean_table(
    source: Path | SqlTable,
    *,
    schema: SchemaFacts,
    policy: DeidPolicy,
    key: bytes,
    target: Path,
    clean: TextCleaner,
    seal: Seal | None,
    encoding: Encoding = "detect",
) -> tuple[DeidReport, Written]:
    """Write the vouched columns of the table `source` to the file `target` and return what was done.

    Like `deidentify_table`, for one of many files: nothing else is written, and the log is the caller's. With a seal
    nothing that can be read is opened for writing. `encoding` is that of a CSV file, if the site knows it.

    Raises:
        DataError: See `deidentify_table`.
        UsageError: Policy and schema do not fit together.
    """
    with _clean_rows(
        source, schema=schema, policy=policy, key=key, clean=clean, folder=target.parent, encoding=encoding
    ) as table:
        written = table.write(target, seal)
    return replace(table.report, output_sha256=written.sha256), written


def deidentify_in_memory(
    source: Path, *, schema: SchemaFacts, policy: DeidPolicy, key: bytes, named: str, clean: TextCleaner | None = None
) -> tuple[pl.DataFrame, Sequence[tuple[int, str, str]]]:
    """Return the vouched columns of the table `source` and the rows that were not kept, by line, column and reason.

    Both are in memory alone; nothing is written or logged.

    Like `deidentify_table`, whose errors it has; the policy has no ladders, which would need other rows.
    """
    if policy.ladders:
        raise UsageError(f"policy {policy.profile}: expected one without ladders for rows in memory, got ladders")
    with _clean_rows(source, schema=schema, policy=policy, key=key, clean=clean, folder=None, named=named) as rows:
        return pl.concat(rows.kept.frames()), tuple(rows.rejected.entries)


@dataclass(frozen=True, slots=True, kw_only=True)
class _CleanRows:
    """A table that was read and judged and waits to be written; its report lacks the digest of what is written."""

    kept: Spill
    recoding: Recoding | None
    kinds: Mapping[str, str]
    rejected: Rejected
    report: DeidReport

    def write(self, path: Path, seal: Seal | None) -> Written:
        """Write the rows in place of `path`."""
        return write_table(path, self.kept, recoding=self.recoding, kinds=self.kinds, seal=seal)


@contextmanager
def _clean_rows(
    source: Path | SqlTable,
    *,
    schema: SchemaFacts,
    policy: DeidPolicy,
    key: bytes,
    clean: TextCleaner | None,
    folder: Path | None,
    named: str | None = None,
    encoding: Encoding = "detect",
) -> Iterator[_CleanRows]:
    """Read and judge a table; what is too long for memory waits sealed in `folder`, if there is one, until the end."""
    pseudonyms = Pseudonyms(key)
    check_fit(policy, schema)
    if clean is None and any(policy.action(column) == "clean-text" for column in schema.columns):
        raise UsageError(f"policy {policy.profile}: free_text is clean, but nothing was given that cleans it")
    names = () if schema.header else [column.name for column in schema.columns]
    reader = open_table(
        source, keyed=pseudonyms.content_hash(), delimiter=schema.delimiter, names=names, encoding=encoding
    )
    with Spill(folder) as kept:
        file = named or reader.name
        reading = _Reading(schema=schema, policy=policy, pseudonyms=pseudonyms, file=file, clean=clean, kept=kept)
        reading.unlisted = check_header(reader.header, schema, reading.vouched, file=file)
        for batch in reader.batches([column.name for column in reading.vouched], BATCH_ROWS):
            reading.take(batch)
        refuse_bad_rows(
            reading.rejected,
            reading.incomplete,
            reading.vouched,
            policy,
            file=file,
            rows=reading.rows,
            left=kept.height,
        )
        recoding = _recoding(reading)
        yield _CleanRows(
            kept=kept,
            recoding=recoding,
            kinds={column.name: column.kind for column in reading.vouched},
            rejected=reading.rejected,
            report=_report(reading, recoding, input_hmac=reader.fingerprint()),
        )


class _Reading:
    """The running state of one table: what was kept and what was not."""

    def __init__(
        self,
        *,
        schema: SchemaFacts,
        policy: DeidPolicy,
        pseudonyms: Pseudonyms,
        file: str,
        clean: TextCleaner | None,
        kept: Spill,
    ) -> None:
        self.schema, self.policy, self.file, self.clean = schema, policy, file, clean
        self.actions: dict[str, Action] = {column.name: policy.action(column) for column in schema.columns}
        self.vouched = [c for c in schema.columns if self.actions[c.name] not in {"drop", "drop-text"}]
        self.key = next((c.name for c in self.vouched if self.actions[c.name] == "pseudonymise"), None)
        self.unlisted = 0
        self.rows = 0
        self.kept = kept
        self.rejected = Rejected()
        self.incomplete: Counter[str] = Counter()
        self.incomplete_rows = 0
        self.ages_capped = 0
        self.dates_capped = 0
        self.dates_removed = 0
        self.places_removed = 0
        self.pseudonyms = pseudonyms

    def take(self, batch: Batch) -> None:
        """Parse one batch; keep its whole rows and count the others."""
        for fault in batch.faults:
            self.rejected.add_lines(fault.first, fault.last, fault.reason)
        identities = batch.cells[self.key] if self.key else [f"{self.schema.name} row {line}" for line in batch.lines]
        parsed = {
            column.name: self._parse(column, batch.cells[column.name], identities)
            for column in self.vouched
            if column.name != self.key
        }
        reasons = {name: column.reasons for name, column in parsed.items()}
        tokens = [self.pseudonyms.token(identity) if normalise(identity) else None for identity in identities]
        if self.key:
            reasons[self.key] = pl.Series([None if token else NO_KEY for token in tokens], dtype=pl.String)
        good = self._count_bad(batch.lines, pl.DataFrame(reasons))
        frame = pl.DataFrame({PATIENT: pl.Series(tokens, dtype=pl.String)} | self._values(parsed, identities))
        self.rows += len(batch.lines)
        self.dates_removed += sum(column.dates_removed for column in parsed.values())
        self.places_removed += sum(column.places_removed for column in parsed.values())
        self.kept.append(self._count_incomplete(frame.filter(good)))

    def _parse(self, column: ColumnFacts, cells: Sequence[str], identities: Sequence[str]) -> Parsed:
        if self.actions[column.name] == "clean-text":
            return cleaned_cells(cells, identities, self.clean)
        parsed = parse_cells(column, cells, self.schema.missing)
        allowed = self.policy.allow.get(column.name)
        if allowed is None:
            return parsed
        other = pl.DataFrame({"value": parsed.values, "reason": parsed.reasons}).with_columns(
            other=pl.col("value").is_not_null() & ~pl.col("value").is_in(list(allowed))
        )
        done = other.select(
            value=pl.when(~pl.col("other")).then("value"),
            reason=pl.when("other").then(pl.lit(NOT_ALLOWED)).otherwise("reason"),
        )
        return Parsed(values=done["value"], reasons=done["reason"])

    def _values(self, parsed: Mapping[str, Parsed], identities: Sequence[str]) -> dict[str, pl.Series]:
        values = {}
        for name, column in parsed.items():
            series = column.values
            if self.actions[name] == "cap-age":
                above = series > AGE_LIMIT
                self.ages_capped += int(above.sum())
                series = pl.select(pl.when(above).then(pl.lit(float(AGE_CAP))).otherwise(series)).to_series()
            elif self.actions[name] == "shift-date":
                series, removed = without_old(series)
                self.dates_removed += removed
                limit = self.policy.max_shift_days
                days = pl.Series([self.pseudonyms.shift_days(who, limit=limit) for who in identities], dtype=pl.Int64)
                series = pl.DataFrame({"date": series, "days": days}).select(_SHIFTED).to_series()
            elif self.actions[name] == "truncate-date":
                series, capped = floored(series, "1mo" if self.policy.dates == "month" else "1y")
                self.dates_capped += capped
            values[name] = series
        return values

    def _count_bad(self, lines: Sequence[int], reasons: pl.DataFrame) -> pl.Series:
        """Record each reason with its line and return which rows have none."""
        for name in reasons.columns:
            at = reasons[name].is_not_null().arg_true().to_list()
            self.rejected.entries += [(lines[row], name, reasons[name][row]) for row in at]
            if at:
                self.rejected.by_column[name] += len(at)
        good = reasons.select(pl.all_horizontal(pl.all().is_null())).to_series()
        self.rejected.rows += int((~good).sum())
        return good

    def _count_incomplete(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Return the rows that hold every required value; count the others by column."""
        required = [column.name for column in self.vouched if column.required and column.name != self.key]
        for name in required:
            if lacking := frame[name].null_count():
                self.incomplete[name] += lacking
        kept = frame.drop_nulls(required) if required else frame
        self.incomplete_rows += frame.height - kept.height
        return kept


def _recoding(reading: _Reading) -> Recoding | None:
    """Return the levels that the policy's k needs, or None where no column goes through a ladder."""
    policy, vouched = reading.policy, {column.name for column in reading.vouched}
    ladders = [quasi for quasi in policy.ladders if quasi.column in vouched]
    if not ladders:
        return None
    sensitive = [c.name for c in reading.vouched if c.role == "sensitive"] if policy.l_diversity > 1 else []
    if policy.l_diversity > 1 and not sensitive:
        raise UsageError(
            f"policy {policy.profile}: l_diversity is {policy.l_diversity}, but no sensitive column is kept"
        )
    return find_recoding(
        reading.kept.columns([PATIENT, *(quasi.column for quasi in ladders), *sensitive]),
        ladders,
        k=policy.k,
        suppression_limit=policy.suppression_limit,
        patient=PATIENT,
        l_diversity=policy.l_diversity,
        sensitive=sensitive,
    )


def _existing(folder: Path) -> Path:
    """Return the nearest folder above `folder` (or itself) that exists: it lies on the same disk."""
    return next(path for path in (folder, *folder.absolute().parents) if path.is_dir())


def _report(reading: _Reading, recoding: Recoding | None, *, input_hmac: str) -> DeidReport:
    rejected = reading.rejected
    rows = reading.rows
    cells: Counter[str] = Counter()
    for action in reading.actions.values():
        cells[action] += rows
    cells["cap-age"] = reading.ages_capped
    if reading.dates_capped:
        cells["cap-date"] = reading.dates_capped
    cells["drop-unlisted"] = rows * reading.unlisted
    anonymity = recoding.report if recoding else None
    return DeidReport(
        rows_read=rows + rejected.by_column[WHOLE_ROW],
        rows_kept=reading.kept.height - (anonymity.rows_suppressed if anonymity else 0),
        rows_quarantined=rejected.rows,
        rows_incomplete=reading.incomplete_rows,
        quarantined=dict(rejected.by_column),
        incomplete=dict(reading.incomplete),
        dates_removed=reading.dates_removed,
        places_removed=reading.places_removed,
        cells=dict(cells),
        input_hmac=input_hmac,
        output_sha256="",
        schema_name=reading.schema.name,
        schema_digest=reading.schema.digest,
        policy_digest=reading.policy.digest,
        policy_profile=reading.policy.profile,
        key_id=reading.pseudonyms.key_id,
        anonymity=anonymity,
    )
