"""`fedmed site policy`: every change is shown and logged, and nothing is allowed silently."""

import json
import os
from dataclasses import fields, replace
from pathlib import Path

import pytest

from fedmed.audit import ChainLog
from fedmed.errors import UsageError
from fedmed.files import held_alone
from fedmed.privacy.engine import PrvAccountant
from fedmed.privacy.ledger import Ledger
from fedmed.records import canonical_json
from fedmed_site import cli, policy_cli
from fedmed_site.home import SiteHome, SiteRecord
from fedmed_site.policy import AllowedView, SitePolicy

POLICY = SitePolicy(cap_epsilon=8.0, delta=1e-5)


@pytest.fixture
def home(tmp_path: Path) -> SiteHome:
    """Return a new site."""
    return SiteHome.create(tmp_path / "home", SiteRecord(name="north", policy=POLICY), pseudonym_key=bytes(32))


def run(home: SiteHome, *words: str) -> int:
    """Run a command on the policy."""
    return cli.site(["policy", *words, "--home", str(home.root)])


def changes(home: SiteHome) -> list[tuple[object, ...]]:
    """Return what the audit log says about the policy."""
    entries = ChainLog(home.audit_path).entries()
    return [tuple(entry.body[name] for name in ("key", "before", "after")) for entry in entries]


def test_every_limit_is_shown(home: SiteHome, capsys: pytest.CaptureFixture[str]):
    """Nobody has to open site.json; machines get the same as JSON."""
    assert run(home, "show") == 0
    shown = capsys.readouterr().out
    assert all(field.name in shown for field in fields(SitePolicy))
    assert run(home, "show", "--json") == 0
    assert json.loads(capsys.readouterr().out)["max_rounds"] == 1000


def test_allowing_less_needs_no_question(home: SiteHome, capsys: pytest.CaptureFixture[str]):
    """Old and new are shown, the log has each, and the record is the new one."""
    assert run(home, "set", "max_rounds=50", "max_epsilon=1.5", "segments=aux,delta") == 0
    shown = capsys.readouterr().out
    assert "max_rounds: 1000 -> 50" in shown
    assert "max_epsilon: no limit of its own -> 1.5" in shown
    expected = replace(POLICY, max_rounds=50, max_epsilon=1.5, segments=("aux", "delta"))
    assert home.record().policy == expected
    assert changes(home) == [
        ("max_rounds", "1000", "50"),
        ("max_epsilon", "no limit of its own", "1.5"),
        ("segments", "aux, delta, fisher", "aux, delta"),
    ]


@pytest.mark.parametrize(
    "change",
    ["max_rounds=2000", "max_steps=100001", "min_records=19", "min_cohort=2", "approval=policy",
     "allow_shared_noise=true", "allow_insecure_aggregation=true"],
)  # fmt: skip
def test_allowing_more_is_never_silent(home: SiteHome, change: str, capsys: pytest.CaptureFixture[str]):
    """Without a terminal it takes --yes; without either nothing changes and nothing is logged."""
    before = home.record_path.read_bytes()
    with pytest.raises(UsageError, match="--yes"):
        run(home, "set", change)
    assert home.record_path.read_bytes() == before
    assert changes(home) == []
    assert "(allows more than before)" in capsys.readouterr().out
    assert run(home, "set", change, "--yes") == 0
    assert len(changes(home)) == 1


def test_taking_a_limit_away_allows_more(home: SiteHome):
    """Null is the loosest of all, whatever the limit was."""
    assert run(home, "set", "max_epsilon=1", "max_hours_per_day=2", "model_families=linear,mlp") == 0
    for change in ("max_epsilon=null", "max_hours_per_day=none", "model_families=null"):
        with pytest.raises(UsageError, match="--yes"):
            run(home, "set", change)
    assert run(home, "set", "max_epsilon=null", "--yes") == 0
    assert home.record().policy.max_epsilon is None


def test_one_looser_among_stricter_ones_is_asked_about(home: SiteHome):
    """A loosening can't hide in a list of tightenings."""
    with pytest.raises(UsageError, match="--yes"):
        run(home, "set", "max_rounds=1", "min_records=100", "min_cohort=2")
    assert home.record().policy == POLICY


def test_every_key_knows_which_way_is_looser():
    """A limit that is added later must say so, or it could be loosened silently."""
    assert set(policy_cli.LOOSER) == {field.name for field in fields(SitePolicy)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("nonsense=1", "unknown key; expected one of"),
        ("max_rounds", "expected KEY=VALUE"),
        ("max_rounds=many", "max_rounds: expected int"),
        ("max_rounds=0", "max_rounds must be at least 1"),
        ("max_rounds=1.5", "max_rounds: expected int"),
        ("max_rounds=null", "max_rounds: expected int"),
        ("max_epsilon=-1", "max_epsilon must be above 0"),
        ("approval=never", "approval: expected one of"),
        ("segments=aux,secrets", "expected one of"),
        ("allow_shared_noise=1", "expected bool"),
        ("cap_epsilon=9", "fedmed site budget cap"),
        ("views=heart", "views"),
        ("allow_simulated_noise=true", "simulated hospitals"),
    ],
)
def test_what_can_not_be_set_changes_nothing(home: SiteHome, change: str, message: str):
    """A mistake is one line that says what was expected; the file and the log stay as they were."""
    before = home.record_path.read_bytes()
    with pytest.raises(UsageError, match=message):
        run(home, "set", "max_steps=5", change, "--yes")
    assert home.record_path.read_bytes() == before
    assert changes(home) == []


def test_delta_is_fixed_once_a_ledger_counts(home: SiteHome):
    """Before the first data set it may still change; then the ledger would count at another one."""
    assert run(home, "set", "delta=1e-6") == 0
    Ledger.create(
        home.ledgers / "heart.jsonl", dataset="heart", cap_epsilon=8.0, delta=1e-6, accountant=PrvAccountant()
    )
    with pytest.raises(UsageError, match="delta can't change"):
        run(home, "set", "delta=1e-7")


def test_views_are_allowed_and_forbidden_one_by_one(home: SiteHome, capsys: pytest.CaptureFixture[str]):
    """Allowing asks, forbidding doesn't; cohorts have one name whatever the order they are typed in."""
    with pytest.raises(UsageError, match="--yes"):
        run(home, "allow", "heart", "ill")
    assert run(home, "allow", "heart", "ill", "--cohort", "ward=south,north", "--yes") == 0
    view = AllowedView(schema="heart", target="ill", cohort_column="ward", cohort=("north", "south"))
    assert home.record().policy.views == (view,)
    with pytest.raises(UsageError, match="already"):
        run(home, "allow", "heart", "ill", "--cohort", "ward=north,south", "--yes")
    assert run(home, "show") == 0
    assert "heart: ill of ward=north,south" in capsys.readouterr().out
    with pytest.raises(UsageError, match="as it is"):
        run(home, "forbid", "heart", "ill")
    assert run(home, "forbid", "heart", "ill", "--cohort", "ward=north,south") == 0
    assert home.record().policy.views == ()
    assert [change[0] for change in changes(home)] == ["views", "views"]


@pytest.mark.parametrize("cohort", ["ward", "ward=", "=a", "ward=,"])
def test_a_cohort_is_a_column_and_values(home: SiteHome, cohort: str):
    """Anything else is a mistake."""
    with pytest.raises(UsageError, match="COLUMN=A,B"):
        run(home, "allow", "heart", "ill", "--cohort", cohort, "--yes")


def test_a_change_to_the_same_is_none(home: SiteHome, capsys: pytest.CaptureFixture[str]):
    """Nothing is written where nothing differs."""
    assert run(home, "set", "max_rounds=1000") == 0
    assert "nothing was changed" in capsys.readouterr().out
    assert changes(home) == []


def test_a_policy_does_not_change_under_a_running_task(home: SiteHome, monkeypatch: pytest.MonkeyPatch):
    """A task ends under the policy that it began under."""
    monkeypatch.setattr(policy_cli, "PATIENCE_S", 0.0)
    with held_alone(home.lock_path) as alone:
        assert alone
        with pytest.raises(UsageError, match="a task runs right now"):
            run(home, "set", "max_rounds=5")
    assert home.record().policy == POLICY


def test_a_change_in_between_stops_this_one(home: SiteHome, monkeypatch: pytest.MonkeyPatch):
    """Two administrators can't overwrite each other unseen."""

    def interfere(_question: str, *, yes: bool) -> None:
        other = SiteRecord(name="north", policy=replace(POLICY, min_records=30))
        home.record_path.write_bytes(canonical_json(other))

    monkeypatch.setattr(policy_cli, "agreed", interfere)
    with pytest.raises(UsageError, match="somebody else changed the policy"):
        run(home, "set", "max_rounds=2000")
    assert home.record().policy == replace(POLICY, min_records=30)


def test_the_log_comes_before_the_change(home: SiteHome, monkeypatch: pytest.MonkeyPatch):
    """Where the log can't be written, because the disk is full, the policy stays as it was."""

    def full(*_: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(ChainLog, "append", full)
    with pytest.raises(OSError, match="No space"):
        run(home, "set", "max_rounds=5")
    assert home.record().policy == POLICY
