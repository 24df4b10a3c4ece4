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
from fedmed.secagg.roster import Segment

FIRST_BLOCK = (2).to_bytes(16, "big")
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
    stream = Cipher(AES(key), CTR(FIRST_BLOCK)).encryptor().update(bytes(length * segment.bits // 8))
    ring = np.zeros(length, dtype=masking.ring_type(segment.bits))
    masking.add_mask(ring, b"s" * 32, segment)
    assert ring.tobytes() == stream


@pytest.mark.parametrize("length", EDGES)
def test_masks_applied_together_are_those_applied_one_by_one(bench: Any, length: Any):
    """Going over all masks a chunk at a time gives the same ring as one mask after the other."""
    seeds = [bytes([i]) * 32 for i in range(5)]
    together, single = (np.arange(length, dtype="<u4") for _ in range(2))
    masking.apply_masks(together, bench.DELTA, added=seeds[:2], subtracted=seeds[2:])
    for seed in seeds[:2]:
        masking.add_mask(single, seed, bench.DELTA)
    for seed in seeds[2:]:
        masking.subtract_mask(single, seed, bench.DELTA)
    assert (together == single).all()


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


@pytest.mark.parametrize("name", ["DELTA", "HALF"])
def test_the_error_of_a_weighted_mean_keeps_its_bound(bench: Any, name: Any):
    """Over many coordinates the rms error is within the bound and no error passes the maximum, at 32 and 16 bits."""
    segment = getattr(bench, name)
    rng = np.random.default_rng(5)
    weights = rng.uniform(0.2, 1, 20)
    inputs = rng.normal(0, 0.2, (20, 20_000))
    rings = [
        encode(x, segment, weight=w, seed=bytes([i]) * 32) for i, (w, x) in enumerate(zip(weights, inputs, strict=True))
    ]
    mean = masking.decode(sum(rings[1:], start=rings[0]), segment) / weights.sum()
    error = (
        mean - (weights[:, None] * np.clip(inputs * weights[:, None], -1, 1) / weights[:, None]).sum(0) / weights.sum()
    )
    bound = masking.error_bound(segment, sites=20, weight_sum=weights.sum())
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


@pytest.mark.parametrize(("sites", "fraction", "clip"), [(3, 12, 2.666), (15, 11, 1.0), (100, 8, 1.27)])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_sixteen_bits_are_exact_up_to_the_headroom(sites: Any, fraction: Any, clip: Any, sign: Any):
    """As many sites as have headroom may all send the extreme: the sum does not wrap and keeps its error bound."""
    segment = Segment(name="half", bits=16, kind="signed", clip=clip, fraction_bits=fraction, max_length=1000)
    assert segment.has_headroom(sites)
    assert not segment.has_headroom(sites + 1)
    rings = [encode(np.full(1000, sign * 9.0, dtype=np.float32), segment, seed=bytes([i]) * 32) for i in range(sites)]
    assert all(ring.dtype == np.dtype("<u2") for ring in rings)
    total = masking.decode(sum(rings[1:], start=rings[0]), segment)
    assert np.abs(total - sign * sites * clip).max() <= sites * 2.0**-fraction
    mean = total / sites
    bound = masking.error_bound(segment, sites=sites, weight_sum=sites)
    assert np.sqrt(((mean - sign * clip) ** 2).mean()) <= bound.rms * 1.01


def test_without_headroom_sixteen_bits_wrap():
    """The headroom that a policy asks for is no formality: beyond it the sum of the extremes changes its sign."""
    segment = Segment(name="half", bits=16, kind="signed", clip=2.67, fraction_bits=12, max_length=1)
    assert not segment.has_headroom(3)
    rings = [encode(np.full(1, 9.0), segment, seed=bytes([i]) * 32) for i in range(3)]
    assert masking.decode(sum(rings[1:], start=rings[0]), segment)[0] < 0


@pytest.mark.parametrize("length", EDGES)
def test_encoding_and_masking_in_one_go_is_what_the_steps_give(bench: Any, length: Any):
    """Going through the vector once gives the bytes of encoding, then noise, then masks."""
    generator = np.random.default_rng(length)
    values, noise = generator.normal(0, 0.3, length), generator.integers(-9, 9, length)
    contribution = Contribution(weight=0.5, values={"delta": values}, noise={"delta": noise})
    whole = masking.encode_masked(
        contribution, bench.DELTA, max_weight=1.0, rounding=b"r" * 32, added=[b"a" * 32], subtracted=[b"s" * 32]
    )
    steps = encode(values, bench.DELTA, weight=0.5)
    masking.add_noise(steps, noise)
    masking.add_mask(steps, b"a" * 32, bench.DELTA)
    masking.subtract_mask(steps, b"s" * 32, bench.DELTA)
    assert (whole == steps).all()


@pytest.mark.parametrize("noise", [np.zeros(9, dtype=np.int64), np.zeros(10, dtype=np.int32)])
def test_noise_of_another_shape_or_kind_is_refused(bench: Any, noise: Any):
    """A share of noise that doesn't fit the vector never goes into it in part."""
    contribution = Contribution(weight=0.5, values={"delta": np.zeros(10)}, noise={"delta": noise})
    with pytest.raises(RefusedError, match="expected int64 of shape"):
        masking.encode_masked(contribution, bench.DELTA, max_weight=1.0, rounding=b"r" * 32, added=[], subtracted=[])


@pytest.mark.parametrize("length", EDGES)
@pytest.mark.parametrize(("name", "low"), [("DELTA", -1.0), ("FISHER", 0.0), ("HALF", -1.0)])
@pytest.mark.parametrize("width", [np.float32, np.float64])
def test_an_encoding_is_the_documented_one(bench: Any, length: Any, name: Any, low: Any, width: Any):
    """An element is floor(clip(w~ x, C) 2^f + U), U from the documented keystream in 16 bits, to the last bit."""
    segment, share = getattr(bench, name), 0.37
    values = np.random.default_rng(length).normal(0, 1.5, length).astype(width)
    info = b"FedMed-SA/v1/round\0" + b"".join(
        len(part).to_bytes(8, "big") + part
        for part in (segment.name.encode(), segment.bits.to_bytes(8, "big"), length.to_bytes(8, "big"))
    )
    key = HKDFExpand(algorithm=SHA256(), length=32, info=info).derive(b"r" * 32)
    words = np.frombuffer(Cipher(AES(key), CTR(FIRST_BLOCK)).encryptor().update(bytes(2 * length)), dtype="<u2")
    scaled = np.clip(share * values.astype(np.float64), low, 1) * 2.0**segment.fraction_bits
    expected = np.floor(scaled + words * 2.0**-16).astype(np.int64).astype(masking.ring_type(segment.bits))
    assert (encode(values, segment, weight=share) == expected).all()


def test_the_largest_finite_values_are_clipped(bench: Any):
    """A value whose scaled form would overflow is finite, hence clipped and not refused."""
    values = np.array([1.7e308, -1.7e308, 0.0])
    assert masking.decode(encode(values, bench.DELTA), bench.DELTA).tolist() == [1.0, -1.0, 0.0]


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


def test_the_id_of_an_update_depends_on_every_value_and_its_place(bench: Any):
    """One changed value, two swapped ones, a value more, or another segment: each gives another id."""
    base = np.random.default_rng(2).normal(0, 1, 70_000).astype(np.float32)
    last, swapped = base.copy(), base.copy()
    last[-1] = np.nextafter(last[-1], np.float32(9))
    swapped[[0, 40_000]] = swapped[[40_000, 0]]
    variants = [base, last, swapped, np.append(base, np.float32(0)), base[:-1]]
    ids = [masking.update_ids(Contribution(weight=1.0, values={"delta": x}), (bench.DELTA,)) for x in variants]
    ids.append(masking.update_ids(Contribution(weight=1.0, values={"half": base}), (bench.HALF,)))
    assert len(set(ids)) == len(ids)
    assert all(len(item) == 32 for (item,) in ids)


@pytest.mark.parametrize("value", [-1e-60, 1e-60, 1e300, np.nan, 0.1])
def test_the_id_of_an_update_is_that_of_its_float32_values(bench: Any, value: Any):
    """Values too small, too large or too fine for float32 have the id of what float32 makes of them."""
    with np.errstate(over="ignore"):
        narrow = np.array([value, 0.5]).astype(np.float32)
    ids = [
        masking.update_ids(Contribution(weight=1.0, values={"delta": x}), (bench.DELTA,))
        for x in (np.array([value, 0.5]), narrow)
    ]
    assert ids[0] == ids[1]


def test_ring_bytes_are_views_that_nobody_can_write_to(bench: Any):
    """The bytes of a ring and the ring of some bytes share memory, read-only: a long vector is held once."""
    ring = np.arange(6, dtype="<u4")
    data = masking.to_bytes(ring)
    assert data == np.arange(6, dtype="<u4").tobytes()
    again = masking.from_bytes(data, bench.DELTA, 6)
    assert np.shares_memory(again, ring)
    writable = masking.from_bytes(bytearray(24), bench.DELTA, 6)
    for view in (ring, again, writable):
        with pytest.raises(ValueError, match="read-only"):
            view[0] = 1
    assert masking.to_bytes(np.empty(0, dtype="<u4")) == b""


def test_a_contribution_shows_nothing_when_logged():
    """The argument that holds weight, values and noise prints none of them."""
    contribution = Contribution(weight=47.0, values={"delta": np.array([1.25])}, noise={"delta": np.array([8])})
    assert repr(contribution) == "Contribution(editions={})"


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
