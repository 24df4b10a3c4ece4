"""What a site remembers of a run, and its bytes.

Why it exists: a site that forgets what it sent could be made to mask one vector
twice under different keys. The caller seals and syncs these bytes before each
reply leaves (see `store`).

Rules:
    * The state is one frozen record; what a phase added is one nested record.
    * Secrets are fields here, because they must outlive the process; their `repr` is empty.
    * Ending an attempt drops every secret of it; marks and spent updates stay.

What it does not do: encrypt itself, or erase copies that Python's memory still holds.
"""

import enum
from dataclasses import dataclass, field, replace
from typing import Final

import msgspec

from fedmed.errors import IntegrityError, ProtocolError
from fedmed.records import require
from fedmed.secagg import wire
from fedmed.secagg.messages import Advert, Header, Offer, Turn, Upload

MAGIC: Final = b"FMSS"
VERSION: Final = 1
_LAST: Final = 2**63 - 1


class Phase(enum.Enum):
    """How far a site is in an attempt; the value is the name in messages and diagrams."""

    IDLE = "idle"
    ADVERTISED = "advertised"
    SHARED = "shared"
    MASKED = "masked"
    CERTIFIED = "certified"


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyPair:
    """The X25519 secrets behind one advert: c_sk and s_sk, 32 bytes each."""

    advert: Advert
    enc_secret: bytes = field(repr=False)
    mask_secret: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """The shares of one owner's b and s_sk that this site holds, 33 bytes each."""

    owner: str
    seed_share: bytes = field(repr=False)
    key_share: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Advertised:
    """After phase 0: the agreed terms and our keys."""

    offer: Offer
    pair: KeyPair


@dataclass(frozen=True, slots=True, kw_only=True)
class Dealt:
    """After phase 1: the adverts of U1, our header, our own shares, b, and the seed of the rounding."""

    adverts: tuple[Advert, ...]
    h1: bytes
    header: Header
    own: Held
    seed: bytes = field(repr=False)
    rounding: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Uploaded:
    """After phase 2: the headers of U2, the shares we hold, and what we uploaded."""

    headers: tuple[Header, ...]
    h2: bytes
    held: tuple[Held, ...]
    upload: Upload
    update_ids: tuple[bytes, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Certified:
    """After phase 3: the set of survivors, U3, and the hash we signed."""

    survivors: tuple[str, ...]
    h3: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientState:
    """All that a site remembers.

    `marks`: the highest turn per run. `spent`: ids of updates in certified sums. `answered`, `reply`:
    the hash of the last request and the bytes of its answer (empty for a masked vector, which is
    computed again). `early`: keys advertised for the next round.
    """

    marks: tuple[Turn, ...] = ()
    spent: tuple[bytes, ...] = ()
    early: KeyPair | None = None
    advertised: Advertised | None = None
    dealt: Dealt | None = None
    uploaded: Uploaded | None = None
    certified: Certified | None = None
    answered: bytes = b""
    reply: bytes = field(default=b"", repr=False)

    def __post_init__(self) -> None:
        steps = (self.advertised, self.dealt, self.uploaded, self.certified)
        present = [step is not None for step in steps]
        require(present == sorted(present, reverse=True), "a phase can't be reached without the one before")
        require(len({mark.run for mark in self.marks}) == len(self.marks), "a run has one mark")

    @property
    def phase(self) -> Phase:
        """How far the current attempt is."""
        steps = (self.advertised, self.dealt, self.uploaded, self.certified)
        return tuple(Phase)[sum(step is not None for step in steps)]

    @property
    def turn(self) -> Turn | None:
        """The current attempt, or None when idle."""
        return self.advertised.offer.turn if self.advertised else None

    def marked(self, turn: Turn) -> "ClientState":
        """Return the state with the mark of the turn's run raised to `turn`."""
        others = tuple(mark for mark in self.marks if mark.run != turn.run)
        return replace(self, marks=(*others, turn))

    def erased(self) -> "ClientState":
        """Return the state without the current attempt: no key, seed or share of it is left."""
        return ClientState(marks=self.marks, spent=self.spent, early=self.early)

    def ended(self, turn: Turn) -> "ClientState":
        """Return the state after `turn` failed here: what belonged to it is erased, and it can't come back."""
        state = self
        if self.early is not None and self.early.advert.turn == turn:
            state = replace(state, early=None).marked(turn)
        return state.erased() if state.turn == turn else state

    def finished(self, run: str) -> "ClientState":
        """Return the state after the run: nothing of it but a mark that no turn is above."""
        state = self
        if self.early is not None and self.early.advert.turn.run == run:
            state = replace(state, early=None)
        if self.turn is not None and self.turn.run == run:
            state = state.erased()
        return state.marked(Turn(run=run, round=_LAST, attempt=_LAST))


def dump(state: ClientState) -> bytes:
    """Return the bytes of `state`, in clear: seal them before they touch a disk.

    >>> load(dump(ClientState())) == ClientState()
    True
    """
    return MAGIC + bytes([VERSION]) + msgspec.msgpack.encode(state)


def load(data: bytes) -> ClientState:
    """Parse what `dump` gave.

    Raises:
        IntegrityError: The bytes are no state of this version.
    """
    if data[: len(MAGIC)] != MAGIC or len(data) <= len(MAGIC):
        raise IntegrityError("expected a stored secure aggregation state, got other bytes")
    if data[len(MAGIC)] != VERSION:
        raise IntegrityError(f"expected state version {VERSION}, got {data[len(MAGIC)]}; finish the run, then upgrade")
    try:
        return wire.unpack(memoryview(data)[len(MAGIC) + 1 :], ClientState)
    except ProtocolError as error:
        raise IntegrityError(str(error)) from None
