"""A folder of mixed files, de-identified under one policy, audited item by item, to be stopped and resumed at any time.

Why it exists: it is the way out of the hospital's archive. Everything that leaves it passes here, and whoever has
to answer for it later finds one record for each file.

Rules:
    * Every file of the source ends as cleaned or as quarantined with a reason; none is dropped in silence.
    * The order is: output on disk, audit record, then manifest and report. What lacks its record is done again.
    * The audit log alone decides what is done: an item is skipped only if its last record names this very input,
      these options, this release, and the output that lies on disk.
    * Tables are not touched before a person has confirmed what their columns are.
    * Items are sealed under a key of their own folder, which is wrapped for the site and for a named recipient.

What it does not do: delete outputs whose source has gone, or share one folder between machines.
"""

import hashlib
import os
import secrets
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from types import MappingProxyType

import fedmed
from fedmed.audit import ChainLog, Scalar
from fedmed.data.schema import Schema
from fedmed.deid.dicom.table import table_digest
from fedmed.deid.pseudonyms import Pseudonyms
from fedmed.deid.readers import SqlTable
from fedmed.errors import UsageError
from fedmed.files import append_durable, locked, write_atomic
from fedmed.records import canonical_json, digest
from fedmed_site.data_keys import DataKeys
from fedmed_site.deidentification_columns import COLUMNS_FILE, Columns, propose_columns, read_columns, write_proposal
from fedmed_site.deidentification_formats import SetAsideError, kind_of
from fedmed_site.deidentification_items import Done, Job, Setting
from fedmed_site.deidentification_nifti import pair_of
from fedmed_site.deidentification_policy import Choices
from fedmed_site.deidentification_pool import clean_all
from fedmed_site.deidentification_schema import SchemaColumns
from fedmed_site.deidentification_sql import relative_name
from fedmed_site.home import SiteHome
from fedmed_site.manifest import (
    BATCH_FILE,
    FINISHED_KIND,
    ITEM_KIND,
    ITEMS_FOLDER,
    LOCK_FILE,
    MANIFEST_FILE,
    WORK_FOLDER,
    Batch,
    Form,
    ItemRecord,
    Naming,
    item_name,
    manifest_json,
    outputs,
    pair_name,
    place_name,
    read_batch,
    records_of,
    register,
)

Files = Callable[[], Iterator[tuple[str, Path | SqlTable]]]

RECORDS_AT_ONCE = 64
PREVIEW_FILES = ("preview.html", "preview.json", "quarantine.csv", "quarantine-reasons.csv")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What the person at the terminal asked for."""

    source: Path | SqlTable
    out: Path
    choices: Choices
    form: Form = "sealed"
    names: Naming = "keyed"
    columns: Path | None = None
    schema: Schema | None = None
    recipient: Path | None = None
    workers: int = 1
    dry_run: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a run did, and the last record of every item of the folder. Counts are facts about patients."""

    batch: Batch
    records: Mapping[str, ItemRecord] = field(repr=False)
    fresh: int
    skipped: int
    options_digest: str
    table_digest: str
    manifest_sha256: str

    @property
    def quarantined(self) -> Mapping[str, int]:
        """The number of quarantined items by reason, the most frequent first."""
        reasons = Counter(one.reason for one in self.records.values() if one.outcome == "quarantined")
        return MappingProxyType(dict(reasons.most_common()))

    @property
    def cleaned(self) -> int:
        """The number of cleaned items."""
        return sum(one.outcome == "cleaned" for one in self.records.values())


class ColumnsNeededError(UsageError):
    """Tables wait for a person to say what their columns are."""


def deidentify(
    home: SiteHome,
    request: Request,
    *,
    started: Callable[[int], None] = lambda _files: None,
    on_item: Callable[[Done], None] = lambda _done: None,
) -> Result:
    """De-identify every file of the source into the output folder.

    Args:
        home: The site, whose keys are used and whose audit log is written.
        request: What was asked for.
        started: Called once with the number of files.
        on_item: Called after each file, in this process.

    Raises:
        ColumnsNeededError: There are tables and no confirmed columns; a proposal was written, nothing processed.
        UsageError: A path, key or policy does not fit.
        IntegrityError: The audit log does not verify.
        OSError: The disk is full or the folder is not writable.
    """
    files = _check_paths(home, request)
    request.out.mkdir(mode=0o700, parents=True, exist_ok=True)
    with locked(request.out / LOCK_FILE):
        begun = read_batch(request.out)
        _check_folder(home, request, begun)
        columns = _columns(request)
        batch = begun or Batch(batch=secrets.token_hex(8), form=request.form, names=request.names)
        keys = DataKeys(home)
        log = ChainLog(home.audit_path)
        known = {} if request.dry_run else records_of(log.entries(), batch.batch)
        setting = _setting(home, request, batch, columns, keys)
        if not request.dry_run:
            register(home, batch, source=request.source, out=request.out)
            keys.write_wraps(request.out, batch.batch, recipient=request.recipient)
            write_atomic(request.out / BATCH_FILE, canonical_json(batch))
        started(sum(1 for _ in files()))
        run = _Run(home, log, dry_run=request.dry_run, on_item=on_item)
        try:
            run.take(clean_all(_jobs(files, request, setting, known), setting, workers=request.workers))
        finally:
            shutil.rmtree(setting.work, ignore_errors=True)
        return _finish(request, setting, batch, log, run)


class _Run:
    """The results of one run on their way to the audit log, several at a time.

    Memory does not grow with the files: once in the log a record is dropped here. A dry run has no log and keeps them.
    """

    def __init__(self, home: SiteHome, log: ChainLog, *, dry_run: bool, on_item: Callable[[Done], None]) -> None:
        self._home, self._log, self._dry_run, self._on_item = home, log, dry_run, on_item
        self._waiting: list[Done] = []
        self.records: dict[str, ItemRecord] = {}
        self.fresh = self.skipped = 0

    def take(self, results: Iterator[Done]) -> None:
        """Record every result; what has come before an interruption is recorded too."""
        try:
            for done in results:
                if self._dry_run:
                    self.records[done.record.item] = done.record
                self.skipped += not done.fresh
                self.fresh += done.fresh
                if done.fresh and not self._dry_run:
                    self._waiting.append(done)
                if len(self._waiting) >= RECORDS_AT_ONCE:
                    self._write()
                self._on_item(done)
        finally:
            self._write()

    def _write(self) -> None:
        if self._waiting:
            self._log.append_all([(ITEM_KIND, done.record.audit_body()) for done in self._waiting])
            details = "".join(
                f"--- deidentify batch {done.record.batch} item {done.record.item}: {done.detail}\n"
                for done in self._waiting
                if done.detail
            )
            if details:
                append_durable(self._home.log_path, details.encode("utf-8", "replace"))
        self._waiting.clear()


def walk(source: Path | SqlTable) -> Iterator[tuple[str, Path | SqlTable]]:
    """Yield everything of a source that is not a folder, in a fixed order, with its path below the source.

    Symbolic links are yielded, not followed; so is a folder that cannot be listed. A database table is one item.
    """
    if isinstance(source, SqlTable):
        yield relative_name(source), source
        return
    if not source.is_dir() or source.is_symlink():
        yield source.name, source
        return
    yield from _below(source, "")


def _below(folder: Path, prefix: str) -> Iterator[tuple[str, Path]]:
    try:
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except OSError:
        yield prefix.rstrip("/") or ".", folder
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            yield from _below(Path(entry.path), f"{prefix}{entry.name}/")
        else:
            yield f"{prefix}{entry.name}", Path(entry.path)


def _check_paths(home: SiteHome, request: Request) -> Files:
    """Return how to walk the source, or raise if a path is wrong."""
    source, out = request.source, request.out
    if out.exists() and not out.is_dir():
        raise UsageError(f"expected a folder at {out}, found a file; choose another --out")
    if request.workers < 1:
        raise UsageError(f"--workers must be at least 1, got {request.workers}")
    if isinstance(source, SqlTable):
        return lambda: walk(source)
    if not source.exists():
        raise UsageError(f"no source at {source}; expected a file or a folder of DICOM, tables or notes")
    if source.is_dir() and not os.access(source, os.R_OK | os.X_OK):
        raise UsageError(f"the source {source} cannot be listed; give this account the right to read it")
    if not source.is_dir() and not os.access(source, os.R_OK):
        raise UsageError(f"the source {source} cannot be read; give this account the right to read it")
    inside, outside = out.resolve(), source.resolve()
    if inside.is_relative_to(outside) or outside.is_relative_to(inside):
        raise UsageError("source and output lie inside each other; choose an output folder elsewhere")
    if home.root.resolve().is_relative_to(outside) or outside.is_relative_to(home.root.resolve()):
        raise UsageError("the source holds the site's own folder, or lies in it; give the folder of the export alone")
    return lambda: walk(source)


def _check_folder(home: SiteHome, request: Request, begun: Batch | None) -> None:
    """Raise if the output folder holds something else than an earlier run of the same kind."""
    if begun is not None:
        if (begun.form, begun.names) != (request.form, request.names):
            raise UsageError(
                f"this folder was begun with {begun.form} items under {begun.names} names; go on like that, or "
                "choose another --out"
            )
        if not (home.root / "batches" / f"{begun.batch}.json").is_file():
            raise UsageError("this folder was begun by another site; choose another --out")
        return
    ours = {LOCK_FILE, COLUMNS_FILE, WORK_FOLDER, *PREVIEW_FILES}
    if any(path.name not in ours for path in request.out.iterdir()):
        raise UsageError(f"expected a new or empty folder at {request.out}, found files; choose another --out")


def _columns(request: Request) -> Columns | SchemaColumns:
    """Return the confirmed columns; without any, propose them for the tables of the source and stop."""
    if request.schema is not None:
        columns = SchemaColumns(request.schema)
        columns.table((), request.choices.table, name="columns")
        return columns
    if request.columns is not None:
        return read_columns(request.columns, request.choices.table)
    tables = (path for _, path in walk(request.source) if _is_table(path))
    first = next(tables, None)
    if first is None:
        return Columns()
    decisions, unread = propose_columns(chain([first], tables), encoding=request.choices.files.encoding)
    if not decisions:
        return Columns()
    proposal = request.out / COLUMNS_FILE
    write_proposal(proposal, decisions)
    passed = f" ({unread} tables could not be read)" if unread else ""
    raise ColumnsNeededError(
        f"tables need confirmed columns{passed}: read and correct {proposal}, then run again with "
        f"--columns {proposal}; nothing was processed"
    )


def _is_table(path: Path | SqlTable) -> bool:
    try:
        return isinstance(path, SqlTable) or kind_of(path) == "table"
    except (SetAsideError, OSError):
        return False


def _setting(
    home: SiteHome, request: Request, batch: Batch, columns: Columns | SchemaColumns, keys: DataKeys
) -> Setting:
    work = request.out / WORK_FOLDER
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(mode=0o700)
    for torn in (request.out / ITEMS_FOLDER).rglob(".*"):
        if torn.is_file():
            torn.unlink()
    return Setting(
        batch=batch.batch,
        choices=request.choices,
        columns=columns,
        options_digest=options_digest(request.choices, columns, batch),
        form=request.form,
        names=request.names,
        pseudonym_key=home.pseudonym_key_path.read_bytes(),
        data_key=keys.of_batch(batch.batch, dry_run=request.dry_run),
        quarantine_key=keys.of_quarantine(dry_run=request.dry_run),
        out=request.out,
        quarantine=home.root / "quarantine" / batch.batch,
        work=work,
        dry_run=request.dry_run,
    )


def options_digest(choices: Choices, columns: Columns | SchemaColumns, batch: Batch) -> str:
    """Return the one digest of all that decides what becomes of a file."""
    return digest(
        {
            "table": choices.table.digest,
            "dicom": choices.dicom.digest,
            "nifti": choices.nifti.digest,
            "text": choices.text.digest,
            "files": choices.files.digest,
            "columns": columns.digest,
            "dicom_table": table_digest(),
            "form": batch.form,
            "names": batch.names,
        }
    )


def _jobs(files: Files, request: Request, setting: Setting, known: dict[str, ItemRecord]) -> Iterator[Job]:
    """Yield a job for each file, with its last record, which leaves `known`."""
    pseudonyms = Pseudonyms(setting.pseudonym_key)
    for relative, path in files():
        item = item_name(relative, pseudonyms)
        stem = f"{item[:2]}/{item}" if request.names == "keyed" else relative
        yield Job(
            item=item,
            path=path,
            stem=f"{ITEMS_FOLDER}/{stem}",
            pair=_pair(relative, request.names, pseudonyms),
            known=known.pop(item, None),
        )


def _pair(relative: str, names: Naming, pseudonyms: Pseudonyms) -> str:
    """Return the output of what is called like an image or a sidecar: under one name, so that tools find both."""
    base, suffix = pair_of(relative)
    name = pair_name(base, pseudonyms)
    shared = relative if names == "same" else f"{name[:2]}/{name}{suffix}"
    return f"{ITEMS_FOLDER}/{shared}" if suffix else ""


def _finish(request: Request, setting: Setting, batch: Batch, log: ChainLog, run: _Run) -> Result:
    """Write the manifest of all that the log says of the folder, and note its digest in the log."""
    records: Mapping[str, ItemRecord] = dict(sorted(run.records.items()))
    manifest_sha256 = ""
    if not request.dry_run:
        entries = log.entries()
        records = records_of(entries, batch.batch)
        pseudonyms = Pseudonyms(setting.pseudonym_key)
        places = {place_name(relative, pseudonyms): relative for relative in outputs(request.out)}
        manifest = manifest_json(batch, records, places)
        manifest_sha256 = hashlib.sha256(manifest).hexdigest()
        write_atomic(request.out / MANIFEST_FILE, manifest)
        finished: dict[str, Scalar] = {
            "batch": batch.batch,
            "manifest_sha256": manifest_sha256,
            "items": len(records),
            "policy": request.choices.profile,
            "tool_version": fedmed.__version__,
        }
        bodies = (one.body for one in reversed(entries) if one.kind == FINISHED_KIND)
        if next((body for body in bodies if body.get("batch") == batch.batch), None) != finished:
            log.append(FINISHED_KIND, finished)
    return Result(
        batch=batch,
        records=records,
        fresh=run.fresh,
        skipped=run.skipped,
        options_digest=setting.options_digest,
        table_digest=table_digest(),
        manifest_sha256=manifest_sha256,
    )
