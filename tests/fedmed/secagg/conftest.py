"""An in-memory consortium: real sites, a real coordinator, every message and state through its bytes."""

import hashlib
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedmed.secagg import client, masking, server, transcript, wire
from fedmed.secagg.attempt import Deadline, Outgoing, Phase, ServerState
from fedmed.secagg.masking import Contribution
from fedmed.secagg.messages import CoordinatorMessage, MaskRequest, Offer, SiteMessage, Turn
from fedmed.secagg.roster import Policy, Roster, RosterEntry, Segment
from fedmed.secagg.state import ClientState, dump, load

DELTA = Segment(name="delta", bits=32, kind="signed", clip=1.0, fraction_bits=20, max_length=1 << 20)
AUX = Segment(name="aux", bits=64, kind="integer", clip=2.0**40, fraction_bits=0, max_length=64)
FISHER = Segment(name="fisher", bits=32, kind="nonnegative", clip=1.0, fraction_bits=20, max_length=1 << 20)
HALF = Segment(name="half", bits=16, kind="signed", clip=1.0, fraction_bits=10, max_length=1 << 20)
SEGMENTS = (DELTA, AUX, FISHER, HALF)
LENGTHS = (7, 4, 5, 3)
MODEL = hashlib.sha256(b"model").digest()
NEVER = 5

Tamper = Callable[[str, object], object]


class Drbg:
    """A deterministic source of bytes for tests: SHA-256 in counter mode."""

    def __init__(self, seed: object) -> None:
        self.seed = repr(seed).encode()
        self.count = 0

    def __call__(self, size: int) -> bytes:
        """Return the next `size` bytes."""
        out = b""
        while len(out) < size:
            out += hashlib.sha256(self.seed + self.count.to_bytes(8, "big")).digest()
            self.count += 1
        return out[:size]


class Site:
    """One site: its keys, what it has stored, and all that it has sent."""

    def __init__(self, name: str, seed: object, lengths: tuple[int, ...]) -> None:
        self.name = name
        self.entropy = Drbg((seed, name))
        self.signing_key = Ed25519PrivateKey.from_private_bytes(self.entropy(32))
        self.stored = dump(ClientState())
        self.history: list[bytes] = []
        self.sent: list[bytes] = []
        self.model = MODEL
        self.encoded: tuple[masking.Ring, ...] = ()
        self.train(seed, lengths)

    def train(self, seed: object, lengths: tuple[int, ...] = LENGTHS) -> None:
        """Draw a new update."""
        rng = np.random.default_rng(int.from_bytes(transcript.digest("test", repr((seed, self.name)).encode())[:8]))
        delta, aux, fisher, half = lengths
        self.contribution = Contribution(
            weight=float(rng.integers(1, 100)),
            values={
                "delta": rng.normal(0, 0.5, delta),
                "aux": rng.integers(-1000, 1000, aux),
                "fisher": rng.normal(0.3, 0.5, fisher).astype(np.float32),
                "half": rng.normal(0, 0.5, half),
            },
        )

    @property
    def state(self) -> ClientState:
        """What this site would remember after a crash now."""
        return load(self.stored)

    def answer(self, message: CoordinatorMessage, roster: Roster, **changes: object) -> SiteMessage | None:
        """Take one step as an appliance would: parse, step, store, only then send."""
        message = wire.decode(wire.encode(message))
        arguments = {"contribution": self.contribution, "model": self.model, "entropy": self.entropy, **changes}
        state, reply = client.step(
            self.state, message, site=self.name, roster=roster, signing_key=self.signing_key, **arguments
        )
        self.stored = dump(state)
        self.history.append(self.stored)
        if isinstance(message, MaskRequest) and state.dealt is not None:
            self.encoded = self._encode(roster, state.advertised.offer, state.dealt.rounding)
        if reply is None:
            return None
        self.sent.append(wire.encode(reply))
        return wire.decode(self.sent[-1])

    def _encode(self, roster: Roster, offer: Offer, rounding: bytes) -> tuple[masking.Ring, ...]:
        policy = roster.policy
        return tuple(
            masking.encode(
                self.contribution.values[segment.name],
                segment,
                weight=self.contribution.weight,
                max_weight=policy.max_weight,
                rounding=rounding,
            )
            if length
            else masking.from_bytes(b"", segment, 0)
            for segment, length in zip(policy.segments, offer.lengths, strict=True)
        )


class Cohort:
    """A consortium of n sites and its coordinator."""

    def __init__(
        self,
        size: int,
        *,
        corrupt: int = 0,
        n_min: int | None = None,
        seed: object = 0,
        lengths: tuple[int, ...] = LENGTHS,
    ) -> None:
        width = len(str(size))
        self.names = tuple(f"site{index:0{width}}" for index in range(1, size + 1))
        self.lengths = lengths
        self.pending: tuple[Outgoing, ...] = ()
        self.sites = {name: Site(name, seed, lengths) for name in self.names}
        self.roster = Roster(
            serial=1,
            sites=tuple(
                RosterEntry(site=name, signing_key=site.signing_key.public_key().public_bytes_raw())
                for name, site in self.sites.items()
            ),
            policy=Policy(n_min=n_min or max(3, corrupt + 2), max_corrupt=corrupt, segments=SEGMENTS, max_weight=100.0),
        )

    def offer(self, *, round: int = 1, attempt: int = 0, **changes: object) -> Offer:  # noqa: A002  the field's noun
        """Return fair terms for all sites, with `changes`."""
        fair = Offer(
            turn=Turn(run="run", round=round, attempt=attempt),
            cohort=self.names,
            threshold=self.roster.policy.threshold_floor(len(self.names)),
            roster=self.roster.digest(),
            model=MODEL,
            lengths=self.lengths,
        )
        return replace(fair, **changes)

    def play(
        self,
        offer: Offer | None = None,
        *,
        drops: Mapping[str, int] | None = None,
        up: Tamper | None = None,
        down: Tamper | None = None,
        until: Phase | None = None,
        **arguments: object,
    ) -> ServerState:
        """Run an attempt; `drops`: the phase from which a site is silent; `up`, `down` change messages.

        With `until` it stops when that phase begins and leaves what is not delivered in `pending`.
        """
        drops = drops or {}
        state, out = server.begin(roster=self.roster, offer=offer or self.offer(), **arguments)
        queue = deque(out)
        while queue or state.phase not in (Phase.DONE, Phase.ABORTED):
            if state.phase is until:
                self.pending = tuple(queue)
                return state
            if not queue:
                state, out = server.step(state, Deadline())
                queue.extend(out)
                continue
            item = queue.popleft()
            message = down(item.site, item.message) if down else item.message
            index = wire.KINDS.index(type(message)) // 2 if message is not None else NEVER
            if message is None or drops.get(item.site, NEVER) <= index < NEVER:
                continue
            reply = self.sites[item.site].answer(message, self.roster)
            reply = up(item.site, reply) if up and reply is not None else reply
            if reply is not None:
                state, out = server.step(state, reply)
                queue.extend(out)
        return state

    def exact(self, sites: tuple[str, ...]) -> tuple[masking.Ring, ...]:
        """Return the ring sums of the encoded updates of `sites`."""
        columns = zip(*(self.sites[name].encoded for name in sites), strict=True)
        return tuple(sum(column[1:], start=column[0]) for column in columns)

    def assert_exact(self, state: ServerState) -> None:
        """Assert that the attempt gave the bit-equal sum of exactly the sites it names."""
        aggregate = server.result(state)
        for got, expected in zip(state.sums, self.exact(aggregate.sites), strict=True):
            assert got.tobytes() == expected.tobytes()


@pytest.fixture(scope="session")
def bench() -> SimpleNamespace:
    """Return the parts that tests build on."""
    return SimpleNamespace(
        Cohort=Cohort, Drbg=Drbg, DELTA=DELTA, AUX=AUX, FISHER=FISHER, HALF=HALF, LENGTHS=LENGTHS, MODEL=MODEL
    )
