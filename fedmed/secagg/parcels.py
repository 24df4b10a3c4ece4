"""A message without its vectors, and the vectors apart, for transports that move arrays in pieces.

Why it exists: a masked update may have hundreds of megabytes; a transport that knows
arrays sends them in chunks, and nobody holds a second encoding of them.

Rules:
    * Only a `Masked` has vectors; they are named by the place of their segment in the policy.
    * Nothing is trusted for it: the site's signed hash covers the vectors.

What it does not do: copy, compress, or send.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from fedmed.errors import ProtocolError
from fedmed.secagg import wire
from fedmed.secagg.messages import Masked, SiteMessage

Bytes = NDArray[np.uint8]


def split(message: SiteMessage) -> tuple[bytes, dict[str, Bytes]]:
    """Return the wire bytes of `message` without its vectors, and the vectors by place."""
    if not isinstance(message, Masked):
        return wire.encode(message), {}
    vectors = {str(place): np.frombuffer(part, dtype=np.uint8) for place, part in enumerate(message.payload) if part}
    light = replace(message, payload=tuple(b"" for _ in message.payload))
    return wire.encode(light), vectors


def join(data: bytes, vectors: Mapping[str, NDArray[Any]]) -> SiteMessage:
    """Return the message that `split` took apart.

    Raises:
        ProtocolError: The bytes are no message of a site, or the vectors are not its own.
    """
    if not isinstance(data, bytes):
        raise ProtocolError(f"expected the bytes of a message, got {type(data).__name__}")
    message = wire.decode(data)
    if not isinstance(message, SiteMessage):
        raise ProtocolError(f"expected a message of a site, got {type(message).__name__}")
    if not vectors:
        return message
    if not isinstance(message, Masked) or not set(vectors) <= {str(place) for place in range(len(message.payload))}:
        raise ProtocolError(f"{type(message).__name__} of {message.site}: expected other vectors with it")
    if any(vector.dtype != np.uint8 or vector.ndim != 1 for vector in vectors.values()):
        raise ProtocolError(f"Masked of {message.site}: expected vectors of bytes, got others")
    places = map(str, range(len(message.payload)))
    return replace(message, payload=tuple(_view(vectors[place]) if place in vectors else b"" for place in places))


def _view(vector: NDArray[Any]) -> bytes:
    """Return a view of the bytes; it serves wherever bytes are read, without a copy."""
    return cast("bytes", np.ascontiguousarray(vector, dtype=np.uint8).data)
