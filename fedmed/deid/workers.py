"""Worker processes for many files, a window of them at a time, whatever one of the files does to its process.

Why it exists: an archive holds millions of files. Memory must not grow with them, one that crashes its process
must not stop the others, and a run that is killed must not leave processes that go on writing.

Rules:
    * A window of jobs is in flight; results come as they are ready.
    * A job whose process ends abruptly is tried once more, alone; then the caller says what became of it.
    * Workers leave Ctrl-C to their parent and end when it is gone.
    * Workers are spawned, not forked: nothing of the parent is in them but what they are given.
    * What a library says on standard error while it reads a file is dropped: a panic may quote the file.

What it does not do: know what a job is, or write anything.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Generic, TypeVar

Job = TypeVar("Job")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True, kw_only=True)
class Workers(Generic[Job, Result]):
    """How many processes work, and on what.

    `start` is called once in each of them, `work` there for each job; both, and the jobs, are pickled. `crashed` is
    called here for a job whose process ended abruptly twice. `window`: jobs in flight per process.
    """

    start: Callable[[], object]
    work: Callable[[Job], Result]
    crashed: Callable[[Job], Result]
    processes: int
    window: int

    def results(self, jobs: Iterable[Job]) -> Iterator[tuple[Job, Result]]:
        """Yield each job with its result, in no fixed order; read `jobs` only as far as the window reaches.

        Raises:
            Exception: What `work` raised; the jobs in flight are lost.
        """
        waiting = iter(jobs)
        pool = self._pool(self.processes)
        flying: dict[Future[Result], Job] = {}
        try:
            while True:
                for job in waiting:
                    flying[self._submit(pool, job)] = job
                    if len(flying) >= self.processes * self.window:
                        break
                if not flying:
                    return
                finished, _ = wait(flying, return_when=FIRST_COMPLETED)
                if any(isinstance(future.exception(), BrokenProcessPool) for future in finished):
                    pool.shutdown(wait=False, cancel_futures=True)
                    suspects, flying = list(flying.values()), {}
                    yield from self._one_by_one(suspects)
                    pool = self._pool(self.processes)
                    continue
                for future in finished:
                    yield flying.pop(future), future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _one_by_one(self, jobs: Iterable[Job]) -> Iterator[tuple[Job, Result]]:
        """Do each job with no other in flight."""
        pool = self._pool(1)
        try:
            for job in jobs:
                try:
                    result = pool.submit(self.work, job).result()
                except BrokenProcessPool:
                    pool.shutdown()
                    pool = self._pool(1)
                    result = self.crashed(job)
                yield job, result
        finally:
            pool.shutdown()

    def _submit(self, pool: ProcessPoolExecutor, job: Job) -> Future[Result]:
        try:
            return pool.submit(self.work, job)
        except BrokenProcessPool as error:  # it broke since the last look; the caller notices by the future
            future: Future[Result] = Future()
            future.set_exception(error)
            return future

    def _pool(self, processes: int) -> ProcessPoolExecutor:
        context = multiprocessing.get_context("spawn")
        return ProcessPoolExecutor(processes, mp_context=context, initializer=_start, initargs=(self.start,))


def _start(start: Callable[[], object]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    start()
    with open(os.devnull, "wb") as nowhere:  # noqa: PTH123  a device
        os.dup2(nowhere.fileno(), 2)


def _end_with_parent() -> None:
    """End this worker when its parent is gone: a killed run must not go on writing."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
