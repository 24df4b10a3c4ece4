"""The quarantine of a site: what could not be cleaned, sealed, to be looked at, handed back or deleted.

Why it exists: a file that was set aside still needs a decision, by a person, with a reason that stays.

Rules:
    * A quarantined file lies here sealed under the quarantine's own key, under its keyed name; the list shows
      keyed names and reasons.
    * Release and deletion each write one entry of the audit log, with the reason that was given. The reason
      passes through the rules for notes first: whoever writes one easily names a patient.
    * Release writes the file as it came, with everything that identifies; it is not de-identified by it.
    * The source is never touched.

What it does not do: judge a reason.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fedmed.audit import ChainLog, Entry
from fedmed.crypto.seal import SEALED_SUFFIX, unseal_file
from fedmed.deid.text import TextOptions, clean_note
from fedmed.errors import UsageError
from fedmed_site.data_keys import DataKeys
from fedmed_site.deidentification_items import seal_name
from fedmed_site.home import SiteHome
from fedmed_site.manifest import ITEM_KIND, ItemRecord, record_of

RELEASED_KIND, DELETED_KIND = "quarantine-released", "quarantine-deleted"
LONGEST_REASON = 500
_LEAST_REASON = 3
_SUFFIX = {
    "dicom": ".dcm",
    "nifti": ".nii",
    "sidecar": ".json",
    "table": ".table",
    "note": ".txt",
    "notes": ".jsonl",
    "other": ".bin",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Quarantined:
    """One item of the list. `state` says whether a sealed copy is held, and what was decided."""

    batch: str
    item: str
    kind: str
    reason: str
    state: str
    size: int


def listing(home: SiteHome, batch: str | None = None) -> list[Quarantined]:
    """Return what is in quarantine now, by folder and item.

    Raises:
        IntegrityError: The audit log does not verify.
    """
    entries = ChainLog(home.audit_path).entries()
    decided = _decisions(entries)
    found = []
    for record in _records(entries):
        if record.outcome == "quarantined" and batch in {None, record.batch}:
            path = _path(home, record)
            held = path.is_file()
            state = decided.get((record.batch, record.item)) or ("held" if held else "no copy could be made")
            found.append(
                Quarantined(
                    batch=record.batch,
                    item=record.item,
                    kind=record.kind,
                    reason=record.reason,
                    state=state,
                    size=path.stat().st_size if held else 0,
                )
            )
    return found


def release(home: SiteHome, items: Sequence[str], folder: Path, *, reason: str) -> list[Path]:
    """Write quarantined files as they came into a folder, and say so in the audit log before they appear.

    Args:
        home: The site.
        items: Keyed names, or their beginnings where they are unique.
        folder: Created if absent; files bear their keyed names.
        reason: Why, in a sentence.

    Raises:
        UsageError: An item is not there or not unique, the file exists already, or there is no reason.
        IntegrityError: A sealed copy does not verify.
    """
    stated = _stated(reason)
    chosen = _chosen(home, items)
    key = DataKeys(home).of_quarantine()
    targets = [folder / f"{record.item}{_SUFFIX[record.kind]}" for record in chosen]
    for target in targets:
        if target.exists():
            raise UsageError(f"{target.name}: expected no such file in the folder yet, found one; choose another --to")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    _log(home, RELEASED_KIND, chosen, stated)
    for record, target in zip(chosen, targets, strict=True):
        unseal_file(_path(home, record), target, key=key, name=seal_name(record.batch, record.item))
        target.chmod(0o600)
    return targets


def delete(home: SiteHome, items: Sequence[str], *, reason: str) -> int:
    """Delete the sealed copies of items from the quarantine, said in the audit log before; return how many.

    Raises:
        UsageError: An item is not there or not unique, or there is no reason.
    """
    stated = _stated(reason)
    chosen = _chosen(home, items)
    _log(home, DELETED_KIND, chosen, stated)
    for record in chosen:
        _path(home, record).unlink()
    return len(chosen)


def _log(home: SiteHome, kind: str, records: Sequence[ItemRecord], reason: str) -> None:
    ChainLog(home.audit_path).append_all(
        [(kind, {"batch": one.batch, "item": one.item, "was": one.reason, "reason": reason}) for one in records]
    )


def _chosen(home: SiteHome, items: Sequence[str]) -> list[ItemRecord]:
    held = [
        record
        for record in _records(ChainLog(home.audit_path).entries())
        if record.outcome == "quarantined" and _path(home, record).is_file()
    ]
    chosen: dict[tuple[str, str], ItemRecord] = {}
    for name in items:
        found = [record for record in held if len(name) >= 4 and record.item.startswith(name.lower())]
        if len(found) != 1:
            what = "none" if not found else f"{len(found)}"
            raise UsageError(f"expected one held item that begins with {name[:32]!r}, got {what}; see the list")
        chosen[found[0].batch, found[0].item] = found[0]
    return list(chosen.values())


def _records(entries: Sequence[Entry]) -> list[ItemRecord]:
    """Return the last record of each item of each folder."""
    last = {(str(one.body["batch"]), str(one.body["item"])): one for one in entries if one.kind == ITEM_KIND}
    return [record_of(entry) for _, entry in sorted(last.items())]


def _decisions(entries: Sequence[Entry]) -> dict[tuple[str, str], str]:
    """Return what was decided of each item after its last record."""
    decided: dict[tuple[str, str], str] = {}
    words = {RELEASED_KIND: "released", DELETED_KIND: "deleted"}
    for entry in entries:
        name = (str(entry.body.get("batch")), str(entry.body.get("item")))
        if entry.kind in words:
            decided[name] = words[entry.kind]
        elif entry.kind == ITEM_KIND:
            decided.pop(name, None)
    return decided


def _stated(reason: str) -> str:
    words = " ".join(reason.split())
    if len(words) < _LEAST_REASON:
        raise UsageError("expected --reason with a few words, got none; it stays in the audit log")
    return clean_note(words[:LONGEST_REASON], options=TextOptions(), key=bytes(32), patient="").text


def _path(home: SiteHome, record: ItemRecord) -> Path:
    return home.root / "quarantine" / record.batch / f"{record.item}{SEALED_SUFFIX}"
