"""The vector side: reals to ring elements, masks over them, and sums back to reals.

Why it exists: a ring Z_2^k with masks that cancel makes a sum exact and hides
each summand perfectly, given the keystream; this module is all of that arithmetic.

Rules:
    * Rounding is stochastic under a secret 32-byte seed, so an encoded value is unbiased.
    * A value that is not finite is refused, never encoded.
    * A mask is the AES-256-CTR keystream of a key used for it alone, read as little-endian integers.
    * Masks are made and added in chunks through one reused buffer; there is no other generator.

What it does not do: agree on keys, or know who takes part.

Source: Bonawitz et al., Practical Secure Aggregation, CCS 2017, section 4.
"""

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR
from numpy.typing import NDArray

from fedmed.errors import ProtocolError, RefusedError
from fedmed.secagg import transcript
from fedmed.secagg.roster import Segment

CHUNK_BYTES: Final = 128 * 1024
_ZEROS: Final = memoryview(bytes(CHUNK_BYTES))
_SPAN: Final = CHUNK_BYTES // 8

Ring = NDArray[np.unsignedinteger[Any]]
"""Elements of Z_2^k for k = 16, 32 or 64, little-endian, one dimension."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Contribution:
    """What one site puts into one round: an argument that is never stored, sent or logged.

    `weight`: w, above 0 and at most the policy's W_max. `values`: segment name -> one-dimensional
    array; float for signed and nonnegative segments, int64 for integer ones.
    """

    weight: float = field(repr=False)
    values: Mapping[str, NDArray[Any]] = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorBound:
    """How far a weighted mean may lie from the exact one through rounding, per coordinate."""

    rms: float
    maximum: float


def encode(values: NDArray[Any], segment: Segment, *, weight: float, max_weight: float, rounding: bytes) -> Ring:
    """Turn one segment's values into ring elements: floor(clip(w~ x, C) 2^f + U), w~ = w / W_max.

    Args:
        values: Shape (d,); float, or whole numbers for an integer segment.
        segment: The ring, clip and scale.
        weight: w, this site's weight; ignored for an integer segment.
        max_weight: W_max, in the unit of `weight`.
        rounding: 32 secret bytes that give the uniforms U in [0, 1).

    Returns:
        A new array, shape (d,), of little-endian unsigned integers of `segment.bits` bits.

    Raises:
        RefusedError: A value is not finite, not whole or beyond the clip where it must not
            be, or the weight is outside (0, W_max].
    """
    if values.ndim != 1:
        raise RefusedError(f"segment {segment.name}: expected one dimension, got {values.ndim}")
    if segment.kind == "integer":
        return _encode_whole(values, segment)
    share = weight / max_weight
    if not 0 < share <= 1:
        raise RefusedError(f"segment {segment.name}: expected a weight above 0 and within the policy's max_weight")
    low = 0.0 if segment.kind == "nonnegative" else -segment.clip
    ring: Ring = np.empty(values.size, dtype=ring_type(segment.bits))
    uniforms = _uniforms(_stream_key(rounding, "round", segment.name, segment.bits, values.size), values.size)
    for part, uniform in zip(_spans(values.size), uniforms, strict=True):
        chunk = np.multiply(values[part], share, dtype=np.float64)
        if not np.isfinite(chunk).all():
            raise RefusedError(f"segment {segment.name}: expected finite values, got one that is not; check the update")
        np.clip(chunk, low, segment.clip, out=chunk)
        chunk *= 2.0**segment.fraction_bits
        chunk += uniform
        ring[part] = np.floor(chunk, out=chunk).astype(np.int64).astype(ring.dtype)
    return ring


def decode(ring: Ring, segment: Segment) -> NDArray[Any]:
    """Turn a sum of encoded segments back: the two's complement over 2^f.

    Returns:
        float64 of shape (d,), the sum of w~ x; int64 for an integer segment.

    >>> whole = Segment(name="aux", bits=64, kind="integer", clip=100, fraction_bits=0, max_length=2)
    >>> decode(np.array([5, 2**64 - 5], dtype="<u8"), whole).tolist()
    [5, -5]
    """
    signed = ring.view(np.dtype(f"<i{segment.bits // 8}"))
    if segment.kind == "integer":
        return signed.astype(np.int64)
    return signed.astype(np.float64) * 2.0**-segment.fraction_bits


def error_bound(segment: Segment, *, sites: int, weight_sum: float) -> ErrorBound:
    """Return the rounding error of a weighted mean over `sites` sites, per coordinate.

    rms <= sqrt(N) 2^-f / (2 sum w~) and max <= N 2^-f / sum w~. Clipping is not part of it.

    Args:
        segment: Gives f.
        sites: N, how many sites the sum covers.
        weight_sum: The sum of w~ = w / W_max over them.

    >>> real = Segment(name="delta", bits=32, kind="signed", clip=1, fraction_bits=24, max_length=1)
    >>> error_bound(real, sites=100, weight_sum=50.0).maximum < 1.2e-7
    True
    """
    step = 2.0**-segment.fraction_bits
    return ErrorBound(rms=math.sqrt(sites) * step / (2 * weight_sum), maximum=sites * step / weight_sum)


def add_mask(ring: Ring, seed: bytes, segment: Segment) -> None:
    """Add the mask of `seed` to `ring`, in place."""
    _apply_mask(ring, seed, segment, np.add)


def subtract_mask(ring: Ring, seed: bytes, segment: Segment) -> None:
    """Subtract the mask of `seed` from `ring`, in place."""
    _apply_mask(ring, seed, segment, np.subtract)


def update_ids(contribution: Contribution, segments: tuple[Segment, ...]) -> tuple[bytes, ...]:
    """Return one 32-byte id per segment of reals: a hash of the float values before weight and rounding.

    Whole numbers (counts) recur in every round, so they have no id. Signed zeros and the
    float's width do not change an id.
    """
    reals = [segment for segment in segments if segment.kind != "integer"]
    return tuple(_update_id(segment.name, contribution.values[segment.name]) for segment in reals)


def to_bytes(ring: Ring) -> bytes:
    """Return the little-endian bytes of `ring`."""
    return ring.tobytes()


def from_bytes(data: bytes, segment: Segment, length: int) -> Ring:
    """Return the `length` ring elements in `data`, read-only.

    Raises:
        ProtocolError: `data` has another size.
    """
    expected = length * segment.bits // 8
    if len(data) != expected:
        raise ProtocolError(f"segment {segment.name}: expected {expected} bytes, got {len(data)}")
    return np.frombuffer(data, dtype=ring_type(segment.bits))


def ring_type(bits: int) -> np.dtype[np.unsignedinteger[Any]]:
    """Return the NumPy type of a ring of `bits` bits."""
    return np.dtype(f"<u{bits // 8}")


def _apply_mask(ring: Ring, seed: bytes, segment: Segment, operate: Callable[..., Any]) -> None:
    """Fold the keystream into `ring`; 128 KiB at a time stays in the core's cache."""
    key = _stream_key(seed, "prg", segment.name, segment.bits, ring.size)
    start = 0
    for chunk in _keystream(key, ring.nbytes):
        stream = chunk.view(ring.dtype)
        part = ring[start : start + stream.size]
        operate(part, stream, out=part)
        start += stream.size


def _keystream(key: bytes, size: int) -> Iterator[NDArray[np.uint8]]:
    """Yield `size` bytes of AES-256-CTR keystream in chunks; each is valid until the next one."""
    # A zero first counter is safe because a key serves one segment of one mask.
    encryptor = Cipher(AES(key), CTR(bytes(16))).encryptor()
    buffer = bytearray(CHUNK_BYTES)
    stream = np.frombuffer(buffer, dtype=np.uint8)
    for start in range(0, size, CHUNK_BYTES):
        length = min(CHUNK_BYTES, size - start)
        encryptor.update_into(_ZEROS[:length], buffer)
        yield stream[:length]


def _stream_key(seed: bytes, label: str, name: str, bits: int, length: int) -> bytes:
    return transcript.expand(seed, label, name.encode(), transcript.number(bits), transcript.number(length))


def _uniforms(key: bytes, count: int) -> Iterator[NDArray[np.float64]]:
    """Yield `count` uniforms in [0, 1) at steps of 2^-32, in the spans of `_spans`."""
    for chunk in _keystream(key, 8 * count):
        # The top half of each 64-bit word: spans stay aligned with chunks of keystream.
        yield chunk.view("<u4")[1::2] * 2.0**-32


def _spans(size: int) -> Iterator[slice]:
    for start in range(0, size, _SPAN):
        yield slice(start, min(start + _SPAN, size))


def _encode_whole(values: NDArray[Any], segment: Segment) -> Ring:
    if values.dtype.kind not in "iu":
        raise RefusedError(f"segment {segment.name}: expected whole numbers as integers, got {values.dtype}")
    if values.size and (values.max() > segment.clip or values.min() < -segment.clip):
        raise RefusedError(f"segment {segment.name}: expected whole numbers within the policy's clip, got one beyond")
    ring: Ring = values.astype(np.int64).astype(ring_type(segment.bits))
    return ring


def _update_id(name: str, values: NDArray[Any]) -> bytes:
    hasher = hashlib.sha256(transcript.PREFIX + b"update\0" + transcript.pack(name.encode()))
    hasher.update(transcript.number(values.size))
    for part in _spans(values.size):
        hasher.update((values[part].astype("<f8") + 0.0).tobytes())  # + 0.0 turns -0.0 into 0.0
    return hasher.digest()
