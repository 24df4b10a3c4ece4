"""Sealing at rest: what was sealed comes back exactly, and nothing else comes back at all."""

import io
import os
import resource
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import given
from hypothesis import strategies as st

from fedmed.crypto import seal as sealing
from fedmed.crypto.seal import (
    DataKey,
    WrappedKey,
    rotate_site_key,
    seal,
    seal_file,
    unseal,
    unseal_file,
    unseal_stream,
    unwrap_by_recipient,
    unwrap_by_site,
    wrap_for_recipient,
    wrap_for_site,
)
from fedmed.errors import IntegrityError, UsageError
from fedmed.records import canonical_json, decode

KEY = DataKey(bytes(range(32)))
OLD, NEW = bytes(range(32, 64)), bytes(range(64, 96))
STORED = (
    "01924e941996be8511e54dda991cbc109a5ec966309cf9c740979ee2bc2603d16a6c6891e104f1981a3ae7fe662cb459"
    "045a3dcb2229dec6121d0ddc96f6fadf9b1dae63ce6fd028"
)
HEADER = 41
CHUNK = (1 << 20) + 16


@pytest.fixture(scope="module")
def recipient() -> rsa.RSAPrivateKey:
    """Return an RSA key of the smallest size that is taken."""
    return rsa.generate_private_key(public_exponent=65537, key_size=4096)


@pytest.fixture(scope="module")
def long_item() -> tuple[bytes, bytes]:
    """Return three and a half chunks, plain and sealed as `scan`."""
    plain = os.urandom(7 << 19)
    return plain, seal(plain, key=KEY, name="scan")


def refused(sealed: bytes, *, name: str = "scan") -> None:
    """Check that `sealed` does not open."""
    with pytest.raises(IntegrityError):
        unseal(sealed, key=KEY, name=name)


@given(st.binary(max_size=200), st.text(max_size=20))
def test_what_was_sealed_comes_back(plain: bytes, name: str):
    """Bytes, empty ones too, are the same after a round trip under any name."""
    assert unseal(seal(plain, key=KEY, name=name), key=KEY, name=name) == plain


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 2 << 20])
def test_chunk_borders_come_back(size: int):
    """Sizes around whole chunks are the same after a round trip, and cost 16 bytes a chunk."""
    plain = os.urandom(size)
    sealed = seal(plain, key=KEY, name="scan")
    assert unseal(sealed, key=KEY, name="scan") == plain
    assert len(sealed) == HEADER + size + 16 * max(1, -(-size // (1 << 20)))


def test_a_stored_item_stays_readable():
    """The byte format of version 1: this item was sealed once and written down."""
    stored = bytes.fromhex(STORED)
    assert stored[0] == 1
    assert unseal(stored, key=KEY, name="note.txt") == "患者诉头晕".encode()


def test_sealing_twice_gives_other_bytes():
    """Equal items cannot be told to be equal: the salt is fresh."""
    first, second = (seal(b"same", key=KEY, name="a") for _ in range(2))
    assert first[9:41] != second[9:41]
    assert first[41:] != second[41:]


def test_every_changed_bit_of_a_short_item_is_found():
    """Version, key id, salt, text and tag: one flipped bit anywhere is refused."""
    sealed = seal(b"x", key=KEY, name="scan")
    for position in range(len(sealed) * 8):
        changed = bytearray(sealed)
        changed[position // 8] ^= 1 << position % 8
        refused(bytes(changed))


def test_every_cut_of_a_short_item_is_found():
    """No beginning of an item opens."""
    sealed = seal(b"some text", key=KEY, name="scan")
    for length in range(len(sealed)):
        refused(sealed[:length])


def test_a_cut_at_a_chunk_border_is_found(long_item: tuple[bytes, bytes]):
    """Whole chunks missing at the end are noticed: the last one that is left was not sealed as the last."""
    for chunks in (1, 2, 3):
        refused(long_item[1][: HEADER + chunks * CHUNK])


def test_reordered_doubled_and_foreign_chunks_are_found(long_item: tuple[bytes, bytes]):
    """A chunk opens only in its own place of its own item."""
    plain, sealed = long_item
    header, first, second, rest = (
        sealed[:HEADER], sealed[HEADER : HEADER + CHUNK], sealed[HEADER + CHUNK : HEADER + 2 * CHUNK],
        sealed[HEADER + 2 * CHUNK :],
    )  # fmt: skip
    refused(header + second + first + rest)
    refused(header + first + first + rest)
    refused(header + second + rest)
    refused(sealed + rest)
    other = seal(plain, key=KEY, name="scan")
    refused(header + other[HEADER : HEADER + CHUNK] + second + rest)


def test_an_item_opens_only_under_its_name_and_key():
    """Two items cannot be exchanged on disk; another key or version opens nothing and is named."""
    sealed = seal(b"x", key=KEY, name="scan")
    refused(sealed, name="other")
    for changed, key, match in [
        (sealed, DataKey(bytes(32)), f"sealed under data key {KEY.key_id}, got"),
        (bytes([2]) + sealed[1:], KEY, "expected version 1, got 2"),
    ]:
        with pytest.raises(IntegrityError, match=match):
            unseal(changed, key=key, name="scan")


def test_a_stream_never_yields_a_changed_chunk(long_item: tuple[bytes, bytes]):
    """What a reader got before the fault is a true beginning, and the fault is raised."""
    plain, sealed = long_item
    changed = bytearray(sealed)
    changed[HEADER + 2 * CHUNK + 5] ^= 1
    got = []
    with pytest.raises(IntegrityError, match="chunk 2 does not verify"):
        got.extend(unseal_stream(io.BytesIO(bytes(changed)), key=KEY, name="scan"))
    assert b"".join(got) == plain[: 2 << 20]


def test_a_source_that_gives_little_at_a_time_is_read_whole(long_item: tuple[bytes, bytes]):
    """A pipe may return fewer bytes than asked for in the middle of an item."""

    class Slow(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            return super().read(min(size or 0, 100_003))

    plain, sealed = long_item
    assert b"".join(unseal_stream(Slow(sealed), key=KEY, name="scan")) == plain


def test_a_file_that_does_not_verify_appears_nowhere(tmp_path: Path, long_item: tuple[bytes, bytes]):
    """Opening a cut file leaves the target, and the folder, as they were."""
    (tmp_path / "sealed").write_bytes(long_item[1][:-1])
    (tmp_path / "plain").write_bytes(b"before")
    with pytest.raises(IntegrityError):
        unseal_file(tmp_path / "sealed", tmp_path / "plain", key=KEY, name="scan")
    assert (tmp_path / "plain").read_bytes() == b"before"
    assert {path.name for path in tmp_path.iterdir()} == {"sealed", "plain"}


def test_files_are_sealed_whole_and_come_back(tmp_path: Path, long_item: tuple[bytes, bytes]):
    """A file goes in and out, with owner's rights only."""
    (tmp_path / "plain").write_bytes(long_item[0])
    seal_file(tmp_path / "plain", tmp_path / "sealed", key=KEY, name="scan")
    unseal_file(tmp_path / "sealed", tmp_path / "again", key=KEY, name="scan")
    assert (tmp_path / "again").read_bytes() == long_item[0]
    assert (tmp_path / "sealed").stat().st_mode & 0o777 == 0o600


def limit_files() -> None:
    """Let no file of this process grow beyond one chunk, as on a full disk."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))


def test_a_full_disk_leaves_no_part(tmp_path: Path, long_item: tuple[bytes, bytes]):
    """When the system refuses to write on, the earlier item stands and nothing else is left."""
    (tmp_path / "plain").write_bytes(long_item[0])
    (tmp_path / "sealed").write_bytes(b"before")
    program = (
        "import sys; from pathlib import Path; from fedmed.crypto.seal import *; f = Path(sys.argv[1]);"
        "seal_file(f / 'plain', f / 'sealed', key=DataKey(bytes(32)), name='scan')"
    )
    done = subprocess.run(  # noqa: S603  our own code
        [sys.executable, "-c", program, str(tmp_path)], preexec_fn=limit_files, capture_output=True, check=False
    )
    assert b"File too large" in done.stderr
    assert (tmp_path / "sealed").read_bytes() == b"before"
    assert {path.name for path in tmp_path.iterdir()} == {"plain", "sealed"}


def test_what_a_killed_run_left_is_removed_by_the_next(tmp_path: Path):
    """The half-written file of a kill does not stay."""
    (tmp_path / ".sealed.part").write_bytes(b"part")
    (tmp_path / "plain").write_bytes(b"x")
    seal_file(tmp_path / "plain", tmp_path / "sealed", key=KEY, name="scan")
    assert {path.name for path in tmp_path.iterdir()} == {"plain", "sealed"}


def test_a_recipient_takes_the_key_out(recipient: rsa.RSAPrivateKey):
    """The wrapped key survives storage as a record and opens with the private key."""
    wrapped = wrap_for_recipient(KEY, recipient="registry", public_key=recipient.public_key())
    stored = decode(canonical_json(wrapped), WrappedKey)
    opened = unwrap_by_recipient(stored, private_key=recipient)
    assert unseal(seal(b"x", key=KEY, name="a"), key=opened, name="a") == b"x"


def test_nobody_else_takes_the_key_out(recipient: rsa.RSAPrivateKey):
    """Another private key, another method, another name or changed bytes: all are refused."""
    wrapped = wrap_for_recipient(KEY, recipient="registry", public_key=recipient.public_key())
    other = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    forged = replace(wrapped, recipient_key_id=sealing._fingerprint(other.public_key()))
    flipped = f"{int(wrapped.wrapped, 16) ^ 1:0{len(wrapped.wrapped)}x}"
    for changed, key in [
        (wrapped, other),
        (forged, other),
        (replace(wrapped, recipient="somebody"), recipient),
        (replace(wrapped, key_id=DataKey(bytes(32)).key_id), recipient),
        (replace(wrapped, wrapped=flipped), recipient),
        (replace(wrapped, method="aes-kw"), recipient),
    ]:
        with pytest.raises(IntegrityError, match="wrapped for this key"):
            unwrap_by_recipient(changed, private_key=key)


def test_a_short_rsa_key_is_not_taken():
    """Below 4096 bits nothing is wrapped."""
    short = rsa.generate_private_key(public_exponent=65537, key_size=2048).public_key()
    with pytest.raises(UsageError, match="4096 bits"):
        wrap_for_recipient(KEY, recipient="registry", public_key=short)


def test_the_site_takes_its_key_out_and_others_do_not():
    """AES key wrap under the site key, bound to the site's name."""
    wrapped = wrap_for_site(KEY, site="north", site_key=OLD)
    assert unwrap_by_site(wrapped, site_key=OLD).key_id == KEY.key_id
    flipped = f"{int(wrapped.wrapped, 16) ^ 1:0{len(wrapped.wrapped)}x}"
    forged = replace(wrapped, recipient_key_id=wrap_for_site(KEY, site="north", site_key=NEW).recipient_key_id)
    for changed, key in [
        (wrapped, NEW),
        (forged, NEW),
        (replace(wrapped, wrapped=flipped), OLD),
        (replace(wrapped, recipient="south"), OLD),
        (replace(wrapped, key_id="00" * 8), OLD),
        (replace(wrapped, wrapped="00" * 7), OLD),
    ]:
        with pytest.raises(IntegrityError):
            unwrap_by_site(changed, site_key=key)


def test_rotation_rewraps_the_data_key_and_touches_no_item():
    """After rotation the old site key opens nothing new, and every item opens as before."""
    sealed = seal(b"x", key=KEY, name="a")
    rotated = rotate_site_key(wrap_for_site(KEY, site="north", site_key=OLD), old=OLD, new=NEW)
    assert rotated.recipient == "north"
    with pytest.raises(IntegrityError):
        unwrap_by_site(rotated, site_key=OLD)
    assert unseal(sealed, key=unwrap_by_site(rotated, site_key=NEW), name="a") == b"x"


def test_the_key_shows_nowhere():
    """Neither a repr nor a key id nor an error nor a wrapped record holds key bytes."""
    secret = bytes(range(32))
    assert repr(KEY) == f"DataKey(key_id={KEY.key_id!r})"
    shown = repr(KEY) + repr(wrap_for_site(KEY, site="north", site_key=OLD))
    with pytest.raises(UsageError, match="32 bytes, got 3") as error:
        DataKey(b"abc")
    assert secret.hex() not in shown
    assert secret.hex()[:16] not in shown
    assert "abc" not in str(error.value)


@pytest.mark.parametrize("wrong", [{"version": 2}, {"recipient": ""}, {"wrapped": "xy"}, {"key_id": "0"}])
def test_a_wrapped_key_out_of_form_cannot_exist(wrong: dict[str, object]):
    """A record that exists is valid."""
    with pytest.raises(ValueError, match=next(iter(wrong))):
        replace(wrap_for_site(KEY, site="north", site_key=OLD), **wrong)


@pytest.mark.parametrize("length", [0, 16, 31, 33])
def test_a_site_key_of_another_length_is_not_taken(length: int):
    """Only 256-bit keys wrap."""
    with pytest.raises(UsageError, match=f"32 bytes, got {length}"):
        wrap_for_site(KEY, site="north", site_key=bytes(length))
