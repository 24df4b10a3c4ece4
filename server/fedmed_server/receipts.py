"""The receipts of one study at the coordinator: what each site signed for, and how each attempt was settled.

Why it exists: the coordinator can prove who took part without having learnt anything of it, and every site gets the
same word on how an attempt ended. Both lie in one hash-chained log beside the study's checkpoint.

Rules:
    * A site's participation is verified under the roster before its upload is added, and stored before the next one.
    * An attempt is settled once; the receipt is on disk before anybody gets it, and a restart hands out the same bytes.
    * A receipt goes to every site that was asked to mask in its attempt, with the next message that it gets.
    * Without a signer (a simulation, which has no coordinator's key) attempts are noted, not signed for.

What it does not do: decide how an attempt ends, or send anything.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from fedmed.audit import ChainLog, Entry, Scalar
from fedmed.errors import IntegrityError, ProtocolError
from fedmed.kits import moment
from fedmed.receipts import OPENING_BYTES, Signer, commitment, open_participation, uploads_digest
from fedmed.secagg.attempt import ServerState
from fedmed.secagg.masking import to_bytes
from fedmed.secagg.messages import Turn
from fedmed.secagg.roster import Roster
from fedmed.secagg.shamir import Entropy

RECEIPTS: Final = "receipts.jsonl"
"""In a study's own folder, beside its checkpoint."""
PARTICIPATED: Final = "participated"
SETTLED: Final = "settled"
ROSTER_USED: Final = "roster"


@dataclass(frozen=True, slots=True)
class StudyReceipts:
    """The log of one study; `signed_roster` is the roster's file, kept so that signatures can be verified later."""

    path: Path
    signer: Signer | None
    entropy: Entropy
    signed_roster: str = ""
    now: Callable[[], datetime] = lambda: datetime.now(UTC)

    def check(self, data: bytes, *, plan: str, turn: Turn, site: str, upload: bytes, roster: Roster) -> str:
        """Return a site's participation as text if the site signed for exactly this upload.

        Raises:
            ProtocolError: It did not, so the upload is not used.
        """
        try:
            found = open_participation(data, roster)
        except IntegrityError as error:
            raise ProtocolError(f"upload of {site}: expected its signed participation; {error}") from None
        if (found.plan, found.turn, found.site, found.upload) != (plan, turn, site, upload.hex()):
            raise ProtocolError(f"upload of {site}: expected its participation in {turn}, got one in another")
        return data.decode()

    def keep(self, participations: Sequence[str], *, turn: Turn) -> None:
        """Note what the sites of a phase signed for, before anything is built on it."""
        log = ChainLog(self.path)
        entries = log.entries()
        known = {one.body.get("statement") for one in entries if one.kind == PARTICIPATED}
        facts: list[tuple[str, Mapping[str, Scalar]]] = []
        rosters = [one.body.get("statement") for one in entries if one.kind == ROSTER_USED]
        if self.signed_roster and (not rosters or rosters[-1] != self.signed_roster):
            facts.append((ROSTER_USED, {"statement": self.signed_roster}))
        facts += [(PARTICIPATED, {**_place(turn), "statement": text}) for text in participations if text not in known]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        log.append_all(facts)

    def settle(self, state: ServerState, *, plan: str) -> None:
        """Settle an attempt that is over: summed if there is a sum, void otherwise; settled ones stay as they are.

        Args:
            state: The attempt. One that is not finished counts as void: it is not gone on with.
            plan: The plan's digest.
        """
        turn, sums = state.offer.turn, state.sums
        body: dict[str, Scalar] = {**_place(turn), "asked": " ".join(state.headers), "cohort": ""}
        opening = self.entropy(OPENING_BYTES) if sums else b""
        cohort = tuple(sorted(state.uploads)) if sums else ()
        uploads = {site: upload.digest for site, upload in state.uploads.items()}
        if sums:
            body |= {
                "cohort": " ".join(cohort),
                "uploads": uploads_digest(turn, uploads),
                "aggregate": commitment(turn, opening, [to_bytes(ring) for ring in sums]),
                "opening": opening.hex(),
            }

        def decide(entries: Sequence[Entry]) -> tuple[str, Mapping[str, Scalar]] | None:
            if any(one.kind == SETTLED and _is_of(one, turn) for one in reversed(entries)):
                return None
            if self.signer is None:
                return SETTLED, body
            statement = self.signer.sign(
                plan,
                turn,
                at=moment(self.now()),
                cohort=cohort,
                uploads=str(body.get("uploads", "")),
                aggregate=str(body.get("aggregate", "")),
            )
            return SETTLED, {**body, "statement": statement}

        self.path.parent.mkdir(parents=True, exist_ok=True)
        ChainLog(self.path).extend(decide)

    def owed(self) -> dict[str, bytes]:
        """Return, by site, the receipt of the last attempt in which it was asked to mask."""
        found: dict[str, bytes] = {}
        if self.signer is None:
            return found
        for entry in ChainLog(self.path).entries():
            if entry.kind == SETTLED and "statement" in entry.body:
                receipt = str(entry.body["statement"]).encode()
                found |= dict.fromkeys(str(entry.body["asked"]).split(), receipt)
        return found


def _place(turn: Turn) -> dict[str, Scalar]:
    return {"run": turn.run, "round": turn.round, "attempt": turn.attempt}


def _is_of(entry: Entry, turn: Turn) -> bool:
    return _place(turn).items() <= entry.body.items()
