"""Which numbers are Chinese resident IDs.

Why it exists: a table's columns and a note's numbers are told by the same rule, so the rule stands once.

Rules:
    * The check character is that of ISO 7064 MOD 11-2, as GB 11643-1999 has it.
    * The date of birth inside must exist, and be one that a patient can have.

What it does not do: look up regions, or find numbers in a text (see `text.identifiers`).
"""

import datetime as dt

LENGTH = 18
OLD_LENGTH = 15
_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
_CHECK = "10X98765432"
_YEARS = range(1850, 2100)


def is_resident_id(number: str) -> bool:
    """Say whether `number` is a Chinese resident ID: 18 characters under MOD 11-2, or the older 15 digits.

    Both hold a date of birth, which must exist (GB 11643-1999). The older ones have no check character.

    >>> is_resident_id("11010519491231002X"), is_resident_id("110105194912310021"), is_resident_id("110105491231002")
    (True, False, True)
    """
    if len(number) == OLD_LENGTH and number.isdecimal():
        return _is_birth(f"19{number[6:12]}")
    if len(number) != LENGTH or not number[:17].isdecimal():
        return False
    check = _CHECK[sum(int(digit) * weight for digit, weight in zip(number[:17], _WEIGHTS, strict=True)) % 11]
    return check == number[17].upper() and _is_birth(number[6:14])


def _is_birth(digits: str) -> bool:
    try:
        return dt.date(int(digits[:4]), int(digits[4:6]), int(digits[6:])).year in _YEARS
    except ValueError:
        return False
