"""The report folder of a run: `index.html`, `metrics.csv` and `plots/` beside `summary.json` and `config.yaml`.

Why it exists: a researcher shows the page, a script reads the numbers.

Rules:
    * Everything on the page comes from the summary, the sites' own evaluations and the
      de-identification reports; nothing is computed a second time another way.
    * Warnings stand at the top, before any figure.
    * A row of a table is shown before and after only for synthetic hospitals, whose people never were.

What it does not do: draw (see `plots`).
"""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl
from jinja2 import Environment, PackageLoader, StrictUndefined

from fedmed import __version__
from fedmed.audit import ChainLog
from fedmed.data.schema import Schema, locate
from fedmed.data.tabular import vouched_table
from fedmed.deid.policy import DeidPolicy
from fedmed.deid.pseudonyms import Pseudonyms
from fedmed.deid.tabular import PATIENT
from fedmed.files import write_atomic
from fedmed.records import Plan
from fedmed_sim.folder import RunFolder
from fedmed_sim.harness import read_evaluations
from fedmed_sim.plans import without_consolidation
from fedmed_sim.plots import plot_accuracy, plot_budget, plot_forgetting
from fedmed_sim.preparation import deidentification_reports
from fedmed_sim.settings import SimulationSettings
from fedmed_sim.summary import Evaluations, Summary, accuracy_by_site, figure_rows, measures_shown, shown
from fedmed_site.data_keys import DataKeys
from fedmed_site.home import SiteHome
from fedmed_site.measures import TITLES

ACTIONS = {
    "drop": "removed",
    "drop-text": "removed (free text)",
    "pseudonymise": "replaced by a keyed token",
    "shift-date": "shifted by a keyed number of days",
    "cap-age": "kept; above 89 becomes 90",
    "keep": "kept",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """One study as it ran: with the plan's consolidation, or the naive what-if."""

    name: str
    plan: Plan
    evaluations: Evaluations


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnShown:
    """What the page says of one column."""

    name: str
    kind: str
    action: str
    before: str
    after: str


def write_report(settings: SimulationSettings, folder: RunFolder, summary: Summary, plans: Sequence[Plan]) -> None:
    """Write page, metrics and plots of a finished run into its folder."""
    arms = _arms(folder, summary, plans)
    write_atomic(folder.root / "metrics.csv", _metrics(arms).encode(), mode=0o644)
    plots = folder.root / "plots"
    plots.mkdir(exist_ok=True)
    plot_accuracy(plots / "accuracy.png", {arm.name: arm.evaluations for arm in arms})
    figures = [("accuracy.png", "Accuracy on held-out records of each study's own cohort, by round and site")]
    if summary.ewc is not None:
        before = accuracy_by_site(arms[0].evaluations, view=0)
        after = {arm.name: accuracy_by_site(arm.evaluations, view=1) for arm in arms[-2:]}
        plot_forgetting(plots / "forgetting.png", before, after)
        figures.append(("forgetting.png", "Accuracy on the first study, before and after the last one"))
    if settings.privacy.epsilon is not None:
        plot_budget(plots / "budget.png", summary.privacy.epsilon, settings.privacy.epsilon)
        figures.append(("budget.png", "Epsilon that each site's ledger says is spent, and its cap"))
    page = _environment().get_template("report.html.j2")
    text = page.render(
        version=__version__,
        summary=summary,
        settings=settings,
        plans=plans,
        figures=figures,
        titles=[TITLES[name] for name in measures_shown(summary)],
        rows=figure_rows(summary),
        columns=_columns(settings, folder, summary.sites[0]),
        deidentification=deidentification_reports(folder),
        config=folder.config.read_text(),
    )
    write_atomic(folder.root / "index.html", text.encode(), mode=0o644)


def _arms(folder: RunFolder, summary: Summary, plans: Sequence[Plan]) -> list[Arm]:
    arms = [
        Arm(name=plan.study, plan=plan, evaluations=read_evaluations(folder.sites, summary.sites, plan))
        for plan in plans
    ]
    if summary.ewc is None:
        return arms
    naive = without_consolidation(plans[-1])
    evaluations = read_evaluations(folder.what_if / "sites", summary.sites, naive)
    return [*arms[:-1], Arm(name=naive.study, plan=naive, evaluations=evaluations), arms[-1]]


def _metrics(arms: Sequence[Arm]) -> str:
    """Return every evaluation as CSV; `view` 0 is the study's own cohort, 1 and on are earlier studies'."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["study", "site", "stage", "round", "view", "records", "accuracy", "loss", *TITLES])
    for arm in arms:
        for site, records in sorted(arm.evaluations.items()):
            for record in records:
                taken = record.measures.named()
                figures = [f"{record.accuracy:.6f}", *(map(_cell, (record.loss, *map(taken.get, TITLES))))]
                writer.writerow([arm.name, site, record.stage, record.round, record.view, record.records, *figures])
    return text.getvalue()


def _cell(figure: float | None) -> str:
    return "" if figure is None else f"{figure:.6f}"


def _columns(settings: SimulationSettings, folder: RunFolder, site: str) -> list[ColumnShown]:
    """Return every column of the schema with what happened to it, and one invented row if the data is synthetic."""
    schema, policy = settings.data.schema, DeidPolicy()
    before, after = ({}, {}) if settings.data.root is not None else _first_rows(folder, schema, site)
    return [
        ColumnShown(
            name=column.name,
            kind=column.kind,
            action=ACTIONS[policy.action(column)],
            before=before.get(column.name, ""),
            after=after.get(PATIENT if column.role == "patient-key" else column.name, ""),
        )
        for column in schema.columns
    ]


def _first_rows(folder: RunFolder, schema: Schema, site: str) -> tuple[Mapping[str, str], Mapping[str, str]]:
    """Return the first row whose remarks name the patient, and what became of that patient's row."""
    home = SiteHome(folder.sites / site)
    key = DataKeys(home).of_dataset(schema.name)
    table = vouched_table(home.data(schema.name), schema, ChainLog(home.audit_path), key=key)
    pseudonyms = Pseudonyms(home.pseudonym_key_path.read_bytes())
    with locate(folder.hospitals, schema, site).open(encoding="utf-8", newline="") as file:
        for raw in csv.DictReader(file):
            rows = table.filter(pl.col(PATIENT) == pseudonyms.token(raw[schema.patient_key or ""]))
            if raw["name"] in raw["remarks"] and rows.height == 1:
                kept = rows.row(0, named=True)
                return raw, {name: "" if value is None else str(value) for name, value in kept.items()}
    return {}, {}


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("fedmed_sim"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters["shown"] = shown
    return environment
