"""What must hold of the certificates of a consortium, and what they say.

Why it exists: what a coordinator or a site is shown may come from anybody. A certificate is believed
only when it is exactly what the consortium's authority issues, and in force.

Rules:
    * What is issued is also what is accepted: these checks are as strict as the issuing in `pki`.
    * ECDSA on P-256, SHA-256, X.509 version 3 (RFC 5280), at most 90 days for a leaf, 10 years for the authority.
    * A leaf has one use: `serverAuth` with the coordinator's names, or `clientAuth` with a site's name as common name
      and as `urn:fedmed:site:NAME`.
    * Clocks are arguments; every check raises.

What it does not do: issue (see `pki`), or know what is revoked.
"""

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, Literal

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedmed.errors import IntegrityError, UsageError

MOST_DAYS: Final = 90
MOST_YEARS: Final = 10
YEAR: Final = timedelta(days=365, hours=6)
RENEW_DAYS: Final = 30
"""A leaf should be renewed when it has fewer days left."""
SITE_URN: Final = "urn:fedmed:site:"
_SITE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_LABEL: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")

DAMAGED: Final = (
    ValueError,
    TypeError,
    InvalidSignature,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.ExtensionNotFound,
    x509.UnsupportedGeneralNameType,
)
"""What pyca/cryptography raises on certificates and requests that are not what they should be."""

Use = Literal["server", "client"]
USES: Final = {"server": ExtendedKeyUsageOID.SERVER_AUTH, "client": ExtendedKeyUsageOID.CLIENT_AUTH}


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaf:
    """What a certificate says, after it was checked.

    `names`: the site's name, or the coordinator's hosts. `serial`: lower-case hexadecimal.
    `public_key`: the 65-byte uncompressed point.
    """

    names: tuple[str, ...]
    serial: str
    public_key: bytes
    not_before: datetime
    not_after: datetime

    @property
    def renew_from(self) -> datetime:
        """When it is time to renew it."""
        return self.not_after - timedelta(days=RENEW_DAYS)


def check_authority(pem: bytes, *, now: datetime) -> x509.Certificate:
    """Return the authority's certificate if it is one and in force.

    Raises:
        IntegrityError: It is damaged, no such authority, or out of its dates; the message says which.
    """
    certificate, what = _one(pem, "TLS authority"), "TLS authority"
    try:
        certificate.verify_directly_issued_by(certificate)
        extensions = certificate.extensions
        basic = extensions.get_extension_for_class(x509.BasicConstraints)
        usage = extensions.get_extension_for_class(x509.KeyUsage)
    except DAMAGED:
        raise IntegrityError(f"{what}: expected a self-signed authority of FedMed, got another certificate") from None
    _require(basic.critical and basic.value == x509.BasicConstraints(ca=True, path_length=0), what, "path length 0")
    _require(usage.critical and usage.value == key_usage(leaf=False), what, "key usage certificate and list signing")
    _require_p256(certificate, what)
    _require_dates(certificate, what=what, longest=MOST_YEARS * YEAR, now=now, cure="found a new consortium authority")
    return certificate


def check_client(pem: bytes, *, authority: bytes, site: str, now: datetime) -> Leaf:
    """Return what a site's certificate says if the authority issued it to that site and it is in force.

    Raises:
        IntegrityError: Something else holds; the message says what.
    """
    what, cure = f"certificate of {site}", "renew it: fedmed site renew"
    certificate = _checked_leaf(pem, authority=authority, use="client", what=what, now=now, cure=cure)
    _require(site_of(certificate) == site, what, f"the name {site}, not {site_of(certificate)}")
    return _leaf(certificate, (site,))


def check_server(pem: bytes, *, authority: bytes, hosts: Sequence[str], now: datetime) -> Leaf:
    """Return what the coordinator's certificate says if the authority issued it for these hosts and it is in force.

    Raises:
        IntegrityError: Something else holds; the message says what.
    """
    what, cure = "certificate of the coordinator", "renew it: fedmed consortium coordinator --renew"
    certificate = _checked_leaf(pem, authority=authority, use="server", what=what, now=now, cure=cure)
    names = tuple(str(name.value) for name in _names(certificate))
    _require(set(names) == set(hosts), what, f"the hosts {', '.join(hosts)}, not {', '.join(names)}")
    return _leaf(certificate, names)


def site_of(certificate: bytes | x509.Certificate) -> str:
    """Return the site that a client certificate names; whoever calls has checked the certificate, or TLS has.

    Args:
        certificate: The certificate, PEM or DER bytes or parsed.

    Raises:
        IntegrityError: It names no site, or several, or its common name is another one.
    """
    parsed = _parsed(certificate, "certificate")
    names = _names(parsed)
    try:
        common = [str(part.value) for part in parsed.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    except DAMAGED:
        common = []
    if len(names) != 1 or not isinstance(names[0], x509.UniformResourceIdentifier) or len(common) != 1:
        raise IntegrityError("certificate: expected one site as urn:fedmed:site:NAME, got other names; enrol again")
    name = common[0]
    if names[0].value != SITE_URN + name or _SITE.fullmatch(name) is None:
        raise IntegrityError("certificate: expected the same site as common name and as URI; enrol again")
    return name


def serial_of(certificate: bytes | x509.Certificate) -> str:
    """Return a certificate's serial number as lower-case hexadecimal, as the list of revoked ones has it."""
    return format(_parsed(certificate, "certificate").serial_number, "x")


def require_site(name: str) -> str:
    """Return `name` if it is one that a certificate, a folder and Flower's command line take.

    Raises:
        UsageError: It is not 1 to 64 ASCII letters, digits, dashes and underscores.
    """
    if _SITE.fullmatch(name) is None:
        raise UsageError(
            f"site: expected a name of 1 to 64 letters, digits, dashes or underscores, got {name!r}; choose another"
        )
    return name


def normalised_host(host: str) -> str:
    """Return a DNS name in lower case or an IP address in its shortest form.

    Raises:
        UsageError: It is neither.

    >>> normalised_host("Hub.Hospital.example"), normalised_host("::0001")
    ('hub.hospital.example', '::1')
    """
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        pass
    name = host.lower()
    labels = name.split(".")
    numeric = labels[-1].isdigit()  # an address with a mistake in it, not a name
    if len(name) > 253 or numeric or not all(_LABEL.fullmatch(label) for label in labels):
        raise UsageError(f"host: expected a DNS name or an IP address, without port, got {host!r}") from None
    return name


def key_usage(*, leaf: bool) -> x509.KeyUsage:
    """Return what a leaf's key may do, or the authority's."""
    return x509.KeyUsage(
        digital_signature=leaf,
        key_cert_sign=not leaf,
        crl_sign=not leaf,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _checked_leaf(pem: bytes, *, authority: bytes, use: Use, what: str, now: datetime, cure: str) -> x509.Certificate:
    issuer, certificate = check_authority(authority, now=now), _one(pem, what)
    try:
        certificate.verify_directly_issued_by(issuer)
        extensions = certificate.extensions
        basic = extensions.get_extension_for_class(x509.BasicConstraints)
        usage = extensions.get_extension_for_class(x509.KeyUsage)
        extended = extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except InvalidSignature:
        raise IntegrityError(
            f"{what}: expected one that this consortium's authority issued, got another's; enrol again"
        ) from None
    except DAMAGED:
        raise IntegrityError(f"{what}: expected a leaf of this consortium's authority, got another; {cure}") from None
    _require(basic.critical and basic.value == x509.BasicConstraints(ca=False, path_length=None), what, "a leaf")
    _require(usage.critical and usage.value == key_usage(leaf=True), what, "key usage digital signature only")
    _require(list(extended) == [USES[use]], what, f"{use} authentication as its only use")
    _require_p256(certificate, what)
    _require_dates(certificate, what=what, longest=timedelta(days=MOST_DAYS), now=now, cure=cure)
    return certificate


def _require_dates(certificate: x509.Certificate, *, what: str, longest: timedelta, now: datetime, cure: str) -> None:
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    _require(start < end and end - start <= longest, what, f"at most {longest.days} days, not {(end - start).days}")
    clock = f"this machine's clock says {now.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
    if now < start:
        raise IntegrityError(
            f"{what}: expected one in force, this one starts at {start:%Y-%m-%dT%H:%M:%SZ} and {clock}; set it"
        )
    if now > end:
        raise IntegrityError(
            f"{what}: expected one in force, this one expired at {end:%Y-%m-%dT%H:%M:%SZ} and {clock}; {cure}, or set "
            "the clock if it is wrong"
        )


def _require_p256(certificate: x509.Certificate, what: str) -> None:
    try:
        key, algorithm = certificate.public_key(), certificate.signature_hash_algorithm
    except DAMAGED:
        raise IntegrityError(
            f"{what}: expected a key on P-256 and SHA-256, got something else; fetch it again"
        ) from None
    _require(isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1), what, "a key on P-256")
    _require(isinstance(algorithm, hashes.SHA256), what, "SHA-256")
    _require(certificate.version == x509.Version.v3, what, "X.509 version 3")


def _require(condition: bool, what: str, expected: str) -> None:  # noqa: FBT001  a predicate reads best in first place
    if not condition:
        raise IntegrityError(f"{what}: expected {expected}; don't use it, and ask the consortium for another")


def _one(pem: bytes, what: str) -> x509.Certificate:
    try:
        (certificate,) = x509.load_pem_x509_certificates(pem)
    except DAMAGED:
        raise IntegrityError(f"{what}: expected one certificate as PEM, got something else; fetch it again") from None
    return certificate


def _parsed(certificate: bytes | x509.Certificate, what: str) -> x509.Certificate:
    if isinstance(certificate, x509.Certificate):
        return certificate
    if certificate.lstrip().startswith(b"-----BEGIN"):
        return _one(certificate, what)
    try:
        return x509.load_der_x509_certificate(certificate)
    except DAMAGED:
        raise IntegrityError(f"{what}: expected DER or PEM, got something else") from None


def _names(certificate: x509.Certificate) -> list[x509.GeneralName]:
    try:
        return list(certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    except DAMAGED:
        raise IntegrityError("certificate: expected alternative names, found none; enrol again") from None


def _leaf(certificate: x509.Certificate, names: tuple[str, ...]) -> Leaf:
    return Leaf(
        names=names,
        serial=serial_of(certificate),
        public_key=point(certificate.public_key()),
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
    )


def point(key: object) -> bytes:
    """Return the 65-byte uncompressed point of a certificate's public key.

    Raises:
        IntegrityError: It is another kind of key.
    """
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise IntegrityError("certificate: expected a key on P-256, got another kind")
    return key.public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)
