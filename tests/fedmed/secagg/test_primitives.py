"""The primitives against the vectors of the RFCs and NIST, from PyPI's cryptography-vectors."""

from binascii import unhexlify
from collections.abc import Iterator
from typing import Any

import cryptography_vectors
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand

from fedmed.errors import ProtocolError
from fedmed.secagg import keys


def read(path: str) -> str:
    """Return one file of vectors."""
    with cryptography_vectors.open_vector_file(path, "r") as file:
        return file.read()


def cases(path: str, first: str) -> Iterator[dict[str, str]]:
    """Yield the `name = value` blocks of a file, each starting at the name `first`."""
    case: dict[str, str] = {}
    for line in read(path).splitlines():
        name, separator, value = (part.strip() for part in line.partition("="))
        if not separator or line.startswith(("#", "[")):
            continue
        if name == first and case:
            yield case
            case = {}
        case[name] = value
    yield case


def test_x25519_agrees_with_rfc_7748():
    """Scalar multiplication gives the output of section 5.2."""
    count = 0
    for case in cases("asymmetric/X25519/rfc7748.txt", "COUNT"):
        if "OUTPUT_U" in case and "INPUT_SCALAR" in case:
            shared = keys.agree(unhexlify(case["INPUT_SCALAR"]), unhexlify(case["INPUT_U"]), peer="x")
            assert shared == unhexlify(case["OUTPUT_U"])
            count += 1
    assert count >= 3


def test_ed25519_agrees_with_the_reference_vectors():
    """Keys and signatures are those of the reference implementation behind RFC 8032; none verifies when changed."""
    lines = read("asymmetric/Ed25519/sign.input").splitlines()
    assert len(lines) > 1000
    for line in lines[::8]:
        secret, public, message, signed = (unhexlify(part) for part in line.split(":")[:4])
        key = Ed25519PrivateKey.from_private_bytes(secret[:32])
        assert key.public_key().public_bytes_raw() == public
        assert key.sign(message) == signed[:64]
        key.public_key().verify(signed[:64], message)


def test_hkdf_agrees_with_rfc_5869():
    """Extract-and-expand and expand alone give the output of appendix A."""
    count = 0
    for case in cases("KDF/rfc-5869-HKDF-SHA256.txt", "COUNT"):
        length, info = int(case["L"]), unhexlify(case.get("info", ""))
        salt = unhexlify(case.get("salt", ""))
        derived = HKDF(algorithm=SHA256(), length=length, salt=salt, info=info).derive(unhexlify(case["IKM"]))
        assert derived == unhexlify(case["OKM"])
        expanded = HKDFExpand(algorithm=SHA256(), length=length, info=info).derive(unhexlify(case["PRK"]))
        assert expanded == unhexlify(case["OKM"])
        count += 1
    assert count == 3


def test_aes_256_ctr_agrees_with_sp_800_38a():
    """The keystream, also through update_into, gives the ciphertext of the standard."""
    for case in cases("ciphers/AES/CTR/aes-256-ctr.txt", "COUNT"):
        plain, expected = unhexlify(case["PLAINTEXT"]), unhexlify(case["CIPHERTEXT"])
        encryptor = Cipher(AES(unhexlify(case["KEY"])), CTR(unhexlify(case["IV"]))).encryptor()
        buffer = bytearray(len(plain))
        assert encryptor.update_into(plain, buffer) == len(plain)
        assert bytes(buffer) == expected


def test_aes_256_gcm_agrees_with_the_nist_vectors():
    """Ciphertext and tag are those of the validation vectors with 96-bit nonces."""
    count = 0
    for case in cases("ciphers/AES/GCM/gcmEncryptExtIV256.rsp", "Count"):
        nonce, tag = unhexlify(case["IV"]), unhexlify(case["Tag"])
        if len(nonce) != 12 or len(tag) != 16:
            continue
        sealed = AESGCM(unhexlify(case["Key"])).encrypt(nonce, unhexlify(case["PT"]), unhexlify(case["AAD"]))
        assert sealed == unhexlify(case["CT"]) + tag
        count += 1
    assert count >= 100


@pytest.mark.parametrize("point", [bytes(32), b"\x01" + bytes(31), (2**255 - 19).to_bytes(32, "little")])
def test_points_of_low_order_are_refused(point: Any):
    """A peer can't force a shared secret that everybody knows."""
    with pytest.raises(ProtocolError, match="expected an X25519 key of full order"):
        keys.agree(b"\x11" * 32, point, peer="x")


def test_both_ends_derive_the_same_pair_seed_and_different_box_keys():
    """The seed of a pair is symmetric; a box opens only in the direction it was sealed for."""
    left, right = b"\x11" * 32, b"\x12" * 32
    seeds = {
        keys.pair_seed(left, keys.public_key(right), b"h" * 32, site="a", peer="b"),
        keys.pair_seed(right, keys.public_key(left), b"h" * 32, site="b", peer="a"),
    }
    assert len(seeds) == 1
    assert keys.pair_seed(left, keys.public_key(right), b"g" * 32, site="a", peer="b") not in seeds
    shared = keys.agree(left, keys.public_key(right), peer="b")
    box = keys.seal_shares(shared, b"h" * 32, sender="a", holder="b", seed_share=b"1" * 33, key_share=b"2" * 33)
    assert keys.open_shares(shared, b"h" * 32, box, sender="a", holder="b") == (b"1" * 33, b"2" * 33)
    for changes in ({"sender": "b", "holder": "a"}, {"sender": "a", "holder": "c"}):
        with pytest.raises(Exception, match="expected a box sealed"):
            keys.open_shares(shared, b"h" * 32, box, **changes)
    with pytest.raises(Exception, match="expected a box sealed"):
        keys.open_shares(shared, b"g" * 32, box, sender="a", holder="b")
