"""Chinese resident IDs: the check character finds every wrong digit, and the date of birth must be one."""

import pytest

from fedmed.deid.resident_ids import is_resident_id

WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)


def numbered(birth: str, serial: int = 1) -> str:
    """Return a made-up number with a valid check character, computed from the rule of GB 11643."""
    body = f"330212{birth}{serial:03d}"
    return body + "10X98765432"[sum(int(digit) * weight for digit, weight in zip(body, WEIGHTS, strict=True)) % 11]


@pytest.mark.parametrize("serial", range(0, 400, 7))
def test_the_check_character_shows_a_wrong_digit(serial: int) -> None:
    """Every valid number is known, in capitals or not, and with its last digit but one changed it is none."""
    number = numbered(f"{1950 + serial % 50}{1 + serial % 12:02d}{1 + serial % 28:02d}", serial)
    assert is_resident_id(number)
    assert is_resident_id(number.lower())
    wrong = str((int(number[16]) + 1) % 10)
    assert not is_resident_id(number[:16] + wrong + number[17])


@pytest.mark.parametrize("number", ["330106198807214519", "33010619880721451x"])
def test_the_checksum_is_that_of_the_standard(number: str) -> None:
    """Of the eleven last characters just one makes a resident ID."""
    assert sum(is_resident_id(number[:17] + last) for last in "0123456789X") == 1


@pytest.mark.parametrize("birth", ["19881331", "19900230", "17490101", "21500101"])
def test_a_resident_id_needs_a_date_of_birth(birth: str) -> None:
    """A day that does not exist, or on which no patient was born, makes it none, whatever its checksum."""
    assert not is_resident_id(numbered(birth))


@pytest.mark.parametrize(
    ("number", "known"),
    [("330106880731451", True), ("330106881331451", False), ("33010688073145", False), ("33010688073145a", False)],
)
def test_the_older_numbers_have_fifteen_digits_and_a_date(number: str, *, known: bool) -> None:
    """They have no check character, so the date is all there is to see."""
    assert is_resident_id(number) is known
