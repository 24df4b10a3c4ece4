"""The site's state on disk: sealed, whole, and written before a reply leaves.

Why it exists: after a crash a site must know what it has sent, and a thief of
the disk must not learn the secrets of a running round.

Rules:
    * AES-256-GCM under a key derived per write from the site key and a fresh 32-byte salt,
      so a nonce never repeats.
    * Version, site and salt are authenticated; a file from another site is refused.
    * `save` returns once the bytes are on disk.

What it does not do: notice that somebody put an older file back; whoever can do
that is root on the site's host, which the threat model leaves out.
"""

from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from fedmed.errors import IntegrityError
from fedmed.files import write_atomic
from fedmed.secagg import transcript
from fedmed.secagg.shamir import Entropy
from fedmed.secagg.state import ClientState, dump, load

MAGIC: Final = b"FMSV"
VERSION: Final = 1
_SALT_BYTES: Final = 32
_HEAD_BYTES: Final = len(MAGIC) + 1


def save(path: Path, state: ClientState, *, site: str, site_key: bytes, entropy: Entropy) -> None:
    """Replace the file at `path` by the sealed `state`; return when it is on disk.

    Args:
        path: The file; its folder must exist.
        state: What to keep.
        site: Our name.
        site_key: 32 secret bytes that stay on this machine.
        entropy: Source of the salt.

    Raises:
        OSError: The disk is full or the folder is not writable; the old state stays.
    """
    write_atomic(path, seal(state, site=site, site_key=site_key, salt=entropy(_SALT_BYTES)))


def restore(path: Path, *, site: str, site_key: bytes) -> ClientState:
    """Return the state at `path`, or a new one if there is no file.

    Raises:
        IntegrityError: The file was changed, or belongs to another site or key.
    """
    return unseal(path.read_bytes(), site=site, site_key=site_key) if path.exists() else ClientState()


def seal(state: ClientState, *, site: str, site_key: bytes, salt: bytes) -> bytes:
    """Return the sealed bytes of `state`: magic (4), version (1), salt (32), AES-GCM.

    >>> sealed = seal(ClientState(), site="north", site_key=bytes(32), salt=bytes(32))
    >>> unseal(sealed, site="north", site_key=bytes(32)) == ClientState()
    True
    """
    head = MAGIC + bytes([VERSION])
    cipher = AESGCM(transcript.derive(site_key, salt, "store", site.encode()))
    return head + salt + cipher.encrypt(bytes(12), dump(state), transcript.pack(head, salt, site.encode()))


def unseal(sealed: bytes, *, site: str, site_key: bytes) -> ClientState:
    """Return the state in `sealed`.

    Raises:
        IntegrityError: The bytes were changed, or belong to another site, key or version.
    """
    head, salt, box = sealed[:_HEAD_BYTES], sealed[_HEAD_BYTES:][:_SALT_BYTES], sealed[_HEAD_BYTES + _SALT_BYTES :]
    if head != MAGIC + bytes([VERSION]):
        raise IntegrityError("secure aggregation state: expected a file of this version, got other bytes")
    cipher = AESGCM(transcript.derive(site_key, salt, "store", site.encode()))
    try:
        return load(cipher.decrypt(bytes(12), box, transcript.pack(head, salt, site.encode())))
    except InvalidTag:
        raise IntegrityError(
            f"secure aggregation state: expected what {site} sealed under its key, got a changed or foreign file; "
            "restore it from a backup"
        ) from None
