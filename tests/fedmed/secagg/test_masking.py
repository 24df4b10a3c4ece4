"""Encoding, masks and decoding: exact in the ring, unbiased in the reals, and nothing else."""

import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fedmed.errors import ProtocolError, RefusedError
from fedmed.secagg import masking
from fedmed.secagg.masking import Contribution

EDGES = [1, 2, 16383, 16384, 16385, 32768, 65537, 131072 + 3]


def encode(values: Any, segment: Any, *, weight: Any = 1.0, max_weight: Any = 1.0, seed: Any = b"r" * 32):
    """Encode with defaults."""
    return masking.encode(values, segment, weight=weight, max_weight=max_weight, rounding=seed)


@settings(deadline=None)
@given(
    values=hnp.arrays(np.float64, st.integers(1, 40), elements=st.floats(-3, 3)),
    weight=st.floats(0.01, 1),
    seed=st.binary(min_size=32, max_size=32),
)
def test_decoding_an_encoding_is_within_one_step(bench: Any, values: Any, weight: Any, seed: Any):
    """decode(encode(x)) is the clipped w~ x to less than 2^-f."""
    ring = encode(values, bench.DELTA, weight=weight, seed=seed)
    error = masking.decode(ring, bench.DELTA) - np.clip(values * weight, -1, 1)
    assert np.abs(error).max() <= 2.0**-bench.DELTA.fraction_bits


@settings(deadline=None)
@given(
    seeds=st.lists(st.binary(min_size=32, max_size=32), min_size=1, max_size=4),
    name=st.sampled_from(["DELTA", "AUX", "HALF"]),
    length=st.sampled_from(EDGES),
    fill=st.integers(0, 2**16 - 1),
)
def test_unmasking_a_masked_vector_gives_it_back(bench: Any, seeds: Any, name: Any, length: Any, fill: Any):
    """Masks come off in any order, in every ring, at sizes around the chunks."""
    segment = getattr(bench, name)
    ring = np.full(length, fill, dtype=masking.ring_type(segment.bits))
    for seed in seeds:
        masking.add_mask(ring, seed, segment)
    for seed in reversed(seeds):
        masking.subtract_mask(ring, seed, segment)
    assert (ring == fill).all()


@pytest.mark.parametrize("length", EDGES)
@pytest.mark.parametrize("name", ["DELTA", "AUX", "HALF"])
def test_a_mask_is_the_documented_keystream(bench: Any, name: Any, length: Any):
    """The mask is AES-256-CTR from a zero counter, under HKDF-Expand(seed, "prg", name, bits, length)."""
    segment = getattr(bench, name)
    info = b"FedMed-SA/v1/prg\0" + b"".join(
        len(part).to_bytes(8, "big") + part
        for part in (segment.name.encode(), segment.bits.to_bytes(8, "big"), length.to_bytes(8, "big"))
    )
    key = HKDFExpand(algorithm=SHA256(), length=32, info=info).derive(b"s" * 32)
    stream = Cipher(AES(key), CTR(bytes(16))).encryptor().update(bytes(length * segment.bits // 8))
    ring = np.zeros(length, dtype=masking.ring_type(segment.bits))
    masking.add_mask(ring, b"s" * 32, segment)
    assert ring.tobytes() == stream


def test_masks_of_different_segments_and_seeds_have_nothing_in_common(bench: Any):
    """Name, width, length and seed each give another keystream."""
    wide = replace(bench.DELTA, bits=64)
    streams = []
    for segment, size, seed in [
        (bench.DELTA, 64, b"a" * 32),
        (bench.DELTA, 66, b"a" * 32),
        (bench.FISHER, 64, b"a" * 32),
        (wide, 32, b"a" * 32),
        (bench.DELTA, 64, b"b" * 32),
    ]:
        ring = np.zeros(size, dtype=masking.ring_type(segment.bits))
        masking.add_mask(ring, seed, segment)
        streams.append(ring.tobytes()[:32])
    assert len(set(streams)) == len(streams)


@pytest.mark.parametrize("fraction", [0.1, 0.5, 0.9])
def test_rounding_is_stochastic_and_unbiased(bench: Any, fraction: Any):
    """The mean of many encodings of one value between two steps is the value, to five standard errors."""
    count, step = 200_000, 2.0**-bench.DELTA.fraction_bits
    decoded = masking.decode(encode(np.full(count, fraction * step), bench.DELTA), bench.DELTA) / step
    assert set(np.unique(decoded)) == {0.0, 1.0}
    assert abs(decoded.mean() - fraction) < 5 * np.sqrt(fraction * (1 - fraction) / count)


def test_rounding_differs_between_seeds_and_positions(bench: Any):
    """The same value rounds independently in other rounds and at other places."""
    values = np.full(4096, 2.0 ** -(bench.DELTA.fraction_bits + 1))
    first, second = (encode(values, bench.DELTA, seed=seed).astype(float) for seed in (b"a" * 32, b"b" * 32))
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.1
    assert abs(np.corrcoef(first[1:], first[:-1])[0, 1]) < 0.1


def test_the_error_of_a_weighted_mean_keeps_its_bound(bench: Any):
    """Over many coordinates the rms error is within the bound and no error passes the maximum."""
    rng = np.random.default_rng(5)
    weights = rng.uniform(0.2, 1, 20)
    inputs = rng.normal(0, 0.2, (20, 20_000))
    rings = [
        encode(x, bench.DELTA, weight=w, seed=bytes([i]) * 32)
        for i, (w, x) in enumerate(zip(weights, inputs, strict=True))
    ]
    mean = masking.decode(sum(rings[1:], start=rings[0]), bench.DELTA) / weights.sum()
    error = (
        mean - (weights[:, None] * np.clip(inputs * weights[:, None], -1, 1) / weights[:, None]).sum(0) / weights.sum()
    )
    bound = masking.error_bound(bench.DELTA, sites=20, weight_sum=weights.sum())
    assert np.sqrt((error**2).mean()) <= bound.rms * 1.01
    assert np.abs(error).max() <= bound.maximum


def test_the_shipped_scale_holds_a_hundred_sites(bench: Any):
    """K = 32, f = 24, C = 1 has headroom for 100 sites at the extreme values, and not for 128."""
    segment = replace(bench.DELTA, fraction_bits=24)
    assert segment.has_headroom(100)
    assert not segment.has_headroom(128)
    for sign in (1.0, -1.0):
        ring = encode(np.full(3, sign * 9.0), segment)
        total = sum([ring] * 99, start=ring)
        assert np.allclose(masking.decode(total, segment), sign * 100, atol=100 * 2.0**-24)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["DELTA", "FISHER", "HALF"])
@pytest.mark.parametrize("place", [0, 20_000])
def test_a_value_that_is_not_finite_is_refused(bench: Any, bad: Any, name: Any, place: Any):
    """NaN and infinities are refused, wherever they stand; the message does not show the value."""
    values = np.zeros(20_001, dtype=np.float32)
    values[place] = bad
    with pytest.raises(RefusedError, match="expected finite values, got one that is not"):
        encode(values, getattr(bench, name))


def test_a_nonnegative_segment_is_clipped_at_zero(bench: Any):
    """Fisher information below zero, which only noise makes, counts as zero."""
    decoded = masking.decode(encode(np.array([-0.7, 0.25, 4.0]), bench.FISHER), bench.FISHER)
    assert np.allclose(decoded, [0, 0.25, 1], atol=1e-6)


def test_whole_numbers_are_exact_and_signed(bench: Any):
    """Counts go through unchanged, without weight or rounding."""
    values = np.array([0, 5, -7, 2**40, -(2**40)])
    assert (masking.decode(encode(values, bench.AUX, weight=0.3), bench.AUX) == values).all()


@pytest.mark.parametrize("values", [np.array([2**40 + 1]), np.array([-(2**40) - 1]), np.array([1.5])])
def test_whole_numbers_out_of_range_are_refused(bench: Any, values: Any):
    """A count beyond the clip, or no whole number at all, is refused rather than clipped."""
    with pytest.raises(RefusedError, match="expected whole numbers"):
        encode(values, bench.AUX)


@pytest.mark.parametrize("weight", [0.0, -1.0, 1.01, np.nan, np.inf])
def test_a_weight_outside_the_policy_is_refused_without_showing_it(bench: Any, weight: Any):
    """A weight must be above 0 and at most W_max; the message keeps it to itself."""
    with pytest.raises(RefusedError, match="within the policy's max_weight") as error:
        encode(np.zeros(2), bench.DELTA, weight=weight)
    assert str(weight) not in str(error.value)


def test_a_matrix_is_refused(bench: Any):
    """Values have one dimension."""
    with pytest.raises(RefusedError, match="expected one dimension, got 2"):
        encode(np.zeros((2, 2)), bench.DELTA)


def test_ring_bytes_of_another_size_are_refused(bench: Any):
    """An upload that is too short or too long is refused."""
    with pytest.raises(ProtocolError, match="segment delta: expected 12 bytes, got 11"):
        masking.from_bytes(bytes(11), bench.DELTA, 3)


def test_the_id_of_an_update_ignores_weight_width_and_sign_of_zero(bench: Any):
    """What is the same update to a thief has the same id; counts have none."""
    base = {"delta": np.array([0.0, 0.5]), "aux": np.array([3])}
    same = {"delta": np.array([-0.0, 0.5], dtype=np.float32), "aux": np.array([4])}
    segments = (bench.DELTA, bench.AUX)
    first = masking.update_ids(Contribution(weight=1.0, values=base), segments)
    assert first == masking.update_ids(Contribution(weight=2.0, values=same), segments)
    assert len(first) == 1
    other = masking.update_ids(Contribution(weight=1.0, values={**base, "delta": np.array([0.0, 0.5000001])}), segments)
    assert first != other


def test_a_contribution_shows_nothing_when_logged():
    """The argument that holds weight and values prints neither."""
    assert repr(Contribution(weight=47.0, values={"delta": np.array([1.25])})) == "Contribution()"


@pytest.mark.slow
def test_masking_keeps_up_with_the_cipher(bench: Any):
    """Mask and add run at 3 GB/s of one core, or at 0.35 of this core's copy speed where that is less."""
    ring = np.zeros(4_000_000, dtype="<u4")
    source = np.ones_like(ring)

    def rate(work: Any) -> float:
        best = 0.0
        for _ in range(5):
            start = time.process_time()
            work()
            best = max(best, ring.nbytes / (time.process_time() - start))
        return best

    copy = rate(lambda: np.copyto(ring, source))
    mask = rate(lambda: masking.add_mask(ring, b"s" * 32, bench.DELTA))
    assert mask >= min(3e9, 0.35 * copy)
