"""`fedmed simulate`: configuration in, report folder out.

Why it exists: the researcher's one command.

Rules:
    * The last line on standard output is the path of the report folder.
    * A mistake leaves no folder behind; a stopped run says how to resume it.

What it does not do: anything that `harness` and `report` don't.
"""

import shutil
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from types import FrameType

import msgspec

from fedmed import config
from fedmed.errors import UsageError
from fedmed_sim.folder import RunFolder
from fedmed_sim.settings import SimulationSettings


def simulate(arguments: Sequence[str]) -> int:
    """Run `fedmed simulate ARGUMENTS` and return the exit code."""
    resumed = [word.partition("=")[2] for word in arguments if word.startswith("resume=")]
    if resumed and resumed[-1] not in {"", "null"}:
        others = [word for word in arguments if not word.startswith("resume=")]
        if others:
            raise UsageError(f"resume={resumed[-1]} goes alone: the run keeps its settings; got also {others[0]}")
        _resume(Path(resumed[-1]))
        return 0
    config.run_command(SimulationSettings, arguments, _start)
    return 0


def _start(settings: SimulationSettings, job_folder: Path | None) -> None:
    root = job_folder or _new_folder(Path(settings.out), settings.data.name)
    folder = RunFolder(root.absolute())
    folder.root.mkdir(parents=True, exist_ok=True)
    config.save(folder.config, msgspec.to_builtins(settings))
    try:
        _run(settings, folder)
    except UsageError:
        if not folder.base.exists():
            shutil.rmtree(folder.root)  # a mistake in settings or data leaves nothing half-written
        raise


def _resume(root: Path) -> None:
    folder = RunFolder(root.absolute())
    _run(config.load(SimulationSettings, folder.config), folder)


def _run(settings: SimulationSettings, folder: RunFolder) -> None:
    from fedmed_sim.console import RunConsole  # noqa: PLC0415  torch takes seconds; a typing mistake need not wait
    from fedmed_sim.harness import Simulation  # noqa: PLC0415  likewise
    from fedmed_sim.report import write_report  # noqa: PLC0415  likewise

    with _interruptible(f"resume with: fedmed simulate resume={folder.root}"), RunConsole() as console:
        simulation = Simulation(settings, folder, listener=console)
        simulation.prepare()
        console.say(f"Run folder {folder.root}; if it is stopped: fedmed simulate resume={folder.root}")
        summary = simulation.run()
        write_report(settings, folder, summary, simulation.plans)
    console.show(summary)
    print(folder.root)  # noqa: T201  the command's result
    sys.stdout.flush()


def _new_folder(out: Path, name: str) -> Path:
    """Return a folder below `out` that does not exist yet, named by the local time."""
    stem = f"{datetime.now().astimezone():%Y-%m-%d_%H-%M-%S}-{name}"
    candidates = (out / (stem if number == 0 else f"{stem}-{number}") for number in range(1000))
    return next(candidate for candidate in candidates if not candidate.exists())


@contextmanager
def _interruptible(advice: str) -> Iterator[None]:
    """Let Ctrl-C and SIGTERM end the block with advice on how to go on."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt(advice)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
