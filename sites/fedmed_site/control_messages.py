"""Records to messages of the control protocol and back.

Why it exists: the commands and the service speak in records; only the wire has protobuf.

Rules:
    * A field has one name in record, message and `.proto`; None is an optional field that is not set.
    * What comes is checked by the record that it becomes.

What it does not do: know a method, or a transport.
"""

import dataclasses
import json
from typing import Any, TypeVar

import msgspec
from google.protobuf.message import Message

from fedmed_site.control_records import AuditLine
from fedmed_site.protocol import control_pb2

Made = TypeVar("Made", bound=Message)
Record = TypeVar("Record")


def message_of(record: Any, kind: type[Made]) -> Made:
    """Return a flat record, or one whose fields are flat records, as a message of `kind`."""
    made = kind()
    for field in dataclasses.fields(record):
        value = getattr(record, field.name)
        if value is None:
            continue
        if dataclasses.is_dataclass(value):
            inner = getattr(made, field.name)
            inner.CopyFrom(message_of(value, type(inner)))
        else:
            setattr(made, field.name, value)
    return made


def record_of(message: Message, kind: type[Record]) -> Record:
    """Return the record that a message holds.

    Raises:
        ValueError: It is none.
    """
    return msgspec.convert(_plain(message), kind, strict=True)


def audit_message(line: AuditLine) -> control_pb2.AuditEntry:
    """Return one entry of the audit log as a message."""
    return control_pb2.AuditEntry(index=line.index, kind=line.kind, body=json.dumps(dict(line.body)))


def audit_line(message: control_pb2.AuditEntry) -> AuditLine:
    """Return the entry that a message holds.

    Raises:
        ValueError: It is none.
    """
    return AuditLine(index=message.index, kind=message.kind, body=json.loads(message.body))


def _plain(message: Message) -> dict[str, Any]:
    plain: dict[str, Any] = {}
    for field in message.DESCRIPTOR.fields:
        if field.has_presence and not message.HasField(field.name):
            plain[field.name] = None
        else:
            value = getattr(message, field.name)
            plain[field.name] = _plain(value) if isinstance(value, Message) else value
    return plain
