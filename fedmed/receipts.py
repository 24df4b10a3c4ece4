"""Receipts of a round: what the coordinator owes each site in writing, and what each site gives it.

Why it exists: after a round a site can show that its part was summed, over whom, and a coordinator can show who took
part. Neither has to believe the other's log.

Rules:
    * A coordinator settles each attempt once: it was summed over these uploads, or it came to nothing.
    * Receipts are signed under a key that follows from the plan-signing key, one for each plan; the plan-signing key
      vouches for it in a mandate that every receipt brings, so a study's process never holds that key.
    * A receipt names the uploads by one digest that every contributor has certified, and the sum by a commitment that
      hides it: SHA-256 over 32 random bytes, which the coordinator keeps, and the sum.
    * A site's participation names its masked upload and nothing else: no weight, no metric, no epsilon.

What it does not do: keep anything (see `fedmed_site.receipts` and `fedmed_server.receipts`), or know clocks.

Source: Ed25519, RFC 8032; HKDF, RFC 5869.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from fedmed.crypto import statements
from fedmed.errors import IntegrityError
from fedmed.records import require, require_digest
from fedmed.secagg import transcript
from fedmed.secagg.messages import Turn
from fedmed.secagg.roster import Roster, require_ascending, require_moment, require_name

MANDATE: Final = "fedmed-receipt-mandate"
RECEIPT: Final = "fedmed-receipt"
PARTICIPATION: Final = "fedmed-participation"
OPENING_BYTES: Final = 32
_SEED: Final = "receipts"
_PLAN_CHARACTERS: Final = 40

Outcome = Literal["summed", "void"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mandate:
    """The plan-signing key's word that `key` (32 raw bytes, Ed25519) signs the receipts of one plan."""

    plan: str
    coordinator: str
    key: bytes

    def __post_init__(self) -> None:
        require_digest("plan", self.plan)
        require_name(self.coordinator)
        require(len(self.key) == 32, "key must have 32 bytes")


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """How one attempt ended. `cohort`: whose uploads were summed, ascending; empty for a void attempt.

    `uploads`: `uploads_digest` of them. `aggregate`: `commitment` to the sum. `mandate`: the file that vouches for
    the signature.
    """

    plan: str
    run: str
    round: int
    attempt: int
    outcome: Outcome
    cohort: tuple[str, ...]
    uploads: str
    aggregate: str
    coordinator: str
    at: str
    mandate: str

    def __post_init__(self) -> None:
        require_of_plan(self.plan, self.turn)
        require_ascending(self.cohort)
        require_moment("at", self.at)
        if self.outcome == "summed":
            require(bool(self.cohort), "cohort must name the sites that were summed")
            require_digest("uploads", self.uploads)
            require_digest("aggregate", self.aggregate)
        else:
            require(not (self.cohort or self.uploads or self.aggregate), "a void attempt has no cohort and no sum")

    @property
    def turn(self) -> Turn:
        """The attempt."""
        return Turn(run=self.run, round=self.round, attempt=self.attempt)


@dataclass(frozen=True, slots=True, kw_only=True)
class Participation:
    """A site's word that it uploaded the masked vector with the digest `upload` in one attempt."""

    plan: str
    run: str
    round: int
    attempt: int
    site: str
    upload: str

    def __post_init__(self) -> None:
        require_of_plan(self.plan, self.turn)
        require_name(self.site)
        require_digest("upload", self.upload)

    @property
    def turn(self) -> Turn:
        """The attempt."""
        return Turn(run=self.run, round=self.round, attempt=self.attempt)


@dataclass(frozen=True, slots=True)
class Signer:
    """What a study's process signs receipts with: the key of its plan, and the mandate for it."""

    key: Ed25519PrivateKey
    mandate: str
    coordinator: str

    def sign(
        self, plan: str, turn: Turn, *, at: str, cohort: tuple[str, ...] = (), uploads: str = "", aggregate: str = ""
    ) -> str:
        """Return the receipt of one attempt as a file; without a cohort it says that the attempt came to nothing."""
        receipt = Receipt(
            plan=plan,
            run=turn.run,
            round=turn.round,
            attempt=turn.attempt,
            outcome="summed" if cohort else "void",
            cohort=cohort,
            uploads=uploads,
            aggregate=aggregate,
            coordinator=self.coordinator,
            at=at,
            mandate=self.mandate,
        )
        return statements.sign(RECEIPT, receipt, self.key).decode()


def receipts_seed(plan_key: Ed25519PrivateKey) -> bytes:
    """Return the 32 secret bytes that the receipt keys of all plans follow from; no plan can be signed with them."""
    return transcript.derive(plan_key.private_bytes_raw(), b"FedMed-receipts/v1", _SEED)


def receipt_key(seed: bytes, plan: str) -> Ed25519PrivateKey:
    """Return the key that signs the receipts of the plan with this digest."""
    return Ed25519PrivateKey.from_private_bytes(transcript.expand(seed, _SEED, plan.encode()))


def sign_mandate(plan: str, *, coordinator: str, plan_key: Ed25519PrivateKey) -> bytes:
    """Return the mandate of a plan's receipt key, as a file."""
    public = receipt_key(receipts_seed(plan_key), plan).public_key().public_bytes_raw()
    return statements.sign(MANDATE, Mandate(plan=plan, coordinator=coordinator, key=public), plan_key)


def open_mandate(data: bytes, plan_key: Ed25519PublicKey, *, plan: str) -> Mandate:
    """Return the mandate in a file if the plan-signing key gave it for this plan.

    Raises:
        IntegrityError: It did not.
    """
    signed = statements.parse(data, MANDATE, Mandate)
    mandate = signed.verify(plan_key, cure="it is of another coordinator, or was changed")
    if mandate.plan != plan:
        raise IntegrityError(f"receipt mandate: expected one for plan {plan[:12]}, got one for {mandate.plan[:12]}")
    return mandate


def open_receipt(data: bytes, plan_key: Ed25519PublicKey) -> Receipt:
    """Return the receipt in a file if the coordinator with this plan-signing key gave it.

    Raises:
        IntegrityError: Receipt and mandate are not its, not of one plan, or were changed.
    """
    signed = statements.parse(data, RECEIPT, Receipt)
    mandate = open_mandate(signed.claim.mandate.encode(), plan_key, plan=signed.claim.plan)
    receipt = signed.verify(
        Ed25519PublicKey.from_public_bytes(mandate.key), cure="it is of another coordinator, or was changed"
    )
    if receipt.coordinator != mandate.coordinator:
        raise IntegrityError("receipt: expected the coordinator that its mandate names, got another")
    return receipt


def sign_participation(participation: Participation, key: Ed25519PrivateKey) -> bytes:
    """Return a site's participation as a file."""
    return statements.sign(PARTICIPATION, participation, key)


def open_participation(data: bytes, roster: Roster) -> Participation:
    """Return the participation in a file if the site that it names signed it.

    Raises:
        IntegrityError: It did not, or is not in the roster.
    """
    signed = statements.parse(data, PARTICIPATION, Participation)
    site = signed.claim.site
    entry = next((one for one in roster.sites if one.site == site), None)
    if entry is None:
        raise IntegrityError(f"participation: expected a site of roster serial {roster.serial}, got {site}")
    return signed.verify(
        Ed25519PublicKey.from_public_bytes(entry.signing_key), cure=f"it was changed, or {site} has another key now"
    )


def uploads_digest(turn: Turn, uploads: Mapping[str, bytes]) -> str:
    """Return the digest, in hexadecimal, of who uploaded what in an attempt.

    >>> turn = Turn(run="r", round=0, attempt=0)
    >>> uploads_digest(turn, {"a": b"1", "b": b"2"}) == uploads_digest(turn, {"b": b"2", "a": b"1"})
    True
    """
    fields = [transcript.pack(site.encode(), uploads[site]) for site in sorted(uploads)]
    return transcript.digest("receipt-uploads", turn.packed(), transcript.pack(*fields)).hex()


def commitment(turn: Turn, opening: bytes, sums: Iterable[bytes | memoryview]) -> str:
    """Return the commitment, in hexadecimal, to the sum of an attempt; without `opening` it says nothing about it."""
    require(len(opening) == OPENING_BYTES, f"opening must have {OPENING_BYTES} bytes")
    return transcript.digest("receipt-sum", opening, turn.packed(), *sums).hex()


def require_of_plan(plan: str, turn: Turn) -> None:
    """Raise `ValueError` unless the run of `turn` is one of the plan with this digest."""
    require_digest("plan", plan)
    require(turn.run.startswith(f"{plan[:_PLAN_CHARACTERS]}."), "run must be one of the plan")
