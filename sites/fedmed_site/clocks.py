"""How far this machine's clock may be off the coordinator's, and what to say of it.

Why it exists: a SuperNode signs the time with every request, and the coordinator believes it for so long and no
longer. A clock that is wrong is the one fault that looks like a broken key.

Rules:
    * The coordinator's time is that of its answer's `Date` header (RFC 9110, 6.6.1): whole seconds.
    * Ahead and behind are told apart: a signature from the future is hardly forgiven.

What it does not do: set a clock.
"""

from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Final

MOST_AHEAD: Final = timedelta(seconds=5)
MOST_BEHIND: Final = timedelta(seconds=305)
"""What the coordinator takes (flwr.common.constant, SYSTEM_TIME_TOLERANCE and TIMESTAMP_TOLERANCE)."""
AHEAD_WARN: Final = timedelta(seconds=2)
BEHIND_WARN: Final = timedelta(seconds=30)
CURE: Final = "set this machine's clock: chronyc makestep, or timedatectl set-ntp true"


def ahead_of(date: str | None, here: datetime) -> timedelta | None:
    """Return how far this machine's time is ahead of a `Date` header's, negative if behind; None where there is none.

    >>> from datetime import UTC
    >>> ahead_of("Tue, 01 Jan 2030 12:00:00 GMT", datetime(2030, 1, 1, 12, 20, tzinfo=UTC))
    datetime.timedelta(seconds=1200)
    """
    try:
        there = parsedate_to_datetime(date or "")
    except (TypeError, ValueError):
        return None
    return here - there if there.tzinfo is not None else None


def is_refused(ahead: timedelta) -> bool:
    """Say whether the coordinator refuses what is signed at a time so far ahead of its own."""
    return not -MOST_BEHIND < ahead < MOST_AHEAD


def is_doubtful(ahead: timedelta) -> bool:
    """Say whether a clock should be set before it is too far off."""
    return not -BEHIND_WARN <= ahead <= AHEAD_WARN


def shown(ahead: timedelta) -> str:
    """Return a difference for people.

    >>> shown(timedelta(minutes=-20))
    '1200 s behind'
    """
    seconds = round(ahead.total_seconds())
    return f"{abs(seconds)} s {'behind' if seconds < 0 else 'ahead of'}"
