"""One file in; one cleaned, perhaps sealed file out, or a reason why not. Runs in a worker process.

Why it exists: the unit of trust is a file. Whatever its kind, it is decided whole, written whole, and
told in one record.

Rules:
    * A file that is not cleaned is quarantined: a sealed copy goes to the site's quarantine, nothing to the output.
    * No exception and no value of a file leaves this module: reasons are of a fixed list.
    * The output appears in one rename, after everything else; a file that was done before is not touched.
    * Unless readable files were asked for, nothing that can be read is opened for writing on any disk.

What it does not do: know the kinds of file (see `deidentification_formats`), or write the audit log.
"""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import fedmed
from fedmed.crypto.seal import SEALED_SUFFIX, DataKey, Seal, seal, seal_file
from fedmed.deid.pseudonyms import Pseudonyms
from fedmed.deid.readers import SqlTable
from fedmed.files import write_atomic
from fedmed_site.deidentification_columns import Columns
from fedmed_site.deidentification_formats import Engines, Output, SetAsideError
from fedmed_site.deidentification_nifti import PAIRED, decisive
from fedmed_site.deidentification_policy import Choices
from fedmed_site.deidentification_schema import SchemaColumns
from fedmed_site.manifest import Form, ItemKind, ItemRecord, Naming, place_name

_FULL_DISK = frozenset({28, 30, 122})
"""ENOSPC, EROFS and EDQUOT: the fault is the output's, not the file's."""
_TRY_AGAIN = frozenset({"unforeseen", "unreadable"})
"""Reasons that may lie with the machine or this program, so that the next run tries again."""
_CHUNK_BYTES = 1 << 20
_SUFFIX: Mapping[ItemKind, str] = {
    "dicom": ".dcm", "nifti": ".nii", "sidecar": ".json", "table": ".parquet", "note": ".txt", "notes": ".jsonl",
}  # fmt: skip
_TOOL: Mapping[ItemKind, str] = {
    "dicom": "fedmed.deid.dicom",
    "nifti": "fedmed.deid.nifti",
    "sidecar": "fedmed.deid.nifti",
    "table": "fedmed.deid.tabular",
    "note": "fedmed.deid.text",
    "notes": "fedmed.deid.text",
    "other": "fedmed.deid",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """All that a worker needs; it holds keys and is never logged."""

    batch: str
    choices: Choices
    columns: Columns | SchemaColumns
    options_digest: str
    form: Form
    names: Naming
    pseudonym_key: bytes
    data_key: DataKey
    quarantine_key: DataKey
    out: Path
    quarantine: Path
    work: Path
    dry_run: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One file: its keyed name, where it is, its output below `out` without a suffix, and its last record.

    `pair` is where the output lies if the file is an image or a sidecar, which share a name; nothing where it is
    called like neither.
    """

    item: str
    path: Path | SqlTable
    stem: str
    pair: str
    known: ItemRecord | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """What became of one job; `fresh` is False where an earlier run had done it. `detail` goes to the site's log."""

    record: ItemRecord
    fresh: bool
    detail: str = ""


class Cleaner:
    """The engines under one setting; one per worker process."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self._engines = Engines(setting.choices, setting.columns, key=setting.pseudonym_key)
        self._pseudonyms = Pseudonyms(setting.pseudonym_key)

    def take(self, job: Job) -> Done:
        """Clean one file, or say why not, or find that an earlier run has done it.

        Raises:
            OSError: The disk of the output is full or closed to us.
        """
        kind: ItemKind = "other"
        fingerprint = ""
        try:
            kind = self._engines.kind_of(job.path)
            if isinstance(job.path, SqlTable):  # nobody knows whether it has changed before it is read: done each time
                return self._clean(job, job.path, kind, "")
            fingerprint = self._fingerprint(job.path, *decisive(kind, job.path))
            if job.known is not None and self._is_done(job, job.known, fingerprint):
                return Done(record=job.known, fresh=False)
            return self._clean(job, job.path, kind, fingerprint)
        except SetAsideError as error:
            return self._set_aside(job, kind, fingerprint or self._tried(job.path), error)
        except OSError as error:
            if error.errno in _FULL_DISK:
                raise
            return self._set_aside(job, kind, fingerprint, SetAsideError("unreadable", type(error).__name__))
        except Exception as error:  # noqa: BLE001  an unforeseen file must not stop the others, nor its text leak
            return self._set_aside(job, kind, fingerprint, SetAsideError("unforeseen", type(error).__name__))

    def _clean(self, job: Job, source: Path | SqlTable, kind: ItemKind, fingerprint: str) -> Done:
        with self._folder() as work:
            output = self._engines.clean(source, kind, item=job.item, work=work, seal=self._seal(job))
            record = self._store(job, kind, fingerprint or output.input_hmac, output)
            return Done(record=record, fresh=record != job.known or not isinstance(source, SqlTable))

    def crashed(self, job: Job) -> Done:
        """Return the quarantine of a file whose process ended abruptly."""
        return self._set_aside(job, "other", self._tried(job.path), SetAsideError("crashed"))

    def _tried(self, path: Path | SqlTable) -> str:
        """Return the keyed hash of a file where it can be read, else nothing."""
        if isinstance(path, SqlTable):
            return ""
        try:
            return self._fingerprint(path) if path.is_file() and not path.is_symlink() else ""
        except OSError:
            return ""

    def _fingerprint(self, *paths: Path) -> str:
        """Return the keyed hash of a file, and of what else decides about it."""
        keyed_hash = self._pseudonyms.content_hash()
        for path in paths:
            with path.open("rb") as file:
                while chunk := file.read(_CHUNK_BYTES):
                    keyed_hash.update(chunk)
        return keyed_hash.hexdigest()

    def _is_done(self, job: Job, known: ItemRecord, fingerprint: str) -> bool:
        now = (fingerprint, self.setting.options_digest, self._pseudonyms.key_id, fedmed.__version__)
        if (known.input_hmac, known.options_digest, known.key_id, known.tool_version) != now or self.setting.dry_run:
            return False
        if known.outcome == "quarantined":
            if known.reason in _TRY_AGAIN:
                return False
            return not self._outputs(job, known.kind)
        target = self._target(job, known.kind)
        if not target.is_file() or self._place(job, known.kind) != known.place:
            return False
        return sha256_of(target) == known.stored_sha256

    def _store(self, job: Job, kind: ItemKind, fingerprint: str, output: Output) -> ItemRecord:
        """Put a cleaned file in its place and return its record."""
        setting = self.setting
        if output.file is None:
            plain_sha256, size = hashlib.sha256(output.data).hexdigest(), len(output.data)
        else:
            plain_sha256, size = output.file.sha256, output.file.size_bytes
        stored = "" if setting.dry_run else self._write(job, kind, output)
        return replace(
            self._record(job, kind, fingerprint),
            outcome="cleaned",
            place=self._place(job, kind),
            output_sha256=plain_sha256,
            output_bytes=size,
            stored_sha256=stored,
            table_digest=output.table_digest,
            facts=output.facts,
            data_key_id=setting.data_key.key_id if setting.form == "sealed" else "",
        )

    def _write(self, job: Job, kind: ItemKind, output: Output) -> str:
        """Write the output, sealed if the site wants it so, and return the SHA-256 of what lies on disk."""
        setting, target = self.setting, self._target(job, kind)
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        for other in self._outputs(job, kind):
            if other != target:
                other.unlink()
        name = seal_name(setting.batch, job.item)
        if output.file is None:
            stored = seal(output.data, key=setting.data_key, name=name) if setting.form == "sealed" else output.data
            write_atomic(target, stored)
        else:
            _move(output.file.path, target)
        self._copy(job).unlink(missing_ok=True)
        return sha256_of(target)

    def _seal(self, job: Job) -> Seal | None:
        """Return what an output is sealed under on its way, or None where a readable one was asked for."""
        if self.setting.form == "readable" and not self.setting.dry_run:
            return None
        return Seal(key=self.setting.data_key, name=seal_name(self.setting.batch, job.item))

    def _set_aside(self, job: Job, kind: ItemKind, fingerprint: str, error: SetAsideError) -> Done:
        """Remove any output of the file, keep a sealed copy of it for the site, and say why."""
        known = job.known
        if known is not None and known.reason == error.reason and self._is_done(job, known, fingerprint):
            return Done(record=known, fresh=False, detail=error.detail)
        kept = False
        if not self.setting.dry_run:
            for output in self._outputs(job, kind):
                output.unlink()
            kept = self._keep_copy(job)
        record = replace(self._record(job, kind, fingerprint), reason=error.reason, kept_copy=kept)
        return Done(record=record, fresh=record != known, detail=error.detail)

    def _keep_copy(self, job: Job) -> bool:
        """Seal a copy of the file as it came into the site's quarantine; say whether that was possible."""
        copy = self._copy(job)
        if isinstance(job.path, SqlTable) or job.path.is_symlink() or not job.path.is_file():
            return False
        try:
            copy.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            seal_file(job.path, copy, key=self.setting.quarantine_key, name=seal_name(self.setting.batch, job.item))
        except PermissionError:
            return False
        return True

    def _record(self, job: Job, kind: ItemKind, fingerprint: str) -> ItemRecord:
        return ItemRecord(
            batch=self.setting.batch,
            item=job.item,
            kind=kind,
            outcome="quarantined",
            input_hmac=fingerprint,
            options_digest=self.setting.options_digest,
            key_id=self._pseudonyms.key_id,
            tool=_TOOL[kind],
            tool_version=fedmed.__version__,
        )

    def _relative(self, job: Job, kind: ItemKind) -> str:
        if kind in PAIRED:
            return job.pair + (SEALED_SUFFIX if self.setting.form == "sealed" else "")
        return job.stem + suffix_of(kind, names=self.setting.names, form=self.setting.form)

    def _target(self, job: Job, kind: ItemKind) -> Path:
        return self.setting.out / self._relative(job, kind)

    def _place(self, job: Job, kind: ItemKind) -> str:
        return place_name(self._relative(job, kind), self._pseudonyms)

    def _outputs(self, job: Job, kind: ItemKind) -> list[Path]:
        """Return the outputs that this item has, of whatever kind it was before.

        Under the source's own names another suffix may be another item's, so only the item's own kinds count.
        """
        kinds = set(_SUFFIX) if self.setting.names == "keyed" else {kind, job.known.kind if job.known else kind}
        impossible = {"other"} if job.pair else {"other", *PAIRED}
        return [path for path in sorted({self._target(job, one) for one in kinds - impossible}) if path.exists()]

    def _copy(self, job: Job) -> Path:
        return self.setting.quarantine / f"{job.item}{SEALED_SUFFIX}"

    @contextmanager
    def _folder(self) -> Iterator[Path]:
        folder = Path(tempfile.mkdtemp(dir=self.setting.work))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def suffix_of(kind: ItemKind, *, names: Naming, form: Form) -> str:
    """Return what is appended to an output's name; the source's own names get no other than a table's.

    So two files of the source never share an output, such as `x` and `x.dcm`, which both hold DICOM.

    >>> suffix_of("table", names="same", form="readable"), suffix_of("note", names="same", form="sealed")
    ('.parquet', '.sealed')
    >>> suffix_of("dicom", names="keyed", form="readable")
    '.dcm'
    """
    own = _SUFFIX.get(kind, "") if names == "keyed" or kind == "table" else ""
    return own + (SEALED_SUFFIX if form == "sealed" else "")


def seal_name(batch: str, item: str) -> str:
    """Return the name that an item is sealed under, so that neither items nor folders can be exchanged."""
    return f"{batch}/{item}"


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _move(source: Path, target: Path) -> None:
    """Put a finished file in its place in one rename; both lie on one disk."""
    descriptor = os.open(source, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    source.chmod(0o600)
    source.replace(target)
