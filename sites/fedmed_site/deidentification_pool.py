"""Worker processes that clean files, a window of them at a time, whatever one of the files does to its process.

Why it exists: an archive holds millions of files. Memory must not grow with them, one that crashes its process
must not stop the others, and a run that is killed must not leave processes that go on writing.

Rules:
    * A window of files is in flight; results come as they are ready.
    * A file that makes its process end abruptly is tried once more, alone; then it is quarantined.
    * Workers leave Ctrl-C to their parent and end when it is gone.

What it does not do: write the audit log.
"""

import logging
import multiprocessing
import os
import signal
import threading
import warnings
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool

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
    pool = _pool(setting, workers)
    flying: dict[Future[Done], Job] = {}
    try:
        while True:
            for job in jobs:
                flying[_submit(pool, job)] = job
                if len(flying) >= workers * WINDOW_PER_WORKER:
                    break
            if not flying:
                return
            finished, _ = wait(flying, return_when=FIRST_COMPLETED)
            if any(isinstance(future.exception(), BrokenProcessPool) for future in finished):
                pool.shutdown(wait=False, cancel_futures=True)
                suspects, flying = list(flying.values()), {}
                yield from _one_by_one(suspects, setting)
                pool = _pool(setting, workers)
                continue
            for future in finished:
                del flying[future]
                yield future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _one_by_one(jobs: Iterable[Job], setting: Setting) -> Iterator[Done]:
    """Clean each file with no other in flight, and quarantine the one whose process crashes."""
    pool = _pool(setting, 1)
    try:
        for job in jobs:
            try:
                done = pool.submit(_work, job).result()
            except BrokenProcessPool:
                pool.shutdown()
                pool = _pool(setting, 1)
                done = Cleaner(setting).crashed(job)
            yield done
    finally:
        pool.shutdown()


def _submit(pool: ProcessPoolExecutor, job: Job) -> Future[Done]:
    try:
        return pool.submit(_work, job)
    except BrokenProcessPool as error:  # it broke since the last look; the caller notices by the future
        future: Future[Done] = Future()
        future.set_exception(error)
        return future


def _pool(setting: Setting, workers: int) -> ProcessPoolExecutor:
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(workers, mp_context=context, initializer=_start, initargs=(setting,))


_CLEANER: list[Cleaner] = []
"""The engines of a worker process, set once when it starts."""


def _start(setting: Setting) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    logging.disable(logging.CRITICAL)  # libraries that read files quote values in their log lines
    warnings.simplefilter("ignore")  # likewise
    _CLEANER[:] = [Cleaner(setting)]


def _end_with_parent() -> None:
    """End this worker when its parent is gone: a killed run must not go on writing."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _work(job: Job) -> Done:
    (cleaner,) = _CLEANER
    return cleaner.take(job)
