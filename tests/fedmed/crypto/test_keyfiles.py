"""Key files: sealed at rest, private by mode, never overwritten, and told apart by fingerprint and purpose."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from fedmed.crypto import keyfiles
from fedmed.crypto.keyfiles import (
    PrivateKey,
    SealedKey,
    load_private_key,
    load_public_key,
    public_of,
    read_public_key,
    save_private_key,
    save_public_key,
    seal_private_key,
)
from fedmed.crypto.passphrases import Secret
from fedmed.errors import IntegrityError, UsageError
from fedmed.records import canonical_json

PASSPHRASE = b"correct horse battery"
SECRET = Secret(kind="passphrase", value=PASSPHRASE)
KEY_FILE = Secret(kind="key-file", value=bytes(range(32)))
KEY = Ed25519PrivateKey.from_private_bytes(b"\x07" * 32)


@pytest.fixture(scope="module")
def sealed() -> SealedKey:
    """Return one key under one passphrase; scrypt takes its time, so it is made once."""
    return seal_private_key(KEY, name="consortium", purpose="consortium", secret=SECRET)


P256, P384 = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP384R1())


@pytest.mark.parametrize("key", [KEY, P256, P384], ids=["ed25519", "p256", "p384"])
def test_a_private_key_comes_back_under_its_passphrase(tmp_path: Path, key: PrivateKey):
    """Either kind survives sealing, disk and unsealing, and the file has mode 600."""
    path = tmp_path / "site.key"
    save_private_key(path, seal_private_key(key, name="north", purpose="site-signing", secret=SECRET))
    assert path.stat().st_mode & 0o777 == 0o600
    back = load_private_key(path, purpose="site-signing").unseal(SECRET)
    point = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert back.public_key().public_bytes(*point) == key.public_key().public_bytes(*point)


def test_a_wrong_passphrase_is_one_line_without_it(sealed: SealedKey):
    """Another passphrase gives one clear line that repeats neither passphrase."""
    with pytest.raises(UsageError, match="expected the passphrase that it was sealed under") as caught:
        sealed.unseal(Secret(kind="passphrase", value=b"tr0ub4dor"))
    assert "\n" not in str(caught.value)
    assert "tr0ub4dor" not in str(caught.value)


def test_no_secret_stands_in_the_file(tmp_path: Path, sealed: SealedKey):
    """Neither the raw key nor the passphrase lies in the envelope, as bytes, hexadecimal or base64."""
    path = tmp_path / "c.key"
    save_private_key(path, sealed)
    data = path.read_bytes()
    for secret in (KEY.private_bytes_raw(), KEY.private_bytes_raw().hex().encode(), b"BwcHBwcHBwcH", PASSPHRASE):
        assert secret not in data + sealed.box


def test_the_envelope_follows_from_a_fresh_salt(sealed: SealedKey):
    """Two seals of one key share neither salt nor ciphertext, so a zero nonce is used once per key."""
    again = seal_private_key(KEY, name="consortium", purpose="consortium", secret=SECRET)
    assert again.salt != sealed.salt
    assert again.box != sealed.box
    assert sealed.log2_n == 17


def test_what_stands_in_clear_is_authenticated(sealed: SealedKey):
    """A changed name, purpose or public key is refused although the ciphertext is intact."""
    other = Ed25519PrivateKey.from_private_bytes(b"\x08" * 32).public_key().public_bytes_raw()
    for public in (
        replace(sealed.public, name="mallory"),
        replace(sealed.public, purpose="site-signing"),
        replace(sealed.public, key=other),
    ):
        with pytest.raises(UsageError, match="or the file was changed"):
            replace(sealed, public=public).unseal(SECRET)


def test_the_cost_of_a_file_is_bounded():
    """A file cannot ask for a trivial cost or for all of the machine's memory."""
    public = public_of(KEY, name="c", purpose="consortium")
    for cost in (1, 14, 21, 60):
        with pytest.raises(ValueError, match="log2_n must be in"):
            SealedKey(format="fedmed-private-key", version=1, public=public, log2_n=cost, salt=bytes(32), box=b"")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o666])
def test_a_key_that_others_can_reach_is_refused_with_the_cure(tmp_path: Path, sealed: SealedKey, mode: int):
    """A private key file open to group or others is not read; the line says which command closes it."""
    path = tmp_path / "a key"
    save_private_key(path, sealed)
    path.chmod(mode)
    with pytest.raises(UsageError, match=rf"got mode {mode:04o}; run: chmod 600 '.*a key'"):
        load_private_key(path, purpose="consortium")


def test_nothing_is_overwritten(tmp_path: Path, sealed: SealedKey):
    """Neither kind of file replaces one that is there."""
    path = tmp_path / "there"
    path.write_text("precious")
    with pytest.raises(UsageError, match="nothing was overwritten"):
        save_private_key(path, sealed)
    with pytest.raises(UsageError, match="nothing was overwritten"):
        save_public_key(path, sealed.public)
    assert path.read_text() == "precious"
    assert list(tmp_path.iterdir()) == [path]


def test_a_key_of_another_purpose_is_refused(tmp_path: Path, sealed: SealedKey):
    """A consortium key is not taken for a site's, private or public."""
    save_private_key(tmp_path / "c.key", sealed)
    save_public_key(tmp_path / "c.pub.json", sealed.public)
    with pytest.raises(UsageError, match="expected a site-signing key, got the consortium key of consortium"):
        load_private_key(tmp_path / "c.key", purpose="site-signing")
    with pytest.raises(UsageError, match="expected a site-signing key, got the consortium key of consortium"):
        load_public_key(tmp_path / "c.pub.json", purpose="site-signing")


def test_a_public_key_comes_back_with_its_fingerprint(tmp_path: Path, sealed: SealedKey):
    """The file holds the SHA-256 of the raw key in blocks of four, as a person reads it out."""
    path = tmp_path / "c.pub.json"
    save_public_key(path, sealed.public)
    assert load_public_key(path, purpose="consortium") == sealed.public
    shown = json.loads(path.read_text())["fingerprint"]
    assert shown.replace(" ", "") == hashlib.sha256(KEY.public_key().public_bytes_raw()).hexdigest()
    assert [len(block) for block in shown.split(" ")] == [4] * 16


def test_a_swapped_key_under_an_old_fingerprint_is_refused(tmp_path: Path, sealed: SealedKey):
    """A key file whose fingerprint is another key's is not believed."""
    path = tmp_path / "c.pub.json"
    save_public_key(path, sealed.public)
    plain = json.loads(path.read_text())
    plain["public"]["key"] = "A" * 43 + "="
    path.write_text(json.dumps(plain))
    with pytest.raises(IntegrityError, match="expected the fingerprint of the key in it"):
        read_public_key(path)


@pytest.mark.parametrize(
    "content", [b"", b"\xff\xfe", b"[]", b"[" * 50_000, b'{"format":"other"}', b"ssh-ed25519 AAAA"]
)
def test_another_file_is_told_apart(tmp_path: Path, content: bytes):
    """Whatever is no key file gives one line that says so."""
    path = tmp_path / "x"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(UsageError, match="expected a public key file of FedMed, got another file"):
        read_public_key(path)
    with pytest.raises(UsageError, match="expected a private key file of FedMed, got another file"):
        load_private_key(path, purpose="consortium")


def test_a_missing_or_misplaced_file_is_named(tmp_path: Path):
    """A path that leads nowhere, or to a folder, is one line."""
    with pytest.raises(UsageError, match="found no such file"):
        load_private_key(tmp_path / "none", purpose="consortium")
    with pytest.raises(UsageError, match="found a folder"):
        load_private_key(tmp_path, purpose="consortium")
    with pytest.raises(UsageError, match="found no such file"):
        read_public_key(tmp_path / "none")


def test_a_later_version_and_a_damaged_file_are_told_apart(tmp_path: Path, sealed: SealedKey):
    """A newer format asks for a newer FedMed; a field that is gone means damage."""
    path = tmp_path / "c.key"
    save_private_key(path, sealed)
    plain = json.loads(path.read_text())
    path.write_text(json.dumps({**plain, "version": 3}))
    with pytest.raises(UsageError, match="expected file version 2 at most, got 3"):
        load_private_key(path, purpose="consortium")
    del plain["salt"]
    path.write_text(json.dumps(plain))
    with pytest.raises(IntegrityError, match="expected an intact file"):
        load_private_key(path, purpose="consortium")


def test_a_key_knows_what_it_can_do():
    """A P-256 key does not sign rosters, another curve is not taken, and a name is a plain one."""
    curve = public_of(ec.generate_private_key(ec.SECP256R1()), name="north", purpose="tls")
    with pytest.raises(UsageError, match="expected an ed25519 key, got ecdsa-p256"):
        curve.ed25519()
    with pytest.raises(UsageError, match="expected the curve P-256 or P-384, got secp521r1"):
        public_of(ec.generate_private_key(ec.SECP521R1()), name="north", purpose="tls")
    with pytest.raises(UsageError, match="name must be 1 to 64 letters"):
        public_of(KEY, name="\x1b[31mnorth", purpose="tls")


def test_a_signing_key_is_asked_for_as_one():
    """`unseal_ed25519` refuses a key of another kind."""
    key = ec.generate_private_key(ec.SECP256R1())
    sealed_tls = seal_private_key(key, name="north", purpose="tls", secret=SECRET)
    with pytest.raises(UsageError, match="expected an ed25519 key, got ecdsa-p256"):
        sealed_tls.unseal_ed25519(SECRET)


def test_another_key_under_the_right_passphrase_is_refused(sealed: SealedKey):
    """An envelope that opens but holds another key than it names is not used."""
    other = Ed25519PrivateKey.from_private_bytes(b"\x08" * 32)
    plain = other.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    cipher = AESGCM(keyfiles._stretch(SECRET, salt=sealed.salt, log2_n=sealed.log2_n))
    swapped = replace(sealed, box=cipher.encrypt(bytes(12), plain, sealed._associated()))
    with pytest.raises(IntegrityError, match="expected the key that the file names, got another"):
        swapped.unseal(SECRET)


def test_a_key_file_seals_and_opens(tmp_path: Path):
    """A key under a key file comes back under it, and under no other; no memory-hard stretching is paid for."""
    path = tmp_path / "server.key"
    save_private_key(path, seal_private_key(P256, name="hub", purpose="tls-server", secret=KEY_FILE))
    held = load_private_key(path, purpose="tls-server")
    assert (held.under, held.log2_n, held.version) == ("key-file", 0, 2)
    assert held.unseal_ecdsa(KEY_FILE).private_numbers() == P256.private_numbers()
    with pytest.raises(UsageError, match="expected the key file that it was sealed under, got another"):
        held.unseal(Secret(kind="key-file", value=bytes(32)))


def test_the_two_kinds_of_secret_are_told_apart(sealed: SealedKey):
    """A key file for a passphrase, and the other way round: the line says which option it takes."""
    with pytest.raises(UsageError, match="expected its passphrase, got a key file; use --passphrase-file"):
        sealed.unseal(KEY_FILE)
    other = seal_private_key(KEY, name="consortium", purpose="consortium", secret=KEY_FILE)
    with pytest.raises(UsageError, match="expected its key file, got a passphrase; use --key-file"):
        other.unseal(SECRET)


def test_the_kind_of_secret_is_authenticated():
    """An envelope whose other fields were moved to another version or kind does not open."""
    held = seal_private_key(KEY, name="consortium", purpose="consortium", secret=KEY_FILE)
    with pytest.raises(ValueError, match="version must be 2 under a key file"):
        replace(held, version=1)
    with pytest.raises(ValueError, match="log2_n must be"):
        replace(held, under="passphrase")


def test_a_file_of_version_1_still_opens(tmp_path: Path):
    """What earlier releases wrote, before there were key files, is read and opens; nobody can make it version 2."""
    public = public_of(KEY, name="consortium", purpose="consortium")
    salt, plain = bytes(range(32)), KEY.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    associated = b"FedMed-key/v1\0" + canonical_json([canonical_json(public).decode(), 15, salt])
    key = Scrypt(salt=salt, length=32, n=2**15, r=8, p=1).derive(PASSPHRASE)
    box = AESGCM(key).encrypt(bytes(12), plain, associated)
    stored = {"format": "fedmed-private-key", "version": 1, "public": public, "log2_n": 15, "salt": salt, "box": box}
    path = tmp_path / "old.key"
    path.write_bytes(canonical_json(stored))
    path.chmod(0o600)
    held = load_private_key(path, purpose="consortium")
    assert held.unseal_ed25519(SECRET).private_bytes_raw() == KEY.private_bytes_raw()
    with pytest.raises(UsageError, match="or the file was changed"):
        replace(held, version=2).unseal(SECRET)


def test_a_secret_does_not_show():
    """Neither a passphrase nor a key file's content stands in a repr, hence in no log or traceback."""
    assert "correct horse" not in repr(SECRET)
    assert repr(KEY_FILE) == "Secret(kind='key-file')"
