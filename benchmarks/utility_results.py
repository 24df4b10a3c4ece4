"""What the benchmark of utility found: estimates over seeds, kept on disk as they come, as a table and as plots.

Why it exists: a benchmark of hours must lose no run when it is stopped, and a plot must show what the JSON says.
"""

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import matplotlib as mpl
from scipy.stats import t as student
from utility_experiments import Arm, Metrics

from fedmed.records import build

mpl.use("Agg")
from matplotlib import pyplot as plt

TITLES = {"distributed": "noise shared by the sites", "local": "each site's own noise"}
COLOURS = {"distributed": "#1b6ca8", "local": "#d1603d"}


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
