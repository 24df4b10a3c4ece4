"""What the worker processes of a site's de-identification do.

Why it exists: a worker builds its engines once and cleans many files with them (see `fedmed.deid.workers`).

Rules:
    * Nothing that a library logs or warns of leaves a worker.
    * A file that makes its process end abruptly, also alone, is quarantined.

What it does not do: write the audit log.
"""

import logging
import warnings
from collections.abc import Iterator
from functools import partial

from fedmed.deid.workers import Workers
from fedmed_site.deidentification_items import Cleaner, Done, Job, Setting

WINDOW_PER_WORKER = 8


def clean_all(jobs: Iterator[Job], setting: Setting, *, workers: int) -> Iterator[Done]:
    """Yield what became of each job, in no fixed order.

    Args:
        jobs: Read only as far as the window reaches.
        setting: What the workers need, keys included.
        workers: How many processes clean.

    Raises:
        OSError: The disk of the output is full or not writable; jobs in flight are lost and done again later.
    """
    crew = Workers(
        start=partial(_start, setting),
        work=_work,
        crashed=lambda job: Cleaner(setting).crashed(job),
        processes=workers,
        window=WINDOW_PER_WORKER,
    )
    for _, done in crew.results(jobs):
        yield done


_CLEANER: list[Cleaner] = []
"""The engines of a worker process, set once when it starts."""


def _start(setting: Setting) -> None:
    logging.disable(logging.CRITICAL)  # libraries that read files quote values in their log lines
    warnings.simplefilter("ignore")  # likewise
    _CLEANER[:] = [Cleaner(setting)]


def _work(job: Job) -> Done:
    (cleaner,) = _CLEANER
    return cleaner.take(job)
