"""The engines for each kind of file: DICOM, NIfTI, tables, notes; content in, cleaned content out.

Why it exists: a hospital hands over a folder of everything. Each kind has its own engine, and this is
the one place that knows which file goes to which.

Rules:
    * The content decides before the suffix: what says DICM is DICOM, whatever it is called.
    * A file that is not understood raises `SetAsideError` with a reason of a fixed list.
    * A line of notes that cannot be read is left out and counted; above the policy's fraction the file is refused.
    * Of a line of notes only the text and the patient's token pass. A note of an unknown patient has its dates masked.

What it does not do: store, seal or record (see `deidentification_items`).
"""

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from fedmed.audit import Scalar
from fedmed.crypto.seal import Seal
from fedmed.data.jsonl import is_jsonl, table_of
from fedmed.deid.dicom.files import MAX_FILE_BYTES, clean_bytes, site_keys
from fedmed.deid.dicom.quarantine import REASONS as DICOM_REASONS
from fedmed.deid.dicom.quarantine import QuarantineError
from fedmed.deid.dicom.table import table_digest
from fedmed.deid.encodings import Encoding, EncodingError, decode
from fedmed.deid.headings import HeadingsError, check_table
from fedmed.deid.nifti.quarantine import REASONS as NIFTI_REASONS
from fedmed.deid.nifti.quarantine import NiftiError
from fedmed.deid.outgoing import Written
from fedmed.deid.pseudonyms import Pseudonyms, normalise
from fedmed.deid.readers import EXCEL_SUFFIXES, SqlTable, open_table, reads_excel
from fedmed.deid.tabular import TABLE_FILE, clean_table
from fedmed.deid.text import CleanedNote, NoteCleaner
from fedmed.errors import FedMedError
from fedmed_site import deidentification_nifti as nifti
from fedmed_site.deidentification_columns import Columns
from fedmed_site.deidentification_policy import Choices
from fedmed_site.deidentification_schema import SchemaColumns
from fedmed_site.manifest import ItemKind

MAX_TEXT_BYTES = 256 << 20
_CHUNK_BYTES = 1 << 20
_WORKBOOKS = frozenset(EXCEL_SUFFIXES)
_TABLES, _NOTE, _NOTES, _DICOM = frozenset({".csv", ".parquet"}), ".txt", ".jsonl", frozenset({".dcm", ".dicom"})
_LINE_END, _SEPARATOR = re.compile("\r\n|\n|\r"), re.compile("[\x85\u2028\u2029]")
_PATIENT_FIELDS = ("patient", "patient_id", "mrn", "患者编号", "病案号")
_NAME_FIELDS = ("name", "patient_name", "姓名")
REASONS: Mapping[str, str] = {
    **DICOM_REASONS,
    **NIFTI_REASONS,
    "symbolic-link": "a symbolic link is not followed",
    "not-a-file": "no regular file",
    "unknown-kind": "neither DICOM, NIfTI, CSV, Parquet, Excel, TXT nor JSONL",
    "no-excel-reader": "no reader for Excel is installed (the extra 'tables'); save the sheet as CSV in UTF-8",
    "empty": "the file is empty",
    "encoding": "the text is neither UTF-8 nor believable GB18030 nor what the policy says, or has control characters",
    "note-refused": "the rules for notes find ever more to mask in the text and don't come to an end; divide it",
    "no-notes": "no line, or too few lines, are JSON objects with a `text`",
    "no-headings": "the first line of the table holds values, not the names of its columns",
    "table-refused": "unreadable, no confirmed column, too many bad rows, or no k-anonymity; see site.log",
    "unforeseen": "something that no rule foresees; see site.log",
}
"""Every reason that an item can be quarantined for, in words that name no value of it."""


class SetAsideError(Exception):
    """A file that is not cleaned; never leaves this module. `detail` is for the site's own log."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason)
        self.reason, self.detail = reason, detail


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """A cleaned file before it is stored: its bytes, or where it lies in the work folder, sealed if it is to be."""

    data: bytes
    file: Written | None
    facts: Mapping[str, Scalar]
    table_digest: str = ""
    input_hmac: str = ""


class Engines:
    """The engines of all kinds under one site's choices and key."""

    def __init__(self, choices: Choices, columns: Columns | SchemaColumns, *, key: bytes) -> None:
        self._choices, self._columns, self._key = choices, columns, key
        self._schema = columns.schema if isinstance(columns, SchemaColumns) else None
        self._keyed = site_keys(choices.dicom, key)
        self._pseudonyms = Pseudonyms(key)
        text = choices.text
        masking = replace(text, dates="mask")
        self._notes = NoteCleaner(options=text, key=key)
        self._anonymous = self._notes if text == masking else NoteCleaner(options=masking, key=key)

    def kind_of(self, path: Path | SqlTable) -> ItemKind:
        """Return the kind of a file; under a data set's schema JSON Lines are its table, unless it has no text.

        Raises:
            SetAsideError: As the function of this name.
        """
        if isinstance(path, SqlTable):
            return "table"
        kind = kind_of(path)
        return "table" if kind == "notes" and self._schema is not None and self._schema.text is not None else kind

    def clean(self, path: Path | SqlTable, kind: ItemKind, *, item: str, work: Path, seal: Seal | None) -> Output:
        """Return the cleaned content of a file.

        Args:
            path: The file, or a database table.
            kind: What `kind_of` says of it.
            item: Its keyed name, by which reports call it.
            work: An empty folder for large outputs.
            seal: What large outputs are sealed under before they reach the disk; None leaves them readable.

        Raises:
            SetAsideError: The file is not cleaned.
            OSError: It cannot be read, or `work` not be written.
        """
        if isinstance(path, SqlTable):
            return self._plain_table(path, item, work / TABLE_FILE, seal)
        size = path.stat().st_size
        if size == 0:
            raise SetAsideError("empty")
        if kind in ("nifti", "sidecar"):
            return self._nifti(path, kind, work, seal)
        if kind != "table" and size > (MAX_FILE_BYTES if kind == "dicom" else MAX_TEXT_BYTES):
            raise SetAsideError("too-large")
        if kind == "dicom":
            return self._dicom(path.read_bytes())
        if kind == "table":
            return self._table(path, item, work / TABLE_FILE, seal)
        if kind == "note":
            return self._note(path.read_bytes())
        if kind == "notes":
            return self._lines(path.read_bytes())
        raise SetAsideError("unknown-kind")

    def _dicom(self, data: bytes) -> Output:
        try:
            cleaned = clean_bytes(data, self._keyed)
        except QuarantineError as error:
            raise SetAsideError(error.reason) from None
        facts: dict[str, Scalar] = {f"actions.{name}": count for name, count in cleaned.actions.items()}
        facts |= {"sop_class": cleaned.sop_class, "pixels": cleaned.pixels}
        return Output(data=cleaned.data, file=None, facts=facts, table_digest=table_digest())

    def _nifti(self, path: Path, kind: ItemKind, work: Path, seal: Seal | None) -> Output:
        try:
            if kind == "nifti":
                written, facts = nifti.image(path, work / "image", options=self._choices.nifti, seal=seal)
                return Output(data=b"", file=written, facts=facts)
            data, facts = nifti.sidecar(path, options=self._choices.nifti, pseudonyms=self._pseudonyms)
        except NiftiError as error:
            raise SetAsideError(error.reason) from None
        return Output(data=data, file=None, facts=facts)

    def _note(self, data: bytes) -> Output:
        text = decoded(data, declared=self._choices.files.encoding)
        try:
            cleaned = self._anonymous.clean(text, patient="")
        except FedMedError:
            raise SetAsideError("note-refused") from None
        return Output(data=cleaned.text.encode(), file=None, facts={"notes": 1} | _kinds(cleaned))

    def _lines(self, data: bytes) -> Output:
        kept: list[bytes] = []
        counts: Counter[str] = Counter()
        text = decoded(data, declared=self._choices.files.encoding)
        lines = [line for line in _LINE_END.split(text) if line.strip()]  # a string may hold other separators
        for line in lines:
            cleaned = self._line(line, counts)
            if cleaned is None:
                counts["lines_left_out"] += 1
            else:
                kept.append(cleaned)
        if not kept or counts["lines_left_out"] > len(lines) * self._choices.table.max_quarantine_fraction:
            raise SetAsideError("no-notes")
        counts["notes"] = len(kept)
        return Output(data=b"".join(kept), file=None, facts=dict(counts))

    def _line(self, line: str, counts: Counter[str]) -> bytes | None:
        """Return the cleaned line of one note, or None; only the text and the patient's token pass."""
        try:
            note = json.loads(line)
        except (ValueError, RecursionError):
            return None
        if not isinstance(note, dict) or not isinstance(note.get("text"), str):
            return None
        patient = next((str(note[name]) for name in _PATIENT_FIELDS if isinstance(note.get(name), str | int)), "")
        names = [note[name] for name in _NAME_FIELDS if isinstance(note.get(name), str)]
        cleaner = self._notes if normalise(patient) else self._anonymous
        try:
            cleaned = cleaner.clean(note["text"], patient=patient, names=names)
        except FedMedError:
            return None
        counts.update({name: int(str(count)) for name, count in _kinds(cleaned).items()})
        counts["fields_dropped"] += len(set(note) - {"text", *_PATIENT_FIELDS[:1]})
        token = self._pseudonyms.token(patient) if normalise(patient) else None
        return _one_line(json.dumps({"patient": token, "text": cleaned.text}, ensure_ascii=False)).encode() + b"\n"

    def _table(self, path: Path, item: str, target: Path, seal: Seal | None) -> Output:
        if self._schema is None or not is_jsonl(path):
            return self._plain_table(path, item, target, seal)
        try:
            with table_of(path, self._schema) as table:
                return self._plain_table(table, item, target, seal, notes=True)
        except FedMedError as error:
            raise SetAsideError("table-refused", str(error).replace(path.name, "the table")) from None

    def _plain_table(
        self, path: Path | SqlTable, item: str, target: Path, seal: Seal | None, *, notes: bool = False
    ) -> Output:
        named = path.table if isinstance(path, SqlTable) else path.name
        try:
            delimiter = "," if isinstance(path, SqlTable) else delimiter_of(path)
            encoding = self._choices.files.encoding
            reader = open_table(path, keyed=self._pseudonyms.content_hash(), delimiter=delimiter, encoding=encoding)
            if self._schema is None and not isinstance(path, SqlTable):  # a database names its columns
                check_table(reader)
            plan = self._columns.table(
                reader.header, self._choices.table, name=f"table-{item[:16]}", delimiter=delimiter, notes=notes
            )
            if all(plan.policy.action(column) in {"drop", "drop-text"} for column in plan.schema.columns):
                raise SetAsideError("table-refused", "no column of this table is confirmed and kept")
            report, written = clean_table(
                path, schema=plan.schema, policy=plan.policy, key=self._key, target=target, clean=self._cell, seal=seal,
                encoding=encoding,
            )  # fmt: skip
        except EncodingError:
            raise SetAsideError("encoding") from None
        except HeadingsError as error:
            raise SetAsideError("no-headings", str(error).replace(named, "the table")) from None
        except FedMedError as error:
            raise SetAsideError("table-refused", str(error).replace(named, "the table")) from None
        facts = {name: value for name, value in report.audit_body(plan.called).items() if name not in _NOT_FACTS}
        return Output(
            data=b"", file=written, facts=facts, table_digest=plan.schema.digest, input_hmac=report.input_hmac
        )

    def _cell(self, text: str, *, patient: str) -> str:
        return self._notes.clean(text, patient=patient).text


_NOT_FACTS = frozenset({"input_hmac", "output_sha256", "schema_name", "tool", "tool_version", "key_id"})


def _one_line(text: str) -> str:
    """Return JSON with escapes for the separators that other tools would divide a line at."""
    return _SEPARATOR.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def kind_of(path: Path) -> ItemKind:
    """Return the kind of a file by its content and suffix.

    Raises:
        SetAsideError: It is a symbolic link, no regular file, or of no kind that is cleaned here.
    """
    if path.is_symlink():
        raise SetAsideError("symbolic-link")
    if not path.is_file():
        raise SetAsideError("unreadable" if path.is_dir() else "not-a-file")
    with path.open("rb") as file:
        head = file.read(132)
    suffix = path.suffix.lower()
    if head[128:] == b"DICM" or suffix in _DICOM:
        return "dicom"
    if (kind := nifti.kind_of(path)) is not None:
        return kind
    if nifti.is_half(path):
        raise SetAsideError("nifti-pair")
    if suffix in _WORKBOOKS and not reads_excel():
        raise SetAsideError("no-excel-reader")
    if suffix in _TABLES or suffix in _WORKBOOKS:
        return "table"
    if suffix == _NOTE:
        return "note"
    if suffix == _NOTES:
        return "notes"
    raise SetAsideError("unknown-kind")


def decoded(data: bytes, *, declared: Encoding = "detect") -> str:
    """Return the text of a file in UTF-8 (with or without a mark), GB18030 or what the policy says.

    Raises:
        SetAsideError: It is not, or holds control characters that no text has.
    """
    try:
        text = decode(data, name="the text", declared=declared)
    except EncodingError:
        raise SetAsideError("encoding") from None
    if any(unicodedata.category(one) in {"Cc", "Cn"} and one not in "\t\n\r\f\v\x85" for one in set(text)):
        raise SetAsideError("encoding")
    return text


def delimiter_of(path: Path) -> str:
    """Return the likeliest delimiter of a CSV file, from its first line."""
    with path.open("rb") as file:
        line = file.readline(_CHUNK_BYTES)
    return max((",", "\t", ";", "|"), key=lambda character: line.count(character.encode()))


def _kinds(cleaned: CleanedNote) -> dict[str, Scalar]:
    return {f"masked.{kind}": count for kind, count in sorted(cleaned.counts.items())}
