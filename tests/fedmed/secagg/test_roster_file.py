"""The roster's file and its dates: one format, one line for what is wrong with it."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedmed.errors import IntegrityError
from fedmed.records import canonical_json
from fedmed.secagg import transcript
from fedmed.secagg.roster import SignedRoster, sign_roster, verify_roster
from fedmed.secagg.roster_file import open_roster, roster_from_bytes, roster_to_bytes

CONSORTIUM = Ed25519PrivateKey.from_private_bytes(b"\x01" * 32)
NOW = datetime(2030, 6, 1, 12, tzinfo=UTC)


def opened(signed: SignedRoster, *, now: datetime = NOW) -> Any:
    """Send `signed` through its bytes and open it at `now`."""
    return open_roster(roster_to_bytes(signed), consortium_key=CONSORTIUM.public_key(), least_serial=1, now=now)


def test_a_roster_survives_its_file(bench: Any):
    """What was signed comes back equal, with and without dates, and white space does not matter."""
    roster = bench.Cohort(3).roster
    dated = replace(roster, valid_from="2030-01-01T00:00:00Z", valid_until="2030-12-31T23:59:59Z")
    for one in (roster, dated):
        signed = sign_roster(one, CONSORTIUM)
        assert opened(signed) == one
        assert roster_from_bytes(json.dumps(json.loads(roster_to_bytes(signed)), indent=4).encode()) == signed


@pytest.mark.parametrize(
    "data", [b"", b"\xff", b"[]", b"[" * 100_000, b"{}", b'{"format":"fedmed-public-key"}', b"a: 1"]
)
def test_another_file_is_no_roster(data: bytes):
    """Bytes that are no roster file say so, whatever they are."""
    with pytest.raises(IntegrityError, match="expected a file that `fedmed consortium roster sign` wrote, got another"):
        roster_from_bytes(data)


def test_a_file_of_another_version_asks_for_its_program(bench: Any):
    """A later format is not guessed at."""
    plain = json.loads(roster_to_bytes(sign_roster(bench.Cohort(3).roster, CONSORTIUM)))
    with pytest.raises(IntegrityError, match="expected file version 1, got 2"):
        roster_from_bytes(json.dumps({**plain, "version": 2}).encode())


def test_a_damaged_file_names_the_field(bench: Any):
    """A field that is missing, unknown or out of range is named."""
    plain = json.loads(roster_to_bytes(sign_roster(bench.Cohort(3).roster, CONSORTIUM)))
    roster = plain["roster"]
    for changed, text in (
        ({**plain, "signature": "AAAA"}, "signature must have 64 bytes"),
        ({**plain, "extra": 1}, "extra: unknown key"),
        ({**plain, "roster": {**roster, "serial": 0}}, "serial must be at least 1"),
        ({**plain, "roster": {**roster, "sites": roster["sites"][::-1]}}, "ascending order"),
        ({**plain, "roster": {**roster, "valid_until": "soon"}}, "valid_until must be a moment in UTC"),
    ):
        with pytest.raises(IntegrityError, match=text):
            roster_from_bytes(json.dumps(changed).encode())


def test_a_changed_date_breaks_the_signature(bench: Any):
    """Nobody but the consortium prolongs a roster or removes its end."""
    signed = sign_roster(replace(bench.Cohort(3).roster, valid_until="2030-12-31T23:59:59Z"), CONSORTIUM)
    for until in ("2039-12-31T23:59:59Z", None):
        with pytest.raises(IntegrityError, match="pinned consortium key"):
            opened(replace(signed, roster=replace(signed.roster, valid_until=until)))


def test_a_roster_is_in_force_between_its_dates_and_not_beside_them(bench: Any):
    """Both bounds belong to it, in whatever time zone the clock is; beyond them the line speaks of the clock."""
    start, end = datetime(2030, 1, 1, tzinfo=UTC), datetime(2030, 12, 31, 23, 59, 59, tzinfo=UTC)
    roster = replace(bench.Cohort(3).roster, valid_from="2030-01-01T00:00:00Z", valid_until="2030-12-31T23:59:59Z")
    signed = sign_roster(roster, CONSORTIUM)
    for now in (
        start,
        end,
        start.astimezone(timezone(timedelta(hours=8))),
        end.astimezone(timezone(timedelta(hours=-9))),
    ):
        assert opened(signed, now=now) == roster
    with pytest.raises(IntegrityError, match=r"expected a time from 2030-01-01T00:00:00Z on.*clock skew"):
        opened(signed, now=start - timedelta(seconds=1))
    with pytest.raises(IntegrityError, match=r"expired at 2030-12-31T23:59:59Z.*2031-01-01T00:00:00Z.*clock skew"):
        opened(signed, now=end + timedelta(seconds=1))


def test_a_dated_roster_needs_the_time(bench: Any):
    """Who forgets the clock is told so, rather than taking an expired roster; without dates none is needed."""
    roster = bench.Cohort(3).roster
    signed = sign_roster(replace(roster, valid_until="2030-12-31T23:59:59Z"), CONSORTIUM)
    with pytest.raises(IntegrityError, match="expected the present time"):
        verify_roster(signed, CONSORTIUM.public_key(), least_serial=1)
    assert verify_roster(sign_roster(roster, CONSORTIUM), CONSORTIUM.public_key(), least_serial=1) == roster


def test_a_roster_without_dates_hashes_as_before_there_were_any(bench: Any):
    """The digest covers exactly the fields that are set, so earlier signatures stay good."""
    roster = bench.Cohort(3).roster
    plain = json.loads(canonical_json(roster))
    del plain["valid_from"], plain["valid_until"]
    assert roster.digest() == transcript.digest("roster", canonical_json(plain))
    digests = {
        roster.digest(),
        replace(roster, valid_from="2030-01-01T00:00:00Z").digest(),
        replace(roster, valid_until="2030-01-01T00:00:00Z").digest(),
    }
    assert len(digests) == 3


@pytest.mark.parametrize(
    "moment", ["2030-01-01", "2030-1-01T00:00:00Z", "2030-02-30T00:00:00Z", "2030-01-01T00:00:00+00:00", ""]
)
def test_dates_have_one_spelling(bench: Any, moment: str):
    """A moment is written one way, and exists."""
    with pytest.raises(ValueError, match="valid_until must be a moment in UTC"):
        replace(bench.Cohort(3).roster, valid_until=moment)
    with pytest.raises(ValueError, match="valid_until must be after valid_from"):
        replace(bench.Cohort(3).roster, valid_from="2030-01-01T00:00:00Z", valid_until="2030-01-01T00:00:00Z")
