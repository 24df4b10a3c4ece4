"""The receipts of a site: what it uploaded and certified, and the coordinator's word on what became of it.

Why it exists: a site that was counted, left out or told something else than its peers can show it, years later, from
its own folder; and a coordinator that does not give its word gets nothing more.

Rules:
    * What was uploaded and what was certified is in the log before the reply leaves.
    * A receipt is believed only under the coordinator's key, for this plan, for a round that this site uploaded to, and
      over the very uploads that it certified; one attempt is settled in one way.
    * A receipt that is not so is written down and ends this plan here, for good.
    * No round begins while an upload to the same plan is not settled. A site without a kit knows no coordinator's key
      and asks for no receipts.

What it does not do: fetch receipts, or compare them with those of other sites (people can: they are equal).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from fedmed.audit import ChainLog, Entry, Scalar
from fedmed.errors import IntegrityError, RefusedError
from fedmed.receipts import Receipt, open_receipt, uploads_digest
from fedmed.records import digest
from fedmed.secagg.messages import CertifyRequest, Turn
from fedmed_site.home import SiteHome
from fedmed_site.membership import Membership

UPLOADED: Final = "uploaded"
CERTIFIED: Final = "certified"
RECEIVED: Final = "receipt"
REFUSED: Final = "receipt-refused"
COORDINATOR_USED: Final = "coordinator"


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How one attempt that this site uploaded to stands. `outcome`: "summed", "void", or "" while it is not settled."""

    plan: str
    turn: Turn
    upload: str
    cohort: tuple[str, ...]
    uploads: str
    outcome: str
    entry: int


class SiteReceipts:
    """The log of receipts of one site."""

    def __init__(self, home: SiteHome, membership: Membership) -> None:
        self._log = ChainLog(home.receipts_path)
        self._name = home.record().name
        self._membership = membership

    def uploaded(self, plan: str, turn: Turn, upload: bytes) -> None:
        """Note what this site is about to upload; the same again is not noted twice."""
        self._note(UPLOADED, {"plan": plan, **_place(turn), "upload": upload.hex()})

    def certified(self, plan: str, request: CertifyRequest) -> None:
        """Note whose uploads this site is about to certify."""
        uploads = {upload.site: upload.digest for upload in request.uploads}
        body = {"cohort": " ".join(sorted(uploads)), "uploads": uploads_digest(request.turn, uploads)}
        self._note(CERTIFIED, {"plan": plan, **_place(request.turn), **body})

    def take(self, plan: str, data: bytes, *, now: datetime) -> None:
        """Take in the receipt that came with a task of `plan`.

        Raises:
            RefusedError: It is not what this site can believe; that is written down and ends the plan here.
        """
        key = self._membership.coordinator_key(now=now)
        if key is None or not data:
            return

        def decide(entries: Sequence[Entry]) -> tuple[str, Mapping[str, Scalar]] | None:
            try:
                receipt = _opened(data, key)
                if not _is_news(entries, receipt, plan=plan, site=self._name, data=data):
                    return None
            except (IntegrityError, RefusedError) as error:
                return REFUSED, {"plan": plan, "reason": str(error)}
            facts = {"plan": plan, **_place(receipt.turn), "outcome": receipt.outcome}
            return RECEIVED, {**facts, "statement": data.decode()}

        pinned = self._membership.consortium_key().public_bytes_raw().hex()
        statement = self._membership.coordinator_statement().decode()
        self._note(COORDINATOR_USED, {"consortium": pinned, "statement": statement})
        self._log.extend(decide)
        self.require_trusted(plan)

    def require_trusted(self, plan: str) -> None:
        """Raise if a receipt of this plan was refused here.

        Raises:
            RefusedError: One was; the reason may leave the site.
        """
        for entry in self._log.entries():
            if entry.kind == REFUSED and entry.body.get("plan") == plan:
                raise RefusedError(f"this site takes part in the plan no more: {entry.body['reason']}")

    def require_settled(self, plan: str, turn: Turn, *, now: datetime) -> None:
        """Raise if an upload to an attempt of this plan before `turn` has no receipt yet.

        Raises:
            RefusedError: The coordinator owes one.
        """
        if self._membership.coordinator_key(now=now) is None:
            return
        for one in standings([entry for entry in self._log.entries() if entry.body.get("plan") == plan]):
            if one.turn != turn and not one.outcome:
                raise RefusedError(f"expected the coordinator's receipt for {one.turn} with this message, got none")

    def head(self) -> str:
        """Return the digest of the last entry, or nothing where there is none."""
        entries = self._log.entries()
        return digest(entries[-1]) if entries else ""

    def _note(self, kind: str, body: Mapping[str, Scalar]) -> None:
        def decide(entries: Sequence[Entry]) -> tuple[str, Mapping[str, Scalar]] | None:
            place = {name: body[name] for name in ("run", "round", "attempt") if name in body}.items()
            same = next((one for one in reversed(entries) if one.kind == kind and place <= one.body.items()), None)
            return None if same is not None and same.body == body else (kind, body)

        self._log.extend(decide)


def standings(entries: Sequence[Entry]) -> tuple[Standing, ...]:
    """Return how each attempt stands that a site uploaded to, in the order of the log."""
    found: dict[Turn, Standing] = {}
    for entry in entries:
        body = entry.body
        if entry.kind not in {UPLOADED, CERTIFIED, RECEIVED}:
            continue
        turn = turn_of(entry)
        known = found.get(turn)
        found[turn] = Standing(
            plan=str(body["plan"]),
            turn=turn,
            upload=str(body["upload"]) if entry.kind == UPLOADED else known.upload if known else "",
            cohort=tuple(str(body["cohort"]).split()) if entry.kind == CERTIFIED else known.cohort if known else (),
            uploads=str(body["uploads"]) if entry.kind == CERTIFIED else known.uploads if known else "",
            outcome=str(body["outcome"]) if entry.kind == RECEIVED else known.outcome if known else "",
            entry=entry.index,
        )
    return tuple(found.values())


def require_consistent(known: Standing | None, receipt: Receipt, *, site: str) -> None:
    """Raise unless a receipt is one that `site` can have been given, by what it did itself in the attempt.

    Raises:
        RefusedError: It names the site without its upload, or other uploads than the site certified.
    """
    if known is None or not known.upload:
        if site in receipt.cohort:
            raise RefusedError(f"receipt for {receipt.turn}: it names this site, which uploaded nothing there")
        return
    if receipt.outcome == "void" or not known.uploads:
        return  # other sites may have certified without this one, with its upload or without
    if receipt.cohort != known.cohort or receipt.uploads != known.uploads:
        raise RefusedError(f"receipt for {receipt.turn}: it names other sites or uploads than this site certified")


def turn_of(entry: Entry) -> Turn:
    """Return the attempt that an entry is about."""
    body = entry.body
    return Turn(run=str(body["run"]), round=int(str(body["round"])), attempt=int(str(body["attempt"])))


def _is_news(entries: Sequence[Entry], receipt: Receipt, *, plan: str, site: str, data: bytes) -> bool:
    """Say whether a receipt settles something here that was open.

    Raises:
        RefusedError: This site can't believe it.
    """
    if receipt.plan != plan:
        raise RefusedError(f"receipt: expected one of plan {plan[:12]}, got one of {receipt.plan[:12]}")
    known = next((one for one in standings(entries) if one.turn == receipt.turn), None)
    require_consistent(known, receipt, site=site)
    before = [one for one in entries if one.kind == RECEIVED and turn_of(one) == receipt.turn]
    if any(one.body["statement"] != data.decode() for one in before):
        raise RefusedError(f"receipt for {receipt.turn}: another one for the same attempt came before")
    return not before and known is not None


def _opened(data: bytes, key: Ed25519PublicKey) -> Receipt:
    try:
        data.decode()
    except UnicodeDecodeError:
        raise IntegrityError("receipt: expected text, got other bytes") from None
    return open_receipt(data, key)


def _place(turn: Turn) -> dict[str, Scalar]:
    return {"run": turn.run, "round": turn.round, "attempt": turn.attempt}
