"""Fingerprints by telephone: the same is the whole same, and without a person nothing is believed."""

import pytest

from fedmed.crypto.fingerprints import confirm, require_same
from fedmed.crypto.keyfiles import fingerprint
from fedmed.errors import IntegrityError, UsageError

SHOWN = fingerprint(b"\x01" * 32)


@pytest.mark.parametrize(
    "spoken", [SHOWN, SHOWN.upper(), SHOWN.replace(" ", ""), SHOWN.replace(" ", ":"), f" {SHOWN}\n"]
)
def test_how_it_is_typed_does_not_matter(spoken: str):
    """Blocks, colons, capitals or one long word are the same fingerprint."""
    require_same(spoken, SHOWN, whose="north")


@pytest.mark.parametrize("spoken", ["", SHOWN[:39], SHOWN + " 0000", SHOWN.replace(SHOWN[0], "g", 1), "yes"])
def test_a_part_is_not_enough(spoken: str):
    """Half a fingerprint is refused, because half of one can be met by trying."""
    with pytest.raises(UsageError, match="expected all 16 blocks"):
        require_same(spoken, SHOWN, whose="north")


def test_every_digit_counts():
    """One digit changed anywhere is another fingerprint."""
    plain = SHOWN.replace(" ", "")
    for place, digit in enumerate(plain):
        other = plain[:place] + ("0" if digit != "0" else "1") + plain[place + 1 :]
        with pytest.raises(IntegrityError, match="don't use the file"):
            require_same(other, SHOWN, whose="north")


def test_a_person_answers_yes_in_full():
    """Only yes goes on; anything else ends with nothing done."""
    confirm(SHOWN, given=None, whose="north", ask=lambda _: " Yes ")
    for answer in ("", "y", "no", "yes!", SHOWN):
        with pytest.raises(UsageError, match="nothing was done"):
            confirm(SHOWN, given=None, whose="north", ask=lambda _, answer=answer: answer)


def test_without_a_terminal_nothing_is_believed(monkeypatch: pytest.MonkeyPatch):
    """A script that gives no fingerprint gets one line with the option that it needs."""
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(UsageError, match='give what was read out: --fingerprint "…"'):
        confirm(SHOWN, given=None, whose="north")


def test_what_was_given_is_not_asked_about():
    """With a fingerprint given there is no question, and a wrong one cannot be answered away."""

    def ask(_: str) -> str:
        raise AssertionError("nobody is asked")

    confirm(SHOWN, given=SHOWN, whose="north", ask=ask)
    with pytest.raises(IntegrityError):
        confirm(SHOWN, given=fingerprint(b"\x02" * 32), whose="north", ask=ask)
