"""`fedmed site budget`: what is shown, how the cap changes, and that a rolled-back ledger is noticed."""

import json
import math
from pathlib import Path

import pytest

from fedmed.audit import ChainLog
from fedmed.errors import IntegrityError, UsageError
from fedmed.privacy.engine import PrvAccountant
from fedmed.privacy.ledger import Ledger
from fedmed.privacy.plan import Event
from fedmed_site import budget, cli
from fedmed_site.agent import SiteAgent
from fedmed_site.home import SiteHome


@pytest.fixture
def home(tmp_path: Path) -> SiteHome:
    """Return a site with a cap of 3, one charge to `heart`, and nothing charged to `stroke`."""
    path = tmp_path / "home"
    assert cli.site(["init", "--home", str(path), "--name", "north", "--cap", "3"]) == 0
    home = SiteHome.open(path)
    for name in ("heart", "stroke"):
        ledger = Ledger.create(
            home.ledgers / f"{name}.jsonl", dataset=name, cap_epsilon=3.0, delta=1e-5, accountant=PrvAccountant()
        )
        if name == "heart":
            ledger.charge("plan/train.fit/0", event(), purpose="study one, round 1")
            ledger.release("plan/train.fit/0", "ab" * 32)
    return home


def event() -> Event:
    """Return one full step with twice the noise of the largest influence."""
    return Event(noise_multiplier=2.0, sample_rate=1.0, steps=1)


def run(home: SiteHome, *words: str) -> int:
    """Run a budget command."""
    return cli.site(["budget", *words, "--home", str(home.root)])


def test_show_says_what_was_spent_on_what(home: SiteHome, capsys: pytest.CaptureFixture[str]):
    """Each data set has spent, left and cap, and its last charges in plain words."""
    assert run(home, "show") == 0
    shown = capsys.readouterr().out
    spent = budget.shown(PrvAccountant().epsilon([event()], 1e-5))
    assert all(word in shown for word in ("heart", "stroke", spent, "3.000", "study one, round 1", "all records"))
    assert "its answer left the site" in shown
    assert "Nothing was charged to stroke" in shown


def test_cap_changes_policy_ledgers_and_audit_log(home: SiteHome, capsys: pytest.CaptureFixture[str]):
    """A new cap stands in the policy, in every ledger and in the audit log, and the old one is said."""
    assert run(home, "cap", "5") == 0
    assert "3.000 before, 5.000 now" in capsys.readouterr().out
    assert home.record().policy.cap_epsilon == 5.0
    agent = SiteAgent(home)
    assert agent.ledger("heart").cap_epsilon == agent.ledger("stroke").cap_epsilon == 5.0
    (entry,) = ChainLog(home.audit_path).entries()
    assert (entry.kind, entry.body) == ("cap-changed", {"before": 3.0, "after": 5.0})


def test_a_cap_below_what_was_spent_says_so_and_stops_charges(home: SiteHome, capsys: pytest.CaptureFixture[str]):
    """Below what was spent nothing more is charged, and the command says which data sets that hits."""
    assert run(home, "cap", "0.5") == 0
    shown = capsys.readouterr().out
    assert "heart has spent that much already" in shown
    assert "stroke has" not in shown


@pytest.mark.parametrize("epsilon", ["0", "-1", "nan", "inf"])
def test_a_cap_that_is_no_positive_number_changes_nothing(home: SiteHome, epsilon: str):
    """Zero, negative, infinite and no number at all are refused in one line."""
    with pytest.raises(UsageError):
        run(home, "cap", epsilon)
    assert home.record().policy.cap_epsilon == 3.0


def test_verify_prints_the_head_and_takes_it_back_after_growth(home: SiteHome, capsys: pytest.CaptureFixture[str]):
    """A head that was kept still verifies after more charges, and the command says how many entries came since."""
    assert run(home, "verify", "--dataset", "heart") == 0
    head = capsys.readouterr().out.split("head ")[1].split()[0]
    Ledger.open(home.ledgers / "heart.jsonl", PrvAccountant()).charge("plan/train.fit/1", event(), purpose="round 2")
    assert run(home, "verify", "--dataset", "heart", "--expect-head", head) == 0
    assert "1 entries since" in capsys.readouterr().out


def test_verify_notices_a_rolled_back_and_an_altered_ledger(home: SiteHome, capsys: pytest.CaptureFixture[str]):
    """A ledger that lost its end verifies as a chain, but not against the head that was kept; a changed one never."""
    path = home.ledgers / "heart.jsonl"
    assert run(home, "verify", "--dataset", "heart") == 0
    head = capsys.readouterr().out.split("head ")[1].split()[0]
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-1]))
    assert run(home, "verify", "--dataset", "heart") == 0
    with pytest.raises(IntegrityError, match="rolled back"):
        run(home, "verify", "--dataset", "heart", "--expect-head", head)
    path.write_bytes(b"".join(lines).replace(b"2.0", b"9.0"))
    with pytest.raises(IntegrityError):
        run(home, "verify")


def test_export_as_json_and_csv(home: SiteHome, tmp_path: Path):
    """Both forms hold every entry; JSON has spent, left and head too."""
    assert run(home, "export", "--out", str(tmp_path / "b.json"), "--dataset", "heart") == 0
    (one,) = json.loads((tmp_path / "b.json").read_text())["datasets"]
    assert len(one["entries"]) == 3
    assert math.isclose(one["spent_epsilon"] + one["left_epsilon"], 3.0)
    assert run(home, "export", "--out", str(tmp_path / "b.csv")) == 0
    lines = (tmp_path / "b.csv").read_text().splitlines()
    assert len(lines) == 1 + 3 + 1
    assert lines[3].endswith(one["head"])


def test_an_unknown_data_set_is_one_line(home: SiteHome):
    """An unknown data set is refused with the names of those that there are."""
    with pytest.raises(UsageError, match="heart, stroke"):
        run(home, "verify", "--dataset", "kidney")
