"""The ledger says no before the cap, counts before training, and survives any kill."""

import math
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fedmed.audit import ChainLog
from fedmed.errors import BudgetError, ConfigError, IntegrityError, RefusedError, UsageError
from fedmed.privacy.ledger import Ledger
from fedmed.privacy.plan import Event


class SquareRootAccountant:
    """A toy: epsilon is the root of the summed steps over squared noise; strictly monotone and cheap."""

    def epsilon(self, events: Sequence[Event], delta: float) -> float:
        """Return the toy's epsilon."""
        return math.sqrt(sum(e.steps * e.sample_rate**2 / e.noise_multiplier**2 for e in events))


ACCOUNTANT = SquareRootAccountant()
EVENT = Event(noise_multiplier=1.0, sample_rate=0.1, steps=4)  # epsilon 0.2 alone; 0.2 * sqrt(n) for n of them


def new(folder: Path, cap: float = 1.0) -> Ledger:
    """Create a ledger in `folder`."""
    return Ledger.create(folder / "ledger", dataset="heart", cap_epsilon=cap, delta=1e-5, accountant=ACCOUNTANT)


def test_a_new_ledger_has_spent_nothing(tmp_path: Path):
    """Creating a ledger fixes data set, delta and cap."""
    ledger = new(tmp_path)
    assert (ledger.dataset, ledger.delta, ledger.cap_epsilon, ledger.spent()) == ("heart", 1e-5, 1.0, 0.0)
    assert ledger.events() == []


def test_charges_compose(tmp_path: Path):
    """What was spent is the epsilon of all events together, not a sum of epsilons."""
    ledger = new(tmp_path)
    first = ledger.charge("r1", EVENT, purpose="round 1")
    second = ledger.charge("r2", EVENT, purpose="round 2")
    assert first.epsilon == pytest.approx(0.2)
    assert second.epsilon == pytest.approx(0.2 * math.sqrt(2))
    assert second.left == pytest.approx(1 - 0.2 * math.sqrt(2))
    assert ledger.spent() == second.epsilon
    assert ledger.events() == [EVENT, EVENT]


def test_a_ledger_outlives_its_process(tmp_path: Path):
    """An opened ledger goes on from what was spent."""
    new(tmp_path).charge("r1", EVENT, purpose="round 1")
    assert Ledger.open(tmp_path / "ledger", ACCOUNTANT).spent() == pytest.approx(0.2)


def test_over_the_cap_is_refused_with_the_numbers_and_writes_nothing(tmp_path: Path):
    """The message gives the epsilon asked, spent and left; the file doesn't change."""
    ledger = new(tmp_path, cap=0.25)
    ledger.charge("r1", EVENT, purpose="round 1")
    before = (tmp_path / "ledger").read_bytes()
    with pytest.raises(BudgetError, match=r"asked epsilon 0\.08284, spent 0\.2, left 0\.05 of 0\.25"):
        ledger.charge("r2", EVENT, purpose="round 2")
    assert (tmp_path / "ledger").read_bytes() == before
    assert ledger.spent() == pytest.approx(0.2)


def test_a_charge_up_to_the_cap_exactly_is_granted(tmp_path: Path):
    """The cap itself may be spent."""
    assert new(tmp_path, cap=0.2).charge("r1", EVENT, purpose="round 1").left == 0


def test_an_epsilon_that_is_not_a_number_is_refused(tmp_path: Path):
    """A broken accountant doesn't grant anything."""

    class Broken:
        def epsilon(self, events: Sequence[Event], delta: float) -> float:
            return math.nan

    ledger = Ledger.create(tmp_path / "l", dataset="heart", cap_epsilon=1, delta=1e-5, accountant=Broken())
    with pytest.raises(BudgetError):
        ledger.charge("r1", EVENT, purpose="round 1")


def test_the_charge_is_on_disk_when_it_returns(tmp_path: Path):
    """Another process sees it before training starts."""
    ledger = new(tmp_path)
    ledger.charge("r1", EVENT, purpose="round 1")
    assert ChainLog(tmp_path / "ledger").entries()[-1].body["charge_id"] == "r1"


def test_charging_again_before_a_release_is_free(tmp_path: Path):
    """After a crash between charge and release nothing had left, so the same charge pays for the retry."""
    ledger = new(tmp_path)
    assert ledger.charge("r1", EVENT, purpose="round 1").fresh
    before = (tmp_path / "ledger").read_bytes()
    again = Ledger.open(tmp_path / "ledger", ACCOUNTANT).charge("r1", EVENT, purpose="round 1")
    assert not again.fresh
    assert again.epsilon == pytest.approx(0.2)
    assert (tmp_path / "ledger").read_bytes() == before


@pytest.mark.parametrize(
    ("event", "purpose"),
    [
        (Event(noise_multiplier=0.5, sample_rate=0.1, steps=4), "round 1"),
        (Event(noise_multiplier=1.0, sample_rate=0.1, steps=5), "round 1"),
        (EVENT, "fisher"),
    ],
)
def test_charging_again_with_something_else_is_refused(tmp_path: Path, event: Event, purpose: str):
    """A used id can't pay for less noise, more steps or another purpose."""
    ledger = new(tmp_path)
    ledger.charge("r1", EVENT, purpose="round 1")
    with pytest.raises(RefusedError, match="charged before for something else"):
        ledger.charge("r1", event, purpose=purpose)


def test_charging_after_the_release_is_refused(tmp_path: Path):
    """A second training under a released charge would be a second release for one price."""
    ledger = new(tmp_path)
    ledger.charge("r1", EVENT, purpose="round 1")
    ledger.release("r1", "digest")
    with pytest.raises(RefusedError, match="already left"):
        ledger.charge("r1", EVENT, purpose="round 1")
    assert ledger.released("r1") == "digest"


def test_the_same_reply_may_be_released_again(tmp_path: Path):
    """Sending the stored reply again tells nobody anything new; it writes nothing."""
    ledger = new(tmp_path)
    ledger.charge("r1", EVENT, purpose="round 1")
    ledger.release("r1", "digest")
    before = (tmp_path / "ledger").read_bytes()
    ledger.release("r1", "digest")
    assert (tmp_path / "ledger").read_bytes() == before


def test_another_reply_under_the_same_charge_is_refused(tmp_path: Path):
    """Two draws of noise on one charge would average the noise away."""
    ledger = new(tmp_path)
    ledger.charge("r1", EVENT, purpose="round 1")
    ledger.release("r1", "digest")
    with pytest.raises(RefusedError, match="another reply"):
        ledger.release("r1", "other")


def test_nothing_leaves_without_a_charge(tmp_path: Path):
    """A release of an unknown id is refused."""
    with pytest.raises(RefusedError, match="expected a charge"):
        new(tmp_path).release("r1", "digest")


def test_the_site_can_change_its_cap(tmp_path: Path):
    """A raised cap lets the next charge through; the change is an entry."""
    ledger = new(tmp_path, cap=0.1)
    with pytest.raises(BudgetError):
        ledger.charge("r1", EVENT, purpose="round 1")
    ledger.set_cap(0.3)
    ledger.charge("r1", EVENT, purpose="round 1")
    assert ledger.cap_epsilon == 0.3
    assert [entry.kind for entry in ChainLog(tmp_path / "ledger").entries()] == ["opened", "cap", "charged"]


def test_a_cap_below_what_was_spent_stops_everything(tmp_path: Path):
    """Lowering the cap can't undo what was spent, but nothing more is granted."""
    ledger = new(tmp_path)
    ledger.charge("r1", EVENT, purpose="round 1")
    ledger.set_cap(0.1)
    with pytest.raises(BudgetError, match=r"left 0 of 0\.1"):
        ledger.charge("r2", Event(noise_multiplier=1e5, sample_rate=0.1, steps=1), purpose="round 2")


@pytest.mark.parametrize("cap", [-1.0, math.nan, -math.inf])
def test_a_cap_is_a_number_from_zero_up(tmp_path: Path, cap: float):
    """Nonsense caps are configuration errors, and write nothing."""
    with pytest.raises(ConfigError):
        new(tmp_path, cap=cap)
    ledger = new(tmp_path)
    with pytest.raises(ConfigError):
        ledger.set_cap(cap)
    assert ledger.cap_epsilon == 1.0


def test_an_unprotected_training_is_refused_under_a_finite_cap(tmp_path: Path):
    """It has no finite epsilon, so any finite cap would be passed."""
    ledger = new(tmp_path)
    before = (tmp_path / "ledger").read_bytes()
    with pytest.raises(BudgetError, match="asked epsilon inf"):
        ledger.record_unprotected("r1", purpose="round 1")
    assert (tmp_path / "ledger").read_bytes() == before


def test_after_an_unprotected_training_the_budget_is_gone(tmp_path: Path):
    """What was spent is infinite, also for a finite cap set later."""
    ledger = new(tmp_path, cap=math.inf)
    ledger.record_unprotected("r1", purpose="round 1")
    ledger.record_unprotected("r1", purpose="round 1")
    assert ledger.spent() == math.inf
    assert ledger.charge("r2", EVENT, purpose="round 2").left == 0
    ledger.release("r1", "digest")
    ledger.set_cap(10)
    with pytest.raises(BudgetError, match="spent inf, left 0"):
        ledger.charge("r3", EVENT, purpose="round 3")


def test_an_unprotected_id_is_not_a_charge(tmp_path: Path):
    """One id can't stand for a private and a non-private training."""
    ledger = new(tmp_path, cap=math.inf)
    ledger.record_unprotected("r1", purpose="round 1")
    with pytest.raises(RefusedError):
        ledger.charge("r1", EVENT, purpose="round 1")


def test_a_budget_is_never_started_over(tmp_path: Path):
    """Creating on top of a ledger is refused and changes nothing."""
    new(tmp_path).charge("r1", EVENT, purpose="round 1")
    with pytest.raises(UsageError, match="never started over"):
        new(tmp_path)
    assert Ledger.open(tmp_path / "ledger", ACCOUNTANT).spent() == pytest.approx(0.2)


def test_opening_nothing_is_an_error(tmp_path: Path):
    """A missing ledger is not an empty one."""
    with pytest.raises(UsageError, match="found none"):
        Ledger.open(tmp_path / "ledger", ACCOUNTANT)


def test_an_emptied_ledger_is_an_error(tmp_path: Path):
    """A file without its opening doesn't count as nothing spent."""
    new(tmp_path).charge("r1", EVENT, purpose="round 1")
    (tmp_path / "ledger").write_bytes(b"")
    with pytest.raises(IntegrityError, match="entry 0 is bad"):
        Ledger.open(tmp_path / "ledger", ACCOUNTANT)


def test_a_deleted_ledger_is_not_silently_recreated(tmp_path: Path):
    """A charge on a ledger whose file vanished fails instead of starting at zero."""
    ledger = new(tmp_path)
    (tmp_path / "ledger").unlink()
    with pytest.raises(IntegrityError):
        ledger.charge("r1", EVENT, purpose="round 1")
    assert not (tmp_path / "ledger").exists()


def test_a_changed_charge_is_noticed_before_the_next(tmp_path: Path):
    """Somebody who edits the file to regain budget blocks it instead."""
    ledger = new(tmp_path)
    ledger.charge("r1", EVENT, purpose="round 1")
    path = tmp_path / "ledger"
    path.write_bytes(path.read_bytes().replace(b'"noise_multiplier":1.0', b'"noise_multiplier":9.0'))
    with pytest.raises(IntegrityError, match="entry 1 is bad"):
        ledger.charge("r2", EVENT, purpose="round 2")


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("surprise", {}),
        ("charged", {"charge_id": "x", "purpose": "p", "noise_multiplier": 0.0, "sample_rate": 0.1, "steps": 1}),
        ("charged", {"charge_id": "r1", "purpose": "p", "noise_multiplier": 1.0, "sample_rate": 0.1, "steps": 1}),
        ("charged", {"charge_id": "x", "purpose": "p"}),
        ("released", {"charge_id": "x", "reply_digest": "d"}),
        ("cap", {"cap_epsilon": -1.0}),
    ],
)
def test_an_entry_that_the_ledger_would_not_write_is_an_error(tmp_path: Path, kind: str, body: dict[str, str | float]):
    """A well-chained entry that means nothing, or breaks the rules, isn't skipped."""
    ledger = new(tmp_path)
    ledger.charge("r1", EVENT, purpose="round 1")
    ChainLog(tmp_path / "ledger").append(kind, body)
    with pytest.raises(IntegrityError, match="entry 2 is bad"):
        ledger.verify()


def test_a_kill_at_any_byte_never_under_counts(tmp_path: Path):
    """Whatever prefix of the file a kill leaves, every charge that had returned is still counted.

    The record of what had returned is the file's size after each call: a prefix at least that long
    contains the charge.
    """
    path = tmp_path / "ledger"
    ledger = new(tmp_path)
    returned = [(path.stat().st_size, 0.0)]
    for number in range(2):
        spent = ledger.charge(f"r{number}", EVENT, purpose="round").epsilon
        returned.append((path.stat().st_size, spent))
        ledger.release(f"r{number}", "digest")
        returned.append((path.stat().st_size, spent))
    data = path.read_bytes()
    for size in range(returned[0][0], len(data) + 1):
        path.write_bytes(data[:size])
        survivor = Ledger.open(path, ACCOUNTANT)
        assert survivor.spent() >= max(spent for end, spent in returned if end <= size)
        if size % 16 == 0 or size in dict(returned):
            survivor.charge("after", EVENT, purpose="round")
            survivor.verify()


def test_a_kill_while_creating_can_be_tried_again(tmp_path: Path):
    """A torn opening was never a ledger."""
    path = tmp_path / "ledger"
    new(tmp_path)
    data = path.read_bytes()
    for size in range(len(data)):
        path.write_bytes(data[:size])
        with pytest.raises(IntegrityError):
            Ledger.open(path, ACCOUNTANT)
        assert new(tmp_path).spent() == 0


@pytest.mark.parametrize("name", ["append_durable", "fsync"])
def test_a_failing_disk_grants_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str):
    """When the write or its fsync fails, the charge raises: training doesn't start."""
    ledger = new(tmp_path)

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    target = "fedmed.audit.append_durable" if name == "append_durable" else "fedmed.files.os.fsync"
    with monkeypatch.context() as patch:
        patch.setattr(target, fail)
        with pytest.raises(OSError, match="No space"):
            ledger.charge("r1", EVENT, purpose="round 1")
    assert ledger.charge("r1", EVENT, purpose="round 1").epsilon == pytest.approx(0.2)


def test_charges_at_the_same_time_never_pass_the_cap_together(tmp_path: Path):
    """Writers take turns: of twelve charges at once, exactly those that fit are granted."""
    new(tmp_path, cap=0.45)

    def charge(number: int) -> bool:
        try:
            Ledger.open(tmp_path / "ledger", ACCOUNTANT).charge(f"r{number}", EVENT, purpose="round")
        except BudgetError:
            return False
        return True

    with ThreadPoolExecutor(6) as pool:
        granted = sum(pool.map(charge, range(12)))
    assert granted == 5  # 0.2 * sqrt(5) = 0.447
    assert Ledger.open(tmp_path / "ledger", ACCOUNTANT).spent() <= 0.45


def test_the_ledger_imports_no_torch():
    """An administrator reads a budget without loading a training library."""
    code = "import sys, fedmed.privacy.ledger; assert not {'torch', 'opacus'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)  # noqa: S603  our own interpreter


def test_the_head_changes_with_every_entry(tmp_path: Path):
    """Kept elsewhere, it tells a restored old copy from the ledger."""
    ledger = new(tmp_path)
    before = ledger.head()
    ledger.charge("r1", EVENT, purpose="round 1")
    assert ledger.head() != before


def test_purposes_and_ids_are_printable(tmp_path: Path):
    """A line break in a name can't forge a line in a report."""
    with pytest.raises(ConfigError):
        new(tmp_path).charge("r1\n", EVENT, purpose="round 1")
