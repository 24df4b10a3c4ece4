"""The current attempt of secure aggregation on disk, so that a restarted coordinator takes it up.

Why it exists: a site answers a phase once and then only repeats its bytes; a
coordinator that forgot what it had would have to ask every site to train again.

Rules:
    * One attempt is kept, the latest. Its vectors stand apart, because they change only twice.
    * Vectors are written before the record that needs them; each file is replaced atomically.
    * Nothing here is secret from the coordinator: sums of masked vectors, adverts, sealed boxes, signatures.

What it does not do: decide whether an attempt may go on.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fedmed.errors import IntegrityError
from fedmed.files import write_atomic
from fedmed.records import canonical_json, decode, require
from fedmed.secagg import wire
from fedmed.secagg.attempt import Fault, Outgoing, Phase, ServerState
from fedmed.secagg.masking import Ring
from fedmed.secagg.messages import (
    Abort,
    Advert,
    Box,
    Certificate,
    CertifyRequest,
    Finish,
    Header,
    MaskRequest,
    Offer,
    ShareRequest,
    Turn,
    Unmasked,
    UnmaskRequest,
    Upload,
)
from fedmed.secagg.roster import Roster
from fedmed.tensors import pack, unpack

VERSION: Final = 1
_REQUESTS = (Offer, ShareRequest, MaskRequest, CertifyRequest, UnmaskRequest, Abort, Finish)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Letter:
    site: str
    message: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class _Record:
    """An attempt without its vectors, and the messages that were about to leave."""

    version: int
    roster: bytes
    offer: Offer
    pipeline: bool
    phase: Phase
    adverts: dict[str, Advert]
    headers: dict[str, Header]
    boxes: dict[str, tuple[Box, ...]]
    uploads: dict[str, Upload]
    certificates: dict[str, Certificate]
    unmasked: dict[str, Unmasked]
    early: dict[str, Advert]
    h1: bytes
    h2: bytes
    h3: bytes
    out: tuple[str, ...]
    faults: tuple[Fault, ...]
    failure: str
    vectors: int
    outgoing: tuple[_Letter, ...]

    def __post_init__(self) -> None:
        require(self.version == VERSION, f"version must be {VERSION}, got {self.version}")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Head:
    """What stands before stored vectors."""

    turn: Turn


class AttemptStore:
    """The stored attempt of one study."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._kept = ""

    def save(self, state: ServerState, outgoing: tuple[Outgoing, ...]) -> None:
        """Replace the stored attempt; return when it is on disk.

        Raises:
            OSError: The disk is full or the folder is not writable; the old attempt stays.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        vectors = state.sums or state.totals
        name = _vectors_name(state.phase)
        if vectors and self._kept != f"{state.offer.turn} {name}":
            arrays = {str(place): ring for place, ring in enumerate(vectors)}
            write_atomic(self._folder / name, pack(_Head(turn=state.offer.turn), arrays))
            self._kept = f"{state.offer.turn} {name}"
        write_atomic(self._record_path, canonical_json(_record(state, outgoing, vectors=len(vectors))))

    def load(self, roster: Roster) -> tuple[ServerState, tuple[Outgoing, ...]] | None:
        """Return the stored attempt and what was about to leave, or None where there is none under this roster.

        Raises:
            IntegrityError: What is stored is damaged.
        """
        if not self._record_path.is_file():
            return None
        record = self._read()
        if record.roster != roster.digest():
            return None
        vectors = self._vectors(record)
        finished = record.phase is Phase.DONE
        state = ServerState(
            roster=roster,
            offer=record.offer,
            pipeline=record.pipeline,
            phase=record.phase,
            adverts=record.adverts,
            headers=record.headers,
            boxes=record.boxes,
            uploads=record.uploads,
            certificates=record.certificates,
            unmasked=record.unmasked,
            early=record.early,
            totals=() if finished else vectors,
            sums=vectors if finished else (),
            h1=record.h1,
            h2=record.h2,
            h3=record.h3,
            out=frozenset(record.out),
            faults=record.faults,
            failure=record.failure,
        )
        return state, tuple(_outgoing(letter) for letter in record.outgoing)

    def clear(self) -> None:
        """Forget the attempt: the study is over."""
        for path in (self._record_path, *(self._folder / _vectors_name(phase) for phase in Phase)):
            path.unlink(missing_ok=True)

    def _read(self) -> _Record:
        try:
            return decode(self._record_path.read_bytes(), _Record)
        except IntegrityError as error:
            raise IntegrityError(
                f"{self._record_path}: expected the stored attempt of secure aggregation, got a file that is damaged or"
                " of another version; restore it from a backup, or remove it; should the sites then refuse the round as"
                " begun before, start the study as a new one"
            ) from error

    def _vectors(self, record: _Record) -> tuple[Ring, ...]:
        if not record.vectors:
            return ()
        path = self._folder / _vectors_name(record.phase)
        head, arrays = unpack(path.read_bytes() if path.is_file() else b"", _Head)
        if head.turn != record.offer.turn or len(arrays) != record.vectors:
            raise IntegrityError(
                f"the stored sums of {record.offer.turn} are of another attempt; remove {self._folder}"
            )
        return tuple(arrays[str(place)] for place in range(record.vectors))

    @property
    def _record_path(self) -> Path:
        return self._folder / "attempt.json"


def _vectors_name(phase: Phase) -> str:
    return "sums.tensors" if phase is Phase.DONE else "totals.tensors"


def _record(state: ServerState, outgoing: tuple[Outgoing, ...], *, vectors: int) -> _Record:
    return _Record(
        version=VERSION,
        roster=state.roster.digest(),
        offer=state.offer,
        pipeline=state.pipeline,
        phase=state.phase,
        adverts=dict(state.adverts),
        headers=dict(state.headers),
        boxes=dict(state.boxes),
        uploads=dict(state.uploads),
        certificates=dict(state.certificates),
        unmasked=dict(state.unmasked),
        early=dict(state.early),
        h1=state.h1,
        h2=state.h2,
        h3=state.h3,
        out=tuple(sorted(state.out)),
        faults=state.faults,
        failure=state.failure,
        vectors=vectors,
        outgoing=tuple(_Letter(site=item.site, message=wire.encode(item.message)) for item in outgoing),
    )


def _outgoing(letter: _Letter) -> Outgoing:
    message = wire.decode(letter.message)
    if not isinstance(message, _REQUESTS):
        raise IntegrityError(f"expected a stored request to {letter.site}, got {type(message).__name__}")
    return Outgoing(site=letter.site, message=message)
