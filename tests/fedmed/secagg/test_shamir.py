"""Shamir's sharing: any t shares rebuild the secret, fewer say nothing, and false ones are refused."""

import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmed.errors import ProtocolError, UsageError
from fedmed.secagg import shamir


@settings(deadline=None)
@given(secret=st.binary(min_size=32, max_size=32), data=st.data(), seed=st.integers(0, 2**32))
def test_any_threshold_of_shares_rebuilds_the_secret(bench: Any, secret: Any, data: Any, seed: Any):
    """Every choice of t or more shares gives the secret back."""
    count = data.draw(st.integers(1, 12))
    threshold = data.draw(st.integers(1, count))
    points = tuple(data.draw(st.lists(st.integers(1, 200), min_size=count, max_size=count, unique=True)))
    shares = shamir.split(secret, threshold=threshold, points=points, entropy=bench.Drbg(seed))
    chosen = data.draw(st.permutations(points))[: data.draw(st.integers(threshold, count))]
    assert shamir.combine({point: shares[point] for point in chosen}, threshold=threshold) == secret
    assert all(len(share) == shamir.SHARE_BYTES for share in shares.values())


@pytest.mark.parametrize("secret", [bytes(32), b"\xff" * 32])
def test_the_extreme_secrets_fit_the_field(bench: Any, secret: Any):
    """The least and the greatest 32-byte string are shared like any other."""
    shares = shamir.split(secret, threshold=2, points=(1, 2, 3), entropy=bench.Drbg(0))
    for pair in itertools.combinations(shares.items(), 2):
        assert shamir.combine(dict(pair), threshold=2) == secret


def test_fewer_shares_fit_every_secret(bench: Any):
    """For t - 1 shares and any other secret there is a polynomial through both, so they say nothing."""
    shares = shamir.split(b"\x01" * 32, threshold=3, points=(1, 2, 3, 4), entropy=bench.Drbg(1))
    weights = shamir.lagrange_weights((1, 2, 3))
    wish = int.from_bytes(b"\x77" * 32, "big")
    known = sum(weights[i] * int.from_bytes(shares[i + 1], "big") for i in range(2))
    third = (wish - known) * pow(weights[2], -1, shamir.PRIME) % shamir.PRIME
    assert shamir.combine({1: shares[1], 2: shares[2], 3: third.to_bytes(33, "big")}, threshold=3) == b"\x77" * 32


def test_a_polynomial_has_fresh_coefficients_of_full_degree(bench: Any):
    """Two sharings of one secret have no share in common, and t - 1 shares don't rebuild it."""
    entropy = bench.Drbg(2)
    first, second = (shamir.split(bytes(32), threshold=3, points=(1, 2, 3), entropy=entropy) for _ in range(2))
    assert not set(first.values()) & set(second.values())
    with pytest.raises(ProtocolError, match="expected 3 shares to rebuild a secret, got 2"):
        shamir.combine({1: first[1], 2: first[2]}, threshold=3)


def test_coefficients_are_drawn_without_bias():
    """A draw at or above the prime is thrown away, not reduced."""
    draws = iter([b"\x01" + b"\xff" * 32, shamir.PRIME.to_bytes(33, "big"), (shamir.PRIME - 1).to_bytes(33, "big")])
    shares = shamir.split(bytes(32), threshold=2, points=(1, 2), entropy=lambda _: next(draws))
    assert int.from_bytes(shares[1], "big") == shamir.PRIME - 1


@pytest.mark.parametrize("share", [shamir.PRIME.to_bytes(33, "big"), bytes(32), bytes(34)], ids=["p", "short", "long"])
def test_what_is_no_field_element_is_refused(share: Any):
    """A share of another size, or not below the prime, is refused."""
    with pytest.raises(ProtocolError, match="expected a share of 33 bytes"):
        shamir.combine({1: share}, threshold=1)


def test_shares_of_no_32_byte_secret_are_refused():
    """Shares whose polynomial has a greater value at 0 are named as false."""
    with pytest.raises(ProtocolError, match="some of them are false"):
        shamir.combine({1: (2**256).to_bytes(33, "big")}, threshold=1)


@pytest.mark.parametrize(
    ("size", "threshold", "points"), [(31, 1, (1,)), (32, 3, (1, 2)), (32, 0, (1,)), (32, 1, (0, 1)), (32, 2, (1, 1))]
)
def test_misuse_of_split_is_refused(bench: Any, size: Any, threshold: Any, points: Any):
    """A wrong secret size, threshold, or points (0 would be the secret itself) is refused."""
    with pytest.raises(UsageError, match="expected"):
        shamir.split(bytes(size), threshold=threshold, points=points, entropy=bench.Drbg(0))
