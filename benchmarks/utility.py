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
    * digits: five tasks of scikit-learn's digits, each with its own permutation of the pixels, as five studies
      in a row over four sites; mean accuracy over all five tasks after the last study, with consolidation and
      without. Epsilon is that of the whole sequence, delta 1e-3.

Each is repeated per seed, which decides keys of pseudonyms, and with them the split of stroke and digits, the
permutations and the initial weights; the noise of privacy is the operating system's and never repeats. heart and
stroke without their files are left out with a line that says so.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from utility_experiments import (
    METRICS,
    Arm,
    Metrics,
    digits_arms,
    heart_arms,
    settings_of,
    stroke_arms,
)
from utility_results import Results, draw

from fedmed.config import compose
from fedmed.data.pooled import divide
from fedmed.exchange import Failure, Task
from fedmed.records import Plan
from fedmed_sim.folder import RunFolder
from fedmed_sim.harness import Simulation, read_evaluations
from fedmed_sim.settings import SimulationSettings

DATA = Path(__file__).parents[2] / "shared" / "data"
EPSILONS = (0.1, 0.3, 1.0, 3.0)
SEEDS = {"heart": 20, "stroke": 5, "digits": 3}
QUICK = ("heart_eps1_distributed", "heart_eps01_distributed", "stroke_eps1_distributed", "digits_naive", "digits_ewc")


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


def arms_of(experiments: Sequence[str], *, data: Path, tables: Path, epsilons: Sequence[float]) -> list[Arm]:
    """Return the arms of the experiments whose data is there, after preparing what they read."""
    arms: list[Arm] = []
    for experiment in experiments:
        if experiment == "digits":
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
