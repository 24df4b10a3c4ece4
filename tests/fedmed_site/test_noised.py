"""`fedmed site noised`: what a number costs, what is written down, and that the exact one is nowhere."""

import math
import re
from pathlib import Path

import pytest
from federation import Consortium, build_consortium

from fedmed.audit import ChainLog
from fedmed.errors import BudgetError, FedMedError
from fedmed.privacy.engine import PrvAccountant
from fedmed_site import cli
from fedmed_site.budget import budgets
from fedmed_site.home import SiteHome
from fedmed_site.noised import KIND, event_of

COLUMN = "pressure"


@pytest.fixture
def site(tmp_path: Path) -> SiteHome:
    """Return a site with one prepared data set of 160 patients and a cap that pays for a few questions."""
    consortium: Consortium = build_consortium(tmp_path, sites=1)
    home = SiteHome.open(consortium.homes[0])
    assert cli.site(["budget", "cap", "20", "--home", str(home.root)]) == 0
    return home


def ask(home: SiteHome, kind: str, *words: str, epsilon: str = "1") -> int:
    """Run the command on the data set."""
    return cli.site(["noised", kind, "tiny", *words, "--epsilon", epsilon, "--home", str(home.root)])


def records(home: SiteHome) -> list[dict]:
    """Return the audit records of released numbers."""
    return [dict(entry.body) for entry in ChainLog(home.audit_path).entries() if entry.kind == KIND]


@pytest.mark.parametrize("kind", ["count", "sum", "mean"])
def test_a_number_is_charged_recorded_and_printed(site: SiteHome, kind: str, capsys: pytest.CaptureFixture[str]):
    """Epsilon, sensitivity, scale and clamps stand in the audit log and on the terminal, and the budget is charged."""
    words = () if kind == "count" else (COLUMN, "--low", "0", "--high", "100")
    assert ask(site, kind, *words) == 0
    printed = capsys.readouterr().out
    (body,) = records(site)
    assert (body["laplace.kind"], body["laplace.epsilon"], body["dataset"]) == (kind, 1.0, "tiny")
    assert body["laplace.sensitivity"] == {"count": 1.0, "sum": 100.0, "mean": 50.0}[kind]
    assert (body["laplace.low"], body["laplace.high"]) == ((None, None) if kind == "count" else (0.0, 100.0))
    assert f"{body['laplace.value']:.6g}" in printed
    assert f"epsilon 1, sensitivity {body['laplace.sensitivity']:g}" in printed
    assert ("clamps 0 to 100" in printed) == (kind != "count")
    (budget,) = budgets(site, PrvAccountant(), "tiny")
    assert budget.charges[0].charge_id == body["charge_id"]
    assert budget.charges[0].left_the_site
    assert 1.0 < budget.spent_epsilon < 7.0


def test_each_question_costs_and_no_answer_is_given_twice(site: SiteHome, capsys: pytest.CaptureFixture[str]):
    """Two equal questions are two charges, and their noise differs."""
    for _ in range(2):
        assert ask(site, "count", epsilon="0.02") == 0
    values = re.findall(r"noise: (\S+)", capsys.readouterr().out)
    assert len(values) == 2
    assert len({body["charge_id"] for body in records(site)}) == 2
    (budget,) = budgets(site, PrvAccountant(), "tiny")
    assert len(budget.charges) == 2


def test_nothing_is_released_beyond_the_cap(site: SiteHome, capsys: pytest.CaptureFixture[str]):
    """A number that the budget does not pay for is refused before it is made: no record, no charge, no line."""
    assert cli.site(["budget", "cap", "1", "--home", str(site.root)]) == 0
    capsys.readouterr()
    with pytest.raises(BudgetError):
        ask(site, "count", epsilon="1")
    assert records(site) == []
    assert "noise" not in capsys.readouterr().out
    assert budgets(site, PrvAccountant(), "tiny")[0].charges == ()


@pytest.mark.parametrize(
    ("kind", "words", "epsilon"),
    [
        ("count", (), "0"),
        ("count", (), "-1"),
        ("count", (), "nan"),
        ("count", (), "11"),
        ("sum", (COLUMN, "--low", "5", "--high", "1"), "1"),
        ("mean", (COLUMN, "--low", "0", "--high", "inf"), "1"),
        ("mean", (COLUMN, "--low", "0", "--high", "9", "--contributions", "0"), "1"),
        ("sum", ("ward", "--low", "0", "--high", "9"), "1"),
        ("sum", ("patient", "--low", "0", "--high", "9"), "1"),
        ("sum", (COLUMN,), "1"),
    ],
)
def test_a_wrong_question_costs_nothing(site: SiteHome, kind: str, words: tuple[str, ...], epsilon: str):
    """Epsilon, clamps and column are checked before anything is charged or recorded."""
    with pytest.raises(FedMedError) as caught:
        ask(site, kind, *words, epsilon=epsilon)
    assert "\n" not in str(caught.value)
    assert records(site) == []
    assert budgets(site, PrvAccountant(), "tiny")[0].charges == ()


@pytest.mark.parametrize("epsilon", [0.01, 0.3, 1.0, 3.0, 8.0])
def test_the_charge_is_never_less_than_laplace_noise_costs(epsilon: float):
    """At each delta the charged Gaussian step costs at least what a mechanism of pure epsilon does."""
    for delta in (1e-6, 1e-3, 0.05):
        pure = epsilon if delta == 0 else max(0.0, _epsilon_of_pure(epsilon, delta))
        assert PrvAccountant().epsilon([event_of(epsilon)], delta) >= pure


def _epsilon_of_pure(epsilon: float, delta: float) -> float:
    """Return what randomised response of epsilon, the worst of its kind, costs at delta."""
    share = math.exp(epsilon) / (1 + math.exp(epsilon))
    return math.log((share - delta) / (1 - share)) if share > delta else 0.0
