"""What is known of a de-identified folder: its batch, its items, and the manifest that says which output is which.

Why it exists: the same facts are written to the audit log, read to resume, shown in reports and verified
years later. They are one record here.

Rules:
    * The audit log is the truth: what became of an item is the last record of it there. A manifest is made from it.
    * An item is named by a keyed hash of its path below the source, its output by a keyed hash of its place below
      the folder: paths hold names, so neither the log nor a manifest of keyed names holds a path of the source.
    * Every folder that was written is registered at the site, so that an audit finds it.

What it does not do: clean, seal, or decide.
"""

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Literal

import msgspec

from fedmed.audit import Entry, Scalar
from fedmed.deid.pseudonyms import Pseudonyms
from fedmed.deid.readers import SqlTable
from fedmed.errors import IntegrityError
from fedmed.files import write_atomic
from fedmed.records import canonical_json, decode, require
from fedmed_site.home import SiteHome

ITEM_KIND, FINISHED_KIND = "item-deidentified", "deidentification-finished"
MANIFEST_VERSION = 1
BATCH_FILE, MANIFEST_FILE, REPORT_JSON, REPORT_HTML = "batch.json", "manifest.json", "report.json", "report.html"
ITEMS_FOLDER, KEYS_FOLDER, WORK_FOLDER, LOCK_FILE = "items", "keys", ".work", ".lock"

ItemKind = Literal["dicom", "nifti", "sidecar", "table", "note", "notes", "other"]
Form = Literal["sealed", "readable"]
Naming = Literal["keyed", "same"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """One de-identified folder: a random name, and how its items are stored."""

    batch: str
    form: Form
    names: Naming
    version: int = MANIFEST_VERSION

    def __post_init__(self) -> None:
        require(self.version == MANIFEST_VERSION, f"version must be {MANIFEST_VERSION}, got {self.version}")
        require(re.fullmatch("[0-9a-f]{16}", self.batch) is not None, "batch must be 16 hexadecimal digits")


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """Where a batch came from and went to; stays in the site's own folder."""

    batch: Batch
    source: str
    out: str
    version: int = MANIFEST_VERSION


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemRecord:
    """What became of one item: the body of its audit record.

    `input_hmac` is keyed; `output_sha256` is of the readable output, `stored_sha256` of the file as it lies on disk.
    `facts` are counts and digests of the engine, under names with a dot. A quarantined item has a `reason` and
    no output; `kept_copy` tells whether a sealed copy lies in the site's quarantine.
    """

    batch: str
    item: str
    kind: ItemKind
    outcome: Literal["cleaned", "quarantined"]
    reason: str = ""
    place: str = ""
    input_hmac: str = ""
    output_sha256: str = ""
    output_bytes: int = 0
    stored_sha256: str = ""
    kept_copy: bool = False
    options_digest: str
    table_digest: str = ""
    key_id: str
    data_key_id: str = ""
    tool: str
    tool_version: str
    facts: Mapping[str, Scalar] = field(default_factory=dict)

    def audit_body(self) -> dict[str, Scalar]:
        """Return the flat facts of the audit record."""
        return {name: getattr(self, name) for name in _FLAT} | {
            f"facts.{name}": value for name, value in sorted(self.facts.items())
        }


_FLAT = tuple(field.name for field in fields(ItemRecord) if field.name != "facts")


def record_of(entry: Entry) -> ItemRecord:
    """Return the item record of an audit entry.

    Raises:
        IntegrityError: The body is not one of version 1.
    """
    flat: dict[str, object] = {name: value for name, value in entry.body.items() if not name.startswith("facts.")}
    facts = {name.removeprefix("facts."): value for name, value in entry.body.items() if name.startswith("facts.")}
    try:
        return msgspec.convert(flat | {"facts": facts}, ItemRecord, strict=True)
    except msgspec.ValidationError:
        raise IntegrityError(f"audit log: entry {entry.index} is no record of a de-identified item") from None


def records_of(entries: Iterable[Entry], batch: str) -> dict[str, ItemRecord]:
    """Return the last record of each item of a batch, by item, in the order of the items."""
    found = {
        str(entry.body["item"]): record_of(entry)
        for entry in entries
        if entry.kind == ITEM_KIND and entry.body.get("batch") == batch
    }
    return dict(sorted(found.items()))


def item_name(relative: str, pseudonyms: Pseudonyms) -> str:
    """Return the keyed name of the item at `relative` below the source: 32 hexadecimal digits."""
    return _keyed(b"site item path\0", relative, pseudonyms)


def pair_name(base: str, pseudonyms: Pseudonyms) -> str:
    """Return the keyed name that an image and its sidecar share; `base` is their path below the source, no suffix."""
    return _keyed(b"site pair path\0", base, pseudonyms)


def place_name(relative: str, pseudonyms: Pseudonyms) -> str:
    """Return the keyed name of the output at `relative` below the folder: 32 hexadecimal digits."""
    return _keyed(b"site output place\0", relative, pseudonyms)


def manifest_json(batch: Batch, records: Mapping[str, ItemRecord], places: Mapping[str, str]) -> bytes:
    """Return the manifest as JSON.

    Args:
        batch: The folder's batch.
        records: The last record of each item.
        places: Where outputs lie below the folder, by their keyed place.
    """
    document = {
        "format": "fedmed-manifest",
        "version": MANIFEST_VERSION,
        "batch": batch.batch,
        "names": batch.names,
        "form": batch.form,
        "naming": "keyed hashes of the paths below the source" if batch.names == "keyed" else "the source's own paths",
        "items": [
            {
                "item": record.item,
                "kind": record.kind,
                "outcome": record.outcome,
                "reason": record.reason,
                "path": places.get(record.place, "") if record.place else "",
                "output_sha256": record.output_sha256,
                "stored_sha256": record.stored_sha256,
            }
            for record in records.values()
        ],
    }
    return canonical_json(document) + b"\n"


def batches_folder(home: SiteHome) -> Path:
    """Return where the site registers the folders that it has de-identified."""
    return home.root / "batches"


def register(home: SiteHome, batch: Batch, *, source: Path | SqlTable, out: Path) -> None:
    """Note, or note anew, where a batch comes from and goes to."""
    folder = batches_folder(home)
    folder.mkdir(mode=0o700, exist_ok=True)
    named = repr(source) if isinstance(source, SqlTable) else _text(source.resolve())
    entry = Registration(batch=batch, source=named, out=kept_place(home, out))
    write_atomic(folder / f"{batch.batch}.json", canonical_json(entry))


def registrations(home: SiteHome) -> list[Registration]:
    """Return every folder that the site has de-identified.

    Raises:
        IntegrityError: A registration is not of version 1.
    """
    folder = batches_folder(home)
    paths = sorted(folder.glob("*.json")) if folder.is_dir() else []
    found = (decode(path.read_bytes(), Registration) for path in paths)
    return [replace(one, out=_text(found_place(home, one.out))) for one in found]


def kept_place(home: SiteHome, out: Path) -> str:
    """Return how the site remembers where a folder is: below its own folder if it is there, so that both may move."""
    place, root = out.resolve(), home.root.resolve()
    return _text(place.relative_to(root) if place.is_relative_to(root) else place)


def found_place(home: SiteHome, kept: str) -> Path:
    """Return where a folder is that the site remembers."""
    return home.root.resolve() / kept


def read_batch(out: Path) -> Batch | None:
    """Return the batch of a folder, or None where none was begun.

    Raises:
        IntegrityError: The file is there and is not of version 1.
    """
    path = out / BATCH_FILE
    return decode(path.read_bytes(), Batch) if path.is_file() else None


def outputs(out: Path) -> dict[str, Path]:
    """Return everything below the items' folder that is not a folder, by its path below `out`."""
    found: dict[str, Path] = {}
    for folder, _, names in os.walk(out / ITEMS_FOLDER):
        for name in names:
            path = Path(folder) / name
            found[path.relative_to(out).as_posix()] = path
    return found


def _text(path: Path) -> str:
    return os.fsencode(path).decode("utf-8", "replace")


def _keyed(purpose: bytes, relative: str, pseudonyms: Pseudonyms) -> str:
    keyed_hash = pseudonyms.content_hash()
    keyed_hash.update(purpose + os.fsencode(relative))
    return keyed_hash.hexdigest()[:32]
