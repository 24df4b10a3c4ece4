"""The manifest of a cleaned folder: one line per item and run, the last of an item counts.

Why it exists: whoever reads the folder must know which output belongs to which input, options, table and tool,
without learning a path or a patient.

Rules:
    * A line is canonical JSON and ends in a newline; one without was never committed.
    * Items are keyed names. The quarantine list holds them and reasons from a fixed list, nothing else.

What it does not do: vouch for itself; only lines that the audit log confirms are believed (see `batch`).
"""

import csv
import hashlib
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fedmed.deid.dicom.quarantine import REASONS
from fedmed.errors import IntegrityError
from fedmed.records import canonical_json, decode

MANIFEST_VERSION = 1
SEAL_BYTES = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestLine:
    """What became of one item; `output_sha256` is empty and `reason` is set for a quarantined one."""

    item: str
    outcome: Literal["cleaned", "quarantined"]
    reason: str
    input_hmac: str
    output_sha256: str
    options_digest: str
    table_digest: str
    key_id: str
    tool_version: str
    version: int = MANIFEST_VERSION


def read_manifest(path: Path) -> Iterator[ManifestLine]:
    """Yield the lines of a manifest; a last line without a newline was never committed and is left out.

    Raises:
        IntegrityError: A line is not of version 1.
    """
    if not path.exists():
        return
    with path.open("rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                yield decode(line, ManifestLine)


def seal_of(line: ManifestLine) -> bytes:
    """Return the first bytes of the digest of a line: what is kept in memory of it."""
    return hashlib.sha256(canonical_json(line)).digest()[:SEAL_BYTES]


def drop_torn_line(path: Path) -> None:
    """Cut off a last line that a killed run left without its end.

    Raises:
        IntegrityError: The file is no manifest.
    """
    if not path.exists():
        return
    with path.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        tail = min(size, 1 << 16)
        file.seek(size - tail)
        whole = file.read().rfind(b"\n") + 1
        if whole == 0 and tail < size:
            raise IntegrityError("the manifest ends in a line of no version; restore it or clean into a new folder")
        file.truncate(size - tail + whole)


def quarantine_list(path: Path) -> bytes:
    """Return the quarantine list of a manifest as CSV: item, reason, meaning."""
    reasons: dict[str, str] = {}
    for line in read_manifest(path):
        reasons.pop(line.item, None)
        if line.reason:
            reasons[line.item] = line.reason
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("item", "reason", "meaning"))
    writer.writerows((item, reason, REASONS.get(reason, "")) for item, reason in sorted(reasons.items()))
    return text.getvalue().encode()
