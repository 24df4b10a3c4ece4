"""The vector side: reals to ring elements, masks over them, and sums back to reals.

Why it exists: a ring Z_2^k with masks that cancel makes a sum exact and hides
each summand perfectly, given the keystream; this module is all of that arithmetic.

Rules:
    * Rounding is stochastic under a secret 32-byte seed: an encoded value is unbiased to 2^-16 of a step.
    * A value that is not finite is refused, never encoded.
    * A mask is the AES-256-CTR keystream of a key used for it alone, read as little-endian integers; its first
      counter block is 2, as in GCM with a zero nonce (NIST SP 800-38D, section 7.1).
    * Masks are made and added in chunks through one reused buffer; there is no other generator.
    * Reals are encoded, masked and identified a span at a time; beside its result nothing long is held.

What it does not do: agree on keys, or know who takes part.

Source: Bonawitz et al., Practical Secure Aggregation, CCS 2017, section 4.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, cast

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import GCM
from numpy.typing import NDArray

from fedmed.errors import ProtocolError, RefusedError
from fedmed.secagg import transcript
from fedmed.secagg.roster import Segment

CHUNK_BYTES: Final = 128 * 1024
_ZEROS: Final = memoryview(bytes(CHUNK_BYTES))
_SPAN: Final = CHUNK_BYTES // 4
"""How many reals are worked on at a time: what is read and written meanwhile stays in a core's own cache."""
_NEGATIVE_ZERO: Final = np.iinfo(np.int32).min
"""-0.0 in float32, read as an integer: the least of all."""
_FINER: Final = 2.0**16
"""Into how many parts rounding divides a step of the ring: the uniforms are 16-bit words of keystream."""

Ring = NDArray[np.unsignedinteger[Any]]
"""Elements of Z_2^k for k = 16, 32 or 64, little-endian, one dimension."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Contribution:
    """What one site puts into one round: an argument that is never stored, sent or logged.

    `weight`: w, above 0 and at most the policy's W_max. `values`: segment name -> one-dimensional
    array; float for signed and nonnegative segments, int64 for integer ones. `noise`: segment name ->
    int64 of the same length, this site's share of a sum's noise in units of the ring, added after rounding.
    `editions`: segment name -> what tells apart releases of one vector that are each noised and paid for.
    """

    weight: float = field(repr=False)
    values: Mapping[str, NDArray[Any]] = field(repr=False)
    noise: Mapping[str, NDArray[np.int64]] = field(default_factory=dict, repr=False)
    editions: Mapping[str, bytes] = field(default_factory=dict)


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
        rounding: 32 secret bytes that give the uniforms U in [0, 1), at steps of 2^-16.

    Returns:
        A new array, shape (d,), of little-endian unsigned integers of `segment.bits` bits.

    Raises:
        RefusedError: A value is not finite, not whole or beyond the clip where it must not
            be, or the weight is outside (0, W_max].
    """
    ring: Ring = np.empty(values.shape, dtype=ring_type(segment.bits))
    for _ in _encode_spans(ring, values, segment, weight=weight, max_weight=max_weight, rounding=rounding):
        pass
    return ring


def encode_masked(
    contribution: Contribution,
    segment: Segment,
    *,
    max_weight: float,
    rounding: bytes,
    added: Sequence[bytes],
    subtracted: Sequence[bytes],
) -> Ring:
    """Encode a segment of `contribution`, add its share of noise and apply masks, each span in one go.

    The result is that of `encode`, `add_noise` and `apply_masks`; the vector passes through memory once.

    Args:
        contribution: Has the segment's values, of shape (d,).
        segment: The ring, clip and scale.
        max_weight: W_max, in the unit of the contribution's weight.
        rounding: As in `encode`.
        added: Seeds of 32 bytes, of masks to add.
        subtracted: Seeds of masks to subtract.

    Raises:
        RefusedError: The values or the weight can't be encoded, or the noise has another shape.
    """
    values, noise = contribution.values[segment.name], contribution.noise.get(segment.name)
    ring: Ring = np.empty(values.shape, dtype=ring_type(segment.bits))
    masks = _Masks(segment, ring.size, added=added, subtracted=subtracted)
    for part in _encode_spans(
        ring, values, segment, weight=contribution.weight, max_weight=max_weight, rounding=rounding
    ):
        span = ring[part]
        if noise is not None:
            add_noise(span, noise[part] if noise.shape == ring.shape else noise)
        masks.apply(span)
    return ring


def decode(ring: Ring, segment: Segment) -> NDArray[Any]:
    """Turn a sum of encoded segments back: the two's complement over 2^f.

    Returns:
        float64 of shape (d,), the sum of w~ x; int64 for an integer segment.

    >>> whole = Segment(name="aux", bits=64, kind="integer", clip=100, fraction_bits=0, max_length=2)
    >>> decode(np.array([5, 2**64 - 5], dtype="<u8"), whole).tolist()
    [5, -5]
    """
    signed = ring.view(_signed_type(segment.bits))
    if segment.kind == "integer":
        return signed.astype(np.int64)
    reals = signed.astype(np.float64)
    reals *= 2.0**-segment.fraction_bits
    return reals


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
    apply_masks(ring, segment, added=(seed,))


def subtract_mask(ring: Ring, seed: bytes, segment: Segment) -> None:
    """Subtract the mask of `seed` from `ring`, in place."""
    apply_masks(ring, segment, subtracted=(seed,))


def apply_masks(ring: Ring, segment: Segment, *, added: Sequence[bytes] = (), subtracted: Sequence[bytes] = ()) -> None:
    """Add the masks of the seeds `added` to `ring` and subtract those of `subtracted`, in place.

    All masks go over one chunk before the next, so each chunk comes from memory once.

    Args:
        ring: Shape (d,), of `segment.bits` bits.
        segment: Its name and width enter each mask's key.
        added: Seeds of 32 bytes.
        subtracted: Seeds of 32 bytes.
    """
    masks = _Masks(segment, ring.size, added=added, subtracted=subtracted)
    span = CHUNK_BYTES // ring.itemsize
    for start in range(0, ring.size, span):
        masks.apply(ring[start : start + span])


def update_ids(contribution: Contribution, segments: tuple[Segment, ...]) -> tuple[bytes, ...]:
    """Return one 32-byte id per segment of reals, of the values in float32 before weight and rounding.

    The same update always has the same id: signed zeros and the float's width do not change it.
    Whole numbers (counts) recur in every round, so they have no id. An id is kept by its site
    and compared with the site's own ids only. Two different updates with one id, which nobody but
    the site could make, would cost a refusal and give nothing away, so a polynomial fingerprint
    of 128 bits does; it takes a tenth of the time of a hash.
    """
    reals = [segment for segment in segments if segment.kind != "integer"]
    return tuple(
        _update_id(segment.name, contribution.values[segment.name], contribution.editions.get(segment.name, b""))
        for segment in reals
    )


def add_noise(ring: Ring, noise: NDArray[np.int64]) -> None:
    """Add a site's share of noise to its encoded values, in place, around the ring.

    >>> ring = np.array([1, 2], dtype="<u4")
    >>> add_noise(ring, np.array([-3, 5]))
    >>> ring.tolist()
    [4294967294, 7]
    """
    if noise.shape != ring.shape or noise.dtype != np.int64:
        raise RefusedError(f"noise: expected int64 of shape {ring.shape}, got {noise.dtype} of {noise.shape}")
    np.add(ring, noise.astype(ring.dtype), out=ring)


def to_bytes(ring: Ring) -> bytes:
    """Return the little-endian bytes of `ring` without a copy: a view, and `ring` becomes read-only."""
    ring.flags.writeable = False
    return cast("bytes", ring.view(np.uint8).data)  # it serves wherever bytes are read


def from_bytes(data: bytes, segment: Segment, length: int) -> Ring:
    """Return the `length` ring elements in `data`, read-only and without a copy.

    Raises:
        ProtocolError: `data` has another size.
    """
    expected = length * segment.bits // 8
    if len(data) != expected:
        raise ProtocolError(f"segment {segment.name}: expected {expected} bytes, got {len(data)}")
    ring: Ring = np.frombuffer(data, dtype=ring_type(segment.bits))
    ring.flags.writeable = False
    return ring


def ring_type(bits: int) -> np.dtype[np.unsignedinteger[Any]]:
    """Return the NumPy type of a ring of `bits` bits."""
    return np.dtype(f"<u{bits // 8}")


class _Masks:
    """The keystreams of one vector's masks, taken up span by span, from the first element on."""

    def __init__(self, segment: Segment, length: int, *, added: Sequence[bytes], subtracted: Sequence[bytes]) -> None:
        self._streams: list[tuple[Callable[..., Any], CipherContext]] = [
            (operate, _cipher(_stream_key(seed, "prg", segment.name, segment.bits, length)))
            for operate, seeds in ((np.add, added), (np.subtract, subtracted))
            for seed in seeds
        ]
        self._buffer = bytearray(CHUNK_BYTES)
        self._words: Ring = np.frombuffer(self._buffer, dtype=ring_type(segment.bits))

    def apply(self, span: Ring) -> None:
        """Mask the next elements, at most CHUNK_BYTES of them, in place."""
        for start in range(0, span.size, self._words.size):
            part = span[start : start + self._words.size]
            mask = self._words[: part.size]
            for operate, cipher in self._streams:
                _fill(self._buffer, cipher, part.nbytes)
                operate(part, mask, out=part)


def _encode_spans(
    ring: Ring, values: NDArray[Any], segment: Segment, *, weight: float, max_weight: float, rounding: bytes
) -> Iterator[slice]:
    """Encode `values` into `ring` span by span; yield each span when it is done."""
    if values.ndim != 1:
        raise RefusedError(f"segment {segment.name}: expected one dimension, got {values.ndim}")
    if segment.kind == "integer":
        ring[:] = _encode_whole(values, segment)
        yield slice(0, values.size)
        return
    share = weight / max_weight
    if not 0 < share <= 1:
        raise RefusedError(f"segment {segment.name}: expected a weight above 0 and within the policy's max_weight")
    signed = ring.view(_signed_type(segment.bits))
    cipher = _cipher(_stream_key(rounding, "round", segment.name, segment.bits, values.size))
    keystream, words = bytearray(2 * _SPAN), np.empty((2, min(_SPAN, values.size)), dtype=np.float64)
    drawn = np.frombuffer(keystream, dtype="<u2")
    for part in _spans(values.size):
        steps, uniform = words[:, : part.stop - part.start]
        _fill(keystream, cipher, 2 * steps.size)
        uniform[:] = drawn[: steps.size]
        _scale(values[part], segment, share, out=steps)
        steps += uniform
        steps *= 1 / _FINER
        signed[part] = np.floor(steps, out=steps)
        yield part


def _cipher(key: bytes) -> CipherContext:
    # Through GCM, whose wide-vector code is a fifth faster than OpenSSL's for CTR alone; its tag is never made.
    # A fixed nonce is safe because a key serves one segment of one mask.
    return Cipher(AES(key), GCM(bytes(12))).encryptor()


def _fill(buffer: bytearray, cipher: CipherContext, size: int) -> None:
    """Write the next `size` bytes of the keystream into `buffer`."""
    cipher.update_into(_ZEROS[:size], buffer)


def _signed_type(bits: int) -> np.dtype[np.signedinteger[Any]]:
    return np.dtype(f"<i{bits // 8}")


def _stream_key(seed: bytes, label: str, name: str, bits: int, length: int) -> bytes:
    return transcript.expand(seed, label, name.encode(), transcript.number(bits), transcript.number(length))


def _scale(values: NDArray[Any], segment: Segment, share: float, *, out: NDArray[np.float64]) -> None:
    """Write clip(w~ x, C) 2^f into `out`, in units of 2^-16 of a step; a power of two scales exactly."""
    scale = 2.0**segment.fraction_bits * _FINER
    high = segment.clip * scale
    low = 0.0 if segment.kind == "nonnegative" else -high
    out[:] = values
    with np.errstate(over="ignore"):  # an overflow is clipped
        out *= share * scale
    if not (low <= out.min() and out.max() <= high):  # so it is where a value is NaN, too
        if not np.isfinite(values).all():
            raise RefusedError(f"segment {segment.name}: expected finite values, got one that is not; check the update")
        np.clip(out, low, high, out=out)


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


def _update_id(name: str, values: NDArray[Any], edition: bytes) -> bytes:
    # GMAC under a key that everybody knows is a polynomial in the values (NIST SP 800-38D); see `update_ids`.
    fingerprint = Cipher(AES(bytes(32)), GCM(bytes(12))).encryptor()
    for part in _spans(values.size):
        with np.errstate(over="ignore"):  # what is not finite is refused by `encode`
            narrow = np.ascontiguousarray(values[part], dtype="<f4")
        if narrow.view("<i4").min() == _NEGATIVE_ZERO:
            narrow = narrow + np.float32(0)  # turns -0.0 into 0.0
        fingerprint.authenticate_additional_data(narrow.view(np.uint8).data)
    fingerprint.finalize()
    return transcript.digest("update", name.encode(), transcript.number(values.size), edition, fingerprint.tag)
