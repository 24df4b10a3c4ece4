"""Fingerprints compared by telephone: the one step that a file alone cannot replace.

Why it exists: whoever carries an invitation could have swapped the key in it. Two people who read
sixteen blocks of four digits to each other notice that; no signature can.

Rules:
    * Either the administrator gives what was read out, whole, or answers a question at a terminal.
    * Without a terminal and without `--fingerprint` nothing is believed.
    * Spaces, colons, dashes and upper case don't matter; a part of a fingerprint is refused.

What it does not do: show the fingerprint; the command line does.
"""

import hmac
import re
import sys
from collections.abc import Callable
from typing import Final

from fedmed.errors import IntegrityError, UsageError

_DIGITS: Final = re.compile("[0-9a-f]{64}")
_BETWEEN: Final = re.compile(r"[\s:-]+")
_HALF: Final = 39  # eight blocks of four digits and seven spaces


def two_lines(fingerprint: str) -> tuple[str, str]:
    """Return a fingerprint of 16 blocks as two lines of eight, as it is read out.

    >>> two_lines(" ".join(["ab12"] * 16))[1]
    'ab12 ab12 ab12 ab12 ab12 ab12 ab12 ab12'
    """
    return fingerprint[:_HALF], fingerprint[_HALF + 1 :]


def require_same(given: str, expected: str, *, whose: str) -> None:
    """Raise unless `given`, as it was read out, is the fingerprint `expected`.

    Raises:
        UsageError: It is not a whole fingerprint.
        IntegrityError: It is another one.

    >>> require_same("6668:7AAD f862bd776c8fc18b8e9f8e20089714856ee233b3902a591d0d5f2925",
    ...     "6668 7aad f862 bd77 6c8f c18b 8e9f 8e20 0897 1485 6ee2 33b3 902a 591d 0d5f 2925", whose="north")
    """
    plain = _BETWEEN.sub("", given).lower()
    if _DIGITS.fullmatch(plain) is None:
        raise UsageError(
            f"fingerprint of {whose}: expected all 16 blocks of four digits, got {len(plain)} characters; ask for it "
            "again"
        )
    if not hmac.compare_digest(plain, _BETWEEN.sub("", expected)):
        raise IntegrityError(
            f"fingerprint of {whose}: expected the one that was read out, but this file has {expected}; "
            "don't use the file, and ask on the telephone who sent it"
        )


def confirm(expected: str, *, given: str | None, whose: str, ask: Callable[[str], str] | None = None) -> None:
    """Return once a person has said that `expected` is what was read out.

    Args:
        expected: The fingerprint of the key in the file.
        given: What the administrator typed after `--fingerprint`, or None to be asked.
        whose: Whose key it is.
        ask: Shows a question and returns the answer; None for the terminal.

    Raises:
        UsageError: There is nobody to ask, or the answer is not yes.
        IntegrityError: `given` is another fingerprint.
    """
    if given is not None:
        require_same(given, expected, whose=whose)
        return
    answer = (ask or _terminal(whose))(f"Does {whose} read you the same fingerprint on the telephone? Type yes: ")
    if answer.strip().lower() != "yes":
        raise UsageError(f"fingerprint of {whose}: expected yes, got another answer; nothing was done")


def _terminal(whose: str) -> Callable[[str], str]:
    if sys.stdin is None or not sys.stdin.isatty():
        raise UsageError(
            f"fingerprint of {whose}: expected somebody at a terminal to compare it, found none; "
            'give what was read out: --fingerprint "…"'
        )
    return _input


def _input(question: str) -> str:
    try:
        return input(question)
    except EOFError:
        return ""
