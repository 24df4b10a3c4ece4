"""The time that a site computes is counted by study and by day, and no work begins beyond the allowance."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from fedmed.errors import IntegrityError, RefusedError
from fedmed_site.home import SiteHome, SiteRecord
from fedmed_site.hours import Hours
from fedmed_site.policy import SitePolicy

NOON = datetime(2030, 1, 31, 12, tzinfo=UTC)
ONE, OTHER = "1" * 64, "2" * 64
FREE = SitePolicy(cap_epsilon=1.0, delta=1e-5)


@pytest.fixture
def hours(tmp_path: Path) -> Hours:
    """Return the hours of a new site."""
    home = SiteHome.create(tmp_path, SiteRecord(name="north", policy=FREE), pseudonym_key=bytes(32))
    return Hours(home)


def work(hours: Hours, plan: str, *, took_h: float, now: datetime = NOON) -> None:
    """Work for a while that nobody waits for."""
    ticks: Iterator[float] = iter((100.0, 100.0 + 3600 * took_h))
    with hours.measured(plan, now=lambda: now, clock=lambda: next(ticks)):
        pass


def test_time_adds_up_by_study(hours: Hours):
    """Each study has its own total, over all days."""
    work(hours, ONE, took_h=1.5)
    work(hours, ONE, took_h=0.5, now=NOON + timedelta(days=1))
    work(hours, OTHER, took_h=4)
    assert (hours.spent(ONE), hours.spent(OTHER)) == (2.0, 4.0)
    assert (hours.spent_on(NOON), hours.spent_on(NOON + timedelta(days=1))) == (5.5, 0.5)


def test_work_that_fails_counts(hours: Hours):
    """A task that ends in an error has used the machine all the same."""
    ticks = iter((0.0, 3600.0))
    with pytest.raises(RuntimeError), hours.measured(ONE, now=lambda: NOON, clock=lambda: next(ticks)):
        raise RuntimeError
    assert hours.spent(ONE) == 1.0


def test_no_work_begins_beyond_the_study_allowance(hours: Hours):
    """The refusal says the allowance; another study is not affected."""
    policy = SitePolicy(cap_epsilon=1.0, delta=1e-5, max_hours_per_study=2.0)
    work(hours, ONE, took_h=1.99)
    hours.require(policy, ONE, now=NOON)
    work(hours, ONE, took_h=0.01)
    with pytest.raises(RefusedError, match="allows 2 hours of computing a study"):
        hours.require(policy, ONE, now=NOON)
    hours.require(policy, OTHER, now=NOON)


def test_no_work_begins_beyond_the_days_allowance(hours: Hours):
    """All studies share a day's allowance; the next day (UTC) begins anew."""
    policy = SitePolicy(cap_epsilon=1.0, delta=1e-5, max_hours_per_day=3.0)
    work(hours, ONE, took_h=1)
    work(hours, OTHER, took_h=2)
    with pytest.raises(RefusedError, match="allows 3 hours of computing a day"):
        hours.require(policy, ONE, now=NOON)
    hours.require(policy, ONE, now=NOON + timedelta(hours=12))


def test_without_an_allowance_nothing_is_refused(hours: Hours):
    """The default leaves time to the plan's rounds and steps."""
    work(hours, ONE, took_h=1e6)
    hours.require(FREE, ONE, now=NOON)


def test_a_damaged_count_is_not_guessed(hours: Hours, tmp_path: Path):
    """A file that is no count of hours stops work; it isn't taken for zero."""
    work(hours, ONE, took_h=1)
    (tmp_path / "studies" / ONE / "hours.json").write_text("{}garbage")
    with pytest.raises(IntegrityError):
        hours.spent(ONE)
