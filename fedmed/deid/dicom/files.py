"""One DICOM file in; cleaned bytes and a report, or a quarantine reason.

Why it exists: the unit of trust is a file. It is read whole, decided whole and written whole, and what the report
says about it can be checked against both its ends.

Rules:
    * Only DICOM files (PS3.10) that parse to their last byte are cleaned; preamble and file meta are made anew.
    * The output keeps the transfer syntax, but for inflated and for decoded files: explicit VR little endian.
    * What was done is written into the file itself: (0012,0062), (0012,0063), (0012,0064) and (0028,0303). Identity is
      declared removed only where the pixels were handled too.
    * No value of the file enters a report, an error, a warning or a log.

What it does not do: walk folders or write the audit log (see `batch`).
"""

import hashlib
import logging
import warnings
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from pydicom._uid_dict import UID_dictionary

import fedmed
from fedmed.audit import Scalar
from fedmed.deid.dicom.codes import code_elements, known_meaning
from fedmed.deid.dicom.codestream import RLE
from fedmed.deid.dicom.engine import INSTANCE_UID, PATIENT_ID, DatasetPass, Keyed, identity
from fedmed.deid.dicom.extent import check_extent
from fedmed.deid.dicom.options import DicomOptions
from fedmed.deid.dicom.pixels import (
    BURNED_IN,
    REGIONS,
    Pixels,
    assess,
    mask_compressed,
    mask_native,
    region_mask,
)  # fmt: skip
from fedmed.deid.dicom.quarantine import QuarantineError, Reason
from fedmed.deid.dicom.stream import Element, StreamError, Syntax, encode, parse, parse_meta
from fedmed.deid.dicom.table import family_of, rules, table_digest, vr_of
from fedmed.deid.dicom.uids import UidMap
from fedmed.deid.dicom.values import texts
from fedmed.deid.pseudonyms import Pseudonyms
from fedmed.files import unpacked_most, write_atomic

MAX_FILE_BYTES = 2 << 30
IMPLEMENTATION_UID = "2.25.231968263190743271893011287934514962707"
"""Our implementation class, a UUID-derived UID that names no vendor."""

IMPLICIT, EXPLICIT, BIG_ENDIAN = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"
DEFLATED = "1.2.840.10008.1.2.1.99"
SOP_CLASS = 0x00080016

_META_CLASS, _META_INSTANCE, _META_SYNTAX = 0x00020002, 0x00020003, 0x00020010
_UNCOMPRESSED = frozenset({IMPLICIT, EXPLICIT, BIG_ENDIAN, DEFLATED})
_TEMPORAL = {"remove": b"REMOVED ", "shift": b"MODIFIED", "keep": b"UNMODIFIED"}


@dataclass(frozen=True, slots=True, kw_only=True)
class DicomReport:
    """What happened to one file: counts of elements by fate, and what tells its two ends."""

    input_hmac: str
    output_sha256: str
    output_bytes: int
    sop_class: str
    pixels: Literal["none", "untouched", "unassessed", "masked"]
    actions: Mapping[str, int]
    options_digest: str
    table_digest: str
    key_id: str

    def audit_body(self) -> dict[str, Scalar]:
        """Return the flat facts of the audit record."""
        body: dict[str, Scalar] = {
            name: getattr(self, name)
            for name in (
                "input_hmac", "output_sha256", "output_bytes", "sop_class", "pixels", "options_digest", "table_digest",
                "key_id",
            )
        }  # fmt: skip
        body |= {f"actions.{name}": count for name, count in sorted(self.actions.items())}
        return body | {"outcome": "cleaned", "tool": "fedmed.deid.dicom", "tool_version": fedmed.__version__}


@dataclass(frozen=True, slots=True, kw_only=True)
class Quarantined:
    """A file that was not cleaned, and why. `input_hmac` is empty where it could not be read."""

    reason: Reason
    input_hmac: str
    options_digest: str
    table_digest: str
    key_id: str

    def audit_body(self) -> dict[str, Scalar]:
        """Return the flat facts of the audit record."""
        body: dict[str, Scalar] = {
            name: getattr(self, name) for name in ("reason", "input_hmac", "options_digest", "table_digest", "key_id")
        }
        return body | {"outcome": "quarantined", "tool": "fedmed.deid.dicom", "tool_version": fedmed.__version__}


class Cleaned(NamedTuple):
    """The bytes of a cleaned file, before anything is written."""

    data: bytes
    sop_class: str
    pixels: Literal["none", "untouched", "unassessed", "masked"]
    actions: Mapping[str, int]


class _Source(NamedTuple):
    """A file as read: its dataset and what the file meta said of it."""

    dataset: dict[int, Element]
    syntax: Syntax
    transfer_syntax: str
    sop_class: str


def clean_file(path: Path, *, options: DicomOptions, key: bytes, out: Path) -> DicomReport | Quarantined:
    """Clean the DICOM file `path` into the new file `out`, or say why not.

    Guarantees: `out` appears whole or not at all; after a quarantine it does not exist, not even from an earlier run.

    Args:
        path: The file as the archive wrote it.
        options: What the site decided.
        key: The site's pseudonym key, 32 bytes.
        out: The file to write; its folder exists.

    Raises:
        UsageError: The key has a wrong length.
        OSError: `out` cannot be written.
    """
    keyed = site_keys(options, key)
    try:
        data = read_file(path)
    except QuarantineError as error:
        out.unlink(missing_ok=True)
        return _quarantined(error.reason, b"", keyed)
    return clean_data(data, keyed, out)


def clean_data(data: bytes, keyed: Keyed, out: Path) -> DicomReport | Quarantined:
    """Clean the bytes of one file into `out`, or say why not; see `clean_file`."""
    try:
        cleaned = clean_bytes(data, keyed)
    except QuarantineError as error:
        out.unlink(missing_ok=True)
        return _quarantined(error.reason, data, keyed)
    write_atomic(out, cleaned.data)
    return DicomReport(
        input_hmac=input_hmac(data, keyed),
        output_sha256=hashlib.sha256(cleaned.data).hexdigest(),
        output_bytes=len(cleaned.data),
        sop_class=cleaned.sop_class,
        pixels=cleaned.pixels,
        actions=cleaned.actions,
        options_digest=keyed.options.digest,
        table_digest=table_digest(),
        key_id=keyed.pseudonyms.key_id,
    )


def clean_bytes(data: bytes, keyed: Keyed) -> Cleaned:
    """Return the cleaned form of the bytes of a DICOM file.

    Raises:
        QuarantineError: The file is not cleaned; the reason says why and nothing of what it holds.
    """
    with _silence():
        try:
            return _clean(data, keyed)
        except QuarantineError:
            raise
        except StreamError as error:
            raise QuarantineError("truncated" if error.truncated else "malformed") from None
        except Exception:  # noqa: BLE001  an unforeseen file must not stop the others, and its text must not leak
            raise QuarantineError("malformed") from None


def site_keys(options: DicomOptions, key: bytes) -> Keyed:
    """Return the keyed functions of a site under its options.

    Raises:
        UsageError: The key has a wrong length.
    """
    return Keyed(options, UidMap(key), Pseudonyms(key))


def read_file(path: Path) -> bytes:
    """Return the bytes of a regular file.

    Raises:
        QuarantineError: It is absent, no regular file, unreadable or too large.
    """
    try:
        if not path.is_file() or path.is_symlink():
            raise QuarantineError("unreadable")
        if path.stat().st_size > MAX_FILE_BYTES:
            raise QuarantineError("too-large")
        return path.read_bytes()
    except OSError:
        raise QuarantineError("unreadable") from None


def input_hmac(data: bytes, keyed: Keyed) -> str:
    """Return the keyed hash of the bytes of a file as it came."""
    keyed_hash = keyed.pseudonyms.content_hash()
    keyed_hash.update(data)
    return keyed_hash.hexdigest()


def _clean(data: bytes, keyed: Keyed) -> Cleaned:
    source = _read(data)
    options, syntax = keyed.options, source.syntax
    compressed = source.transfer_syntax not in _UNCOMPRESSED
    pixels = assess(source.dataset, source.sop_class, options, little=syntax.little)
    dataset = check_extent(
        source.dataset, little=syntax.little, encapsulated=compressed, rle=source.transfer_syntax == RLE,
        decoded=pixels == "mask",
    )  # fmt: skip
    who = identity(dataset)
    days = keyed.pseudonyms.shift_days(who, limit=options.max_shift_days) if options.dates == "shift" else 0
    cleaner = DatasetPass(keyed, rules(options, family_of(source.sop_class)), days=days, little=syntax.little)
    cleaned = {element.tag: element for element in cleaner.clean(dataset.values())}
    cleaned |= {element.tag: element for element in _claims(options, pixels)}
    cleaned[PATIENT_ID] = Element(PATIENT_ID, "LO", keyed.pseudonyms.token(who).encode())
    output_syntax = EXPLICIT if source.transfer_syntax == DEFLATED else source.transfer_syntax
    if pixels == "mask":
        cleaned, output_syntax = _masked(source, cleaned, output_syntax)
        syntax = syntax if output_syntax == source.transfer_syntax else Syntax(implicit=False, little=True)
    return Cleaned(
        data=_part10(cleaned, source.sop_class, output_syntax, syntax),
        sop_class=source.sop_class,
        pixels="masked" if pixels == "mask" else pixels,
        actions=dict(Counter(cleaner.counts)),
    )


def _read(data: bytes) -> _Source:
    if data[128:132] != b"DICM":
        raise QuarantineError("not-part-10")
    elements, at = parse_meta(data, 132)
    meta = {element.tag: element for element in elements}
    transfer_syntax = _uid(meta, _META_SYNTAX)
    entry = UID_dictionary.get(transfer_syntax)
    if entry is None or entry[1] != "Transfer Syntax":
        raise QuarantineError("transfer-syntax")
    if transfer_syntax == DEFLATED:
        data, at = _inflate(data[at:]), 0
    syntax = Syntax(implicit=transfer_syntax == IMPLICIT, little=transfer_syntax != BIG_ENDIAN)
    dataset = {element.tag: element for element in parse(data, at, syntax=syntax, vr_of=vr_of())}
    if any(tag in dataset and len(texts(dataset[tag].value)) > 1 for tag in (SOP_CLASS, INSTANCE_UID)):
        raise QuarantineError("malformed")  # each has one value in every IOD (PS3.3 C.12.1)
    sop_class = _uid(dataset, SOP_CLASS) or _uid(meta, _META_CLASS)
    instance = _uid(dataset, INSTANCE_UID) or _uid(meta, _META_INSTANCE)
    if sop_class != "1.2.840.10008.1.3.10" and not instance:
        raise QuarantineError("sop-class")
    dataset[SOP_CLASS] = Element(SOP_CLASS, "UI", sop_class.encode())
    dataset[INSTANCE_UID] = Element(INSTANCE_UID, "UI", instance.encode())
    return _Source({tag: dataset[tag] for tag in sorted(dataset)}, syntax, transfer_syntax, sop_class)


def _inflate(data: bytes) -> bytes:
    engine = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        plain = engine.decompress(data, min(MAX_FILE_BYTES, unpacked_most(len(data))))
    except zlib.error:
        raise QuarantineError("malformed") from None
    if engine.unconsumed_tail:
        raise QuarantineError("too-large")
    if not engine.eof:
        raise QuarantineError("truncated")
    return plain


def _masked(source: _Source, cleaned: dict[int, Element], output_syntax: str) -> tuple[dict[int, Element], str]:
    """Return the cleaned dataset with masked pixels, and its transfer syntax."""
    little = source.syntax.little
    outside = region_mask(cleaned if REGIONS in cleaned else source.dataset, little=little)
    cleaned[BURNED_IN] = Element(BURNED_IN, "CS", b"NO")
    if source.transfer_syntax in _UNCOMPRESSED:
        return mask_native(cleaned, outside, little=little), output_syntax
    part10 = _part10(cleaned, source.sop_class, source.transfer_syntax, source.syntax)
    return mask_compressed(cleaned, outside, part10), EXPLICIT


def _claims(options: DicomOptions, pixels: Pixels) -> list[Element]:
    """Return the attributes that say how the file was cleaned (PS3.15 E.3, CID 7050)."""
    used = {
        "113100": True,
        "113101": options.clean_pixel_data,
        "113103": options.clean_graphics,
        "113104": options.clean_structured_content,
        "113105": options.clean_descriptors,
        "113106": options.dates == "keep",
        "113107": options.dates == "shift",
        "113108": options.retain_patient_characteristics,
        "113109": options.retain_device,
        "113110": options.retain_uids,
        "113111": bool(options.safe_private),
        "113112": options.retain_institution,
    }
    codes = tuple(code_elements(code, "DCM", known_meaning(code, "DCM") or "") for code, on in used.items() if on)
    method = f"DICOM PS3.15 Annex E {options.edition}\\FedMed {fedmed.__version__}"
    return [
        Element(0x00120062, "CS", b"NO" if pixels == "unassessed" else b"YES"),
        Element(0x00120063, "LO", method.encode()),
        Element(0x00120064, "SQ", items=codes),
        Element(0x00280303, "CS", _TEMPORAL[options.dates]),
    ]


def _part10(dataset: Mapping[int, Element], sop_class: str, transfer_syntax: str, syntax: Syntax) -> bytes:
    """Return a file of `dataset` with a zero preamble and a file meta of our own (PS3.10 7.1)."""
    meta = [
        Element(0x00020001, "OB", b"\0\1"),
        Element(_META_CLASS, "UI", sop_class.encode()),
        Element(_META_INSTANCE, "UI", dataset[INSTANCE_UID].value),
        Element(_META_SYNTAX, "UI", transfer_syntax.encode()),
        Element(0x00020012, "UI", IMPLEMENTATION_UID.encode()),
        Element(0x00020013, "SH", f"FEDMED {fedmed.__version__}"[:16].encode()),
    ]
    explicit = Syntax(implicit=False, little=True)
    body = encode(meta, explicit)
    length = encode([Element(0x00020000, "UL", len(body).to_bytes(4, "little"))], explicit)
    content = encode((dataset[tag] for tag in sorted(dataset)), syntax)
    return b"".join((bytes(128), b"DICM", length, body, content))


def _uid(dataset: Mapping[int, Element], tag: int) -> str:
    element = dataset.get(tag)
    return "" if element is None or element.items is not None else "".join(texts(element.value))


def _quarantined(reason: Reason, data: bytes, keyed: Keyed) -> Quarantined:
    return Quarantined(
        reason=reason,
        input_hmac=input_hmac(data, keyed) if data else "",
        options_digest=keyed.options.digest,
        table_digest=table_digest(),
        key_id=keyed.pseudonyms.key_id,
    )


@contextmanager
def _silence() -> Iterator[None]:
    """Keep the warnings and log lines of pydicom and its decoders, which quote values, away from everybody.

    Their loggers are many, so the process logs nothing at all for the moment.
    """
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
