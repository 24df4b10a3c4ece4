"""What the consortium sends before anything is trained: the coordinator's statement, an invitation, a kit.

Why it exists: a site learns from three files whom it deals with, and mail may carry them. Both sides read
them with the same code, which believes nothing that is not signed, in force and consistent.

Rules:
    * An invitation is believed only after its fingerprint was compared by telephone; all else by the key in it.
    * A kit names the request that it answers, and holds nothing secret.
    * Every clock is an argument; every check raises.

What it does not do: touch files, make or check requests (see `enrolment`), or seal keys.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, Literal

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from fedmed.crypto import statements
from fedmed.crypto.certificates import Leaf, check_authority, check_client, normalised_host, require_site
from fedmed.crypto.keyfiles import CONSORTIUM, PublicKey
from fedmed.crypto.openssh import supernode_public
from fedmed.errors import IntegrityError, UsageError
from fedmed.records import require, require_digest
from fedmed.secagg.roster import TIME_FORMAT, Policy, Roster, require_moment
from fedmed.secagg.roster_file import open_roster

COORDINATOR: Final = "fedmed-coordinator"
INVITATION: Final = "fedmed-invitation"
KIT: Final = "fedmed-kit"
CODE_BYTES: Final = 16
_SKEW: Final = timedelta(hours=1)

RequestKind = Literal["join", "renew"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Coordinator:
    """Who coordinates, where, under which key plans are signed, and which authority its certificates come from.

    `plan_key`: 32 raw bytes (Ed25519). `authority`: PEM. `serial` grows with each statement of the consortium.
    """

    name: str
    consortium: str
    hosts: tuple[str, ...]
    port: int
    plan_key: bytes
    authority: str
    serial: int
    made_at: str
    valid_until: str

    def __post_init__(self) -> None:
        require(bool(self.hosts), "hosts must name at least one host")
        for host in self.hosts:
            require(_is_host(host), f"hosts must be DNS names or IP addresses, got {host!r}")
        require(1 <= self.port <= 65535, f"port must be in [1, 65535], got {self.port}")
        require(len(self.plan_key) == 32, "plan_key must have 32 bytes")
        require(self.serial >= 1, f"serial must be at least 1, got {self.serial}")
        _require_span(self.made_at, self.valid_until)


@dataclass(frozen=True, slots=True, kw_only=True)
class Floors:
    """What a site was promised of every roster: see `fedmed.secagg.roster.Policy`."""

    n_min: int
    max_corrupt: int
    max_weight: float

    def require_kept(self, policy: Policy) -> None:
        """Raise unless a roster's policy is at least as strict as the invitation promised.

        Raises:
            IntegrityError: It has lower floors.
        """
        for name in ("n_min", "max_corrupt"):
            if getattr(policy, name) < getattr(self, name):
                raise IntegrityError(
                    f"roster: expected {name} of at least {getattr(self, name)}, as this site was invited to, got "
                    f"{getattr(policy, name)}; ask the consortium why"
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class Invitation:
    """What a site needs to ask to join; `code` is worth one request. `coordinator`: the statement's file."""

    site: str
    consortium: PublicKey
    coordinator: str
    floors: Floors | None
    code: bytes
    made_at: str
    valid_until: str

    def __post_init__(self) -> None:
        require_plain_site(self.site)
        require(self.consortium.purpose == CONSORTIUM, f"consortium must be a {CONSORTIUM} key")
        require(self.consortium.kind == "ed25519", "consortium must be an ed25519 key")
        require(len(self.code) == CODE_BYTES, f"code must have {CODE_BYTES} bytes")
        _require_span(self.made_at, self.valid_until)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kit:
    """The consortium's answer to one request.

    `request`: the digest of the request. `certificate`: the site's TLS certificate, PEM; its issuer is the authority
    in the coordinator's statement. `coordinator` and `roster`: the files themselves; a roster may come later.
    """

    kind: RequestKind
    site: str
    consortium_key: bytes
    request: str
    signing_key: bytes
    supernode_key: str
    certificate: str
    coordinator: str
    roster: str | None
    made_at: str

    def __post_init__(self) -> None:
        require_plain_site(self.site)
        require_digest("request", self.request)
        require_moment("made_at", self.made_at)


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedKit:
    """A kit whose every part was verified."""

    kit: Kit
    coordinator: Coordinator
    leaf: Leaf
    roster: Roster | None


def open_coordinator(data: bytes, key: Ed25519PublicKey, *, now: datetime) -> Coordinator:
    """Return the coordinator's statement if the consortium signed it, and statement and authority are in force.

    Raises:
        IntegrityError: Something of that does not hold.
    """
    signed = statements.parse(data, COORDINATOR, Coordinator)
    coordinator = signed.verify(key, cure="fetch coordinator.json again from the consortium")
    require_in_force(coordinator.made_at, coordinator.valid_until, now=now, what="the coordinator's statement")
    check_authority(coordinator.authority.encode(), now=now)
    return coordinator


def open_invitation(data: bytes, *, now: datetime) -> Invitation:
    """Return an invitation that is consistent in itself; whose it is, only its fingerprint tells.

    Raises:
        IntegrityError: It was changed, has expired, or its coordinator's statement is another consortium's.
    """
    signed = statements.parse(data, INVITATION, Invitation)
    key = signed.claim.consortium.ed25519()
    invitation = signed.verify(key, cure="ask the consortium for the invitation again")
    require_in_force(invitation.made_at, invitation.valid_until, now=now, what="the invitation")
    open_coordinator(invitation.coordinator.encode(), key, now=now)
    return invitation


def open_kit(data: bytes, key: Ed25519PublicKey, *, now: datetime) -> OpenedKit:
    """Return a kit if the pinned consortium key signed it and all in it is in force and for the same site.

    Args:
        data: The file.
        key: The consortium's key, as pinned.
        now: The present time, with its time zone.

    Raises:
        IntegrityError: Something of that does not hold.
    """
    signed = statements.parse(data, KIT, Kit)
    kit = signed.verify(key, cure="if it is from another consortium, leave this one first; else ask for the kit again")
    if kit.consortium_key != key.public_bytes_raw():
        raise IntegrityError(f"kit of {kit.site}: expected this consortium's key in it, got another; ask for it again")
    coordinator = open_coordinator(kit.coordinator.encode(), key, now=now)
    leaf = check_client(kit.certificate.encode(), authority=coordinator.authority.encode(), site=kit.site, now=now)
    supernode_public(kit.supernode_key)
    roster = None
    if kit.roster is not None:
        roster = open_roster(kit.roster.encode(), consortium_key=key, least_serial=1, now=now)
        require_in_roster(roster, site=kit.site, signing_key=kit.signing_key)
    return OpenedKit(kit=kit, coordinator=coordinator, leaf=leaf, roster=roster)


def require_in_roster(roster: Roster, *, site: str, signing_key: bytes) -> None:
    """Raise unless `site` stands in `roster` under `signing_key` (32 raw bytes).

    Raises:
        IntegrityError: It does not, or under another key.
    """
    entry = next((one for one in roster.sites if one.site == site), None)
    if entry is None or entry.signing_key != signing_key:
        found = "does not have it" if entry is None else "has another key of it"
        raise IntegrityError(
            f"roster: expected {site} under its own signing key, but serial {roster.serial} {found}; "
            "ask the consortium for the edition that follows its enrolment"
        )


def moment(now: datetime) -> str:
    """Return a moment as these files write it: UTC, whole seconds."""
    return now.astimezone(UTC).strftime(TIME_FORMAT)


def require_in_force(start: str, end: str, *, now: datetime, what: str) -> None:
    """Raise unless `now` lies between two moments; an hour before the first is allowed, clocks differ.

    Raises:
        IntegrityError: It is too early or too late by this machine's clock.
    """
    clock = f"this machine's clock says {moment(now)}"
    if now < moment_of(start) - _SKEW:
        raise IntegrityError(f"{what}: expected one in force, it starts at {start} and {clock}; set the clock, or wait")
    if now > moment_of(end):
        raise IntegrityError(f"{what}: expected one in force, it expired at {end} and {clock}; ask for a new one")


def moment_of(text: str) -> datetime:
    """Return a moment that these files hold."""
    return datetime.strptime(text, TIME_FORMAT).replace(tzinfo=UTC)


def _require_span(start: str, end: str) -> None:
    require_moment("made_at", start)
    require_moment("valid_until", end)
    require(start < end, f"valid_until must be after made_at, got {end} and {start}")


def require_plain_site(name: str) -> None:
    """Raise `ValueError` unless `name` is one that a certificate and a folder take."""
    try:
        require_site(name)
    except UsageError as error:
        raise ValueError(str(error)) from None


def _is_host(host: str) -> bool:
    try:
        return normalised_host(host) == host
    except UsageError:
        return False
