"""Whether what lies on disk is what the audit log says: every entry in its place, every item as it was written.

Why it exists: a log that nobody compares with the files is a promise. An auditor runs one command.

Rules:
    * The chain first: a changed, missing or reordered entry is found before anything is believed.
    * Then each registered folder: every cleaned item is there, byte for byte; nothing is there without a record; the
      manifest is the one that the log names.
    * Then the quarantine and the tables of data sets.
    * Each problem is one line that names a folder and a keyed item, never a path of the source.

What it does not do: notice that whole entries were cut from the end of the log, unless the head is given
that was kept elsewhere; or repair anything.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fedmed.audit import ChainLog, Entry
from fedmed.crypto.seal import SEALED_SUFFIX
from fedmed.data.stored import stored_bytes
from fedmed.deid.pseudonyms import Pseudonyms
from fedmed.deid.tabular import AUDIT_KIND as TABLE_KIND
from fedmed.deid.tabular import TABLE_FILE
from fedmed.errors import IntegrityError
from fedmed.records import digest
from fedmed_site.data_keys import DataKeys
from fedmed_site.deidentification_items import sha256_of
from fedmed_site.home import SiteHome
from fedmed_site.item_sets import REGISTERED_KIND
from fedmed_site.manifest import (
    FINISHED_KIND,
    ITEM_KIND,
    MANIFEST_FILE,
    Batch,
    ItemRecord,
    outputs,
    place_name,
    read_batch,
    records_of,
    registrations,
)
from fedmed_site.quarantine import DELETED_KIND


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """What was compared, and every problem as one line."""

    entries: int
    head: str
    folders: int
    items: int
    tables: int
    problems: tuple[str, ...]


def verify_site(
    home: SiteHome, *, moved: Sequence[Path] = (), expected_head: str | None = None, least_entries: int = 0
) -> Verified:
    """Compare the audit log of a site with itself and with everything that it speaks of.

    Args:
        home: The site.
        moved: Folders that lie elsewhere now than where they were made.
        expected_head: The digest of an entry that was kept elsewhere; a log without it was rolled back.
        least_entries: How many entries the log had at that time.
    """
    log = ChainLog(home.audit_path)
    try:
        entries = log.entries()
    except IntegrityError as error:
        return Verified(entries=0, head="", folders=0, items=0, tables=0, problems=(str(error),))
    problems = list(_head_problems(entries, expected_head, least_entries))
    places = {found.batch: out for out in moved if (found := _batch_of(out, problems)) is not None}
    items = folders = 0
    logged = {str(entry.body["batch"]) for entry in entries if entry.kind == ITEM_KIND}
    registered = {one.batch.batch: Path(one.out) for one in registrations(home)}
    pseudonyms = Pseudonyms(home.pseudonym_key_path.read_bytes())
    for batch in sorted(logged | set(registered)):
        records = records_of(entries, batch)
        folders += 1
        items += len(records)
        out = places.get(batch, registered.get(batch))
        if out is None or not out.is_dir():
            problems.append(f"folder {batch}: not where it was made; if it was moved, say --items DIR")
        else:
            problems += _folder_problems(batch, out, records, pseudonyms)
            problems += _manifest_problems(batch, out, entries)
        problems += _quarantine_problems(home, batch, records, entries)
    tables, table_problems = _tables(home, entries)
    return Verified(
        entries=len(entries),
        head=digest(entries[-1]) if entries else "",
        folders=folders,
        items=items,
        tables=tables,
        problems=(*problems, *table_problems),
    )


def _head_problems(entries: Sequence[Entry], expected: str | None, least: int) -> Iterator[str]:
    if expected is not None and expected.lower() not in {digest(entry) for entry in entries}:
        yield f"audit log: no entry has the digest {expected[:12]} that was kept elsewhere: it was cut or rolled back"
    if len(entries) < least:
        yield f"audit log: expected at least {least} entries, got {len(entries)}: it was cut or rolled back"


def _batch_of(out: Path, problems: list[str]) -> Batch | None:
    """Return the batch of a folder that was moved, or note that it is none."""
    try:
        batch = read_batch(out)
    except IntegrityError:
        batch = None
    if batch is None:
        problems.append("--items: a folder without a batch.json of version 1; give the folder that deidentify wrote")
    return batch


def _folder_problems(batch: str, out: Path, records: Mapping[str, ItemRecord], pseudonyms: Pseudonyms) -> Iterator[str]:
    expected = {record.place: record for record in records.values() if record.outcome == "cleaned"}
    found = {place_name(relative, pseudonyms): path for relative, path in outputs(out).items()}
    for place, record in expected.items():
        path = found.get(place)
        if path is None:
            yield f"folder {batch}: item {record.item}: missing"
        elif path.is_symlink() or sha256_of(path) != record.stored_sha256:
            yield f"folder {batch}: item {record.item}: altered: it is not what was written"
    for place in found.keys() - expected.keys():
        yield f"folder {batch}: a file without a record (place {place[:12]}): not made here, or the run was stopped"


def _manifest_problems(batch: str, out: Path, entries: Sequence[Entry]) -> Iterator[str]:
    finished = [one for one in entries if one.kind == FINISHED_KIND and one.body.get("batch") == batch]
    path = out / MANIFEST_FILE
    if not finished:
        yield f"folder {batch}: never finished; run the same command again"
    elif not path.is_file():
        yield f"folder {batch}: manifest.json: missing"
    elif hashlib.sha256(path.read_bytes()).hexdigest() != finished[-1].body.get("manifest_sha256"):
        yield f"folder {batch}: manifest.json: altered"
    last_item = max((one.index for one in entries if one.kind == ITEM_KIND and one.body["batch"] == batch), default=-1)
    if finished and finished[-1].index < last_item:
        yield f"folder {batch}: the last run was stopped before its end; run the same command again"


def _quarantine_problems(
    home: SiteHome, batch: str, records: Mapping[str, ItemRecord], entries: Sequence[Entry]
) -> Iterator[str]:
    deleted = {one.body.get("item") for one in entries if one.kind == DELETED_KIND and one.body.get("batch") == batch}
    for record in records.values():
        path = home.root / "quarantine" / batch / f"{record.item}{SEALED_SUFFIX}"
        if record.kept_copy and record.item not in deleted and not path.is_file():
            yield f"quarantine of folder {batch}: item {record.item}: missing, and no entry says that it was deleted"


def _tables(home: SiteHome, entries: Sequence[Entry]) -> tuple[int, list[str]]:
    """Return how many tables of data sets were compared, and their problems."""
    newest = {
        str(one.body["schema_name"]): one for one in entries if one.kind in (TABLE_KIND, REGISTERED_KIND)
    }  # what a folder of items took the place of is gone
    made = {name: one.body for name, one in newest.items() if one.kind == TABLE_KIND}
    folder = home.root / "data"
    problems = []
    for name, body in sorted(made.items()):
        try:
            key = DataKeys(home).of_dataset(name, dry_run=True)
            data = stored_bytes(folder / name, TABLE_FILE, data_set=name, key=key)
        except IntegrityError:
            data = b""
        if data is None:
            problems.append(f"data set {name}: missing")
        elif hashlib.sha256(data).hexdigest() != body["output_sha256"]:
            problems.append(f"data set {name}: altered: it is not what was written")
    places = [path for end in ("", SEALED_SUFFIX) for path in folder.glob(f"*/{TABLE_FILE}{end}")]
    present = {path.parent.name for path in places}
    problems += [f"data set {name}: no record in the audit log" for name in sorted(present - set(made))]
    return len(made), problems
