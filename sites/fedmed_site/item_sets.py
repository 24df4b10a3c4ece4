"""A data set whose records are the items of a folder that `deidentify` wrote: sealed on the disk, open in memory only.

Why it exists: what was de-identified once is trained on as it lies. A readable copy made for training would be one
more thing to lose.

Rules:
    * The audit log is asked about every item of the folder, used or not, each time: one that is missing, altered,
      moved to another place or not recorded refuses the whole data set, and so does a log that lacks an entry.
    * The bytes that are hashed are the bytes that are opened; nothing readable is written, not even for a moment.
    * Tables must have been made under the data set's own schema. A patient's image is found by the patient's token;
      of several slices the middle one of the longest series stands for the patient. Where a patient has several rows
      and several series, nothing says which belongs to which: such rows have no image, and are counted.
    * What was opened stays in this process's memory until another folder is opened.

What it does not do: de-identify, guard the key (it is wrapped under the site's `keys/seal.key`), or use notes that
are no rows of a table (they are checked like every item).
"""

import hashlib
import io
import os
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import polars as pl
from polars.exceptions import PolarsError

from fedmed.audit import Entry
from fedmed.crypto.seal import DataKey, unseal
from fedmed.data.parts import Image, ImageStore, Slice, best_first
from fedmed.data.schema import DataSet, ImagePart, Schema
from fedmed.data.tabular import AUDIT_KIND, PATIENT
from fedmed.deid.pseudonyms import Pseudonyms
from fedmed.errors import DataError, IntegrityError, UsageError
from fedmed.records import require
from fedmed_site.data_keys import DataKeys
from fedmed_site.deidentification_items import seal_name
from fedmed_site.home import SiteHome
from fedmed_site.manifest import (
    FINISHED_KIND,
    ITEM_KIND,
    MANIFEST_FILE,
    Batch,
    ItemRecord,
    found_place,
    kept_place,
    outputs,
    place_name,
    read_batch,
    records_of,
)

REGISTERED_KIND: Final = "dataset-registered"
ITEM_SET_VERSION: Final = 1
_NOT_USED: Final = "so the whole data set is not used"
_AGAIN: Final = "restore the folder from a backup, or run deidentify again and prepare the folder anew"


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemSet:
    """Which folder holds a data set, as it was when it was prepared."""

    batch: str
    folder: str
    manifest_sha256: str
    version: int = ITEM_SET_VERSION

    def __post_init__(self) -> None:
        require(self.version == ITEM_SET_VERSION, f"version must be {ITEM_SET_VERSION}, got {self.version}")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Opened:
    """The records of a folder in memory; `items` counts all that were checked.

    `unpaired` counts the rows of patients who have several rows and several series: which image is whose isn't known.
    """

    table: pl.DataFrame
    images: ImageStore | None
    items: int
    unpaired: int = 0


class _Memory:
    """What this process opened last."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._key: tuple[str, str, str] | None = None
        self._opened: Opened | None = None

    def of(self, key: tuple[str, str, str]) -> Opened | None:
        with self._lock:
            return self._opened if self._key == key else None

    def keep(self, key: tuple[str, str, str], opened: Opened) -> None:
        with self._lock:
            self._key, self._opened = key, opened


_memory = _Memory()
os.register_at_fork(after_in_child=_memory.__init__)  # type: ignore[misc]  # another thread may have held the lock


def item_set_of(home: SiteHome, out: Path) -> ItemSet:
    """Return what a finished folder would be registered as.

    Raises:
        UsageError: It is none, or was never finished.
    """
    batch, manifest = read_batch(out) if out.is_dir() else None, out / MANIFEST_FILE
    if batch is None or not manifest.is_file():
        raise UsageError(f"expected a finished folder of deidentify at {out}, found no manifest.json; give that folder")
    return ItemSet(
        batch=batch.batch,
        folder=kept_place(home, out),
        manifest_sha256=hashlib.sha256(manifest.read_bytes()).hexdigest(),
    )


def check_registered(entries: Sequence[Entry], schema: Schema, held: ItemSet | None) -> None:
    """Raise unless the newest entry about the data set is the one of this folder, or of a table where there is none.

    Raises:
        IntegrityError: It is another one.
    """
    kinds = (AUDIT_KIND, REGISTERED_KIND)
    newest = next(
        (one for one in reversed(entries) if one.kind in kinds and one.body.get("schema_name") == schema.name), None
    )
    if held is None:
        if newest is not None and newest.kind == REGISTERED_KIND:
            raise IntegrityError(
                f"data set {schema.name}: the audit log says that its records are in a folder of items, {_NOT_USED};"
                " prepare it again"
            )
        return
    expected = {"schema_digest": schema.digest, "batch": held.batch, "manifest_sha256": held.manifest_sha256}
    if newest is None or newest.kind != REGISTERED_KIND or any(newest.body.get(k) != v for k, v in expected.items()):
        raise IntegrityError(
            f"data set {schema.name}: the newest entry of the audit log about it is not that of folder {held.batch},"
            f" {_NOT_USED}; prepare the folder again"
        )


def open_items(home: SiteHome, entries: Sequence[Entry], dataset: DataSet, held: ItemSet) -> Opened:
    """Return the records of a folder, after asking the audit log about every item.

    Args:
        home: The site.
        entries: The site's verified audit log.
        dataset: Whose records these are.
        held: The folder.

    Raises:
        DataError: No table in it was made under the data set's schema, or an image is expected and none can be read.
        IntegrityError: An item, the manifest or the log is not what it was.
    """
    folder = _Folder(home, entries, dataset.schema, held)
    key = (str(home.root.absolute()), held.manifest_sha256, dataset.schema.digest)
    known = _memory.of(key)
    if known is not None:
        for record in folder.records:
            folder.stored(record)
        return known
    opened = folder.open()
    _memory.keep(key, opened)
    return opened


class _Folder:
    """One folder of items under the eyes of the audit log."""

    def __init__(self, home: SiteHome, entries: Sequence[Entry], schema: Schema, held: ItemSet) -> None:
        self._schema, self._held, self._out = schema, held, found_place(home, held.folder)
        batch = read_batch(self._out) if self._out.is_dir() else None
        if batch is None or batch.batch != held.batch:
            raise self._refused("not where it was when it was prepared", "prepare it again from where it is now")
        self._batch: Batch = batch
        self._check_manifest(entries)
        records = [one for one in records_of(entries, held.batch).values() if one.outcome == "cleaned"]
        pseudonyms = Pseudonyms(home.pseudonym_key_path.read_bytes())
        self._paths = {place_name(relative, pseudonyms): path for relative, path in outputs(self._out).items()}
        foreign = self._paths.keys() - {record.place for record in records}
        if foreign:
            raise self._refused(f"{len(foreign)} files without a record in the audit log", "take them out")
        self.records = records
        self._key: DataKey | None = DataKeys(home).of_batch(held.batch) if batch.form == "sealed" else None

    def stored(self, record: ItemRecord) -> bytes:
        """Return an item as it lies on the disk, byte for byte what the audit log says."""
        path = self._paths.get(record.place)
        if path is None:
            raise self._refused(f"item {record.item}: missing", _AGAIN)
        data = b"" if path.is_symlink() else path.read_bytes()
        if hashlib.sha256(data).hexdigest() != record.stored_sha256:
            raise self._refused(f"item {record.item}: altered: it is not what was written", _AGAIN)
        return data

    def open(self) -> Opened:
        """Open the tables and, where the schema has one, the image of each of their patients."""
        tables: list[pl.DataFrame] = []
        slices: list[tuple[Slice, ItemRecord]] = []
        for record in self.records:
            stored = self.stored(record)
            if record.kind == "table":
                tables.append(self._table(record, self._plain(record, stored)))
            elif record.kind == "dicom" and self._schema.image is not None:
                slices += self._slice(record, stored)
        if not tables:
            raise DataError(
                f"data set {self._schema.name}: folder {self._held.batch} holds no table made under its schema;"
                " run deidentify with --data, and read report.html for what was set aside"
            )
        try:
            table = pl.concat(tables)
        except PolarsError:
            raise DataError(
                f"data set {self._schema.name}: the tables of folder {self._held.batch} differ in their columns; run"
                " deidentify again under one policy"
            ) from None
        part = self._schema.image
        if part is None:
            return Opened(table=table, images=None, items=len(self.records))
        images, unpaired = self._images(part, Counter(table[PATIENT].to_list()), slices)
        return Opened(table=table, images=images, items=len(self.records), unpaired=unpaired)

    def _check_manifest(self, entries: Sequence[Entry]) -> None:
        batch, path = self._held.batch, self._out / MANIFEST_FILE
        ours = [one for one in entries if one.kind in (ITEM_KIND, FINISHED_KIND) and one.body.get("batch") == batch]
        if not ours or ours[-1].kind != FINISHED_KIND:
            raise self._refused("the audit log doesn't say that it was finished", _AGAIN)
        if ours[-1].body.get("manifest_sha256") != self._held.manifest_sha256:
            raise self._refused("de-identified anew since it was prepared", "prepare it again")
        if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != self._held.manifest_sha256:
            raise self._refused("manifest.json: missing or altered", _AGAIN)

    def _plain(self, record: ItemRecord, stored: bytes) -> bytes:
        """Return what an item holds, in memory only."""
        if self._key is None:
            return stored
        try:
            plain = unseal(stored, key=self._key, name=seal_name(self._held.batch, record.item))
        except IntegrityError:
            raise self._refused(f"item {record.item}: it does not open under the folder's key", _AGAIN) from None
        if hashlib.sha256(plain).hexdigest() != record.output_sha256:
            raise self._refused(f"item {record.item}: it holds something else than was recorded", _AGAIN)
        return plain

    def _table(self, record: ItemRecord, plain: bytes) -> pl.DataFrame:
        if record.table_digest != self._schema.digest:
            raise self._refused(
                f"item {record.item}: a table that was not made under the schema {self._schema.name}",
                "run deidentify with --data into a new folder",
            )
        try:
            return pl.read_parquet(io.BytesIO(plain))
        except PolarsError:
            raise self._refused(f"item {record.item}: no readable table", _AGAIN) from None

    def _slice(self, record: ItemRecord, stored: bytes) -> Iterator[tuple[Slice, ItemRecord]]:
        from fedmed.data.imaging import slice_of  # noqa: PLC0415  it imports pydicom

        found = slice_of(self._plain(record, stored))
        if found is not None:
            yield found, record

    def _images(
        self, part: ImagePart, rows: Mapping[str, int], slices: Sequence[tuple[Slice, ItemRecord]]
    ) -> tuple[dict[str, Image], int]:
        """Return the image of each patient who has one that can be read, and the rows whose image isn't known."""
        of_slice = dict(slices)
        by_patient: dict[str, list[Slice]] = {}
        for one in of_slice:
            if one.patient in rows:
                by_patient.setdefault(one.patient, []).append(one)
        found: dict[str, Image] = {}
        unpaired = 0
        for patient, theirs in sorted(by_patient.items()):
            if rows[patient] > 1 and len({one.series for one in theirs}) > 1:
                unpaired += rows[patient]
                continue
            image = next((read for one in best_first(theirs) if (read := self._image(of_slice[one], part)) is not None),
                         None)  # fmt: skip
            if image is not None:
                found[patient] = image
        if not found:
            raise DataError(
                f"data set {self._schema.name}: folder {self._held.batch} holds no image of any patient of its tables;"
                " check that tables and images name patients alike, that a patient with several series has one row, and"
                " the image part of the schema"
            )
        return found, unpaired

    def _image(self, record: ItemRecord, part: ImagePart) -> Image | None:
        from fedmed.data.imaging import read_image  # noqa: PLC0415  it imports pydicom

        plain = self._plain(record, self.stored(record))
        try:
            return read_image(plain, part)
        except DataError:
            return None

    def _refused(self, what: str, cure: str) -> IntegrityError:
        return IntegrityError(f"data set {self._schema.name}: folder {self._held.batch}: {what}, {_NOT_USED}; {cure}")
