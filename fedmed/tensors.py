"""Arrays with a record at their head: one file, safetensors, never pickled.

Why it exists: stored answers, checkpoints and knowledge are all "a few public
facts and some arrays"; one codec keeps their versions and errors alike.

Rules:
    * The record stands in the safetensors metadata as canonical JSON.
    * Whatever does not parse is an `IntegrityError`.

What it does not do: touch files, or know what the arrays mean.
"""

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


def pack(head: object, arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """Return `head` and `arrays` as one safetensors file."""
    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    return safetensors.numpy.save(
        contiguous or {_EMPTY: np.zeros(1, np.uint8)}, metadata={_HEAD: canonical_json(head).decode()}
    )


def unpack(data: bytes, kind: type[Record]) -> tuple[Record, dict[str, NDArray[Any]]]:
    """Return the record and the arrays that `pack` stored.

    Raises:
        IntegrityError: The bytes are damaged, or their head is not a valid `kind`.
    """
    try:
        header_bytes = int.from_bytes(data[:8], "little")  # the safetensors layout: length, JSON header, data
        header = msgspec.json.decode(data[8 : 8 + header_bytes])
        head = decode(header["__metadata__"][_HEAD].encode(), kind)
        arrays = safetensors.numpy.load(data)
    except (SafetensorError, msgspec.DecodeError, KeyError, TypeError) as error:
        raise IntegrityError(f"expected a stored {kind.__name__} with arrays, got damaged bytes: {error}") from None
    arrays.pop(_EMPTY, None)
    return head, arrays
