"""How long this site has computed for each study, so that a policy can cap it.

Why it exists: a hospital lends its machines; a coordinator that repeats rounds, or a model that is larger than
anybody thought, must not keep them for ever.

Rules:
    * Time is counted from the beginning of a piece of work to its end, also where it fails.
    * No further piece of work begins once the allowance is used; one that has begun is finished.
    * A day is one of UTC, and work counts for the day on which it ended.

What it does not do: stop a piece of work, or count one that a kill cut short.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from fedmed.errors import RefusedError
from fedmed.files import locked, private_folder, write_atomic
from fedmed.records import canonical_json, decode, require, require_digest
from fedmed_site.home import SiteHome
from fedmed_site.policy import SitePolicy

SECONDS_PER_HOUR = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Used:
    """The content of `hours.json`: seconds of one study by day."""

    seconds: Mapping[str, float] = field(default_factory=dict)
    version: int = 1

    def __post_init__(self) -> None:
        require(self.version == 1, f"version must be 1, got {self.version}")
        require(all(value >= 0 for value in self.seconds.values()), "seconds must be at least 0")


class Hours:
    """The time that one site computed."""

    def __init__(self, home: SiteHome) -> None:
        self._studies = home.studies

    def spent(self, plan_digest: str) -> float:
        """Return the hours that a study took so far."""
        return sum(self._read(plan_digest).seconds.values()) / SECONDS_PER_HOUR

    def spent_on(self, now: datetime) -> float:
        """Return the hours that all studies took on the day of `now`."""
        day = _day(now)
        plans = [path.parent.name for path in self._studies.glob("*/hours.json")]
        return sum(self._read(plan).seconds.get(day, 0.0) for plan in plans) / SECONDS_PER_HOUR

    def require(self, policy: SitePolicy, plan_digest: str, *, now: datetime) -> None:
        """Raise if no further work may begin for a study now.

        Raises:
            RefusedError: The study, or the day, has used what the policy allows; fit to leave the site.
        """
        study, day = policy.max_hours_per_study, policy.max_hours_per_day
        if study is not None and self.spent(plan_digest) >= study:
            raise RefusedError(f"this site allows {study:g} hours of computing a study, and this one has used them")
        if day is not None and self.spent_on(now) >= day:
            raise RefusedError(f"this site allows {day:g} hours of computing a day, and today's are used; try tomorrow")

    @contextmanager
    def measured(
        self, plan_digest: str, *, now: Callable[[], datetime], clock: Callable[[], float] = time.monotonic
    ) -> Iterator[None]:
        """Count the time of the block for a study.

        Args:
            plan_digest: The study's plan.
            now: The wall clock, asked at the end: which day it is.
            clock: Seconds that never go back.
        """
        started = clock()
        try:
            yield
        finally:
            self._add(plan_digest, clock() - started, _day(now()))

    def _add(self, plan_digest: str, seconds: float, day: str) -> None:
        path = self._path(plan_digest)
        private_folder(path.parent)
        with locked(self._studies / "hours.lock"):
            used = self._read(plan_digest)
            total = {**used.seconds, day: used.seconds.get(day, 0.0) + seconds}
            write_atomic(path, canonical_json(replace(used, seconds=total)))

    def _read(self, plan_digest: str) -> _Used:
        try:
            return decode(self._path(plan_digest).read_bytes(), _Used)
        except FileNotFoundError:
            return _Used()

    def _path(self, plan_digest: str) -> Path:
        require_digest("plan", plan_digest)
        return self._studies / plan_digest / "hours.json"


def _day(now: datetime) -> str:
    return now.astimezone(UTC).date().isoformat()
