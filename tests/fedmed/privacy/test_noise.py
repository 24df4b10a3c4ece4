"""Noise is normal, independent, unrepeatable, and fast enough to use for every parameter."""

import os

import numpy as np
import pytest
import torch
from scipy import stats

from fedmed.privacy.noise import NoiseSource, SeededNoise, SystemNoise

SOURCES = [SystemNoise(), SeededNoise(b"test")]


@pytest.mark.parametrize("source", SOURCES, ids=["system", "seeded"])
def test_normals_are_standard_normal(source: NoiseSource):
    """A Kolmogorov-Smirnov test and the first four moments agree with N(0, 1) (false alarm: about 1e-6)."""
    draws = source.normal(400_000)
    assert draws.dtype == np.float64
    assert stats.kstest(draws, "norm").pvalue > 1e-6
    assert abs(draws.mean()) < 5 / np.sqrt(400_000)
    assert abs(draws.var() - 1) < 5 * np.sqrt(2 / 400_000)
    assert abs(stats.skew(draws)) < 5 * np.sqrt(6 / 400_000)
    assert abs(stats.kurtosis(draws)) < 5 * np.sqrt(24 / 400_000)


@pytest.mark.parametrize("source", SOURCES, ids=["system", "seeded"])
def test_uniforms_are_uniform(source: NoiseSource):
    """Draws lie in [0, 1) and pass a Kolmogorov-Smirnov test."""
    draws = source.uniform(200_000)
    assert draws.min() >= 0
    assert draws.max() < 1
    assert stats.kstest(draws, "uniform").pvalue > 1e-6


@pytest.mark.parametrize("shape", [(), 0, 1, 3, (2, 3), (0, 4), (131_073,)])
def test_normals_come_in_any_shape(shape: int | tuple[int, ...]):
    """Odd sizes, empty sizes and sizes over a block are all served in full."""
    draws = SystemNoise().normal(shape)
    assert draws.shape == ((shape,) if isinstance(shape, int) else shape)
    assert np.isfinite(draws).all()


def test_halves_of_a_block_are_uncorrelated():
    """The sine and the cosine of one pair are independent, and so are neighbours."""
    draws = SeededNoise(b"pairs").normal(200_000)
    bound = 5 / np.sqrt(100_000)
    assert abs(np.corrcoef(draws[:65_536], draws[65_536:131_072])[0, 1]) < bound
    assert abs(np.corrcoef(draws[:-1], draws[1:])[0, 1]) < bound


def test_seeding_torch_and_numpy_does_not_repeat_system_noise():
    """Breach 5: sites that seed their generators alike still draw different noise."""
    drawn = []
    for _ in range(2):
        torch.manual_seed(0)
        np.random.seed(0)
        drawn.append((SystemNoise().normal(4), SystemNoise().uniform(4)))
    assert not np.array_equal(drawn[0][0], drawn[1][0])
    assert not np.array_equal(drawn[0][1], drawn[1][1])


def test_a_forked_process_does_not_repeat_its_parent():
    """The source has no state that a fork could copy."""
    source = SystemNoise()
    source.normal(2)
    assert not vars(source)


def test_system_noise_takes_a_fresh_key_for_every_call(monkeypatch: pytest.MonkeyPatch):
    """256 bits from the operating system per call."""
    asked: list[int] = []
    real = os.urandom

    def counted(size: int) -> bytes:
        asked.append(size)
        return real(size)

    monkeypatch.setattr("fedmed.privacy.noise.os.urandom", counted)
    source = SystemNoise()
    source.normal(3)
    source.uniform(3)
    assert asked == [32, 32]


def test_seeded_noise_repeats_and_goes_on():
    """The same key gives the same stream; later draws differ from earlier ones."""
    one, other = SeededNoise(b"key"), SeededNoise(b"key")
    assert np.array_equal(one.normal(5), other.normal(5))
    assert np.array_equal(one.uniform(5), other.uniform(5))
    assert not np.array_equal(one.normal(5), SeededNoise(b"key").normal(5))
    assert not np.array_equal(one.normal(5), SeededNoise(b"yek").normal(5))


def test_seeded_uniforms_do_not_depend_on_normals():
    """Without noise the same records are sampled as with it."""
    with_noise, without = SeededNoise(b"key"), SeededNoise(b"key")
    with_noise.normal(1000)
    assert np.array_equal(with_noise.uniform(5), without.uniform(5))


def test_normals_are_four_draws_halved():
    """The sum of four Box-Muller draws, halved: the defence against floating-point attacks."""
    from fedmed.privacy import noise  # noqa: PLC0415  the test looks inside

    stream = noise._keystream(bytes(32))
    expected = sum(noise._box_muller(stream, 4) for _ in range(4)) / 2
    assert np.array_equal(noise._normals(noise._keystream(bytes(32)), 8), expected)


def test_the_key_stream_is_aes_256_ctr():
    """The first block is the AES-256 encryption of the zero counter under the zero key (NIST AESAVS)."""
    from fedmed.privacy import noise  # noqa: PLC0415  the test looks inside

    assert noise._words(noise._keystream(bytes(32)), 2).astype("<u8").tobytes().hex() == (
        "dc95c078a2408989ad48a21492842087"
    )
