"""Signed statements: what they cover, and what is said of a file that is not one."""

from dataclasses import dataclass

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from fedmed.crypto.statements import MOST_BYTES, Signed, form_of, parse, sign
from fedmed.errors import IntegrityError

KEY = Ed25519PrivateKey.from_private_bytes(b"\x07" * 32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A statement of tests."""

    name: str
    weight: float
    key: bytes = b""


def verified(data: bytes, *, form: str = "test-a") -> Claim:
    """Return the claim under the right key."""
    return parse(data, form, Claim).verify(KEY.public_key(), cure="ask again")


@given(st.text(max_size=20), st.integers(-(2**40), 2**40), st.binary(max_size=40))
def test_a_statement_comes_back_whatever_it_says(name: str, weight: int, key: bytes):
    """Any text, a whole number in a field of reals, and bytes survive signing, the file and verifying."""
    claim = Claim(name=name, weight=weight, key=key)
    assert verified(sign("test-a", claim, KEY)) == claim


def test_white_space_does_not_matter():
    """A file that somebody's editor has indented still verifies."""
    data = msgspec.json.format(sign("test-a", Claim(name="north", weight=1), KEY), indent=2)
    assert verified(data).name == "north"


def test_another_key_is_refused_with_a_cure():
    """What another key signed says what to do."""
    other = Ed25519PrivateKey.from_private_bytes(b"\x08" * 32)
    with pytest.raises(IntegrityError, match="signature is not its; ask again"):
        verified(sign("test-a", Claim(name="north", weight=1), other))


def test_a_statement_of_one_format_is_none_of_another():
    """The format is signed: renaming it in the file does not make a kit of an invitation."""
    data = sign("test-b", Claim(name="north", weight=1), KEY)
    with pytest.raises(IntegrityError, match="expected a test-a file, got test-b"):
        verified(data)
    with pytest.raises(IntegrityError, match="signature is not its"):
        verified(data.replace(b"test-b", b"test-a"))


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"[]", b"null", b"PK\x03\x04", b"\xff\xfe", b'{"format":1}', b"[" * 100_000],
    ids=["empty", "cut", "list", "null", "zip", "bytes", "number", "deep"],
)
def test_what_is_no_statement_is_one_line(data: bytes):
    """Anything else is one line that asks to check the path."""
    assert form_of(data) == ""
    with pytest.raises(IntegrityError, match="expected a test-a file, got another file; check the path") as caught:
        parse(data, "test-a", Claim)
    assert "\n" not in str(caught.value)


def test_a_huge_file_is_not_looked_at():
    """A file beyond the largest is no statement, whatever it begins with."""
    assert form_of(b'{"format":"test-a","version":1}' + b" " * MOST_BYTES) == ""


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        (b'"version":1', b'"version":2', "expected version 1, got 2; install a newer FedMed"),
        (b'"weight"', b'"wait"', "unknown key"),
        (b'"weight":1.0', b'"weight":"1"', "expected an intact file"),
        (b'"signature"', b'"sig"', "unknown key"),
    ],
)
def test_a_damaged_statement_says_where(old: bytes, new: bytes, text: str):
    """A newer version asks for a newer FedMed; a field that does not fit is named."""
    data = sign("test-a", Claim(name="north", weight=1), KEY)
    assert old in data
    with pytest.raises(IntegrityError, match=text):
        parse(data.replace(old, new), "test-a", Claim)


def test_a_signature_of_another_length_is_refused():
    """A cut signature does not verify."""
    with pytest.raises(IntegrityError, match="signature is not its"):
        Signed(form="test-a", claim=Claim(name="n", weight=1), body={}, signature=b"x").verify(
            KEY.public_key(), cure="ask"
        )
