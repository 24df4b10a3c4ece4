"""The consortium's root key: made once, kept offline, under a passphrase.

Why it exists: whoever holds this key says which sites take part and which floors
they keep. It is not the coordinator's key, so that a coordinator alone cannot
invite sites of its own making.

Rules:
    * The private key never leaves the folder that it was made in, and never lies there in clear.
    * Making a key never replaces one: a lost consortium key means a new consortium.

What it does not do: need a network, or run on the coordinator's machine.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedmed.crypto.keyfiles import CONSORTIUM, PublicKey, save_private_key, save_public_key, seal_private_key
from fedmed.errors import UsageError

PRIVATE_NAME: Final = "consortium.key"
PUBLIC_NAME: Final = "consortium.pub.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsortiumFiles:
    """Where the two halves of the root key lie."""

    private: Path
    public: Path


def files_of(folder: Path) -> ConsortiumFiles:
    """Return the two paths below `folder`."""
    return ConsortiumFiles(private=folder / PRIVATE_NAME, public=folder / PUBLIC_NAME)


def require_no_key(folder: Path) -> None:
    """Raise before anybody types a passphrase if `folder` holds a consortium key already.

    Raises:
        UsageError: One of the two files exists, or `folder` is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder}: expected a folder, found a file; give another --out")
    files = files_of(folder)
    for path in (files.private, files.public):
        if path.exists():
            raise UsageError(
                f"{path}: expected no consortium key yet, found one; nothing was overwritten, give another --out"
            )


def make_key(folder: Path, *, name: str, passphrase: bytes) -> PublicKey:
    """Make the consortium's Ed25519 key in `folder` and return its public half.

    Args:
        folder: Made with mode 700 if absent.
        name: The consortium's name, as sites will see it.
        passphrase: Bytes from `passphrases.obtain`.

    Raises:
        UsageError: There is a key already, or the name is not a plain one.
        OSError: The disk is full or the folder is not writable; no half of a pair is left behind.
    """
    sealed = seal_private_key(Ed25519PrivateKey.generate(), name=name, purpose=CONSORTIUM, passphrase=passphrase)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    files = files_of(folder)
    save_private_key(files.private, sealed)
    try:
        save_public_key(files.public, sealed.public)
    except BaseException:
        files.private.unlink(missing_ok=True)  # nobody has seen its public half, so nothing was signed with it
        raise
    return sealed.public
