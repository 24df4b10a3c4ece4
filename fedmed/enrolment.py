"""A site's request to join or to renew: public keys, and the proofs that it holds the private ones.

Why it exists: keys are made at the site and stay there. What goes out must convince a consortium, on an
offline machine, that its sender holds all of them and is the site that was invited.

Rules:
    * A request proves that its sender holds all three keys: it is signed by the site's Ed25519 key, carries a
      signature of the SuperNode's P-384 key, and a PKCS #10 request of the TLS key. No private key is in it.
    * A request to join also proves that its sender had the invitation: an HMAC under its one-time code.
    * A kit is taken for the answer to one request only: the same site, keys and digest.
    * Every clock is an argument; every check raises.

What it does not do: remember which requests were answered (the consortium's register does), or touch files.
"""

import hashlib
import hmac
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from fedmed.crypto import statements
from fedmed.crypto.certificates import Leaf
from fedmed.crypto.keyfiles import SITE_SIGNING, PublicKey
from fedmed.crypto.openssh import supernode_line, supernode_public
from fedmed.crypto.pki import make_request as make_signing_request
from fedmed.crypto.pki import request_point
from fedmed.errors import IntegrityError
from fedmed.kits import Invitation, Kit, RequestKind, moment, moment_of, require_in_force, require_plain_site
from fedmed.records import AsRead, canonical_json, digest, require, require_digest
from fedmed.secagg.roster import require_moment

REQUEST: Final = "fedmed-site-request"
REQUEST_DAYS: Final = 30
"""A request that is older is not answered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteRequest(AsRead):
    """A site's public keys, and the proofs that it holds the private ones.

    `signing_key`: 32 raw bytes (Ed25519). `supernode_key`: one line in OpenSSH's format (P-384). `csr`: PKCS #10 as
    PEM (P-256). `code_id`: which invitation is answered; empty, as `code_proof`, in a request to renew.
    """

    kind: RequestKind
    site: str
    consortium_key: bytes
    signing_key: bytes
    supernode_key: str
    csr: str
    made_at: str
    code_id: str
    code_proof: bytes
    supernode_proof: bytes

    def __post_init__(self) -> None:
        require_plain_site(self.site)
        for name in ("consortium_key", "signing_key"):
            require(len(getattr(self, name)) == 32, f"{name} must have 32 bytes")
        if self.kind == "join":
            require_digest("code_id", self.code_id)
            require(len(self.code_proof) == 32, "code_proof must have 32 bytes")
        else:
            require(not self.code_id and not self.code_proof, "code_id and code_proof must be empty in a renewal")
        require_moment("made_at", self.made_at)

    @property
    def public_key(self) -> PublicKey:
        """The signing key, whose fingerprint is compared by telephone; its signature binds the other two."""
        return PublicKey(name=self.site, purpose=SITE_SIGNING, kind="ed25519", key=self.signing_key)


def code_id(code: bytes) -> str:
    """Return the name of an invitation's code, which does not tell the code: 64 hexadecimal digits."""
    return hashlib.sha256(b"FedMed-code-id/v1\0" + code).hexdigest()


def make_request(
    *,
    site: str,
    consortium_key: bytes,
    signing: Ed25519PrivateKey,
    supernode: ec.EllipticCurvePrivateKey,
    tls: ec.EllipticCurvePrivateKey,
    code: bytes | None,
    now: datetime,
) -> bytes:
    """Return the file of a request, signed by all three keys.

    Args:
        site: The site's name.
        consortium_key: The pinned key of the consortium, 32 raw bytes.
        signing: The site's Ed25519 key.
        supernode: The SuperNode's P-384 key.
        tls: The P-256 key that a certificate is asked for.
        code: The invitation's code, or None to renew.
        now: The present time, with its time zone.
    """
    bare = SiteRequest(
        kind="renew" if code is None else "join",
        site=site,
        consortium_key=consortium_key,
        signing_key=signing.public_key().public_bytes_raw(),
        supernode_key=supernode_line(supernode.public_key()),
        csr=make_signing_request(tls, site=site).decode(),
        made_at=moment(now),
        code_id="" if code is None else code_id(code),
        code_proof=b"" if code is None else bytes(32),
        supernode_proof=b"",
    )
    core = _core(bare)
    proven = replace(
        bare,
        code_proof=b"" if code is None else _code_proof(code, core),
        supernode_proof=supernode.sign(core, ec.ECDSA(hashes.SHA384())),
    )
    return statements.sign(REQUEST, proven, signing)


def open_request(data: bytes, *, now: datetime) -> SiteRequest:
    """Return a request whose sender holds all three keys; who that is, its fingerprint or the register tells.

    Raises:
        IntegrityError: A proof is missing or wrong, or the request is too old or from the future.
    """
    signed = statements.parse(data, REQUEST, SiteRequest)
    request = signed.verify(
        Ed25519PublicKey.from_public_bytes(signed.claim.signing_key), cure="ask the site for the request again"
    )
    key = supernode_public(request.supernode_key)
    try:
        key.verify(request.supernode_proof, _core(request), ec.ECDSA(hashes.SHA384()))
    except InvalidSignature:
        raise IntegrityError(
            f"request of {request.site}: expected a signature of the SuperNode's key in it, got another; "
            "ask the site for a new request"
        ) from None
    request_point(request.csr.encode())
    end = moment(moment_of(request.made_at) + timedelta(days=REQUEST_DAYS))
    require_in_force(request.made_at, end, now=now, what=f"the request of {request.site}")
    return request


def require_code(request: SiteRequest, invitation: Invitation) -> None:
    """Raise unless `request` is for `invitation` and its sender had the invitation's code.

    Raises:
        IntegrityError: Site, consortium or code is another.
    """
    cure = "invite the site anew"
    if request.kind != "join" or request.site != invitation.site:
        raise IntegrityError(
            f"request of {request.site}: expected a request to join of {invitation.site}, who was invited; {cure}"
        )
    if request.consortium_key != invitation.consortium.key:
        raise IntegrityError(f"request of {request.site}: expected one for this consortium, got another's; {cure}")
    if not hmac.compare_digest(request.code_id, code_id(invitation.code)) or not hmac.compare_digest(
        request.code_proof, _code_proof(invitation.code, _core(request))
    ):
        raise IntegrityError(f"request of {request.site}: expected the code of its invitation, got another; {cure}")


def require_answers(kit: Kit, request: SiteRequest, *, tls_key: bytes, leaf: Leaf) -> None:
    """Raise unless `kit` answers this very request, and certifies this very key.

    Args:
        kit: A verified kit.
        request: What this site sent and waits for.
        tls_key: The 65-byte public key that belongs to the private key that waits.
        leaf: The kit's certificate.

    Raises:
        IntegrityError: It is for another site, request or key.
    """
    if kit.site != request.site:
        raise IntegrityError(f"kit: expected one for {request.site}, got one for {kit.site}; ask for this site's kit")
    same = (
        kit.request == digest(request)
        and kit.kind == request.kind
        and kit.signing_key == request.signing_key
        and kit.supernode_key == request.supernode_key
        and leaf.public_key == tls_key == request_point(request.csr.encode())
    )
    if not same:
        raise IntegrityError(
            f"kit of {kit.site}: expected the answer to this site's last request, got one for other keys; "
            "send the request again, and compare the fingerprint by telephone"
        )


def _core(request: SiteRequest) -> bytes:
    """Return what the proofs in a request are made over: all of it but themselves."""
    bare = replace(request, supernode_proof=b"", code_proof=b"" if request.kind == "renew" else bytes(32))
    return b"FedMed-request/v1\0" + canonical_json(bare)


def _code_proof(code: bytes, core: bytes) -> bytes:
    return hmac.digest(hashlib.sha256(b"FedMed-code-key/v1\0" + code).digest(), core, "sha256")
