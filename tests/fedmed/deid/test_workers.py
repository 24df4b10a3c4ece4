"""Worker processes: every job ends with a result, whatever another job did to its process."""

import os
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from fedmed.deid.workers import Workers

CRASH = "__import__('os')._exit(3)"
PROCESS = "__import__('os').getpid()"


def crew(processes: int = 2, window: int = 2) -> Workers[str, Any]:
    """Return workers whose jobs are expressions."""
    return Workers(start=int, work=eval, crashed="crashed: {}".format, processes=processes, window=window)


def test_every_job_comes_back_with_its_result() -> None:
    """More jobs than the window holds, in worker processes and not in this one."""
    results = dict(crew().results(f"{number} * 2" for number in range(20)))
    assert results == {f"{number} * 2": number * 2 for number in range(20)}
    (process,) = (result for _, result in crew(1).results([PROCESS]))
    assert process != os.getpid()


def test_no_jobs_are_no_results() -> None:
    """An empty folder starts nothing that has to be waited for."""
    assert list(crew().results([])) == []


def test_a_job_that_crashes_its_process_takes_no_other_down() -> None:
    """The crashed ones are told apart from those that were in flight with them; each comes back once."""
    jobs = ["1 + 1", CRASH, "1 + 2", CRASH + " or 1", *(f"{number}" for number in range(8))]
    results = list(crew().results(jobs))
    assert Counter(job for job, _ in results) == Counter(jobs)
    crashed = {job for job, result in results if result == f"crashed: {job}"}
    assert crashed == {CRASH, CRASH + " or 1"}
    assert dict(results)["1 + 2"] == 3


def test_jobs_are_read_only_as_far_as_the_window_reaches() -> None:
    """A list of millions of files is never in memory as a whole."""
    read: list[int] = []

    def jobs() -> Iterator[str]:
        for number in range(50):
            read.append(number)
            yield f"{number}"

    results = crew(processes=1, window=3).results(jobs())
    for taken in range(1, 10):
        next(results)
        assert len(read) <= taken + 3
    results.close()  # type: ignore[attr-defined]  # it is a generator
    assert len(read) < 50


def test_what_a_job_raises_ends_the_run() -> None:
    """A full disk is not a matter of one file."""
    with pytest.raises(ZeroDivisionError):
        list(crew().results(["1", "1 / 0"]))


def test_what_a_library_says_while_it_reads_reaches_no_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    """A panic of a compiled reader goes to standard error past Python, and may quote a cell."""
    assert dict(crew(1).results(["__import__('os').write(2, b'Okonkwo, born 1961')"])) != {}
    assert "Okonkwo" not in "".join(capfd.readouterr())
