"""The TLS authority: what it issues works in real handshakes, and nothing else is accepted."""

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedmed.crypto import certificates, pki
from fedmed.crypto.certificates import check_authority, check_client, check_server, serial_of, site_of
from fedmed.crypto.unsealed import client_context, server_context
from fedmed.errors import IntegrityError, UsageError

NOW = datetime.now(UTC).replace(microsecond=0)  # handshakes look at the real clock
DAY = timedelta(days=1)
CA, SERVER, CLIENT = (ec.generate_private_key(ec.SECP256R1()) for _ in range(3))
PEM = pki.make_authority(CA, name="heart-net", now=NOW)
AUTHORITY = pki.Authority.open(PEM, CA, now=NOW)
OTHER = ec.generate_private_key(ec.SECP256R1())
OTHER_PEM = pki.make_authority(OTHER, name="heart-net", now=NOW)


def client(site: str = "north", *, now: datetime = NOW, days: int = 90) -> bytes:
    """Return a site's certificate."""
    return AUTHORITY.issue_client(pki.make_request(CLIENT, site=site), site=site, now=now, days=days)


def server(*hosts: str, authority: pki.Authority = AUTHORITY) -> bytes:
    """Return a coordinator's certificate."""
    return authority.issue_server(SERVER.public_key(), hosts=hosts, now=NOW)


def handshake(accepting: ssl.SSLContext, calling: ssl.SSLContext, host: str) -> bytes:
    """Shake hands over a socket pair; return the client's certificate as the server saw it, in DER."""
    near, far = socket.socketpair()
    seen: list[bytes] = []

    def serve() -> None:
        try:
            with accepting.wrap_socket(near, server_side=True) as tls:
                seen.append(tls.getpeercert(binary_form=True) or b"")
                tls.sendall(b"hello")
        except (ssl.SSLError, OSError):
            near.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with calling.wrap_socket(far, server_hostname=host) as tls:
            if tls.recv(5) != b"hello":
                raise ssl.SSLError("refused")
    finally:
        far.close()
        thread.join()
    return seen[0]


@pytest.mark.parametrize("permit", [(), ("localhost",), ("127.0.0.1",), ("localhost", "127.0.0.1", "::1")])
def test_both_sides_shake_hands_under_any_name_constraints(permit: tuple[str, ...]):
    """What the authority issues for the hosts that it may certify is taken by OpenSSL, on both sides."""
    pem = pki.make_authority(CA, name="net", now=NOW, permit=permit)
    authority = pki.Authority.open(pem, CA, now=NOW)
    hosts = permit or ("localhost", "127.0.0.1")
    accepting = server_context(ca=pem, certificate=server(*hosts, authority=authority), key=SERVER)
    request = pki.make_request(CLIENT, site="north_1")
    certificate = authority.issue_client(request, site="north_1", now=NOW)
    calling = client_context(ca=pem, certificate=certificate, key=CLIENT)
    for host in hosts:
        seen = handshake(accepting, calling, host)
        assert site_of(seen) == "north_1"
        assert (
            serial_of(seen)
            == serial_of(certificate)
            == check_client(certificate, authority=pem, site="north_1", now=NOW).serial
        )


def test_the_wrong_host_is_refused_by_the_site():
    """A certificate for another name ends the handshake at the site."""
    accepting = server_context(ca=PEM, certificate=server("hub.example.org"), key=SERVER)
    calling = client_context(ca=PEM, certificate=client(), key=CLIENT)
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        handshake(accepting, calling, "evil.example.org")


def test_a_client_of_another_authority_gets_nowhere():
    """A stranger with a good certificate of another authority is not answered."""
    stranger = pki.Authority.open(OTHER_PEM, OTHER, now=NOW).issue_client(
        pki.make_request(CLIENT, site="north"), site="north", now=NOW
    )
    accepting = server_context(ca=PEM, certificate=server("localhost"), key=SERVER)
    calling = client_context(ca=OTHER_PEM, certificate=stranger, key=CLIENT)
    calling.load_verify_locations(cadata=PEM.decode())
    with pytest.raises((ssl.SSLError, OSError)):
        handshake(accepting, calling, "localhost")


def test_a_sites_certificate_is_no_servers_and_the_other_way_round():
    """Each certificate has one use: a site cannot pose as the coordinator, nor the coordinator as a site."""
    certificate = client("localhost")
    posing = server_context(ca=PEM, certificate=certificate, key=CLIENT)
    calling = client_context(ca=PEM, certificate=client(), key=CLIENT)
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(posing, calling, "localhost")
    accepting = server_context(ca=PEM, certificate=server("localhost"), key=SERVER)
    calling = client_context(ca=PEM, certificate=server("localhost"), key=SERVER)
    with pytest.raises((ssl.SSLError, OSError)):
        handshake(accepting, calling, "localhost")
    with pytest.raises(IntegrityError, match="client authentication as its only use"):
        check_client(server("localhost"), authority=PEM, site="north", now=NOW)


def test_constraints_are_kept_by_the_authority_and_by_openssl():
    """An authority for one domain certifies no other; where somebody had it do so, the handshake fails."""
    pem = pki.make_authority(CA, name="heart-net", now=NOW, permit=("hospital.example",))
    authority = pki.Authority.open(pem, CA, now=NOW)
    server("hub.hospital.example", "hospital.example", authority=authority)
    for host in ("evil.example", "nothospital.example", "10.0.0.1"):
        with pytest.raises(UsageError, match="expected a host that this authority may certify"):
            server(host, authority=authority)
    forced = server("localhost")  # the same key and names, without the constraints
    accepting = server_context(ca=pem, certificate=forced, key=SERVER)
    certificate = authority.issue_client(pki.make_request(CLIENT, site="n"), site="n", now=NOW)
    with pytest.raises(ssl.SSLCertVerificationError, match="permitted subtree violation"):
        handshake(accepting, client_context(ca=pem, certificate=certificate, key=CLIENT), "localhost")


def test_lives_are_short_and_checked_on_reading():
    """Ninety days at most, whoever issued it; the clock is looked at, with an hour of grace before."""
    leaf = check_client(client(), authority=PEM, site="north", now=NOW)
    assert leaf.not_after - leaf.not_before == 90 * DAY
    assert leaf.renew_from == leaf.not_after - 30 * DAY
    for days in (0, 91):
        with pytest.raises(UsageError, match="expected 1 to 90 days"):
            client(days=days)
    with pytest.raises(IntegrityError, match=r"expired at .* renew it: fedmed site renew"):
        check_client(client(), authority=PEM, site="north", now=NOW + 90 * DAY)
    check_client(client(), authority=PEM, site="north", now=NOW - timedelta(minutes=59))
    with pytest.raises(IntegrityError, match=r"starts at .* set it"):
        check_client(client(), authority=PEM, site="north", now=NOW - timedelta(minutes=61))


def test_an_authority_lives_ten_years_and_no_longer():
    """No more years are made, and after them nothing of it is believed."""
    with pytest.raises(UsageError, match="expected 1 to 10 years, got 11"):
        pki.make_authority(CA, name="net", now=NOW, years=11)
    check_authority(PEM, now=NOW + 3650 * DAY)
    with pytest.raises(IntegrityError, match="TLS authority: expected one in force"):
        check_authority(PEM, now=NOW + 3654 * DAY)


def test_a_leaf_does_not_outlive_its_authority():
    """In the authority's last days, a certificate ends with it."""
    pem = pki.make_authority(CA, name="net", now=NOW, years=1)
    late = NOW + 350 * DAY
    authority = pki.Authority.open(pem, CA, now=late)
    certificate = authority.issue_client(pki.make_request(CLIENT, site="n"), site="n", now=late)
    leaf = check_client(certificate, authority=pem, site="n", now=late)
    assert leaf.not_after == authority.certificate.not_valid_after_utc


def test_another_site_or_authority_is_refused():
    """A certificate is its site's alone, and its authority's alone, even where names are alike."""
    with pytest.raises(IntegrityError, match="expected the name south, not north"):
        check_client(client(), authority=PEM, site="south", now=NOW)
    with pytest.raises(IntegrityError, match="one that this consortium's authority issued"):
        check_client(client(), authority=OTHER_PEM, site="north", now=NOW)
    with pytest.raises(IntegrityError, match="its certificate and its own key"):
        pki.Authority.open(PEM, OTHER, now=NOW)


def test_the_hosts_must_be_exactly_those_of_the_statement():
    """A certificate with a host more or less than was stated is refused."""
    certificate = server("hub.example.org", "10.0.0.7", "2001:DB8::0001")
    check_server(certificate, authority=PEM, hosts=("10.0.0.7", "2001:db8::1", "hub.example.org"), now=NOW)
    for hosts in (("hub.example.org",), ("hub.example.org", "10.0.0.7", "2001:db8::1", "more.example.org")):
        with pytest.raises(IntegrityError, match="expected the hosts"):
            check_server(certificate, authority=PEM, hosts=hosts, now=NOW)


@pytest.mark.parametrize(
    "host", ["", "a b", "http://hub", "hub:443", "*.example.org", "-a.example", "10.0.0.256", "ü.de"]
)
def test_what_is_no_host_is_refused(host: str):
    """Ports, schemes, wildcards and mistyped addresses are refused before anything is signed."""
    with pytest.raises(UsageError, match="expected a DNS name or an IP address"):
        server(host)


@pytest.mark.parametrize("name", ["", "a b", "a.b", "../x", "x" * 65, "北", "-a", "a\n"])
def test_what_is_no_sites_name_is_refused(name: str):
    """A name goes into folders, certificates and command lines: plain ones only."""
    with pytest.raises(UsageError, match="expected a name of 1 to 64"):
        client(name)


@pytest.mark.parametrize(
    "key",
    [
        ec.generate_private_key(ec.SECP384R1()),
        rsa.generate_private_key(65537, 2048),
        Ed25519PrivateKey.generate(),
    ],
    ids=["p384", "rsa", "ed25519"],
)
def test_a_request_with_another_kind_of_key_is_refused(key: Any):
    """Only P-256 is certified."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "north")])
    algorithm = None if isinstance(key, Ed25519PrivateKey) else hashes.SHA256()
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, algorithm)
    with pytest.raises(IntegrityError, match="expected a key on P-256"):
        AUTHORITY.issue_client(request.public_bytes(serialization.Encoding.PEM), site="north", now=NOW)


def test_a_request_that_its_key_did_not_sign_is_refused():
    """Somebody else's public key cannot be put into a request."""
    mine = x509.load_pem_x509_csr(pki.make_request(CLIENT, site="north")).public_bytes(serialization.Encoding.DER)
    theirs = SERVER.public_key().public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)
    own = CLIENT.public_key().public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)
    swapped = x509.load_der_x509_csr(mine.replace(own, theirs)).public_bytes(serialization.Encoding.PEM)
    for request in (swapped, b"", b"-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n"):
        with pytest.raises(IntegrityError, match="signing request: expected"):
            pki.request_point(request)


def test_names_in_a_request_do_not_count():
    """A request may ask for anything: the certificate says what the consortium says."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "south")])
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    request = builder.sign(CLIENT, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    certificate = AUTHORITY.issue_client(request, site="north", now=NOW)
    assert check_client(certificate, authority=PEM, site="north", now=NOW).names == ("north",)


Change = Callable[[dict[str, Any]], None]


def forged(change: Change) -> bytes:
    """Return a client certificate that the real authority's key signed, with one thing changed."""
    parts: dict[str, Any] = {
        "key": CLIENT.public_key(),
        "start": NOW,
        "end": NOW + 30 * DAY,
        "name": "north",
        "uris": ["urn:fedmed:site:north"],
        "basic": (x509.BasicConstraints(ca=False, path_length=None), True),
        "usage": (certificates.key_usage(leaf=True), True),
        "uses": [ExtendedKeyUsageOID.CLIENT_AUTH],
        "hash": hashes.SHA256(),
    }
    change(parts)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, parts["name"])]))
        .issuer_name(AUTHORITY.certificate.subject)
        .public_key(parts["key"])
        .serial_number(x509.random_serial_number())
        .not_valid_before(parts["start"])
        .not_valid_after(parts["end"])
    )
    for name in ("basic", "usage"):
        if parts[name] is not None:
            builder = builder.add_extension(parts[name][0], critical=parts[name][1])
    if parts["uses"]:
        builder = builder.add_extension(x509.ExtendedKeyUsage(parts["uses"]), critical=False)
    if parts["uris"]:
        names = [x509.UniformResourceIdentifier(uri) for uri in parts["uris"]]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(CA, parts["hash"]).public_bytes(serialization.Encoding.PEM)


def test_the_unchanged_certificate_of_these_tests_is_good():
    """Without a change the certificate passes, so each refusal below is that of its change."""
    check_client(forged(lambda _: None), authority=PEM, site="north", now=NOW)


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("key", ec.generate_private_key(ec.SECP384R1()).public_key()),
        ("key", rsa.generate_private_key(65537, 2048).public_key()),
        ("end", NOW + 91 * DAY),
        ("name", "south"),
        ("uris", []),
        ("uris", ["urn:fedmed:site:south"]),
        ("uris", ["urn:fedmed:site:north", "urn:fedmed:site:south"]),
        ("basic", None),
        ("basic", (x509.BasicConstraints(ca=True, path_length=None), True)),
        ("basic", (x509.BasicConstraints(ca=False, path_length=None), False)),
        ("usage", None),
        ("usage", (certificates.key_usage(leaf=False), True)),
        ("uses", []),
        ("uses", [ExtendedKeyUsageOID.SERVER_AUTH]),
        ("uses", [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]),
        ("uses", [ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE]),
        ("hash", hashes.SHA512()),
    ],
)
def test_whatever_differs_from_the_profile_is_refused(part: str, value: Any):
    """Even with the authority's own signature, nothing but its exact kind of leaf is accepted."""
    with pytest.raises(IntegrityError):
        check_client(forged(lambda parts: parts.update({part: value})), authority=PEM, site="north", now=NOW)


def test_what_is_no_authority_is_refused():
    """A leaf, two certificates, a self-signed stranger with a leaf's constraints, and rubbish."""
    for pem in (client(), PEM + OTHER_PEM, b"", b"rubbish", PEM[:-40]):
        with pytest.raises(IntegrityError):
            check_authority(pem, now=NOW)


def test_a_certificate_is_damaged_in_any_byte():
    """Each byte of the certificate changed: refused with an error of FedMed, never accepted, never another crash."""
    der = x509.load_pem_x509_certificate(client()).public_bytes(serialization.Encoding.DER)
    for place in range(len(der)):
        damaged = bytearray(der)
        damaged[place] ^= 0x41
        pem = ssl.DER_cert_to_PEM_cert(bytes(damaged)).encode()
        with pytest.raises(IntegrityError):
            check_client(pem, authority=PEM, site="north", now=NOW)
        with contextlib.suppress(IntegrityError):
            site_of(bytes(damaged))


def test_a_request_is_damaged_in_any_byte():
    """Each byte of a signing request changed: refused with an error of FedMed."""
    der = x509.load_pem_x509_csr(pki.make_request(CLIENT, site="north")).public_bytes(serialization.Encoding.DER)
    for place in range(len(der)):
        damaged = bytearray(der)
        damaged[place] ^= 0x41
        pem = ssl.DER_cert_to_PEM_cert(bytes(damaged)).replace("CERTIFICATE", "CERTIFICATE REQUEST").encode()
        with pytest.raises(IntegrityError):
            pki.request_point(pem)
