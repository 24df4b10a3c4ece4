"""The experiments of the benchmark of utility: their arms, their data, and what is measured of a run.

Why it exists: heart, stroke and digits differ in words of the configuration, in tables and in metrics, and in nothing
else; `utility` runs them all alike.
"""

import csv
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score

from fedmed.config import compose
from fedmed.data.schema import Column, DataSet, Schema, SplitRule, Target
from fedmed_sim.settings import Scenario, SimulationSettings, StudySettings
from fedmed_sim.summary import Evaluations, mean_accuracy
from fedmed_site.evaluations import FINAL

TASKS = 5
SITES = 4
DIGITS = ("model=mlp", "model.depth=1", "plan=fedsgd", "optimiser=fedavgm", "plan.average_from=1.0")
DIGITS_PLAIN = (
    "model.width=64",
    "plan.rounds=40",
    "plan.learning_rate=0.35",
    "optimiser.beta_1=0.8",
    "plan.consolidation=200",
    "plan.fisher_clip_norm=0.46",
)
DIGITS_PRIVATE = (
    "model.width=64",
    "plan.rounds=30",
    "plan.learning_rate=0.35",
    "plan.average_from=0.5",
    "optimiser.beta_1=0.85",
    "plan.consolidation=120",
    "plan.fisher_clip_norm=0.22",
    "privacy.clip_norm=2.0",
    "privacy.release_noise_ratio=0.4",
)
NAIVE = ("plan.consolidation=0",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """One configuration that is run once per seed."""

    key: str
    experiment: str
    words: tuple[str, ...]
    epsilon: float | None = None
    trust: str = "none"


# --- metrics ---------------------------------------------------------------------------------

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


# --- arms ------------------------------------------------------------------------------------


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


def settings_of(arm: Arm, *, seed: int, digits: Path) -> SimulationSettings:
    """Return what one run of an arm is told, after writing the tables of its seed below `digits` if it needs them."""
    settings = compose(SimulationSettings, ("engine=inprocess", "secagg=secure", f"seed={seed}", *arm.words))
    if arm.experiment != "digits":
        return settings
    tables = digits / f"seed-{seed}"
    if not tables.is_dir():
        tables.mkdir(parents=True)
        write_digits(tables, seed=seed)
    return replace(settings, data=digits_data(tables), scenario=digits_scenario())


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


def write_digits(root: Path, *, seed: int) -> None:
    """Write one table per site: every image once per task, its pixels permuted as the task permutes all of them.

    The permutations and which site has which image follow from `seed`, since some orders forget more than others; an
    image is on one side of the split in all tasks.
    """
    images, digits = load_digits(return_X_y=True)
    rng = np.random.default_rng([7, seed])
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
