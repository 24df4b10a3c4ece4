"""Plans with signatures: the consortium agrees to a study, its coordinator launches it, and a site checks both.

Why it exists: a plan is all that a coordinator can send. The consortium's key, which is kept
offline, says that the sites agreed to the study; the coordinator's says who launched it.

Rules:
    * Both sign the SHA-256 of the plan's canonical JSON under a label of their own.
    * What is not signed by the pinned consortium key is refused before it is looked at.
    * Where a site knows its coordinator's key, from its kit, that signature is required too.

What it does not do: know who may sign, or decide whether a site takes part.

Source: Ed25519, RFC 8032.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from fedmed.errors import IntegrityError, RefusedError, UsageError
from fedmed.files import write_atomic
from fedmed.records import Plan, canonical_json, decode, digest, require

SIGNATURE_BYTES: Final = 64
_CONSORTIUM: Final = b"FedMed-plan/v1/consortium\0"
_COORDINATOR: Final = b"FedMed-plan/v1/coordinator\0"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanSignatures:
    """Who signed a plan; `coordinator` is empty until it is launched."""

    consortium: bytes = field(repr=False)
    coordinator: bytes = field(default=b"", repr=False)
    version: int = 1

    def __post_init__(self) -> None:
        require(self.version == 1, f"version must be 1, got {self.version}")
        require(len(self.consortium) == SIGNATURE_BYTES, "consortium must be a signature of 64 bytes")
        require(len(self.coordinator) in {0, SIGNATURE_BYTES}, "coordinator must be a signature of 64 bytes or empty")


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedPlan:
    """A plan and its signatures, as they lie in a file."""

    plan: Plan
    signatures: PlanSignatures
    version: int = 1

    def __post_init__(self) -> None:
        require(self.version == 1, f"version must be 1, got {self.version}")


def agree_to(plan: Plan, key: Ed25519PrivateKey) -> SignedPlan:
    """Return `plan` with the consortium's signature."""
    return SignedPlan(plan=plan, signatures=PlanSignatures(consortium=key.sign(_CONSORTIUM + _hash(plan))))


def launch(signed: SignedPlan, key: Ed25519PrivateKey) -> SignedPlan:
    """Return the plan with the coordinator's signature beside the consortium's."""
    coordinator = key.sign(_COORDINATOR + _hash(signed.plan))
    signatures = PlanSignatures(consortium=signed.signatures.consortium, coordinator=coordinator)
    return SignedPlan(plan=signed.plan, signatures=signatures)


def verify(
    plan: Plan, signatures: PlanSignatures, *, consortium: Ed25519PublicKey, coordinator: Ed25519PublicKey | None
) -> None:
    """Raise unless the consortium agreed to `plan` and, where its key is known, the coordinator launched it.

    Raises:
        RefusedError: A signature is missing or of another key; the reason may leave the site.
    """
    try:
        consortium.verify(signatures.consortium, _CONSORTIUM + _hash(plan))
    except InvalidSignature:
        raise RefusedError(
            "the plan is not signed by this site's consortium; have it signed with fedmed consortium plan sign"
        ) from None
    if coordinator is None:
        return
    try:
        coordinator.verify(signatures.coordinator, _COORDINATOR + _hash(plan))
    except InvalidSignature:
        raise RefusedError("the plan was not launched by the coordinator that this site's kit names") from None


def signatures_to_text(signatures: PlanSignatures) -> str:
    """Return the signatures as canonical JSON, for a run's configuration."""
    return canonical_json(signatures).decode()


def signatures_from_text(text: str) -> PlanSignatures:
    """Return what `signatures_to_text` made.

    Raises:
        RefusedError: It is not of that form.
    """
    try:
        return decode(text.encode(), PlanSignatures)
    except IntegrityError:
        raise RefusedError("expected the plan's signatures with the run, got none that can be read") from None


def save_signed_plan(path: Path, signed: SignedPlan) -> None:
    """Write the plan and its signatures to `path`, replacing what is there."""
    write_atomic(path, canonical_json(signed), mode=0o644)


def load_signed_plan(path: Path) -> SignedPlan:
    """Return the signed plan in the file `path`; nothing is verified yet.

    Raises:
        UsageError: There is no such file, or it is no signed plan.
    """
    try:
        return decode(path.read_bytes(), SignedPlan)
    except OSError:
        raise UsageError(f"{path}: expected a signed plan, found no file that can be read") from None
    except IntegrityError:
        raise UsageError(f"{path}: expected a plan signed by fedmed consortium plan sign, got something else") from None


def _hash(plan: Plan) -> bytes:
    return bytes.fromhex(digest(plan))
