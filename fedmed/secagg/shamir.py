"""Shamir's secret sharing of one 32-byte secret over the prime field of 2^256 + 297.

Why it exists: a site that drops out after others have masked against it must
not cost them the round. Any `threshold` sites can rebuild its secret; fewer
learn nothing about it.

Rules:
    * A secret is one field element, so a share is one field element: 33 bytes, big-endian.
    * Points are 1, 2, ...; point 0 is the secret.
    * Lagrange weights depend only on the set of points, and are cached per set.

What it does not do: authenticate a share (see `keys` for commitments).

Source: A. Shamir, How to share a secret, CACM 22(11), 1979.
"""

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Final

from fedmed.errors import ProtocolError, UsageError

PRIME: Final = 2**256 + 297
SECRET_BYTES: Final = 32
SHARE_BYTES: Final = 33

Entropy = Callable[[int], bytes]
"""A source of uniform bytes: `entropy(n)` returns n of them (`os.urandom` in production)."""


def split(secret: bytes, *, threshold: int, points: tuple[int, ...], entropy: Entropy) -> dict[int, bytes]:
    """Return a share of `secret` for each point, any `threshold` of which rebuild it.

    Args:
        secret: 32 bytes.
        threshold: How many shares rebuild the secret, between 1 and the number of points.
        points: Distinct positive x-coordinates.
        entropy: Source of the polynomial's coefficients.

    Raises:
        UsageError: The secret is not 32 bytes, or threshold and points do not fit.

    >>> shares = split(bytes(31) + b"!", threshold=2, points=(1, 2, 3), entropy=lambda n: bytes([2]) * n)
    >>> combine({2: shares[2], 3: shares[3]}, threshold=2)[-1:]
    b'!'
    """
    if len(secret) != SECRET_BYTES:
        raise UsageError(f"expected a secret of {SECRET_BYTES} bytes to share, got {len(secret)}")
    if not 1 <= threshold <= len(points) or len(set(points)) != len(points) or min(points) < 1:
        raise UsageError(
            f"expected distinct points from 1 and a threshold within them, got {len(points)} points and {threshold}"
        )
    coefficients = [int.from_bytes(secret, "big")] + [_element(entropy) for _ in range(threshold - 1)]
    return {point: _evaluate(coefficients, point).to_bytes(SHARE_BYTES, "big") for point in points}


def combine(shares: Mapping[int, bytes], *, threshold: int) -> bytes:
    """Return the 32-byte secret from the first `threshold` of `shares` (point -> 33 bytes), in order of points.

    Raises:
        ProtocolError: There are too few shares, one is not a field element, or together
            they give no 32-byte secret (then some dealer or holder lied).
    """
    if len(shares) < threshold:
        raise ProtocolError(f"expected {threshold} shares to rebuild a secret, got {len(shares)}")
    points = tuple(sorted(shares))[:threshold]
    values = [_parse(shares[point]) for point in points]
    total = sum(weight * value for weight, value in zip(lagrange_weights(points), values, strict=True)) % PRIME
    if total >= 2**256:
        raise ProtocolError("expected shares of a 32-byte secret, but together they give none; some of them are false")
    return total.to_bytes(SECRET_BYTES, "big")


@lru_cache(maxsize=1024)
def lagrange_weights(points: tuple[int, ...]) -> tuple[int, ...]:
    """Return the weights that interpolate a polynomial at 0 from its values at `points`.

    >>> weights = lagrange_weights((1, 2))
    >>> (weights[0] * 5 + weights[1] * 7) % PRIME  # the line through (1, 5) and (2, 7)
    3
    """
    weights = []
    for point in points:
        numerator = denominator = 1
        for other in points:
            if other != point:
                numerator = numerator * other % PRIME
                denominator = denominator * (other - point) % PRIME
        weights.append(numerator * pow(denominator, -1, PRIME) % PRIME)
    return tuple(weights)


def _evaluate(coefficients: list[int], point: int) -> int:
    value = 0
    for coefficient in reversed(coefficients):
        value = (value * point + coefficient) % PRIME
    return value


def _element(entropy: Entropy) -> int:
    """Draw a uniform field element by rejection: 257 bits, accepted about every second time."""
    while True:
        value = int.from_bytes(entropy(SHARE_BYTES), "big") & (2**257 - 1)
        if value < PRIME:
            return value


def _parse(share: bytes) -> int:
    value = int.from_bytes(share, "big")
    if len(share) != SHARE_BYTES or value >= PRIME:
        raise ProtocolError(f"expected a share of {SHARE_BYTES} bytes below the prime, got {len(share)} bytes")
    return value
