"""The doctor's look at the way to the coordinator: name, connection, TLS, mutual TLS, clock.

Why it exists: each step of the way fails for its own reason and has its own cure, and the agent sees only the last.

Rules:
    * Each step is taken as the SuperNode takes it: through the same proxy, to the same host, with the same keys.
    * A step after one that failed is not taken.

What it does not do: ask the coordinator for anything but its health.
"""

import base64
import http.client
import socket
import ssl
from collections.abc import Sequence
from http import HTTPStatus
from typing import Final
from urllib.parse import SplitResult, unquote, urlsplit

from fedmed.errors import FedMedError
from fedmed_site import clocks
from fedmed_site.approvals import written
from fedmed_site.doctor import TIMEOUT_S, Check, Finding, Patient, bad, ok, warn
from fedmed_site.identity import SiteIdentity

_MOST_HEADER_BYTES: Final = 1 << 14
_NETWORK: Final = "ask your network's administrator to allow TCP from here to {host} port {port}"
_TELL: Final = "tell the coordinator's administrator"


class _ProxyRefusedError(OSError):
    """The proxy answered, and not with a connection."""


def network(patient: Patient) -> Sequence[Finding]:
    """Take the way to the coordinator step by step, as far as it goes."""
    identity = patient.identity()
    if identity is None:
        return [warn("network", "not tried: this site has joined no consortium", "fedmed site join INVITATION")]
    host, port = identity.coordinator_host, identity.coordinator_port
    try:
        proxy = proxy_for(host, patient)
    except ValueError:
        return [
            bad("proxy", "HTTPS_PROXY is no address like http://proxy:3128", "correct it in the agent's environment")
        ]
    found = [_resolved(patient, proxy.hostname or "" if proxy else host)]
    if found[-1].level != "bad":
        found.append(_reached(patient, proxy, host, port))
    if found[-1].level != "bad":
        found.append(_trusted(patient, proxy, identity))
    if found[-1].level != "bad":
        found += _admitted(patient, proxy, identity)
    return found


def proxy_for(host: str, patient: Patient) -> SplitResult | None:
    """Return the proxy that leads to `host`, as the environment says (HTTPS_PROXY, NO_PROXY), or None.

    Raises:
        ValueError: What it says is no address.
    """
    environment = {name.lower(): value for name, value in patient.environment.items()}
    text = environment.get("https_proxy") or environment.get("all_proxy")
    if not text or _is_direct(host, environment.get("no_proxy", "")):
        return None
    proxy = urlsplit(text if "://" in text else f"http://{text}")
    if proxy.scheme not in {"http", "https"} or not proxy.hostname:
        raise ValueError
    _ = proxy.port
    return proxy


def _is_direct(host: str, no_proxy: str) -> bool:
    """Return whether NO_PROXY names a host: itself, a domain above it, or everything."""
    names = [name.strip().lstrip(".").lower() for name in no_proxy.split(",")]
    return any(name == "*" or (name and f".{host.lower()}".endswith(f".{name}")) for name in names)


def _resolved(patient: Patient, host: str) -> Finding:
    try:
        return ok("DNS", f"{host} is {patient.resolve(host)}")
    except OSError:
        cure = "look at /etc/resolv.conf, or ask for the name to be entered in your network's DNS or in /etc/hosts"
        return bad("DNS", f"no address for {host}", cure)


def _reached(patient: Patient, proxy: SplitResult | None, host: str, port: int) -> Finding:
    way = f"{host}:{port}" + (f" through the proxy {proxy.hostname}:{_port(proxy)}" if proxy else " directly")
    try:
        with _connection(patient, proxy, host, port):
            return ok("TCP", way)
    except _ProxyRefusedError as error:
        return bad("TCP", f"{way}: {error}", f"ask that the proxy allows CONNECT to {host}:{port}")
    except TimeoutError:
        return bad("TCP", f"{way}: no answer within {TIMEOUT_S:g} s", _NETWORK.format(host=host, port=port))
    except OSError as error:
        return bad("TCP", f"{way}: {error.strerror or type(error).__name__}", _NETWORK.format(host=host, port=port))


def _trusted(patient: Patient, proxy: SplitResult | None, identity: SiteIdentity) -> Finding:
    """Look whether the coordinator shows a certificate of the consortium's authority for its own name."""
    host, port = identity.coordinator_host, identity.coordinator_port
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    context.load_verify_locations(cadata=identity.ca_path.read_text())
    try:
        with (
            _connection(patient, proxy, host, port) as connection,
            context.wrap_socket(connection, server_hostname=host) as tls,
        ):
            ends = dict(tls.getpeercert() or {}).get("notAfter")
            return ok("TLS", f"{tls.version()}, the coordinator's certificate is the consortium's, good until {ends}")
    except ssl.SSLCertVerificationError as error:
        return _untrusted(error, host)
    except OSError as error:
        cure = f"{_TELL}; if your network inspects TLS, ask for an exception for {host}:{port}"
        return bad(
            "TLS", f"no TLS 1.3 with {host}:{port} ({getattr(error, 'reason', None) or type(error).__name__})", cure
        )


def _untrusted(error: ssl.SSLCertVerificationError, host: str) -> Finding:
    text = error.verify_message
    if "expired" in text:
        cure = f"{_TELL}, or {clocks.CURE}"
        return bad(
            "TLS", "the coordinator's certificate has expired, by this machine's clock", f"{_TELL}, or {clocks.CURE}"
        )
    if "not yet valid" in text:
        return bad("TLS", "the coordinator's certificate is not yet valid, by this machine's clock", clocks.CURE)
    if "ostname" in text or "IP address" in text:
        return bad("TLS", f"the coordinator's certificate is not for {host}", _TELL)
    cure = f"{_TELL}; if your network inspects TLS, ask for an exception for {host}"
    return bad("TLS", f"somebody answers whose certificate is not the consortium's ({text})", cure)


def _admitted(patient: Patient, proxy: SplitResult | None, identity: SiteIdentity) -> list[Finding]:
    """Ask for the coordinator's health with this site's certificate, and compare the clocks."""
    if patient.secret is None:
        return [warn("mutual TLS", "not tried: the site's keys are sealed", "give --key-file or --passphrase-file")]
    host, port = identity.coordinator_host, identity.coordinator_port
    try:
        context = identity.tls_context(patient.secret)
    except FedMedError as error:
        return [bad("mutual TLS", str(error), "give what the site's keys were sealed under when it joined")]
    try:
        with (
            _connection(patient, proxy, host, port) as connection,
            context.wrap_socket(connection, server_hostname=host) as tls,
        ):
            status, date = _health(tls, host)
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or type(error).__name__
        return [bad("mutual TLS", f"the coordinator ended the connection ({reason})", "fedmed site renew; " + _TELL)]
    if status == HTTPStatus.FORBIDDEN:
        cure = f"the certificate may be revoked, or the coordinator's lists be old; {_TELL}"
        return [bad("mutual TLS", "the coordinator doesn't take this site for a member", cure), *_skew(patient, date)]
    if status != HTTPStatus.OK:
        return [bad("mutual TLS", f"the coordinator answers with {status}", _TELL), *_skew(patient, date)]
    return [ok("mutual TLS", "the coordinator knows this site"), *_skew(patient, date)]


def _health(tls: ssl.SSLSocket, host: str) -> tuple[int, str | None]:
    connection = http.client.HTTPConnection(host, timeout=TIMEOUT_S)
    connection.sock = tls
    connection.request("GET", "/health", headers={"Connection": "close"})
    answer = connection.getresponse()
    answer.read(_MOST_HEADER_BYTES)
    return answer.status, answer.headers.get("Date")


def _skew(patient: Patient, date: str | None) -> list[Finding]:
    here = patient.now()
    ahead = clocks.ahead_of(date, here)
    if ahead is None:
        return [warn("clock", "not compared: the coordinator says no time", "compare it with another clock")]
    text = f"{clocks.shown(ahead)} the coordinator's; it is {written(here)} here"
    if clocks.is_refused(ahead):
        most = f"{clocks.MOST_AHEAD.seconds} s ahead or {clocks.MOST_BEHIND.seconds} s behind"
        return [bad("clock", f"{text}, and the coordinator takes {most}", clocks.CURE)]
    return [warn("clock", text, clocks.CURE) if clocks.is_doubtful(ahead) else ok("clock", text)]


def _connection(patient: Patient, proxy: SplitResult | None, host: str, port: int) -> socket.socket:
    """Return a TCP connection to the coordinator, through the proxy if there is one.

    Raises:
        OSError: There is none; `_ProxyRefusedError` if the proxy refused it.
    """
    if proxy is None:
        return patient.connect(host, port, TIMEOUT_S)
    connection = patient.connect(proxy.hostname or "", _port(proxy), TIMEOUT_S)
    try:
        if proxy.scheme == "https":
            outer = ssl.create_default_context()
            connection = outer.wrap_socket(connection, server_hostname=proxy.hostname)
        _ask_proxy(connection, proxy, f"{host}:{port}")
    except BaseException:
        connection.close()
        raise
    return connection


def _ask_proxy(connection: socket.socket, proxy: SplitResult, target: str) -> None:
    """Ask for a tunnel (RFC 9110, 9.3.6)."""
    login = ""
    if proxy.username is not None:
        pair = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
        login = f"Proxy-Authorization: Basic {base64.b64encode(pair.encode()).decode()}\r\n"
    connection.sendall(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{login}\r\n".encode())
    answer = b""
    while b"\r\n\r\n" not in answer:
        part = connection.recv(1)  # not a byte of what comes after belongs to the proxy
        if not part or len(answer) > _MOST_HEADER_BYTES:
            raise _ProxyRefusedError(0, "the proxy gave no answer to CONNECT")
        answer += part
    words = answer.split(b"\r\n", 1)[0].split()
    if len(words) < 2 or words[1] != b"200":
        code = words[1].decode("ascii", "replace") if len(words) > 1 else "no code"
        raise _ProxyRefusedError(0, f"the proxy refused CONNECT with {code[:3]}")


def _port(proxy: SplitResult) -> int:
    return proxy.port or (443 if proxy.scheme == "https" else 80)


CHECKS: Final[Sequence[tuple[str, Check]]] = (("network", network),)
