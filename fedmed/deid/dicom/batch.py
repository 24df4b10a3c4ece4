"""A folder of DICOM files, cleaned by several processes, to be stopped and resumed at any time.

Why it exists: an archive holds millions of files, some of them broken. One of them must neither stop the
others nor get lost, and a night's work must survive a power cut.

Rules:
    * Every file of the source ends as cleaned or as quarantined with a reason; none is dropped in silence.
    * The order is: output on disk, audit record, manifest line. What lacks its record is done again.
    * Records go to log and manifest several at a time: a log of millions is not read again for each of them.
    * A file is skipped only if manifest and audit log vouch for this very input, output, options, table and tool.
    * Output names are keyed hashes of relative paths: paths hold names. `locate` finds a path again at the site.
    * Memory does not grow with the files' sizes: a window of files is in flight. It grows by some 300 bytes per file
      that is already done.

What it does not do: delete outputs whose source has gone, or share work between machines.
"""

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import NamedTuple

import fedmed
from fedmed.audit import ChainLog
from fedmed.deid.dicom.engine import Keyed
from fedmed.deid.dicom.files import DicomReport, Quarantined, clean_data, input_hmac, read_file, site_keys
from fedmed.deid.dicom.manifest import ManifestLine, drop_torn_line, quarantine_list, read_manifest, seal_of
from fedmed.deid.dicom.options import DicomOptions
from fedmed.deid.dicom.quarantine import QuarantineError, Reason
from fedmed.deid.dicom.table import table_digest
from fedmed.deid.pseudonyms import Pseudonyms
from fedmed.deid.workers import Workers
from fedmed.errors import UsageError
from fedmed.files import append_durable, locked, write_atomic
from fedmed.records import canonical_json

AUDIT_KIND = "dicom-deidentified"
MANIFEST_FILE, QUARANTINE_FILE, ITEMS_FOLDER, LOCK_FILE = "manifest.jsonl", "quarantine.csv", "items", ".lock"
WINDOW_PER_WORKER = 4
RECORDS_AT_ONCE = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemOutcome:
    """One file that is done: its keyed name and what happened, or None if an earlier run had done it."""

    item: str
    result: DicomReport | Quarantined | None


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderReport:
    """How many files met which fate in one run. Counts are facts about patients: the report stays at the site."""

    cleaned: int
    quarantined: Mapping[str, int]
    skipped: int
    options_digest: str
    table_digest: str

    @property
    def files(self) -> int:
        """The number of files that the source holds."""
        return self.cleaned + sum(self.quarantined.values()) + self.skipped


class _Job(NamedTuple):
    """One file to clean; `done` is what an earlier run says of it: its reason (or nothing) and its seal."""

    item: str
    path: Path
    out: Path
    done: tuple[str, bytes] | None


def clean_folder(
    source: Path,
    out: Path,
    *,
    options: DicomOptions,
    key: bytes,
    log: ChainLog,
    workers: int = 1,
    on_item: Callable[[ItemOutcome], None] | None = None,
) -> FolderReport:
    """Clean every file below `source` into `out`, with one audit record each.

    Guarantees: a kill at any time leaves whole files only; the next call goes on where this one stopped. A file that
    makes its process crash twice is quarantined.

    Args:
        source: The folder as the archive exported it; it is only read.
        out: Gets `items/`, `manifest.jsonl` and `quarantine.csv`; created if absent.
        options: What the site decided.
        key: The site's pseudonym key, 32 bytes.
        log: The site's audit log.
        workers: How many processes clean.
        on_item: Called in this process after each file, once its record is on disk.

    Raises:
        UsageError: A folder is missing or inside the other, the key has a wrong length, or `workers` is below 1.
        IntegrityError: The audit log or the manifest does not verify.
        OSError: The disk is full or `out` is not writable.
    """
    _check_folders(source, out, workers)
    keyed = site_keys(options, key)
    (out / ITEMS_FOLDER).mkdir(parents=True, exist_ok=True)
    with locked(out / LOCK_FILE):
        for torn in (out / ITEMS_FOLDER).glob("*/.*"):
            torn.unlink(missing_ok=True)
        drop_torn_line(out / MANIFEST_FILE)
        done = _done(out / MANIFEST_FILE, log)
        ledger = _Ledger(log, out / MANIFEST_FILE, on_item)
        ledger.take(_run(_jobs(source, out, keyed, done), options, key, workers))
        write_atomic(out / QUARANTINE_FILE, quarantine_list(out / MANIFEST_FILE))
    return FolderReport(
        cleaned=ledger.cleaned,
        quarantined=dict(ledger.fates),
        skipped=ledger.skipped,
        options_digest=options.digest,
        table_digest=table_digest(),
    )


class _Ledger:
    """Results on their way to audit log and manifest, several at a time, and how many met which fate."""

    def __init__(self, log: ChainLog, manifest: Path, on_item: Callable[[ItemOutcome], None] | None) -> None:
        self._log, self._manifest, self._on_item = log, manifest, on_item
        self._waiting: list[tuple[str, DicomReport | Quarantined]] = []
        self.fates: Counter[str] = Counter()
        self.skipped = self.cleaned = 0

    def take(self, results: Iterable[tuple[str, DicomReport | Quarantined | None]]) -> None:
        """Record every result; what has come before an interruption is recorded too."""
        try:
            for item, result in results:
                if result is None:
                    self.skipped += 1
                    self._tell(item, None)
                    continue
                self._waiting.append((item, result))
                if len(self._waiting) >= RECORDS_AT_ONCE:
                    self._write()
        finally:
            self._write()

    def _write(self) -> None:
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        self._log.append_all([(AUDIT_KIND, {"item": item} | result.audit_body()) for item, result in waiting])
        lines = b"".join(canonical_json(_line(item, result)) + b"\n" for item, result in waiting)
        append_durable(self._manifest, lines)
        for item, result in waiting:
            if isinstance(result, Quarantined):
                self.fates[result.reason] += 1
            else:
                self.cleaned += 1
            self._tell(item, result)

    def _tell(self, item: str, result: DicomReport | Quarantined | None) -> None:
        if self._on_item is not None:
            self._on_item(ItemOutcome(item=item, result=result))


def item_name(relative: str, pseudonyms: Pseudonyms) -> str:
    """Return the keyed name of the file at the path `relative` to its source folder: 32 hexadecimal digits."""
    keyed_hash = pseudonyms.content_hash()
    keyed_hash.update(b"relative path\0" + os.fsencode(relative))
    return keyed_hash.hexdigest()[:32]


def item_path(out: Path, item: str) -> Path:
    """Return where the cleaned file of `item` lies below `out`."""
    return out / ITEMS_FOLDER / item[:2] / f"{item}.dcm"


def locate(source: Path, items: Iterable[str], key: bytes) -> dict[str, Path]:
    """Return the source file of each keyed name in `items` that is still there; for the site's own eyes only."""
    pseudonyms, wanted = Pseudonyms(key), frozenset(items)
    named = ((item_name(os.path.relpath(path, source), pseudonyms), path) for path in _files(source))
    return {name: path for name, path in named if name in wanted}


def _check_folders(source: Path, out: Path, workers: int) -> None:
    if not source.is_dir():
        raise UsageError("the source is no folder; expected the folder of the exported DICOM files; check the path")
    inner, outer = out.resolve(), source.resolve()
    if inner.is_relative_to(outer) or outer.is_relative_to(inner):
        raise UsageError("source and output folder lie inside each other; choose an output folder elsewhere")
    if workers < 1:
        raise UsageError(f"workers must be at least 1, got {workers}")


def _files(folder: Path) -> Iterator[Path]:
    """Yield everything below `folder` that is not a folder, in a fixed order; also what cannot be listed."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        yield folder
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            yield from _files(Path(entry.path))
        else:
            yield Path(entry.path)


def _jobs(source: Path, out: Path, keyed: Keyed, done: Mapping[bytes, tuple[str, bytes]]) -> Iterator[_Job]:
    for path in _files(source):
        item = item_name(os.path.relpath(path, source), keyed.pseudonyms)
        target = item_path(out, item)
        target.parent.mkdir(exist_ok=True)
        yield _Job(item, path, target, done.get(bytes.fromhex(item)))


def _run(
    jobs: Iterator[_Job], options: DicomOptions, key: bytes, workers: int
) -> Iterator[tuple[str, DicomReport | Quarantined | None]]:
    """Yield each job's item and result as they come; one whose process ends abruptly twice is quarantined."""

    def crashed(job: _Job) -> DicomReport | Quarantined | None:
        job.out.unlink(missing_ok=True)
        return _unread("crashed", site_keys(options, key))

    crew = Workers(
        start=partial(_start, options, key), work=_work, crashed=crashed, processes=workers, window=WINDOW_PER_WORKER
    )
    for job, result in crew.results(jobs):
        yield job.item, result


_SITE: list[Keyed] = []
"""The keyed functions of a worker process, set once when it starts."""


def _start(options: DicomOptions, key: bytes) -> None:
    _SITE[:] = [site_keys(options, key)]


def _work(job: _Job) -> DicomReport | Quarantined | None:
    """Clean one file in a worker process, or return None if an earlier run has done it."""
    (keyed,) = _SITE
    try:
        data = read_file(job.path)
    except QuarantineError as error:
        result = _unread(error.reason, keyed)
        if job.done == (error.reason, seal_of(_line(job.item, result))):
            return None
        job.out.unlink(missing_ok=True)
        return result
    if job.done is not None and _is_done(job, job.done, data, keyed):
        return None
    return clean_data(data, keyed, job.out)


def _is_done(job: _Job, done: tuple[str, bytes], data: bytes, keyed: Keyed) -> bool:
    reason, seal = done
    if job.out.exists() == bool(reason):
        return False
    claimed = ManifestLine(
        item=job.item,
        outcome="quarantined" if reason else "cleaned",
        reason=reason,
        input_hmac=input_hmac(data, keyed),
        output_sha256="" if reason else hashlib.sha256(job.out.read_bytes()).hexdigest(),
        options_digest=keyed.options.digest,
        table_digest=table_digest(),
        key_id=keyed.pseudonyms.key_id,
        tool_version=fedmed.__version__,
    )
    return seal_of(claimed) == seal


def _unread(reason: Reason, keyed: Keyed) -> Quarantined:
    return Quarantined(
        reason=reason,
        input_hmac="",
        options_digest=keyed.options.digest,
        table_digest=table_digest(),
        key_id=keyed.pseudonyms.key_id,
    )


def _line(item: str, result: DicomReport | Quarantined) -> ManifestLine:
    cleaned = isinstance(result, DicomReport)
    return ManifestLine(
        item=item,
        outcome="cleaned" if cleaned else "quarantined",
        reason="" if isinstance(result, DicomReport) else result.reason,
        input_hmac=result.input_hmac,
        output_sha256=result.output_sha256 if isinstance(result, DicomReport) else "",
        options_digest=result.options_digest,
        table_digest=result.table_digest,
        key_id=result.key_id,
        tool_version=fedmed.__version__,
    )


def _done(path: Path, log: ChainLog) -> dict[bytes, tuple[str, bytes]]:
    """Return the reason and seal of each item whose last manifest line the audit log vouches for."""
    names = [field.name for field in fields(ManifestLine) if field.name != "version"]
    audited = {
        seal_of(ManifestLine(**{name: entry.body.get(name, "") for name in names}))  # type: ignore[arg-type]
        for entry in log.entries()
        if entry.kind == AUDIT_KIND
    }
    done: dict[bytes, tuple[str, bytes]] = {}
    for line in read_manifest(path):
        name = bytes.fromhex(line.item)
        done.pop(name, None)
        if (seal := seal_of(line)) in audited:
            done[name] = (line.reason, seal)
    return done
