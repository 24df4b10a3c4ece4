"""Arrays with a record at their head: one checked file, never pickled.

Why it exists: stored answers, checkpoints and knowledge are all "a few public
facts and some arrays"; one codec keeps their versions and errors alike.

Form, version 1: a magic line, the SHA-256 of the rest, then a safetensors file whose
metadata holds the record as canonical JSON.

Rules:
    * The digest is checked before anything is parsed: safetensors has none of its own,
      and a flipped bit in a weight would be read as another weight.
    * Whatever does not verify or parse is an `IntegrityError`.

What it does not do: touch files, or know what the arrays mean. The digest finds
damage, not forgery.
"""

import hashlib
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec
import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from safetensors import SafetensorError

from fedmed.errors import IntegrityError
from fedmed.records import canonical_json, decode

Record = TypeVar("Record")
_HEAD = "fedmed"
_EMPTY = "_"
_MAGIC = b"FedMed-tensors/1\n"


def pack(head: object, arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """Return `head` and `arrays` as bytes to store; equal content has equal bytes."""
    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    body = safetensors.numpy.save(
        contiguous or {_EMPTY: np.zeros(1, np.uint8)}, metadata={_HEAD: canonical_json(head).decode()}
    )
    return _MAGIC + hashlib.sha256(body).digest() + body


def unpack(data: bytes, kind: type[Record]) -> tuple[Record, dict[str, NDArray[Any]]]:
    """Return the record and the arrays that `pack` stored.

    Raises:
        IntegrityError: The bytes are damaged, or their head is not a valid `kind`.
    """
    damaged = IntegrityError(f"expected a stored {kind.__name__} with arrays, got damaged or other bytes")
    start = len(_MAGIC) + hashlib.sha256().digest_size
    body = data[start:]
    if data[: len(_MAGIC)] != _MAGIC or data[len(_MAGIC) : start] != hashlib.sha256(body).digest():
        raise damaged
    try:
        header_bytes = int.from_bytes(body[:8], "little")  # the safetensors layout: length, JSON header, data
        header = msgspec.json.decode(body[8 : 8 + header_bytes])
        head = decode(header["__metadata__"][_HEAD].encode(), kind)
        arrays = safetensors.numpy.load(body)
    except (SafetensorError, msgspec.DecodeError, KeyError, TypeError, UnicodeDecodeError):
        raise damaged from None
    arrays.pop(_EMPTY, None)
    return head, arrays
