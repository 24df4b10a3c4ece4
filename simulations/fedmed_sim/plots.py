"""The figures of a report, drawn without a display.

What it does not do: compute a number that stands nowhere else.
"""

from collections.abc import Mapping
from pathlib import Path

import matplotlib as mpl
import numpy as np

mpl.use("Agg")
from matplotlib import pyplot as plt

from fedmed_sim.summary import Evaluations
from fedmed_site.evaluations import FINAL

COLOURS = ("#1b6ca8", "#d1603d", "#3c8d5a", "#8a5a9e", "#b8912a", "#4d4d4d")
mpl.rcParams.update({"figure.dpi": 120, "axes.grid": True, "grid.alpha": 0.3, "axes.spines.top": False})
mpl.rcParams.update({"axes.spines.right": False, "font.size": 9, "legend.frameon": False})


def plot_accuracy(path: Path, studies: Mapping[str, Evaluations]) -> None:
    """Draw accuracy by round, one panel a study, one line a site, and the released model as a marker."""
    figure, axes = plt.subplots(
        1, len(studies), figsize=(4.2 * len(studies), 3.2), sharey=True, squeeze=False, layout="constrained"
    )
    for panel, (name, evaluations) in zip(axes[0], studies.items(), strict=True):
        for index, (site, records) in enumerate(sorted(evaluations.items())):
            colour = COLOURS[index % len(COLOURS)]
            rounds = sorted((r.round, r.accuracy) for r in records if r.stage != FINAL and r.view == 0)
            panel.plot([r for r, _ in rounds], [a for _, a in rounds], color=colour, label=site)
            final = [(r.round, r.accuracy) for r in records if r.stage == FINAL and r.view == 0]
            panel.plot([r for r, _ in final], [a for _, a in final], "o", color=colour)
        panel.set_title(name, fontsize=9)
        panel.set_xlabel("finished rounds (dot: released model)")
        panel.xaxis.get_major_locator().set_params(integer=True)
    axes[0][0].set_ylabel("accuracy")
    axes[0][0].legend(fontsize=8)
    figure.savefig(path)
    plt.close(figure)


def plot_forgetting(path: Path, before: Mapping[str, float], after: Mapping[str, Mapping[str, float]]) -> None:
    """Draw accuracy on the first study: at its end, and after each arm of the last one; dots are sites."""
    groups = {"at its end": before, **{f"after {name}": values for name, values in after.items()}}
    figure, panel = plt.subplots(figsize=(6.4, 3.2), layout="constrained")
    for index, values in enumerate(groups.values()):
        numbers = list(values.values())
        mean = float(np.mean(numbers))
        panel.bar(index, mean, color=COLOURS[index % len(COLOURS)], alpha=0.8, width=0.6)
        panel.plot([index] * len(numbers), numbers, "o", color="black", markersize=3, alpha=0.6)
        panel.annotate(f"{mean:.3f}", (index, mean), xytext=(0, 10), textcoords="offset points", ha="center")
    panel.set_xticks(range(len(groups)), ["\n".join(_wrapped(name)) for name in groups])
    panel.set_ylabel("accuracy on the first study")
    panel.set_ylim(min(0.5, *(min(v.values()) for v in groups.values())), 1.0)
    figure.savefig(path)
    plt.close(figure)


def plot_budget(path: Path, spent: Mapping[str, float | None], cap: float) -> None:
    """Draw what each site has spent of its cap."""
    sites = sorted(spent)
    figure, panel = plt.subplots(figsize=(6.4, 0.45 * len(sites) + 1.1), layout="constrained")
    panel.barh(sites, [spent[site] or 0.0 for site in sites], color=COLOURS[0], alpha=0.8, height=0.6)
    panel.axvline(cap, color=COLOURS[1], linestyle="--", label=f"cap {cap:g}")
    panel.set_xlabel("epsilon")
    panel.invert_yaxis()
    panel.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=1)
    figure.savefig(path)
    plt.close(figure)


def _wrapped(text: str, width: int = 24) -> list[str]:
    lines = [""]
    for word in text.split():
        if len(lines[-1]) + len(word) > width and lines[-1]:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines
