"""The key side: key agreement, sealed shares, commitments and what each signature covers.

Why it exists: every key and every commitment is bound to the transcript of one
round, in one place, so that nothing from one round means anything in another.

Rules:
    * One key seals one message, so the AES-GCM nonce is zero.
    * A share's commitment names owner, holder and which secret it belongs to.
    * Secret bytes are arguments and results here, never fields.

What it does not do: decide whether a message is acceptable (see `checks`).

Sources: RFC 7748 (X25519), RFC 5869 (HKDF), NIST SP 800-38D (GCM).
"""

import hmac
from typing import Final, Literal

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from fedmed.errors import IntegrityError, ProtocolError
from fedmed.secagg import transcript
from fedmed.secagg.shamir import SHARE_BYTES

SECRET_BYTES: Final = 32
BOX_BYTES: Final = 2 * SHARE_BYTES + 16
_ZERO_NONCE: Final = bytes(12)

ShareOf = Literal["seed", "key"]
"""Which secret a share belongs to: b, the seed of the self mask, or s_sk, the key of the pair masks."""


def public_key(secret: bytes) -> bytes:
    """Return the X25519 public key (32 bytes) of a 32-byte secret."""
    return X25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw()


def agree(secret: bytes, public: bytes, *, peer: str) -> bytes:
    """Return the X25519 shared secret (32 bytes) of our `secret` and the public key of `peer`.

    Raises:
        ProtocolError: The public key is of low order, so anyone would know the result.
    """
    try:
        return X25519PrivateKey.from_private_bytes(secret).exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError:
        raise ProtocolError(f"key of {peer}: expected an X25519 key of full order, got a weak one") from None


def pair_seed(secret: bytes, public: bytes, h1: bytes, *, site: str, peer: str) -> bytes:
    """Return the seed of the mask that `site` and `peer` share; both ends derive the same 32 bytes."""
    low, high = sorted((site, peer))
    return transcript.derive(agree(secret, public, peer=peer), h1, "pair", low.encode(), high.encode())


def self_seed(seed: bytes, h1: bytes) -> bytes:
    """Return the seed of a site's own mask from its 32-byte secret b."""
    return transcript.derive(seed, h1, "self")


def seal_shares(shared: bytes, h1: bytes, *, sender: str, holder: str, seed_share: bytes, key_share: bytes) -> bytes:
    """Encrypt both shares of `sender` for `holder` with AES-256-GCM; 82 bytes.

    Args:
        shared: The X25519 secret of the two.
        h1: The transcript hash; salt of the key and part of the associated data.
        sender: The owner of the secrets.
        holder: Who may open the box.
        seed_share: 33 bytes, of b.
        key_share: 33 bytes, of s_sk.
    """
    cipher = AESGCM(_box_key(shared, h1, sender, holder))
    return cipher.encrypt(_ZERO_NONCE, seed_share + key_share, _box_context(h1, sender, holder))


def open_shares(shared: bytes, h1: bytes, box: bytes, *, sender: str, holder: str) -> tuple[bytes, bytes]:
    """Return the shares of (b, s_sk), 33 bytes each, from the box that `sender` sealed for `holder`.

    Raises:
        IntegrityError: The box was changed, or is from another round or for another holder.
    """
    try:
        plain = AESGCM(_box_key(shared, h1, sender, holder)).decrypt(_ZERO_NONCE, box, _box_context(h1, sender, holder))
    except InvalidTag:
        raise IntegrityError(
            f"shares of {sender}: expected a box sealed for {holder} in this round, got another"
        ) from None
    if len(plain) != 2 * SHARE_BYTES:
        raise ProtocolError(f"shares of {sender}: expected {2 * SHARE_BYTES} bytes, got {len(plain)}")
    return plain[:SHARE_BYTES], plain[SHARE_BYTES:]


def commit_seed(h1: bytes, owner: str, seed: bytes) -> bytes:
    """Return H(b), the owner's commitment to its own seed."""
    return transcript.digest("seed", h1, owner.encode(), seed)


def commit_share(h1: bytes, of: ShareOf, share: bytes, *, owner: str, holder: str) -> bytes:
    """Return H(share), the owner's commitment to the share of one secret that `holder` gets."""
    return transcript.digest("share", h1, of.encode(), owner.encode(), holder.encode(), share)


def equal(left: bytes, right: bytes) -> bool:
    """Compare two byte strings in constant time."""
    return hmac.compare_digest(left, right)


def _box_key(shared: bytes, h1: bytes, sender: str, holder: str) -> bytes:
    return transcript.derive(shared, h1, "enc", sender.encode(), holder.encode())


def _box_context(h1: bytes, sender: str, holder: str) -> bytes:
    return transcript.pack(h1, sender.encode(), holder.encode())
