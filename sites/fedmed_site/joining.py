"""How a site joins a consortium: the invitation in, a request out, the kit in; then renewals and rosters.

Why it exists: the site's keys are made at the site and never leave it. What goes out is public, what comes
in is verified against a key that two people compared by telephone.

Rules:
    * The consortium's key is pinned once; whatever another key signed is refused from then on.
    * A kit is installed only if it answers this site's own waiting request, and whole or not at all.
    * The same command again is safe: a waiting request is given again, an installed kit stays.
    * Every step is in the site's audit log: digests, names and serial numbers.

What it does not do: ask questions or compare fingerprints (the command line does), or send anything.
"""

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedmed.audit import ChainLog
from fedmed.crypto import statements
from fedmed.crypto.keyfiles import (
    SUPERNODE,
    TLS_CLIENT,
    load_private_key,
    save_public_key,
    seal_private_key,
    sealed_bytes,
)
from fedmed.crypto.openssh import supernode_line
from fedmed.crypto.passphrases import Secret
from fedmed.deid.pseudonyms import KEY_BYTES
from fedmed.enrolment import REQUEST, SiteRequest, code_id, make_request, open_request, require_answers
from fedmed.errors import IntegrityError, UsageError
from fedmed.files import locked, write_atomic
from fedmed.generations import replace_generation
from fedmed.kits import (
    COORDINATOR,
    INVITATION,
    Coordinator,
    Invitation,
    OpenedKit,
    moment,
    moment_of,
    open_kit,
    require_in_roster,
)
from fedmed.secagg.roster import Roster
from fedmed.secagg.roster_file import open_roster
from fedmed_site.home import SiteHome, SiteRecord
from fedmed_site.identity import (
    AUTHORITY_FILE,
    CERTIFICATE_FILE,
    KEY_FILE,
    KIT_FILE,
    STATEMENT_FILE,
    IdentityFiles,
    pinned_consortium,
    signing_public,
)
from fedmed_site.membership import Membership
from fedmed_site.policy import SitePolicy

REQUESTED: Final = "enrolment-requested"
INSTALLED: Final = "kit-installed"
ROSTER_TAKEN: Final = "roster-taken"
_AGAIN: Final = timedelta(days=7)
"""A waiting request that is older is not given again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Requested:
    """A request to carry to the consortium; `fresh` tells whether its keys were made just now."""

    data: bytes
    request: SiteRequest
    fresh: bool


def accept(
    root: Path,
    invitation: Invitation,
    data: bytes,
    *,
    secret: Secret,
    policy: SitePolicy,
    new_keys: bool,
    now: datetime,
    entropy: Callable[[int], bytes] = os.urandom,
) -> Requested:
    """Pin the consortium, make the site's keys, and return the request to join.

    Args:
        root: The site's folder; a site is made in it if there is none.
        invitation: Verified, and its fingerprint compared.
        data: The invitation's file.
        secret: Seals the TLS key and the SuperNode's.
        policy: Of a new site.
        new_keys: Replace the signing key and the SuperNode's key, after a revocation or a loss.
        now: The present time, with its time zone.
        entropy: Source of keys.

    Raises:
        UsageError: The site has another name or consortium, is enrolled already, or the secret is another one.
    """
    require_acceptable(root, invitation, new_keys=new_keys)
    home = _home(root, invitation.site, policy, entropy=entropy)
    files = IdentityFiles(home)
    with locked(home.consortium / "joining.lock"):
        waiting = None if new_keys else _waiting(files, now=now)
        if waiting is not None and waiting.request.code_id == code_id(invitation.code):
            _require_opens(files, secret)
            return waiting
        if new_keys:
            files.supernode_key.unlink(missing_ok=True)
            write_atomic(home.signing_key_path, entropy(KEY_BYTES))
        supernode = _supernode(files, home.record().name, secret)
        _pin(files, invitation, data)
        return _request(files, supernode, secret, code=invitation.code, now=now)


def require_acceptable(root: Path, invitation: Invitation, *, new_keys: bool) -> None:
    """Raise before anybody is asked anything if this site cannot accept the invitation.

    Raises:
        UsageError: The site has another name or consortium, or is enrolled already.
    """
    if not (root / "site.json").is_file():
        return
    home = SiteHome.open(root)
    files, name = IdentityFiles(home), home.record().name
    if name != invitation.site:
        raise UsageError(
            f"invitation: expected one for {name}, the site in {root}, got one for {invitation.site}; ask for its own"
        )
    if files.pinned.is_file() and files.pinned.read_bytes() != invitation.consortium.key:
        raise UsageError(
            "invitation: expected one of the consortium that this site belongs to, got another's; "
            "leave that consortium first, or use another --home"
        )
    if files.current.is_symlink() and not new_keys and not _waits_for(files, invitation):
        raise UsageError(
            "invitation: expected a site that has not joined yet, this one has; for a new certificate: fedmed site "
            "renew; after a revocation: --new-keys"
        )


def site_name(root: Path) -> str:
    """Return the name of the site in `root`.

    Raises:
        UsageError: There is none.
    """
    return SiteHome.open(root).record().name


def renew(root: Path, *, secret: Secret, now: datetime) -> Requested:
    """Return a request for a new certificate, with a new TLS key, signed by the site's current keys.

    Args:
        root: The site's folder.
        secret: What its keys are sealed under.
        now: The present time, with its time zone.

    Raises:
        UsageError: The site was not enrolled yet, or the secret is another one.
    """
    home = SiteHome.open(root)
    files = IdentityFiles(home)
    if not files.current.is_symlink():
        raise UsageError(f"{root}: expected an enrolled site, found no kit in it; fedmed site join KIT")
    with locked(home.consortium / "joining.lock"):
        waiting = _waiting(files, now=now)
        supernode = _supernode(files, home.record().name, secret)
        if waiting is not None and waiting.request.kind == "renew":
            return waiting
        return _request(files, supernode, secret, code=None, now=now)


def install(root: Path, data: bytes, *, now: datetime) -> OpenedKit:
    """Verify a kit against the pinned key and this site's waiting request, and put it into use.

    Args:
        root: The site's folder.
        data: The kit's file.
        now: The present time, with its time zone.

    Raises:
        UsageError: The site has accepted no invitation.
        IntegrityError: The kit is another consortium's, expired, changed, or not for this site's own keys.
    """
    home = SiteHome.open(root)
    files = IdentityFiles(home)
    key = pinned_consortium(files).ed25519()
    opened = open_kit(data, key, now=now)
    if opened.kit.site != home.record().name:
        raise IntegrityError(
            f"kit: expected one for {home.record().name}, the site in {root}, got one for {opened.kit.site}; ask for "
            "this site's kit"
        )
    with locked(home.consortium / "joining.lock"):
        if opened.roster is not None:
            _require_floors(files, opened.roster)
        if not _is_installed(files, data):
            _put(files, opened, data, now=now)
    if opened.kit.roster is not None:
        take_roster(root, opened.kit.roster.encode(), now=now)
    return opened


def take_roster(root: Path, data: bytes, *, now: datetime) -> Roster:
    """Take in a roster of the pinned consortium, or a later edition, if this site stands in it under its own key.

    Raises:
        UsageError: The site has no consortium.
        IntegrityError: It is another consortium's, old, not in force, without this site, or below the invited floors.
    """
    home = SiteHome.open(root)
    files = IdentityFiles(home)
    roster = open_roster(data, consortium_key=pinned_consortium(files).ed25519(), least_serial=1, now=now)
    require_in_roster(roster, site=home.record().name, signing_key=signing_public(home))
    _require_floors(files, roster)
    held = home.consortium / "roster.json"
    if held.is_file() and held.read_bytes() == data:
        return roster
    Membership(home).renew(data, now=now)
    _log(home, ROSTER_TAKEN, {"serial": roster.serial, "sha256": hashlib.sha256(data).hexdigest(), "at": moment(now)})
    return roster


def _home(root: Path, name: str, policy: SitePolicy, *, entropy: Callable[[int], bytes]) -> SiteHome:
    if (root / "site.json").is_file():
        return SiteHome.open(root)
    return SiteHome.create(
        root, SiteRecord(name=name, policy=policy), pseudonym_key=entropy(KEY_BYTES), entropy=entropy
    )


def _pin(files: IdentityFiles, invitation: Invitation, data: bytes) -> None:
    Membership(files.home).pin(invitation.consortium.key)
    if not files.public.is_file():
        save_public_key(files.public, invitation.consortium)
    write_atomic(files.invitation, data)


def _supernode(files: IdentityFiles, name: str, secret: Secret) -> ec.EllipticCurvePrivateKey:
    """Return the SuperNode's key, unsealed; made if there is none yet."""
    if files.supernode_key.is_file():
        key = load_private_key(files.supernode_key, purpose=SUPERNODE).unseal_ecdsa(secret)
    else:
        key = ec.generate_private_key(ec.SECP384R1())
        sealed = seal_private_key(key, name=name, purpose=SUPERNODE, secret=secret)
        write_atomic(files.supernode_key, sealed_bytes(sealed))
    line = f"{supernode_line(key.public_key())}\n".encode()
    if not files.supernode_public.is_file() or files.supernode_public.read_bytes() != line:
        write_atomic(files.supernode_public, line, mode=0o644)
    return key


def _require_opens(files: IdentityFiles, secret: Secret) -> None:
    load_private_key(files.supernode_key, purpose=SUPERNODE).unseal(secret)


def _request(
    files: IdentityFiles, supernode: ec.EllipticCurvePrivateKey, secret: Secret, *, code: bytes | None, now: datetime
) -> Requested:
    """Make a TLS key and a request for it, and keep both until the kit comes."""
    home = files.home
    name, tls = home.record().name, ec.generate_private_key(ec.SECP256R1())
    data = make_request(
        site=name,
        consortium_key=files.pinned.read_bytes(),
        signing=Ed25519PrivateKey.from_private_bytes(home.signing_key_path.read_bytes()),
        supernode=supernode,
        tls=tls,
        code=code,
        now=now,
    )
    files.request.unlink(missing_ok=True)  # never a request beside another request's key
    sealed = seal_private_key(tls, name=name, purpose=TLS_CLIENT, secret=secret)
    write_atomic(files.next_key, sealed_bytes(sealed))
    write_atomic(files.request, data)
    request = open_request(data, now=now)
    sha256 = hashlib.sha256(data).hexdigest()
    _log(home, REQUESTED, {"request": request.kind, "sha256": sha256, "at": moment(now)})
    return Requested(data=data, request=request, fresh=True)


def _waiting(files: IdentityFiles, *, now: datetime) -> Requested | None:
    """Return the request that waits for its kit, if it is young and its key is there."""
    if not files.request.is_file() or not files.next_key.is_file():
        return None
    data = files.request.read_bytes()
    request = statements.parse(data, REQUEST, SiteRequest).claim
    if not -_AGAIN < now - moment_of(request.made_at) < _AGAIN or request.signing_key != signing_public(files.home):
        return None
    return Requested(data=data, request=open_request(data, now=now), fresh=False)


def _waits_for(files: IdentityFiles, invitation: Invitation) -> bool:
    """Tell whether the request that waits for its kit answers this invitation."""
    if not files.request.is_file():
        return False
    request = statements.parse(files.request.read_bytes(), REQUEST, SiteRequest).claim
    return request.code_id == code_id(invitation.code)


def _is_installed(files: IdentityFiles, data: bytes) -> bool:
    installed = files.current / KIT_FILE
    return installed.is_file() and installed.read_bytes() == data


def _put(files: IdentityFiles, opened: OpenedKit, data: bytes, *, now: datetime) -> None:
    if not files.request.is_file() or not files.next_key.is_file():
        raise UsageError(
            f"kit of {opened.kit.site}: expected a request that waits for its kit, found none; "
            "fedmed site renew, and send the request"
        )
    request = statements.parse(files.request.read_bytes(), REQUEST, SiteRequest).claim
    sealed = load_private_key(files.next_key, purpose=TLS_CLIENT)
    require_answers(opened.kit, request, tls_key=sealed.public.key, leaf=opened.leaf)
    _require_later(files, opened.coordinator)
    replace_generation(
        files.tls,
        {
            KIT_FILE: data,
            STATEMENT_FILE: opened.kit.coordinator.encode(),
            AUTHORITY_FILE: opened.coordinator.authority.encode(),
            CERTIFICATE_FILE: opened.kit.certificate.encode(),
            KEY_FILE: sealed_bytes(sealed),
        },
    )
    files.request.unlink(missing_ok=True)
    files.next_key.unlink(missing_ok=True)
    facts = {"serial": opened.leaf.serial, "not_after": moment(opened.leaf.not_after)}
    _log(files.home, INSTALLED, {**facts, "sha256": hashlib.sha256(data).hexdigest(), "at": moment(now)})


def _require_later(files: IdentityFiles, coordinator: Coordinator) -> None:
    """Raise if this site has seen a later statement about the coordinator."""
    held = files.current / STATEMENT_FILE
    if not held.is_file():
        return
    before = statements.parse(held.read_bytes(), COORDINATOR, Coordinator).claim
    if coordinator.serial < before.serial:
        raise IntegrityError(
            f"kit: expected the coordinator's statement {before.serial} or later, got {coordinator.serial}; ask for a "
            "new kit"
        )


def _require_floors(files: IdentityFiles, roster: Roster) -> None:
    if files.invitation.is_file():
        invitation = statements.parse(files.invitation.read_bytes(), INVITATION, Invitation).claim
        if invitation.floors is not None:
            invitation.floors.require_kept(roster.policy)


def _log(home: SiteHome, kind: str, body: dict[str, str | int]) -> None:
    ChainLog(home.audit_path).append(kind, dict(body))
