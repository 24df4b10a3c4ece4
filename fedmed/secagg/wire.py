"""The bytes of messages and of stored records: one encoding each, with a version in front.

Why it exists: a restarted site resends identical bytes, so a record must have
exactly one encoding, and other bytes must not be read as that record.

Rules:
    * Magic, version, kind, then MessagePack.
    * What does not encode back to the very bytes that came is refused.

What it does not do: hash for the transcript; that never depends on this encoding.
"""

from typing import Final, TypeVar

import msgspec

from fedmed.errors import ProtocolError
from fedmed.secagg.messages import (
    Abort,
    Advert,
    Certificate,
    CertifyRequest,
    Finish,
    Masked,
    MaskRequest,
    Message,
    Offer,
    Refusal,
    Shared,
    ShareRequest,
    Unmasked,
    UnmaskRequest,
)

MAGIC: Final = b"FMSA"
VERSION: Final = 1

KINDS: Final[tuple[type[Message], ...]] = (
    Offer,
    Advert,
    ShareRequest,
    Shared,
    MaskRequest,
    Masked,
    CertifyRequest,
    Certificate,
    UnmaskRequest,
    Unmasked,
    Refusal,
    Abort,
    Finish,
)
"""The order is the wire format's: append, never reorder."""

Item = TypeVar("Item")


def encode(message: Message) -> bytes:
    """Return the wire bytes of `message`: magic (4), version (1), kind (1), MessagePack.

    >>> decode(encode(Finish(run="r1")))
    Finish(run='r1')
    """
    return MAGIC + bytes([VERSION, KINDS.index(type(message))]) + msgspec.msgpack.encode(message)


def decode(data: bytes) -> Message:
    """Parse wire bytes into the message they are.

    Raises:
        ProtocolError: Another format or version, an unknown kind, a field out of range,
            or an encoding other than the one that `encode` gives.
    """
    if data[: len(MAGIC)] != MAGIC or len(data) < len(MAGIC) + 2:
        raise ProtocolError("expected a secure aggregation message, got other bytes")
    version, kind = data[len(MAGIC)], data[len(MAGIC) + 1]
    if version != VERSION:
        raise ProtocolError(f"expected message version {VERSION}, got {version}; install the same FedMed on both ends")
    if kind >= len(KINDS):
        raise ProtocolError(f"expected a message kind below {len(KINDS)}, got {kind}")
    message = unpack(memoryview(data)[len(MAGIC) + 2 :], KINDS[kind])
    if encode(message) != data:
        raise ProtocolError(f"expected the one encoding of {KINDS[kind].__name__}, got another")
    return message


def unpack(data: bytes | memoryview, kind: type[Item]) -> Item:
    """Parse MessagePack into a record of type `kind`.

    Raises:
        ProtocolError: The bytes are not a valid `kind`.
    """
    try:
        return msgspec.msgpack.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ProtocolError(f"expected a {kind.__name__} record: {error}") from None
