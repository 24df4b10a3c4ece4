"""Keys and masks that repeat: for a simulation whose bytes must be the same twice.

Why it exists: stochastic rounding draws from the site's generator, so a run that must
repeat needs one that repeats. Whoever knows the seed can remove every mask, so this
exists only here, in the simulation, and only under `privacy.noise=simulated-seed`.

Rules:
    * The stream follows from seed, site and request, so it does not depend on what happened before.

What it does not do: protect anybody.
"""

import hashlib
from dataclasses import dataclass, field

from fedmed.secagg.shamir import Entropy


@dataclass(frozen=True, slots=True)
class SimulatedEntropy:
    """Gives each request at each site its own repeatable stream."""

    seed: int

    def __call__(self, site: str, request: bytes) -> Entropy:
        """Return the stream for `request` at `site`."""
        head = b"FedMed-simulated-entropy/v1\0" + self.seed.to_bytes(8, "big")
        return _Stream(hashlib.sha256(head + site.encode() + b"\0" + request).digest())


@dataclass(slots=True)
class _Stream:
    """SHA-256 in counter mode."""

    key: bytes = field(repr=False)
    blocks: int = 0

    def __call__(self, size: int) -> bytes:
        found = b""
        while len(found) < size:
            found += hashlib.sha256(self.key + self.blocks.to_bytes(8, "big")).digest()
            self.blocks += 1
        return found[:size]
