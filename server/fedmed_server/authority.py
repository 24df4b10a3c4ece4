"""What the consortium decides about sites: invite, enrol, renew, revoke.

Why it exists: each decision is one command on an offline machine. It checks what came, writes what was
decided into the register, and leaves a signed file to carry.

Rules:
    * Nothing is answered that the register forbids, and the register is asked again under its lock.
    * The answer lies in the folder before the register says that it was given: a power cut loses neither.
    * After each decision the two lists for the coordinator are signed anew.
    * Fingerprints are compared before these functions are called.

What it does not do: talk to anybody, make keys of sites, or sign rosters.
"""

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from fedmed.audit import Scalar
from fedmed.crypto import statements
from fedmed.crypto.certificates import require_site
from fedmed.crypto.pki import request_point
from fedmed.enrolment import SiteRequest, code_id, open_request, require_code
from fedmed.errors import IntegrityError, RefusedError, UsageError
from fedmed.files import locked, write_atomic
from fedmed.kits import (
    CODE_BYTES,
    INVITATION,
    KIT,
    Floors,
    Invitation,
    Kit,
    moment,
    open_coordinator,
    open_invitation,
    open_kit,
)
from fedmed.members import MEMBERS, REVOKED, Members, Revoked
from fedmed.records import digest
from fedmed_server import register as registers
from fedmed_server.consortium import OpenConsortium
from fedmed_server.register import Register

MOST_INVITATION_DAYS: Final = 90


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A kit that was signed, until when its certificate lives, and the register after it."""

    kit: bytes
    not_after: datetime
    register: Register


def invite(
    consortium: OpenConsortium,
    site: str,
    *,
    coordinator: bytes,
    floors: Floors | None,
    now: datetime,
    days: int,
    entropy: Callable[[int], bytes] = os.urandom,
) -> bytes:
    """Return a signed invitation with a fresh code.

    Args:
        consortium: With its keys unsealed.
        site: The site's name.
        coordinator: The coordinator's statement, as a file.
        floors: What every roster will keep, or None.
        now: The present time, with its time zone.
        days: How long the invitation may be answered, at most 90.
        entropy: Source of the code.

    Raises:
        UsageError: The name or the days don't fit.
        RefusedError: A site of that name is enrolled.
        IntegrityError: The statement is not this consortium's, or not in force.
    """
    require_site(site)
    if not 1 <= days <= MOST_INVITATION_DAYS:
        raise UsageError(f"invitation: expected 1 to {MOST_INVITATION_DAYS} days, got {days}")
    open_coordinator(coordinator, consortium.public.ed25519(), now=now)
    invitation = Invitation(
        site=site,
        consortium=consortium.public,
        coordinator=coordinator.decode(),
        floors=floors,
        code=entropy(CODE_BYTES),
        made_at=moment(now),
        valid_until=moment(now + timedelta(days=days)),
    )
    data, name = statements.sign(INVITATION, invitation, consortium.root), code_id(invitation.code)

    def decide(register: Register) -> tuple[str, dict[str, Scalar]]:
        register.require_not_member(site)
        body: dict[str, Scalar] = {"site": site, "code_id": name, "at": moment(now)}
        return registers.INVITED, {**body, "valid_until": invitation.valid_until}

    with _kept(consortium.files.invitations / f"{name}.json", data):
        registers.append(consortium.files.register, decide)
    return data


def enrol(consortium: OpenConsortium, request: bytes, *, now: datetime, roster: bytes | None = None) -> Answer:
    """Enrol the site that sent `request` and return its kit; its fingerprint was compared by telephone before.

    Args:
        consortium: With its keys unsealed.
        request: The file that the site made.
        now: The present time, with its time zone.
        roster: A signed roster to put into the kit, if there is one with the site already.

    Raises:
        IntegrityError: The request, its code or its invitation does not hold, or the roster is without the site.
        RefusedError: It was answered already, its code was used, its name is enrolled, or a key is known.
    """
    opened = open_request(request, now=now)
    if opened.kind != "join":
        raise UsageError(f"request of {opened.site}: expected one to join, got one to renew; fedmed consortium renew")
    invitation = _invitation_of(consortium, opened, now=now)
    require_code(opened, invitation)

    def may(register: Register) -> None:
        _require_unanswered(register, opened)
        if opened.code_id in register.codes:
            raise RefusedError(
                f"request of {opened.site}: expected a code that nobody has used, but its invitation was answered "
                "already; if that was not this site, revoke it and invite anew"
            )
        register.require_not_member(opened.site)
        register.require_new_keys(signing_key=opened.signing_key, supernode_key=opened.supernode_key)

    more: dict[str, Scalar] = {
        "code_id": opened.code_id,
        "signing_key": opened.signing_key.hex(),
        "supernode_key": opened.supernode_key,
    }
    statement = _statement(consortium, otherwise=invitation.coordinator.encode())
    return _answer(
        consortium, opened, kind=registers.ENROLLED, may=may, more=more, coordinator=statement, roster=roster, now=now
    )


def renew(consortium: OpenConsortium, request: bytes, *, now: datetime, roster: bytes | None = None) -> Answer:
    """Answer an enrolled site's request with a new certificate, for the keys that it was enrolled with.

    Raises:
        IntegrityError: The request does not hold, or is not signed by the site's enrolled key.
        RefusedError: The site is not enrolled or was revoked, or the request was answered already.
    """
    opened = open_request(request, now=now)
    if opened.kind != "renew":
        raise UsageError(f"request of {opened.site}: expected one to renew, got one to join; fedmed consortium enrol")
    if opened.consortium_key != consortium.public.key:
        raise IntegrityError(f"request of {opened.site}: expected one for this consortium, got another's")

    def may(register: Register) -> None:
        member = register.member(opened.site)
        if (member.signing_key, member.supernode_key) != (opened.signing_key, opened.supernode_key):
            raise IntegrityError(
                f"request of {opened.site}: expected it signed with the keys that the site was enrolled with, got "
                "others; if they are lost, revoke the site and invite it anew"
            )
        _require_unanswered(register, opened)

    statement = _statement(consortium, otherwise=None)
    return _answer(
        consortium, opened, kind=registers.RENEWED, may=may, more={}, coordinator=statement, roster=roster, now=now
    )


def revoke(consortium: OpenConsortium, site: str, *, reason: str, now: datetime) -> Register:
    """Revoke everything that a site holds, and sign both lists anew.

    Raises:
        UsageError: There is no reason in one printable line.
        RefusedError: The site is not enrolled.
    """
    if not reason or not reason.isprintable():
        raise UsageError("revoke: expected a reason in one line, for the register; give --reason TEXT")

    def decide(register: Register) -> tuple[str, dict[str, Scalar]]:
        register.member(site)
        return registers.REVOKED, {"site": site, "reason": reason, "at": moment(now)}

    registers.append(consortium.files.register, decide)
    return publish(consortium, now=now)


def publish(consortium: OpenConsortium, *, now: datetime) -> Register:
    """Sign both lists for the coordinator as the register is now: expired certificates leave, revoked ones stay.

    Returns:
        The register that they were made from.
    """
    files, root = consortium.files, consortium.root
    with locked(files.members.with_name("lists.lock")):  # two commands at once leave the later edition
        register = registers.read_register(files.register.parent)
        members = tuple(
            replace(one, certificates=tuple(part for part in one.certificates if part.not_after >= moment(now)))
            for one in register.members
        )
        listed = Members(edition=register.edition, made_at=moment(now), sites=members)
        revoked = Revoked(edition=register.edition, made_at=moment(now), sites=register.revoked)
        write_atomic(files.revoked, statements.sign(REVOKED, revoked, root), mode=0o644)
        write_atomic(files.members, statements.sign(MEMBERS, listed, root), mode=0o644)
    return register


def _answer(
    consortium: OpenConsortium,
    request: SiteRequest,
    *,
    kind: str,
    may: Callable[[Register], None],
    more: dict[str, Scalar],
    coordinator: bytes,
    roster: bytes | None,
    now: datetime,
) -> Answer:
    may(registers.read_register(consortium.files.register.parent))  # before a certificate is issued
    csr = request.csr.encode()
    certificate = consortium.authority.issue_client(csr, site=request.site, now=now)
    kit = Kit(
        kind=request.kind,
        site=request.site,
        consortium_key=consortium.public.key,
        request=digest(request),
        signing_key=request.signing_key,
        supernode_key=request.supernode_key,
        certificate=certificate.decode(),
        coordinator=coordinator.decode(),
        roster=None if roster is None else roster.decode(),
        made_at=moment(now),
    )
    data = statements.sign(KIT, kit, consortium.root)
    leaf = open_kit(data, consortium.public.ed25519(), now=now).leaf  # as the site will check it
    body: dict[str, Scalar] = {
        "site": request.site,
        "request": kit.request,
        "tls_key": hashlib.sha256(request_point(csr)).hexdigest(),
        "tls_serial": leaf.serial,
        "not_after": moment(leaf.not_after),
        "at": moment(now),
        **more,
    }

    def decide(register: Register) -> tuple[str, dict[str, Scalar]]:
        may(register)
        return kind, body

    with _kept(consortium.files.kits / f"{request.site}-{kit.request[:16]}.json", data):
        registers.append(consortium.files.register, decide)
    return Answer(kit=data, not_after=leaf.not_after, register=publish(consortium, now=now))


def _require_unanswered(register: Register, request: SiteRequest) -> None:
    name = digest(request)
    if name in register.requests:
        raise RefusedError(
            f"request of {request.site}: expected a new one, this was answered already; its kit lies in "
            f"kits/{request.site}-{name[:16]}.json of the consortium's folder"
        )
    if hashlib.sha256(request_point(request.csr.encode())).hexdigest() in register.tls_keys:
        raise RefusedError(
            f"request of {request.site}: expected a new TLS key, got one that was certified before; "
            "make a new request at the site"
        )


def _invitation_of(consortium: OpenConsortium, request: SiteRequest, *, now: datetime) -> Invitation:
    path = consortium.files.invitations / f"{request.code_id}.json"  # a code's id is 64 hexadecimal digits
    if not path.is_file():
        raise RefusedError(
            f"request of {request.site}: expected an invitation of this consortium, found none with its code; invite it"
        )
    invitation = open_invitation(path.read_bytes(), now=now)
    if invitation.consortium != consortium.public:
        raise IntegrityError(f"{path.name}: expected an invitation of this consortium, got another's; invite anew")
    return invitation


def _statement(consortium: OpenConsortium, *, otherwise: bytes | None) -> bytes:
    """Return the last statement about the coordinator that was made here."""
    if consortium.files.coordinator.is_file():
        return consortium.files.coordinator.read_bytes()
    if otherwise is None:
        raise UsageError(
            f"{consortium.files.coordinator}: expected the coordinator's statement, found no such file; make it with "
            "fedmed consortium coordinator"
        )
    return otherwise


class _kept:  # noqa: N801  reads as a statement
    """Keep a file in the consortium's folder if the block ends well, else remove it."""

    def __init__(self, path: Path, data: bytes) -> None:
        self._path, self._data = path, data

    def __enter__(self) -> None:
        self._path.parent.mkdir(mode=0o700, exist_ok=True)
        write_atomic(self._path, self._data)

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None:
            self._path.unlink(missing_ok=True)
