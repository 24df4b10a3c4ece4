"""The consortium's TLS authority: certificates that live at most 90 days.

Why it exists: the coordinator and every site must know each other before a byte of a study is read.
One small authority per consortium, in nobody's trust store, says who is who; short lives bound what a
stolen key is worth.

Rules:
    * What is issued is exactly what `certificates` accepts.
    * The authority signs leaves only (path length 0). Only the key of a signing request is taken from it: names and
      uses come from the consortium.
    * A leaf is valid from an hour before it was issued, because clocks of hospitals differ.

What it does not do: hold keys at rest (`keyfiles`), decide who gets a certificate, or revoke one.
"""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from fedmed.crypto.certificates import (
    DAMAGED,
    MOST_DAYS,
    MOST_YEARS,
    SITE_URN,
    USES,
    YEAR,
    Use,
    check_authority,
    key_usage,
    normalised_host,
    point,
    require_site,
)
from fedmed.errors import IntegrityError, UsageError

_BACKDATED: Final = timedelta(hours=1)
_COMMON_NAME: Final = "FedMed TLS authority"


@dataclass(frozen=True, slots=True)
class Authority:
    """The certificate and the unsealed key of the authority, while it issues."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @classmethod
    def open(cls, pem: bytes, key: ec.EllipticCurvePrivateKey, *, now: datetime) -> "Authority":
        """Return the authority if certificate and key belong together and it is in force.

        Raises:
            IntegrityError: As `check_authority`, or the key is another one.
        """
        certificate = check_authority(pem, now=now)
        if point(certificate.public_key()) != point(key.public_key()):
            raise IntegrityError("TLS authority: expected its certificate and its own key, got another key")
        return cls(certificate, key)

    def issue_client(self, request: bytes, *, site: str, now: datetime, days: int = MOST_DAYS) -> bytes:
        """Return a site's certificate (PEM) for the key of a signing request.

        Args:
            request: A PKCS #10 request (PEM); only its key is taken from it.
            site: The site's name.
            now: The present time, with its time zone.
            days: How long it lives, at most 90.

        Raises:
            IntegrityError: The request is damaged, not signed by its own key, or has another kind of key.
        """
        names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(SITE_URN + require_site(site))])
        return self._issue(request_key(request), common_name=site, names=names, use="client", now=now, days=days)

    def issue_server(
        self, key: ec.EllipticCurvePublicKey, *, hosts: Sequence[str], now: datetime, days: int = MOST_DAYS
    ) -> bytes:
        """Return the coordinator's certificate (PEM).

        Args:
            key: Its public key, on P-256.
            hosts: DNS names and IP addresses by which sites reach it.
            now: The present time, with its time zone.
            days: How long it lives, at most 90.

        Raises:
            UsageError: A host is not a name or an address, or the authority may not certify it.
        """
        names = [_general_name(host) for host in hosts]
        if not names:
            raise UsageError("coordinator: expected at least one host, got none; give --host")
        self._require_permitted(names)
        names_of = x509.SubjectAlternativeName(
            names
        )  # the common name is for people; OpenSSL takes one with dots for DNS
        return self._issue(key, common_name="coordinator", names=names_of, use="server", now=now, days=days)

    def _issue(
        self,
        key: ec.EllipticCurvePublicKey,
        *,
        common_name: str,
        names: x509.SubjectAlternativeName,
        use: Use,
        now: datetime,
        days: int,
    ) -> bytes:
        if not 1 <= days <= MOST_DAYS:
            raise UsageError(f"certificate: expected 1 to {MOST_DAYS} days, got {days}")
        start = now.astimezone(UTC).replace(microsecond=0) - _BACKDATED
        end = min(start + timedelta(days=days), self.certificate.not_valid_after_utc)
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)]))
            .issuer_name(self.certificate.subject)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(max(start, self.certificate.not_valid_before_utc))
            .not_valid_after(end)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(key_usage(leaf=True), critical=True)
            .add_extension(x509.ExtendedKeyUsage([USES[use]]), critical=False)
            .add_extension(names, critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(_authority_key(self.key.public_key()), critical=False)
        )
        return builder.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def _require_permitted(self, names: Sequence[x509.GeneralName]) -> None:
        try:
            limits = self.certificate.extensions.get_extension_for_class(x509.NameConstraints).value
        except x509.ExtensionNotFound:
            return
        for name in names:
            allowed = [other for other in limits.permitted_subtrees or () if type(other) is type(name)]
            if not any(_within(name, other) for other in allowed):
                permitted = ", ".join(str(other.value) for other in limits.permitted_subtrees or ())
                raise UsageError(
                    f"coordinator: expected a host that this authority may certify ({permitted}), got {name.value}"
                )


def make_authority(
    key: ec.EllipticCurvePrivateKey, *, name: str, now: datetime, years: int = MOST_YEARS, permit: Sequence[str] = ()
) -> bytes:
    """Return the authority's own certificate (PEM).

    Args:
        key: Its key, on P-256.
        name: The consortium's name.
        now: The present time, with its time zone.
        years: How long it lives, at most 10.
        permit: DNS names (with all below them) and IP addresses that it may certify for coordinators, as X.509 name
            constraints that every TLS library enforces; empty for no such limit.

    Raises:
        UsageError: The years don't fit, or a name is not a name or an address.
    """
    if not 1 <= years <= MOST_YEARS:
        raise UsageError(f"TLS authority: expected 1 to {MOST_YEARS} years, got {years}")
    start = now.astimezone(UTC).replace(microsecond=0) - _BACKDATED
    subject = x509.Name(
        [x509.NameAttribute(NameOID.ORGANIZATION_NAME, name), x509.NameAttribute(NameOID.COMMON_NAME, _COMMON_NAME)]
    )
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + years * YEAR)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(key_usage(leaf=False), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    if permit:
        builder = builder.add_extension(_constraints(permit), critical=True)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def make_request(key: ec.EllipticCurvePrivateKey, *, site: str) -> bytes:
    """Return a signing request (PKCS #10, PEM), which proves that its sender holds `key`."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, require_site(site))])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM)


def request_point(request: bytes) -> bytes:
    """Return the 65-byte public key of a signing request that its own key has signed.

    Raises:
        IntegrityError: It is damaged, not signed by its own key, or has another kind of key.
    """
    return point(request_key(request))


def _general_name(host: str) -> x509.GeneralName:
    plain = normalised_host(host)
    try:
        return x509.IPAddress(ipaddress.ip_address(plain))
    except ValueError:
        return x509.DNSName(plain)


def _constraints(permit: Sequence[str]) -> x509.NameConstraints:
    """Return constraints that permit `permit`; a kind of name of which none is permitted is excluded whole."""
    names = [_general_name(host) for host in permit]
    addresses = [name for name in names if isinstance(name, x509.IPAddress)]
    permitted: list[x509.GeneralName] = [name for name in names if isinstance(name, x509.DNSName)]
    excluded: list[x509.GeneralName] = []
    if not permitted:
        excluded.append(x509.DNSName(""))
    permitted += [x509.IPAddress(ipaddress.ip_network(name.value)) for name in addresses]
    if not addresses:
        excluded += [x509.IPAddress(ipaddress.ip_network(every)) for every in ("0.0.0.0/0", "::/0")]
    return x509.NameConstraints(permitted_subtrees=permitted, excluded_subtrees=excluded or None)


def _within(name: x509.GeneralName, limit: x509.GeneralName) -> bool:
    if isinstance(name, x509.IPAddress) and isinstance(limit, x509.IPAddress):
        network = limit.value
        return isinstance(network, ipaddress.IPv4Network | ipaddress.IPv6Network) and name.value in network
    return name.value == limit.value or str(name.value).endswith(f".{limit.value}")


def _authority_key(key: ec.EllipticCurvePublicKey) -> x509.AuthorityKeyIdentifier:
    return x509.AuthorityKeyIdentifier.from_issuer_public_key(key)


def request_key(request: bytes) -> ec.EllipticCurvePublicKey:
    """Return the public key of a signing request (PEM) that its own key has signed.

    Raises:
        IntegrityError: It is damaged, not signed by its own key, or has another kind of key.
    """
    try:
        parsed = x509.load_pem_x509_csr(request)
        good, key = parsed.is_signature_valid, parsed.public_key()
    except DAMAGED:
        raise IntegrityError("signing request: expected PKCS #10 as PEM, got a damaged one; make a new one") from None
    if not good:
        raise IntegrityError("signing request: expected the signature of its own key, got another; make a new one")
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise IntegrityError("signing request: expected a key on P-256, got another kind; make a new one")
    return key
