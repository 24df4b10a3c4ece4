"""Where noise and sampling come from: AES-256-CTR through Box-Muller in float64.

Why it exists: differential privacy holds only while nobody can guess or repeat the
noise. Two sites that were both given `torch.manual_seed(0)` would draw the same.

Rules:
    * Every normal is the sum of four independent draws, halved, which defeats attacks on
      the gaps of floating-point numbers (Holohan and Braghin, arXiv:2107.10138, with n = 2).
    * `SystemNoise` takes a fresh key from the operating system for every call: it has no
      state to seed, copy, fork or leak.
    * Sampling draws never share a key stream with normals, so switching the noise off
      leaves the sampled records the same under `SeededNoise`.
    * `SeededNoise` is for simulation: whoever knows its key can remove its noise.

What it does not do: scale noise or know about clip norms.
"""

import hashlib
import math
import os
from typing import Protocol, TypeAlias

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]
Words: TypeAlias = NDArray[np.uint64]

_DRAWS = 4
_BLOCK_PAIRS = 1 << 16
"""Box-Muller works in blocks that stay in the processor's cache."""


class NoiseSource(Protocol):
    """A source of independent standard normals and uniforms."""

    def normal(self, shape: int | tuple[int, ...]) -> Floats:
        """Return independent draws from N(0, 1)."""
        ...

    def uniform(self, count: int) -> Floats:
        """Return `count` independent draws, uniform on the multiples of 2^-53 in [0, 1)."""
        ...


class SystemNoise:
    """Noise from the operating system's cryptographic random source; nobody can repeat it."""

    def normal(self, shape: int | tuple[int, ...]) -> Floats:
        """Return independent draws from N(0, 1), under a fresh key."""
        return _normals(_keystream(os.urandom(32)), shape)

    def uniform(self, count: int) -> Floats:
        """Return `count` independent draws from [0, 1), under a fresh key."""
        return _uniforms(_keystream(os.urandom(32)), count)


class SeededNoise:
    """Repeatable noise for simulations and tests; it protects nobody from who knows the key.

    >>> SeededNoise(b"site 1").uniform(2) == SeededNoise(b"site 1").uniform(2)
    array([ True,  True])
    """

    def __init__(self, key: bytes) -> None:
        self._normals = _keystream(hashlib.sha256(b"fedmed noise v1 normal\0" + key).digest())
        self._uniforms = _keystream(hashlib.sha256(b"fedmed noise v1 uniform\0" + key).digest())

    def normal(self, shape: int | tuple[int, ...]) -> Floats:
        """Return the next draws from N(0, 1)."""
        return _normals(self._normals, shape)

    def uniform(self, count: int) -> Floats:
        """Return the next `count` draws from [0, 1)."""
        return _uniforms(self._uniforms, count)


def _keystream(key: bytes) -> CipherContext:
    return Cipher(AES256(key), CTR(bytes(16))).encryptor()


def _words(stream: CipherContext, count: int) -> Words:
    return np.frombuffer(stream.update(bytes(8 * count)), dtype="<u8").astype(np.uint64, copy=False)


def _uniforms(stream: CipherContext, count: int) -> Floats:
    return (_words(stream, count) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _normals(stream: CipherContext, shape: int | tuple[int, ...]) -> Floats:
    size = shape if isinstance(shape, int) else math.prod(shape)
    out = np.empty(size, dtype=np.float64)
    for start in range(0, size, 2 * _BLOCK_PAIRS):
        block = out[start : start + 2 * _BLOCK_PAIRS]
        pairs = (len(block) + 1) // 2
        total = _box_muller(stream, pairs)
        for _ in range(_DRAWS - 1):
            total += _box_muller(stream, pairs)
        np.multiply(total[: len(block)], 0.5, out=block)
    return out.reshape(shape)


def _box_muller(stream: CipherContext, pairs: int) -> Floats:
    """Return 2 * `pairs` standard normals; the radius' uniform lies in (0, 1], so its logarithm is finite."""
    uniforms = _uniforms(stream, 2 * pairs)
    radius = np.sqrt(-2.0 * np.log(1.0 - uniforms[:pairs]))
    angle = (2.0 * math.pi) * uniforms[pairs:]
    return np.concatenate((radius * np.cos(angle), radius * np.sin(angle)))
