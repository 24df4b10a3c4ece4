"""The SuperNode's key as OpenSSH writes it, which is what Flower reads.

Why it exists: `flower-supernode` takes its private key, and `flwr supernode register` its public key, in
OpenSSH's format and on a curve of NIST; one key must have one spelling, so that lists can be compared.

Rules:
    * P-384, one line, without a comment.

What it does not do: hold private keys at rest (see `keyfiles`).
"""

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from fedmed.errors import IntegrityError


def supernode_line(key: ec.EllipticCurvePublicKey) -> str:
    """Return a SuperNode's public key as OpenSSH writes it, one line without a comment."""
    return key.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode()


def supernode_public(line: str) -> ec.EllipticCurvePublicKey:
    """Return the key in a line that `supernode_line` wrote.

    Raises:
        IntegrityError: It is none, on another curve, or written in another way.
    """
    try:
        key = serialization.load_ssh_public_key(line.encode())
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if (
        not isinstance(key, ec.EllipticCurvePublicKey)
        or not isinstance(key.curve, ec.SECP384R1)
        or supernode_line(key) != line
    ):
        raise IntegrityError("SuperNode key: expected one P-384 key as OpenSSH writes it, got something else")
    return key
