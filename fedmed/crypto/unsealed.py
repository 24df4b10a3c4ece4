"""Private keys in use: in memory where that is possible, else in a file that lives in memory only.

Why it exists: keys are sealed at rest, but TLS libraries and Flower's programs read files. What they
read must not reach a disk, a backup or another user, and must be gone afterwards.

Rules:
    * Python's own TLS gets its key through an anonymous file in memory (memfd_create(2)): it has no name.
    * A program that wants a path gets a file of mode 600 in a folder of mode 700 on a file system in memory,
      which goes when the block ends. What a killed process left is removed by the next one.
    * TLS 1.3 only, no resumption by tickets (a resumed session would not notice a certificate that has expired),
      one authority, strict checks of X.509 (RFC 5280).

What it does not do: ask for passphrases, or hide a key from the administrator of the machine.
"""

import fcntl
import os
import shutil
import ssl
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from fedmed.errors import UsageError

RUNTIME_VARIABLE: Final = "RUNTIME_DIRECTORY"
"""Where systemd says which folder below /run belongs to a service (systemd.exec(5), RuntimeDirectory=)."""
_SHARED_MEMORY: Final = Path("/dev/shm")  # noqa: S108  memory, and only a folder of mode 700 is made in it
_PREFIX: Final = "fedmed-key-"


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return a private key in clear as PEM (PKCS #8), for TLS."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def key_openssh(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return a private key in clear in OpenSSH's format, as `flower-supernode` reads it."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )


@contextmanager
def unsealed_file(
    data: bytes, *, name: str, folder: Path | None = None, environment: Mapping[str, str] = os.environ
) -> Iterator[Path]:
    """Yield a file of mode 600 in memory that holds `data`, and remove it when the block ends.

    Args:
        data: What a program wants to read from a path.
        name: The file's name.
        folder: Where a folder of its own is made; by default the service's below /run, else /dev/shm.
        environment: Where systemd names the service's folder.

    Raises:
        UsageError: There is no file system in memory.
    """
    place = folder or _memory(environment)
    _remove_left(place)
    own, held = _own_folder(place)
    try:
        path = own / name
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(data)
        yield path
    finally:
        shutil.rmtree(own, ignore_errors=True)
        os.close(held)


def load_chain(context: ssl.SSLContext, *, certificate: bytes, key: ec.EllipticCurvePrivateKey) -> None:
    """Give a TLS context its certificate and key without a file that has a name.

    Args:
        context: Gets them.
        certificate: PEM.
        key: The certificate's own.

    Raises:
        UsageError: The two don't belong together.
    """
    descriptor = os.memfd_create("fedmed-key", os.MFD_CLOEXEC)
    try:
        with os.fdopen(os.dup(descriptor), "wb") as file:
            file.write(certificate + b"\n" + key_pem(key))
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    except ssl.SSLError as error:
        raise UsageError(
            f"TLS: expected a certificate and its own key; {error.reason}; renew the certificate"
        ) from None
    finally:
        os.close(descriptor)


def client_context(*, ca: bytes, certificate: bytes, key: ec.EllipticCurvePrivateKey) -> ssl.SSLContext:
    """Return the site's side of mutual TLS: one authority, the host's name is checked.

    Args:
        ca: The consortium's TLS authority, PEM.
        certificate: The site's certificate, PEM.
        key: Its key.
    """
    return _configured(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), ca=ca, certificate=certificate, key=key)


def server_context(*, ca: bytes, certificate: bytes, key: ec.EllipticCurvePrivateKey) -> ssl.SSLContext:
    """Return the coordinator's side of mutual TLS: a client without a certificate of the authority gets nowhere.

    Args:
        ca: The consortium's TLS authority, PEM.
        certificate: The coordinator's certificate, PEM.
        key: Its key.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.verify_mode = ssl.CERT_REQUIRED
    context.num_tickets = 0
    return _configured(context, ca=ca, certificate=certificate, key=key)


def _configured(
    context: ssl.SSLContext, *, ca: bytes, certificate: bytes, key: ec.EllipticCurvePrivateKey
) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.options |= ssl.OP_NO_TICKET
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    context.load_verify_locations(cadata=ca.decode("ascii"))
    load_chain(context, certificate=certificate, key=key)
    return context


def _memory(environment: Mapping[str, str]) -> Path:
    named = environment.get(RUNTIME_VARIABLE, "").split(":")[0]
    place = Path(named) if named else _SHARED_MEMORY
    if not place.is_dir():
        raise UsageError(
            f"{place}: expected a folder in memory for a key in use, found none; set RuntimeDirectory= in the unit, or "
            "mount /dev/shm"
        )
    return place


def _own_folder(place: Path) -> tuple[Path, int]:
    """Return a new folder of mode 700 and the descriptor that holds its lock; the kernel frees it with the process."""
    while True:
        own = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=place))
        held = _lock(own)
        if held is not None and own.is_dir():  # nobody took it for a left one before it was locked
            return own, held


def _lock(folder: Path) -> int | None:
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:  # gone, or another user's
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def _remove_left(place: Path) -> None:
    """Remove what processes of this user left that are gone: whoever lives holds the lock of its folder."""
    for folder in place.glob(f"{_PREFIX}*"):
        descriptor = _lock(folder)
        if descriptor is not None:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(descriptor)
