"""What privacy leaves of a model's use: accuracy and AUC at each epsilon, and what consolidation saves.

Why it exists: a budget is worth what the model can still do under it. Each figure here comes from whole runs
of `fedmed_sim.harness.Simulation`: every site's own code, secure aggregation, the noise that the sites
really draw, and budgets charged to their ledgers.

Run from the repository:
`python benchmarks/utility.py [--quick] [--only heart|stroke|digits] [--seeds N] [--json PATH] [--plots DIR]`.

Experiments:
    * heart: four hospitals, FLamby's split, delta 1e-3; mean accuracy over sites, AUC over pooled records.
    * stroke: eleven countries of the International Stroke Trial, delta 1e-5; mean over sites of the AUC of death
      within 14 days. A site whose held-out records have one class only has no AUC and is left out of that mean.
    * digits: five tasks of scikit-learn's digits, each with its own fixed permutation of the pixels, as five studies
      in a row over four sites; mean accuracy over all five tasks after the last study, with consolidation and
      without. Epsilon is that of the whole sequence, delta 1e-3.

Each is repeated per seed, which decides keys of pseudonyms, and with them the split of stroke and digits, and the
initial weights; the noise of privacy is the operating system's and never repeats. heart and stroke without their
files are left out with a line that says so.
"""

import argparse
import csv
import json
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import matplotlib as mpl
import numpy as np
from scipy.stats import t as student
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score

from fedmed.config import compose
from fedmed.data.pooled import divide
from fedmed.data.schema import Column, DataSet, Schema, SplitRule, Target
from fedmed.exchange import Failure, Task
from fedmed.records import Plan, build
from fedmed_sim.folder import RunFolder
from fedmed_sim.harness import Simulation, read_evaluations
from fedmed_sim.settings import Scenario, SimulationSettings, StudySettings
from fedmed_sim.summary import Evaluations, mean_accuracy
from fedmed_site.evaluations import FINAL

mpl.use("Agg")
from matplotlib import pyplot as plt

DATA = Path(__file__).parents[2] / "shared" / "data"
EPSILONS = (0.1, 0.3, 1.0, 3.0)
SEEDS = {"heart": 20, "stroke": 5, "digits": 3}
TASKS = 5
SITES = 4
DIGITS = ("model=mlp", "model.depth=1", "plan=fedsgd", "optimiser=fedavgm", "plan.average_from=1.0")
DIGITS_PLAIN = (
    "model.width=128",
    "plan.rounds=60",
    "plan.learning_rate=0.25",
    "optimiser.beta_1=0.8",
    "plan.consolidation=600",
    "plan.fisher_clip_norm=0.46",
)
DIGITS_PRIVATE = (
    "model.width=64",
    "plan.rounds=25",
    "plan.learning_rate=0.5",
    "plan.average_from=0.5",
    "optimiser.beta_1=0.8",
    "plan.consolidation=120",
    "plan.fisher_clip_norm=0.16",
    "privacy.clip_norm=2.0",
    "privacy.release_noise_ratio=0.4",
)
NAIVE = ("plan.consolidation=0",)
QUICK = ("heart_eps1_distributed", "heart_eps01_distributed", "stroke_eps1_distributed", "digits_naive", "digits_ewc")
TITLES = {"distributed": "noise shared by the sites", "local": "each site's own noise"}
COLOURS = {"distributed": "#1b6ca8", "local": "#d1603d"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """One configuration that is run once per seed."""

    key: str
    experiment: str
    words: tuple[str, ...]
    epsilon: float | None = None
    trust: str = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A metric over seeds: the mean with Student's 95 % interval, or without where there is one seed."""

    metric: str
    mean: float
    ci95: tuple[float, float] | None
    seeds: tuple[int, ...]
    values: tuple[float, ...]
    epsilon: float | None
    trust_model: str
    seconds: float


class Silent:
    """A `Listener` that says nothing but why a site failed."""

    def study_started(self, plan: Plan, *, first_round: int, sites: tuple[str, ...]) -> None:
        """See `Listener`."""

    def site_answered(self, plan: Plan, task: Task, site: str) -> None:
        """See `Listener`."""

    def round_finished(self, plan: Plan, number: int, *, sites: tuple[str, ...], seconds: float) -> None:
        """See `Listener`."""

    def site_failed(self, plan: Plan, failure: Failure) -> None:
        """See `Listener`."""
        sys.stderr.write(f"{plan.study}: {failure.site}: {failure.reason}\n")

    def study_finished(self, plan: Plan) -> None:
        """See `Listener`."""


# --- experiments -----------------------------------------------------------------------------

Metrics = dict[str, float]


def heart_metrics(evaluations: Evaluations) -> Metrics:
    """Return the mean accuracy over sites and the AUC over the pooled held-out records."""
    accuracy = mean_accuracy(evaluations, view=0)
    return {"accuracy": _present(accuracy), "auc": pooled_auc(evaluations)}


def stroke_metrics(evaluations: Evaluations) -> Metrics:
    """Return the mean over sites of the AUC, and the AUC over the pooled held-out records."""
    return {"auc": statistics.mean(site_aucs(evaluations).values()), "auc_pooled": pooled_auc(evaluations)}


def digits_metrics(evaluations: Evaluations) -> Metrics:
    """Return the mean over all tasks of the mean accuracy over sites; view 0 is the last task."""
    tasks = [_present(mean_accuracy(evaluations, view=view)) for view in range(TASKS)]
    return {"accuracy": statistics.mean(tasks)}


METRICS: Mapping[str, Callable[[Evaluations], Metrics]] = {
    "heart": heart_metrics,
    "stroke": stroke_metrics,
    "digits": digits_metrics,
}


def site_aucs(evaluations: Evaluations) -> dict[str, float]:
    """Return the AUC of the released model by site, where the held-out records have both classes."""
    found = {}
    for site in sorted(evaluations):
        scores, labels = _scored({site: evaluations[site]})
        if len(set(labels)) == 2:
            found[site] = float(roc_auc_score(labels, scores))
    return found


def pooled_auc(evaluations: Evaluations) -> float:
    """Return the AUC over the held-out records of all sites together."""
    scores, labels = _scored(evaluations)
    return float(roc_auc_score(labels, scores))


def _scored(evaluations: Evaluations) -> tuple[list[float], list[int]]:
    final = [
        record for records in evaluations.values() for record in records if record.stage == FINAL and record.view == 0
    ]
    return [row[1] for record in final for row in record.scores], [label for record in final for label in record.labels]


def _present(figure: float | None) -> float:
    if figure is None:
        raise SystemExit("no site evaluated the released model")
    return figure


def trials(
    experiment: str, base: Sequence[str], *, delta: str, epsilons: Sequence[float], plain: Sequence[str] = ()
) -> list[Arm]:
    """Return the arms of heart or stroke: without privacy (and with `plain`), and at each epsilon in both models."""
    arms = [Arm(key=f"{experiment}_no_dp", experiment=experiment, words=(*base, "privacy=off", *plain))]
    for epsilon in sorted(epsilons, reverse=True):
        for trust in ("distributed", "local"):
            noise = (
                f"privacy={trust}",
                f"privacy.epsilon={epsilon}",
                f"privacy.delta={delta}",
                "privacy.clip_norm=0.5",
            )
            key = f"{experiment}_{_named(epsilon)}_{trust}"
            arms.append(Arm(key=key, experiment=experiment, words=(*base, *noise), epsilon=epsilon, trust=trust))
    return arms


def _named(epsilon: float) -> str:
    """Return the part of a key: eps1, eps01, eps03."""
    return "eps" + f"{epsilon:g}".replace(".", "")


def heart_arms(data: Path, epsilons: Sequence[float]) -> list[Arm]:
    """Return the arms of the heart experiment."""
    base = ("experiment=heart", f"data.root={data / 'heart-disease'}")
    return trials("heart", base, delta="1e-3", epsilons=epsilons)


def stroke_arms(tables: Path, epsilons: Sequence[float]) -> list[Arm]:
    """Return the arms of the stroke experiment over tables that are divided by country already."""
    base = ("experiment=stroke", f"data.root={tables}")
    gentler = ("plan.learning_rate=1",)  # rate 4 is for clipped gradients; with whole ones it oscillates
    return trials("stroke", base, delta="1e-5", epsilons=epsilons, plain=gentler)


def digits_arms(epsilon: float) -> list[Arm]:
    """Return the four arms of the digits: naive and with consolidation, without privacy and at `epsilon`."""
    plain = (*DIGITS, *DIGITS_PLAIN, "privacy=off")
    private = (*DIGITS, *DIGITS_PRIVATE, "privacy=distributed", f"privacy.epsilon={epsilon}", "privacy.delta=1e-3")
    named = _named(epsilon)
    return [
        Arm(key="digits_naive", experiment="digits", words=(*plain, *NAIVE)),
        Arm(key="digits_ewc", experiment="digits", words=plain),
        Arm(
            key=f"digits_naive_{named}",
            experiment="digits",
            words=(*private, *NAIVE),
            epsilon=epsilon,
            trust="distributed",
        ),
        Arm(key=f"digits_ewc_{named}", experiment="digits", words=private, epsilon=epsilon, trust="distributed"),
    ]


# --- digits ----------------------------------------------------------------------------------


def digits_data(root: Path) -> DataSet:
    """Return the description of the tables that `write_digits` writes in `root`."""
    values = tuple(str(digit) for digit in range(10))
    pixels = [
        Column(name=f"pixel_{number:02d}", kind="number", role="feature", centre=0, scale=8, low=0, high=16)
        for number in range(64)
    ]
    schema = Schema(
        name="permuted-digits",
        file="{site}.csv",
        columns=(
            Column(name="image", kind="identifier", role="patient-key"),
            Column(name="task", kind="category", role="target", values=_task_names()),
            *pixels,
            Column(name="digit", kind="category", role="target", values=values, required=True),
        ),
        targets=(Target(name="digit", column="digit", one_of=values, classes=values),),
    )
    split = SplitRule(kind="hash", test_fraction=0.3)
    return DataSet(name=schema.name, schema=schema, split=split, root=str(root))


def digits_scenario() -> Scenario:
    """Return the five studies in a row, one a task."""
    return Scenario(
        studies=tuple(
            StudySettings(name=f"digits {task}", target="digit", cohort_column="task", cohort=(task,))
            for task in _task_names()
        )
    )


def write_digits(root: Path) -> None:
    """Write one table per site: every image once per task, its pixels permuted as the task permutes all of them.

    Images are dealt to sites at random, the same way each time; an image is on one side of the split in all tasks.
    """
    images, digits = load_digits(return_X_y=True)
    rng = np.random.default_rng(7)
    orders = [rng.permutation(images.shape[1]) for _ in range(TASKS)]
    owner = rng.integers(SITES, size=len(images))
    columns = ("image", "task", *(f"pixel_{number:02d}" for number in range(64)), "digit")
    for site in range(SITES):
        with (root / f"site-{site + 1}.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(columns)
            for task, order in zip(_task_names(), orders, strict=True):
                for image in np.flatnonzero(owner == site):
                    pixels = images[image, order].astype(int)
                    writer.writerow((f"image-{image}", task, *pixels, digits[image]))


def _task_names() -> tuple[str, ...]:
    return tuple(f"task-{number + 1}" for number in range(TASKS))


# --- runs ------------------------------------------------------------------------------------


def settings_of(arm: Arm, *, seed: int, digits: Path) -> SimulationSettings:
    """Return what one run of an arm is told."""
    settings = compose(SimulationSettings, ("engine=inprocess", "secagg=secure", f"seed={seed}", *arm.words))
    if arm.experiment != "digits":
        return settings
    return replace(settings, data=digits_data(digits), scenario=digits_scenario())


def simulate(settings: SimulationSettings, experiment: str) -> Metrics:
    """Run everything from raw tables to released model, and return what the sites' own evaluations say."""
    with tempfile.TemporaryDirectory(prefix="fedmed-utility-") as folder:
        run = RunFolder(Path(folder) / "run")
        run.root.mkdir()
        simulation = Simulation(settings, run, listener=Silent())
        simulation.prepare()
        summary = simulation.run()
        spent = [epsilon for epsilon in summary.privacy.epsilon.values() if epsilon is not None]
        budget = settings.privacy.epsilon
        if not summary.aggregation.secure or (budget is not None and not 0 < max(spent) <= budget * (1 + 1e-9)):
            raise SystemExit(f"{experiment}: the run was not what it should measure: {summary.privacy}")
        return METRICS[experiment](read_evaluations(run.sites, summary.sites, simulation.plans[-1]))


def estimate(metric: str, values: Sequence[float], *, arm: Arm, seeds: Sequence[int], seconds: float) -> Estimate:
    """Return mean and 95 % interval of values, one a seed."""
    mean = statistics.mean(values)
    ci95 = None
    if len(values) > 1:
        half = float(student.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))
        ci95 = (mean - half, mean + half)
    return Estimate(
        metric=metric,
        mean=mean,
        ci95=ci95,
        seeds=tuple(seeds),
        values=tuple(values),
        epsilon=arm.epsilon,
        trust_model=arm.trust,
        seconds=round(seconds, 1),
    )


class Results:
    """Estimates by key, printed and kept on disk as they come, so that a stopped benchmark loses one run."""

    def __init__(self, path: Path | None) -> None:
        self.estimates: dict[str, Estimate] = {}
        self._path = path

    @classmethod
    def resumed(cls, path: Path) -> "Results":
        """Return what an earlier benchmark left in `path`; its seeds are not run again."""
        results = cls(path)
        results.estimates = {key: build(value, Estimate) for key, value in json.loads(path.read_text()).items()}
        return results

    def has(self, arm: Arm, seed: int) -> bool:
        """Return whether this seed of an arm was run."""
        return arm.key in self.estimates and seed in self.estimates[arm.key].seeds

    def add(self, arm: Arm, metrics: Metrics, *, seed: int, seconds: float) -> None:
        """Take the metrics of one more seed of an arm."""
        for place, (metric, value) in enumerate(metrics.items()):
            key = arm.key if place == 0 else f"{arm.key}_{metric}"
            before = self.estimates.get(key)
            self.estimates[key] = estimate(
                metric,
                (*(before.values if before else ()), value),
                arm=arm,
                seeds=(*(before.seeds if before else ()), seed),
                seconds=(before.seconds if before else 0.0) + seconds,
            )
        if self._path:
            shown = {key: asdict(value) for key, value in self.estimates.items()}
            self._path.write_text(json.dumps(shown, indent=2) + "\n", encoding="utf-8")

    def table(self) -> str:
        """Return all estimates as a Markdown table."""
        lines = ["| key | metric | mean | 95 % interval | seeds | s a run |", "|---|---|---|---|---|---|"]
        for key, found in self.estimates.items():
            interval = "" if found.ci95 is None else f"{found.ci95[0]:.3f} to {found.ci95[1]:.3f}"
            pace = found.seconds / len(found.seeds)
            lines.append(
                f"| {key} | {found.metric} | {found.mean:.3f} | {interval} | {len(found.seeds)} | {pace:.0f} |"
            )
        return "\n".join(lines) + "\n"


def run_all(
    arms: Sequence[Arm], results: Results, *, seeds: Mapping[str, int], quick: Sequence[str], digits: Path
) -> None:
    """Run seed after seed of each experiment, all arms of a seed in a row, so that arms can be compared at any time."""
    for experiment in dict.fromkeys(arm.experiment for arm in arms):
        for seed in range(seeds[experiment]):
            for arm in (arm for arm in arms if arm.experiment == experiment):
                if results.has(arm, seed):
                    continue
                began = time.monotonic()
                short = replace(arm, words=(*arm.words, *quick))
                metrics = simulate(settings_of(short, seed=seed, digits=digits), experiment)
                seconds = time.monotonic() - began
                results.add(arm, metrics, seed=seed, seconds=seconds)
                shown = "  ".join(f"{metric} {value:.3f}" for metric, value in metrics.items())
                sys.stdout.write(f"{arm.key:28} seed {seed}  {shown}  ({seconds:.0f} s)\n")
                sys.stdout.flush()


# --- plots -----------------------------------------------------------------------------------


def plot_trials(path: Path, experiment: str, panels: Mapping[str, str], estimates: Mapping[str, Estimate]) -> None:
    """Draw metrics against epsilon, one panel a metric, one line a trust model, and training without privacy.

    Args:
        path: The PNG to write.
        experiment: The first part of the keys.
        panels: What the axis says, by the metric's name.
        estimates: All of them.
    """
    figure, axes = plt.subplots(1, len(panels), figsize=(4.4 * len(panels), 3.4), squeeze=False, layout="constrained")
    mine = [found for key, found in estimates.items() if key.startswith(f"{experiment}_")]
    for panel, (metric, label) in zip(axes[0], panels.items(), strict=True):
        for trust, title in TITLES.items():
            points = sorted(
                (one.epsilon, one.mean, one.ci95 or (one.mean, one.mean))
                for one in mine
                if one.metric == metric and one.trust_model == trust and one.epsilon is not None
            )
            means = [mean for _, mean, _ in points]
            bars = [[mean - ci[0] for _, mean, ci in points], [ci[1] - mean for _, mean, ci in points]]
            panel.errorbar(
                [epsilon for epsilon, _, _ in points],
                means,
                bars,
                marker="o",
                capsize=3,
                color=COLOURS[trust],
                label=title,
            )
        for one in mine:
            if one.metric == metric and one.trust_model == "none":
                panel.axhline(one.mean, color="#4d4d4d", linestyle="--", label="no differential privacy")
        ticks = sorted({one.epsilon for one in mine if one.epsilon is not None})
        panel.set_xscale("log")
        panel.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        panel.minorticks_off()
        panel.set_xlabel("epsilon (bars: 95 % interval over seeds)")
        panel.set_ylabel(label)
        panel.grid(alpha=0.3)
    axes[0][0].legend(fontsize=8, frameon=False, loc="lower right")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def plot_digits(path: Path, estimates: Mapping[str, Estimate]) -> None:
    """Draw mean accuracy over all tasks after the last, as a bar per arm."""
    figure, panel = plt.subplots(figsize=(5.6, 3.4), layout="constrained")
    arms = {key: found for key, found in estimates.items() if key.startswith("digits_")}
    for place, (key, found) in enumerate(arms.items()):
        panel.bar(place, found.mean, width=0.6, color=COLOURS["distributed" if "ewc" in key else "local"])
        if found.ci95:
            panel.errorbar(place, found.mean, found.ci95[1] - found.mean, capsize=4, color="black")
        panel.annotate(f"{found.mean:.3f}", (place, 0.02), ha="center", color="white")
    names = [
        ("consolidation" if "ewc" in key else "naive") + (f"\nepsilon {one.epsilon:g}" if one.epsilon else "\nno DP")
        for key, one in arms.items()
    ]
    panel.set_xticks(range(len(arms)), names)
    panel.set_ylabel("mean accuracy over five tasks")
    panel.set_ylim(0, 1)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def draw(folder: Path, estimates: Mapping[str, Estimate]) -> None:
    """Write the plots of every experiment that has estimates."""
    folder.mkdir(parents=True, exist_ok=True)
    if any(key.startswith("heart") for key in estimates):
        labels = {"accuracy": "mean accuracy over hospitals", "auc": "AUC, pooled records"}
        plot_trials(folder / "heart.png", "heart", labels, estimates)
    if any(key.startswith("stroke") for key in estimates):
        plot_trials(folder / "stroke.png", "stroke", {"auc": "mean AUC over countries"}, estimates)
    if any(key.startswith("digits") for key in estimates):
        plot_digits(folder / "digits.png", estimates)


# --- command ---------------------------------------------------------------------------------


def arms_of(experiments: Sequence[str], *, data: Path, tables: Path, epsilons: Sequence[float]) -> list[Arm]:
    """Return the arms of the experiments whose data is there, after preparing what they read."""
    arms: list[Arm] = []
    for experiment in experiments:
        if experiment == "digits":
            (tables / "digits").mkdir()
            write_digits(tables / "digits")
            arms += digits_arms(3.0)
        elif not (folder := data / {"heart": "heart-disease", "stroke": "stroke-trial"}[experiment]).is_dir():
            sys.stderr.write(f"{experiment}: left out, there is no folder {folder}; name its parent with --data\n")
        elif experiment == "heart":
            arms += heart_arms(data, epsilons)
        else:
            (tables / "stroke").mkdir()
            divide(folder, compose(SimulationSettings, ("data=stroke_trial",)).data, tables / "stroke")
            arms += stroke_arms(tables / "stroke", epsilons)
    return arms


def main() -> None:
    """Run what is asked, print a table, and write JSON and plots if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one seed, two rounds a study, fewer arms: under a minute")
    parser.add_argument("--only", nargs="+", choices=list(SEEDS), default=list(SEEDS))
    parser.add_argument(
        "--seeds", type=int, metavar="N", help="runs of each arm (default: heart 20, stroke 5, digits 3)"
    )
    parser.add_argument("--epsilons", type=float, nargs="+", default=EPSILONS, metavar="E", help="of heart and stroke")
    parser.add_argument("--data", type=Path, default=DATA, help="holds the folders heart-disease and stroke-trial")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the estimates here")
    parser.add_argument("--plots", type=Path, metavar="DIR", help="write PNGs here")
    parser.add_argument("--arms", nargs="+", metavar="KEY", help="only these keys of the JSON")
    parser.add_argument("--resume", action="store_true", help="go on from the file named by --json, if it is there")
    chosen = parser.parse_args()
    seeds = {name: chosen.seeds or (1 if chosen.quick else count) for name, count in SEEDS.items()}
    quick = ("plan.rounds=2",) if chosen.quick else ()
    resuming = chosen.resume and chosen.json and chosen.json.is_file()
    results = Results.resumed(chosen.json) if resuming else Results(chosen.json)
    with tempfile.TemporaryDirectory(prefix="fedmed-utility-") as folder:
        tables = Path(folder)
        epsilons = (1.0, 0.1) if chosen.quick else chosen.epsilons
        arms = arms_of(chosen.only, data=chosen.data, tables=tables, epsilons=epsilons)
        wanted = chosen.arms or (QUICK if chosen.quick else [arm.key for arm in arms])
        arms = [arm for arm in arms if arm.key in wanted]
        run_all(arms, results, seeds=seeds, quick=quick, digits=tables / "digits")
    sys.stdout.write("\n" + results.table())
    if chosen.plots:
        draw(chosen.plots, results.estimates)


if __name__ == "__main__":
    main()
