"""How a coordinator gets its certificate: a request from its own machine, a kit from the consortium's.

Why it exists: the coordinator's keys are made where they stay, and the consortium's stay offline. Where both
folders are on one machine, the same three steps are one command.

Rules:
    * The request is signed by the plan-signing key and holds a PKCS #10 request of the TLS key, no private
      key.
    * The consortium's key is pinned in the coordinator's folder with the first kit; no other is taken after that.
    * A kit is installed only if it answers the request that waits, and whole or not at all.
    * The plan-signing key stays when the certificate is renewed.

What it does not do: ask questions or compare fingerprints (the command line does).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from fedmed.audit import Scalar
from fedmed.crypto import statements
from fedmed.crypto.certificates import check_server, normalised_host
from fedmed.crypto.keyfiles import (
    CONSORTIUM,
    PLAN_SIGNING,
    TLS_SERVER,
    PublicKey,
    load_private_key,
    load_public_key,
    save_private_key,
    save_public_key,
    seal_private_key,
    sealed_bytes,
)
from fedmed.crypto.passphrases import Secret
from fedmed.crypto.pki import make_request, request_key
from fedmed.enrolment import REQUEST_DAYS
from fedmed.errors import IntegrityError, UsageError
from fedmed.files import write_atomic
from fedmed.generations import CURRENT, replace_generation
from fedmed.kits import COORDINATOR, Coordinator, moment, moment_of, open_coordinator, require_in_force
from fedmed.records import AsRead, digest, require, require_digest
from fedmed_server import coordinator_home as homes
from fedmed_server import register as registers
from fedmed_server.authority import publish
from fedmed_server.consortium import OpenConsortium
from fedmed_server.coordinator_home import CoordinatorIdentity, read_coordinator
from fedmed_server.register import Register

REQUEST: Final = "fedmed-coordinator-request"
KIT: Final = "fedmed-coordinator-kit"
STATEMENT_DAYS: Final = 366
_NEXT_KEY, _WAITING = "tls.next.key", "request.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class CoordinatorRequest(AsRead):
    """What a coordinator asks to be certified; `plan_key` has 32 raw bytes, `csr` is PEM."""

    name: str
    hosts: tuple[str, ...]
    port: int
    plan_key: bytes
    csr: str
    made_at: str

    def __post_init__(self) -> None:
        require(len(self.plan_key) == 32, "plan_key must have 32 bytes")
        require(1 <= self.port <= 65535, f"port must be in [1, 65535], got {self.port}")
        require(bool(self.hosts), "hosts must name at least one host")

    @property
    def public_key(self) -> PublicKey:
        """The plan-signing key, whose fingerprint is compared; its signature binds the rest."""
        return PublicKey(name=self.name, purpose=PLAN_SIGNING, kind="ed25519", key=self.plan_key)


@dataclass(frozen=True, slots=True, kw_only=True)
class CoordinatorKit:
    """The consortium's answer; `statement`, `members` and `revoked` are files, `certificate` is PEM."""

    request: str
    consortium: PublicKey
    statement: str
    certificate: str
    members: str
    revoked: str

    def __post_init__(self) -> None:
        require_digest("request", self.request)
        require(self.consortium.purpose == CONSORTIUM, f"consortium must be a {CONSORTIUM} key")


def request_coordinator(
    folder: Path, *, name: str, hosts: Sequence[str], port: int, secret: Secret, now: datetime
) -> bytes:
    """Make the coordinator's keys in `folder` (the plan-signing key only once) and return the request for them.

    Args:
        folder: Made with mode 700 if absent.
        name: The coordinator's name; that of an existing one stays.
        hosts: DNS names and IP addresses by which sites reach it.
        port: Where it listens for them.
        secret: Seals its keys.
        now: The present time, with its time zone.

    Raises:
        UsageError: A name, host or port does not fit, or the secret is not that of the coordinator in `folder`.
        OSError: The disk is full or the folder is not writable.
    """
    names = tuple(dict.fromkeys(normalised_host(host) for host in hosts))
    if not names:
        raise UsageError("coordinator: expected a name or address by which sites reach it; give --host")
    if not 1 <= port <= 65535:
        raise UsageError(f"--port: expected 1 to 65535, got {port}")
    path = folder / homes.SIGNING
    if path.exists():
        sealed = load_private_key(path, purpose=PLAN_SIGNING)
        plan = sealed.unseal_ed25519(secret)  # a mistyped passphrase would otherwise lock the new key alone
    else:
        plan = Ed25519PrivateKey.generate()
        sealed = seal_private_key(plan, name=name, purpose=PLAN_SIGNING, secret=secret)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        save_private_key(path, sealed)
    tls = ec.generate_private_key(ec.SECP256R1())
    request = CoordinatorRequest(
        name=sealed.public.name,
        hosts=names,
        port=port,
        plan_key=sealed.public.key,
        csr=make_request(tls, site="coordinator").decode(),
        made_at=moment(now),
    )
    data = statements.sign(REQUEST, request, plan)
    (folder / _WAITING).unlink(missing_ok=True)  # never a request beside another request's key
    next_key = seal_private_key(tls, name=request.name, purpose=TLS_SERVER, secret=secret)
    write_atomic(folder / _NEXT_KEY, sealed_bytes(next_key))
    write_atomic(folder / _WAITING, data)
    return data


def open_coordinator_request(data: bytes, *, now: datetime) -> CoordinatorRequest:
    """Return a request that its plan-signing key has signed; whose that is, its fingerprint tells.

    Raises:
        IntegrityError: It was changed, or is too old or from the future.
    """
    signed = statements.parse(data, REQUEST, CoordinatorRequest)
    key = Ed25519PublicKey.from_public_bytes(signed.claim.plan_key)
    request = signed.verify(key, cure="ask the coordinator for the request again")
    end = moment(moment_of(request.made_at) + timedelta(days=REQUEST_DAYS))
    require_in_force(request.made_at, end, now=now, what="the coordinator's request")
    return request


def certify_coordinator(consortium: OpenConsortium, data: bytes, *, now: datetime) -> bytes:
    """Return the kit that answers a coordinator's request; its fingerprint was compared before.

    Args:
        consortium: With its keys unsealed; it keeps the statement for invitations and kits.
        data: The request.
        now: The present time, with its time zone.

    Raises:
        UsageError: A host is not one that the authority may certify.
        IntegrityError: The request does not hold.
    """
    request = open_coordinator_request(data, now=now)
    authority = consortium.files.authority.read_bytes()
    key = request_key(request.csr.encode())
    certificate = consortium.authority.issue_server(key, hosts=request.hosts, now=now)
    check_server(certificate, authority=authority, hosts=request.hosts, now=now)  # as the coordinator will

    def made(register: Register) -> tuple[str, dict[str, Scalar]]:
        body: dict[str, Scalar] = {"name": request.name, "host": request.hosts[0], "port": request.port}
        more: dict[str, Scalar] = {
            "plan_key": request.plan_key.hex(),
            "serial": register.statements + 1,
            "at": moment(now),
        }
        return registers.COORDINATED, {**body, **more}

    register = registers.append(consortium.files.register, made)
    statement = Coordinator(
        name=request.name,
        consortium=consortium.public.name,
        hosts=request.hosts,
        port=request.port,
        plan_key=request.plan_key,
        authority=authority.decode(),
        serial=register.statements,
        made_at=moment(now),
        valid_until=moment(now + timedelta(days=STATEMENT_DAYS)),
    )
    signed = statements.sign(COORDINATOR, statement, consortium.root)
    write_atomic(consortium.files.coordinator, signed, mode=0o644)
    publish(consortium, now=now)
    kit = CoordinatorKit(
        request=digest(request),
        consortium=consortium.public,
        statement=signed.decode(),
        certificate=certificate.decode(),
        members=consortium.files.members.read_text(),
        revoked=consortium.files.revoked.read_text(),
    )
    return statements.sign(KIT, kit, consortium.root)


def consortium_of(data: bytes) -> PublicKey:
    """Return the key that a kit claims to be signed by, to compare its fingerprint.

    Raises:
        IntegrityError: It is no kit, or its signature is not that key's.
    """
    signed = statements.parse(data, KIT, CoordinatorKit)
    return signed.verify(signed.claim.consortium.ed25519(), cure="ask the consortium for the kit again").consortium


def pinned_consortium(folder: Path) -> PublicKey | None:
    """Return the consortium's key that the coordinator in `folder` has pinned, or None before its first kit."""
    path = folder / homes.PUBLIC
    return load_public_key(path, purpose=CONSORTIUM) if path.exists() else None


def install_coordinator(folder: Path, data: bytes, *, consortium: PublicKey, now: datetime) -> CoordinatorIdentity:
    """Verify a kit against the request that waits in `folder`, and put it into use.

    Args:
        folder: The coordinator's.
        data: The kit's file.
        consortium: The consortium's key, its fingerprint compared.
        now: The present time, with its time zone.

    Raises:
        UsageError: No request waits.
        IntegrityError: The kit is another consortium's, was changed, or answers another request.
    """
    pinned = pinned_consortium(folder)
    if pinned is not None and pinned.key != consortium.key:
        raise IntegrityError(f"{folder}: expected a coordinator of this consortium, got another's; check the paths")
    key = consortium.ed25519()
    kit = statements.parse(data, KIT, CoordinatorKit).verify(key, cure="ask the consortium for the kit again")
    if not (folder / _WAITING).is_file() or not (folder / _NEXT_KEY).is_file():
        raise UsageError(f"{folder}: expected a request that waits for its kit, found none; make a request first")
    request = statements.parse((folder / _WAITING).read_bytes(), REQUEST, CoordinatorRequest).claim
    statement = open_coordinator(kit.statement.encode(), key, now=now)
    authority, certificate = statement.authority.encode(), kit.certificate.encode()
    leaf = check_server(certificate, authority=authority, hosts=request.hosts, now=now)
    sealed = load_private_key(folder / _NEXT_KEY, purpose=TLS_SERVER)
    if (
        kit.request != digest(request)
        or sealed.public.key != leaf.public_key
        or (statement.plan_key, statement.hosts, statement.port) != (request.plan_key, request.hosts, request.port)
    ):
        raise IntegrityError(f"{folder}: expected the answer to the request that waits, got another; send it again")
    if pinned is None:
        save_public_key(folder / homes.PUBLIC, consortium)
    files = (kit.statement.encode(), certificate, sealed_bytes(sealed), authority)
    replace_generation(folder / homes.TLS, dict(zip(homes.TOGETHER, files, strict=True)))
    for name in homes.TOGETHER:
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(Path(homes.TLS) / CURRENT / name)
    write_atomic(folder / homes.REVOKED, kit.revoked.encode(), mode=0o644)
    write_atomic(folder / homes.MEMBERS, kit.members.encode(), mode=0o644)
    for name in (_WAITING, _NEXT_KEY):
        (folder / name).unlink(missing_ok=True)
    return read_coordinator(folder, now=now)


def make_coordinator(
    consortium: OpenConsortium,
    folder: Path,
    *,
    name: str,
    hosts: Sequence[str],
    port: int,
    secret: Secret,
    now: datetime,
) -> CoordinatorIdentity:
    """Take all three steps on one machine.

    Raises:
        UsageError: There is a coordinator already, or a name, host or port does not fit.
        OSError: The disk is full or the folder is not writable.
    """
    if (folder / homes.TLS).exists():
        raise UsageError(
            f"{folder}: expected no coordinator yet, found one; nothing was overwritten: --renew, or another --out"
        )
    request = request_coordinator(folder, name=name, hosts=hosts, port=port, secret=secret, now=now)
    kit = certify_coordinator(consortium, request, now=now)
    return install_coordinator(folder, kit, consortium=consortium.public, now=now)


def renew_coordinator(
    consortium: OpenConsortium, folder: Path, *, hosts: Sequence[str], port: int | None, secret: Secret, now: datetime
) -> CoordinatorIdentity:
    """Take all three steps on one machine for a coordinator that is there: a new certificate with a new key.

    Args:
        consortium: With its keys unsealed.
        folder: The coordinator's.
        hosts: Its new names; empty to keep them.
        port: Its new port; None to keep it.
        secret: What its keys are sealed under.
        now: The present time, with its time zone.

    Raises:
        UsageError: There is no coordinator, or the secret is another one.
        IntegrityError: It is another consortium's.
    """
    before = present_statement(folder)
    if pinned_consortium(folder) != consortium.public:
        raise IntegrityError(f"{folder}: expected a coordinator of this consortium, got another's; check --dir")
    request = request_coordinator(
        folder, name=before.name, hosts=hosts or before.hosts, port=port or before.port, secret=secret, now=now
    )
    kit = certify_coordinator(consortium, request, now=now)
    return install_coordinator(folder, kit, consortium=consortium.public, now=now)


def present_statement(folder: Path) -> Coordinator:
    """Return what was stated about the coordinator in `folder`, whatever its dates: to renew it.

    Raises:
        UsageError: There is no coordinator.
        IntegrityError: Its files do not verify.
    """
    pinned, path = pinned_consortium(folder), folder / homes.TOGETHER[0]
    if pinned is None or not path.is_file():
        raise UsageError(f"{folder}: expected a coordinator, found none; fedmed consortium coordinator makes it")
    signed = statements.parse(path.read_bytes(), COORDINATOR, Coordinator)
    return signed.verify(pinned.ed25519(), cure="make the coordinator anew")
