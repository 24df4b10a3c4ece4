"""What a researcher sees while a simulation runs, and the table at its end.

Why it exists: rounds and sites as progress bars; failures and warnings as lines.

What it does not do: decide or compute anything.
"""

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from fedmed.exchange import Failure, Task
from fedmed.records import Plan
from fedmed_sim.summary import Summary, figure_rows, measures_shown, shown
from fedmed_site.measures import TITLES


class RunConsole:
    """A `Listener` that draws progress bars on standard error."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description:<34}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self._console,
        )
        self._rounds: TaskID | None = None
        self._sites: dict[str, TaskID] = {}

    def __enter__(self) -> "RunConsole":
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def say(self, text: str) -> None:
        """Print one line above the bars."""
        self._progress.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def study_started(self, plan: Plan, *, first_round: int, sites: tuple[str, ...]) -> None:
        """See `Listener`."""
        total = plan.training.rounds
        self._rounds = self._progress.add_task(f"{plan.study}: rounds", total=total, completed=first_round)
        self._sites = {site: self._progress.add_task(f"  {site}", total=total, completed=first_round) for site in sites}

    def site_answered(self, plan: Plan, task: Task, site: str) -> None:  # noqa: ARG002  the protocol's signature
        """See `Listener`."""
        trained = task.action == "train.fit" or (task.action == "train.mask" and "train.fit" in task.works)
        if trained and site in self._sites:
            self._progress.advance(self._sites[site])

    def round_finished(self, plan: Plan, number: int, *, sites: tuple[str, ...], seconds: float) -> None:  # noqa: ARG002  the protocol's signature
        """See `Listener`."""
        if self._rounds is not None:
            self._progress.advance(self._rounds)

    def site_failed(self, plan: Plan, failure: Failure) -> None:
        """See `Listener`."""
        self.say(f"{plan.study}: {failure.site} did not contribute: {failure.reason}")

    def study_finished(self, plan: Plan) -> None:  # noqa: ARG002  the protocol's signature
        """See `Listener`."""
        for task in self._sites.values():
            self._progress.remove_task(task)
        self._sites = {}

    def show(self, summary: Summary) -> None:
        """Print the result as a table, and every warning."""
        table = Table(title=f"Result after {summary.rounds} rounds over {len(summary.sites)} sites")
        titles = [TITLES[name] for name in measures_shown(summary)]
        for heading in ("site", "accuracy", *titles, "epsilon spent"):
            table.add_column(heading, justify="left" if heading == "site" else "right")
        rows = figure_rows(summary)
        for place, row in enumerate(rows):
            if place == len(summary.sites):
                table.add_section()
            table.add_row(row.name, row.accuracy, *row.measures, row.epsilon)
        out = Console()
        out.print(table)
        if summary.left_out:
            said = ", ".join(f"{count} {reason}" for reason, count in summary.left_out.items())
            out.print(f"Rows of the publisher that no site has: {said}", highlight=False, markup=False, soft_wrap=True)
        for site, counts in summary.records.items():
            if counts.skipped:
                said = ", ".join(f"{count} {reason}" for reason, count in counts.skipped.items())
                out.print(f"Not used at {site}: {said}", highlight=False, markup=False, soft_wrap=True)
        if summary.ewc is not None:
            ewc = summary.ewc
            out.print(
                f"Study 1 accuracy: {shown(ewc.study1_before)} before study 2; after it "
                f"{shown(ewc.study1_after_naive)} naive, {shown(ewc.study1_after_ewc)} with EWC",
                highlight=False,
            )
        if summary.leaks is not None:
            out.print(
                f"Identifiers: {summary.leaks.found} of {summary.leaks.planted} planted ones found in "
                f"{summary.leaks.searched_bytes:,} bytes that the coordinator received or wrote"
                f"{'' if summary.leaks.whole else ' (messages from before the run was resumed were not searched)'}",
                highlight=False,
                soft_wrap=True,
            )
        if summary.aggregation.rounding_error is not None:
            out.print(
                f"Secure aggregation in a ring of {summary.aggregation.bits} bits: rounding moves a coordinate of a"
                f" round's mean by at most {summary.aggregation.rounding_error:.1e}",
                highlight=False,
                soft_wrap=True,
            )
        for warning in summary.warnings:
            out.print(f"WARNING: {warning}", style="bold", highlight=False, soft_wrap=True)
