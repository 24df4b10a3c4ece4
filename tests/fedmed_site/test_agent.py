"""Behaviour of the site agent: what it answers, what it refuses, what it charges and what it never lets out."""

import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from federation import PRIVATE, Consortium, build_consortium, tiny_dataset, twin_of, write_table

from fedmed.audit import ChainLog
from fedmed.deid.policy import DeidPolicy
from fedmed.errors import ModelError
from fedmed.exchange import Answer, Failure, Task
from fedmed.privacy import descent, rehearsal, trials
from fedmed.privacy.ledger import Ledger
from fedmed.records import DataSpec, MachineSpec, Plan, canonical_json, digest
from fedmed_site.agent import SiteAgent
from fedmed_site.datasets import DataSets
from fedmed_site.home import SiteHome, SiteRecord
from fedmed_site.policy import SitePolicy


@pytest.fixture
def consortium(tmp_path: Path) -> Consortium:
    """Return one prepared site without a cap."""
    return build_consortium(tmp_path, sites=1)


@pytest.fixture
def capped(tmp_path: Path) -> Consortium:
    """Return one prepared site with a cap of epsilon 50."""
    return build_consortium(tmp_path, sites=1, cap_epsilon=50.0)


def ask(consortium: Consortium, plan: Plan, action: str, number: int = 0, **arrays: np.ndarray) -> Answer | Failure:
    """Send one task to the first site, through a freshly opened agent as after a restart."""
    task = Task(action=action, plan_digest=digest(plan), round=number, arrays=arrays)
    return SiteAgent.open(consortium.homes[0]).respond(canonical_json(plan), task)


def model(size: int = 4, value: float = 0.0) -> np.ndarray:
    """Return a model of the tiny linear architecture."""
    return np.full(size, value, dtype=np.float32)


def test_an_update_comes_back_with_its_weight(consortium: Consortium) -> None:
    """A site answers a training task with a finite additive update and the number of its training records."""
    answer = ask(consortium, consortium.plan(), "train.fit", model=model())
    assert isinstance(answer, Answer)
    assert answer.arrays["mean"].shape == (4,)
    assert np.isfinite(answer.arrays["mean"]).all()
    assert np.abs(answer.arrays["mean"]).max() > 0
    assert 80 < answer.facts["weight"] < 140


def test_a_repeated_question_gets_the_same_bytes_and_costs_nothing(capped: Consortium) -> None:
    """After a crash the coordinator asks again; the site replays its answer, with system noise too, uncharged."""
    plan = capped.plan(privacy=replace(PRIVATE, noise="system"))
    first = ask(capped, plan, "train.fit", model=model())
    spent = SiteAgent.open(capped.homes[0]).ledger("tiny").spent()
    again = ask(capped, plan, "train.fit", model=model())
    assert isinstance(first, Answer)
    assert isinstance(again, Answer)
    assert again.digest() == first.digest()
    assert SiteAgent.open(capped.homes[0]).ledger("tiny").spent() == spent > 0


def test_a_round_is_answered_for_one_model_only(capped: Consortium) -> None:
    """A coordinator that asks twice for one round with another model would get two releases; it gets a refusal."""
    plan = capped.plan(privacy=PRIVATE)
    ask(capped, plan, "train.fit", model=model())
    second = ask(capped, plan, "train.fit", model=model(value=0.5))
    assert isinstance(second, Failure)
    assert "already answered" in second.reason


def test_a_lost_reply_is_not_drawn_again(capped: Consortium) -> None:
    """If a stored answer that has left is deleted, the site refuses rather than release the round twice."""
    plan = capped.plan(privacy=PRIVATE)
    ask(capped, plan, "train.fit", model=model())
    for reply in SiteHome(capped.homes[0]).replies.rglob("*.reply"):
        reply.unlink()
    again = ask(capped, plan, "train.fit", model=model())
    assert isinstance(again, Failure)
    assert again.code == "RefusedError"


def test_the_charge_is_on_disk_before_training_starts(capped: Consortium, monkeypatch: pytest.MonkeyPatch) -> None:
    """A site that dies while training has counted the round already."""
    seen: list[float] = []

    def die(*_: object, **__: object) -> None:
        seen.append(Ledger.open(SiteHome(capped.homes[0]).ledgers / "tiny.jsonl", _accountant()).spent())
        raise MemoryError

    monkeypatch.setattr("fedmed_site.training.train_locally", die)
    ask(capped, capped.plan(privacy=PRIVATE), "train.fit", model=model())
    assert seen
    assert seen[0] > 0


def test_a_round_beyond_the_cap_is_refused_before_any_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The refusal says what was asked, spent and left, and the model never sees a record."""
    small = build_consortium(tmp_path, sites=1, cap_epsilon=0.5)
    monkeypatch.setattr("fedmed_site.training.train_locally", lambda *_, **__: pytest.fail("trained beyond the cap"))
    failure = ask(small, small.plan(privacy=PRIVATE), "train.fit", model=model())
    assert isinstance(failure, Failure)
    assert failure.code == "BudgetError"
    assert "0.5" in failure.reason


def test_unprotected_training_is_refused_at_a_capped_site(capped: Consortium) -> None:
    """A site with a budget never trains without differential privacy."""
    failure = ask(capped, capped.plan(), "train.fit", model=model())
    assert isinstance(failure, Failure)
    assert "differential privacy" in failure.reason


def test_unprotected_training_makes_the_spent_budget_infinite(consortium: Consortium) -> None:
    """Whoever reads the ledger later sees that protection was given up."""
    ask(consortium, consortium.plan(), "train.fit", model=model())
    assert SiteAgent.open(consortium.homes[0]).ledger("tiny").spent() == math.inf


def test_noise_that_repeats_is_refused_outside_a_simulation(tmp_path: Path) -> None:
    """A plan with seeded noise is refused by a site whose policy does not allow it."""
    consortium = build_consortium(tmp_path, sites=1, cap_epsilon=50.0)
    home = SiteHome(consortium.homes[0])
    strict = SiteRecord(name="h1", policy=SitePolicy(cap_epsilon=50.0, delta=1e-5))
    home.record_path.write_bytes(canonical_json(strict))
    failure = ask(consortium, consortium.plan(privacy=PRIVATE), "train.fit", model=model())
    assert isinstance(failure, Failure)
    assert failure.code == "RefusedError"


def test_two_sites_with_one_seed_draw_different_noise(tmp_path: Path) -> None:
    """Seeded noise depends on the site, so it does not cancel or add up between sites."""
    consortium = build_consortium(tmp_path, sites=2, cap_epsilon=50.0)
    plan = consortium.plan(privacy=replace(PRIVATE, noise_multiplier=40.0))
    task = Task(action="train.fit", plan_digest=digest(plan), arrays={"model": model()})
    answers = [SiteAgent.open(home).respond(canonical_json(plan), task) for home in consortium.homes]
    first, second = (answer.arrays["mean"] for answer in answers if isinstance(answer, Answer))
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.999
    assert not np.allclose(first, second, rtol=0.05)


def test_another_plan_than_the_announced_one_is_refused(consortium: Consortium) -> None:
    """A task whose digest does not match the plan that came with the run is not answered."""
    plan = consortium.plan()
    task = Task(action="train.fit", plan_digest="0" * 64, arrays={"model": model()})
    failure = SiteAgent.open(consortium.homes[0]).respond(canonical_json(plan), task)
    assert isinstance(failure, Failure)
    assert "another plan" in failure.reason


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"schema": "../../etc"}, "allows no study"),
        ({"schema_digest": "0" * 64}, "expected schema"),
    ],
)
def test_data_that_the_site_does_not_hold_is_refused(
    consortium: Consortium, change: dict[str, str], expected: str
) -> None:
    """A plan that names unknown data, a path, or another schema version is refused."""
    plan = consortium.plan()
    failure = ask(consortium, replace(plan, data=replace(plan.data, **change)), "train.fit", model=model())
    assert isinstance(failure, Failure)
    assert expected in failure.reason


def test_another_base_model_is_refused(consortium: Consortium) -> None:
    """A base whose bytes changed after the digest was agreed is never trained on."""
    plan = consortium.plan()
    weights = SiteHome(consortium.homes[0]).models / plan.base_digest / "model.safetensors"
    damaged = bytearray(weights.read_bytes())
    damaged[-1] ^= 1
    weights.write_bytes(damaged)
    failure = ask(consortium, plan, "train.fit", model=model())
    assert isinstance(failure, Failure)
    assert failure.code == "IntegrityError"


def test_an_unforeseen_error_leaves_without_its_text(consortium: Consortium, monkeypatch: pytest.MonkeyPatch) -> None:
    """Flower sends exception text to the coordinator; ours is a reference to the site's own log."""

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("row of Planted Person-0-3, pressure 180")

    monkeypatch.setattr("fedmed_site.training.train_locally", fail)
    failure = ask(consortium, consortium.plan(), "train.fit", model=model())
    assert isinstance(failure, Failure)
    assert "Planted" not in failure.reason
    reference = failure.reason.split()[-1]
    log = SiteHome(consortium.homes[0]).log_path.read_text()
    assert reference in log
    assert "Planted Person-0-3" in log


def test_altered_data_is_not_trained_on(consortium: Consortium) -> None:
    """A table that the audit log does not vouch for byte by byte is refused."""
    table = SiteHome(consortium.homes[0]).data("tiny") / "table.parquet.sealed"
    table.write_bytes(table.read_bytes() + b"\0")
    failure = ask(consortium, consortium.plan(), "train.fit", model=model())
    assert isinstance(failure, Failure)
    assert failure.code in {"IntegrityError", "internal"}


def test_an_evaluation_sends_nothing_back(consortium: Consortium) -> None:
    """Metrics of held-out patients are a release; they stay in the site's folder."""
    plan = consortium.plan()
    answer = ask(consortium, plan, "evaluate.held_out", model=model())
    assert isinstance(answer, Answer)
    assert not answer.arrays
    assert not answer.facts
    (record,) = SiteAgent.open(consortium.homes[0]).evaluations.read(digest(plan))
    assert record.stage == "final"
    assert len(record.scores) == record.records == len(record.labels)


def test_fisher_information_leaves_only_if_the_plan_asks(consortium: Consortium) -> None:
    """A coordinator can't collect a release that the plan does not name."""
    plan = consortium.plan()
    silent = replace(plan, continual=replace(plan.continual, release_fisher=False))
    assert isinstance(ask(consortium, plan, "train.fisher", model=model()), Answer)
    assert isinstance(ask(consortium, silent, "train.fisher", model=model()), Failure)


def test_a_cohort_below_the_floor_is_refused(tmp_path: Path) -> None:
    """A site does not train on fewer records than its policy's floor."""
    consortium = build_consortium(tmp_path, sites=1, rows=160)
    home = SiteHome(consortium.homes[0])
    policy = replace(home.record().policy, min_records=1000)
    home.record_path.write_bytes(canonical_json(SiteRecord(name="h1", policy=policy)))
    failure = ask(consortium, consortium.plan(), "train.fit", model=model())
    assert isinstance(failure, Failure)
    assert "1000 records" in failure.reason


def few(home: SiteHome, least: int) -> None:
    """Set the policy's floor."""
    record = home.record()
    home.record_path.write_bytes(canonical_json(replace(record, policy=replace(record.policy, min_records=least))))


def events(consortium: Consortium) -> int:
    """Return how often the site was charged."""
    return len(SiteAgent.open(consortium.homes[0]).ledger("tiny").events())


def test_that_a_view_has_too_few_records_is_charged_once(capped: Consortium, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is read from data, so the first time it costs; the same answer in later rounds and plans tells nothing new."""
    home, plan = SiteHome(capped.homes[0]), capped.plan(privacy=PRIVATE)
    few(home, 1000)
    first = ask(capped, plan, "train.fit", model=model())
    assert isinstance(first, Failure)
    assert "1000 records or more" in first.reason
    assert events(capped) == 1
    monkeypatch.setattr(DataSets, "load", lambda *_: pytest.fail("a record was read"))
    works = [("train.fit", 0), ("train.fit", 1), ("train.fit", 2), ("train.fisher", 0)]
    for other in (plan, replace(plan, seed=8), replace(plan, data=replace(plan.data, normalisation="site"))):
        for action, number in works:
            assert ask(capped, other, action, number, model=model()) == first
    assert events(capped) == 1


@pytest.mark.parametrize("change", ["another view", "another table", "a lower floor", "a lost note"])
def test_what_was_said_of_other_records_saves_no_charge(capped: Consortium, tmp_path: Path, change: str) -> None:
    """Another view, another version of the data or a floor that was not asked about is a new answer."""
    home, plan = SiteHome(capped.homes[0]), capped.plan(privacy=PRIVATE)
    few(home, 1000)
    ask(capped, plan, "train.fit", model=model())
    if change == "another view":
        plan = replace(plan, data=replace(plan.data, cohort_column="ward", cohort=("north",)))
    elif change == "another table":
        write_table(tmp_path / "again.csv", rows=161, seed=0)
        SiteAgent(home).prepare(tmp_path / "again.csv", tiny_dataset(), DeidPolicy())
    elif change == "a lower floor":
        few(home, 999)
    else:
        shutil.rmtree(home.root / "refused")
    answer = ask(capped, plan, "train.fit", 1, model=model())
    assert isinstance(answer, Failure)
    assert events(capped) == 2


def test_a_floor_that_is_lowered_far_enough_lets_the_study_go_on(capped: Consortium) -> None:
    """What was said does not bind a site that asks for less; one that asks for more follows from what was said."""
    home, plan = SiteHome(capped.homes[0]), capped.plan(privacy=PRIVATE)
    few(home, 1000)
    ask(capped, plan, "train.fit", model=model())
    few(home, 2000)
    higher = ask(capped, plan, "train.fit", 1, model=model())
    assert isinstance(higher, Failure)
    assert "2000 records or more" in higher.reason
    assert events(capped) == 1
    few(home, 20)
    assert isinstance(ask(capped, plan, "train.fit", 2, model=model()), Answer)


def test_a_refusal_is_written_down_after_the_charge_and_before_it_is_said(
    capped: Consortium, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A site that dies in between has paid, and pays again: never the other way about."""
    home, plan = SiteHome(capped.homes[0]), capped.plan(privacy=PRIVATE)
    few(home, 1000)
    seen: list[int] = []

    def die(*_: object, **__: object) -> None:
        seen.append(events(capped))
        raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr("fedmed_site.training.TooFew.say", die)
        ask(capped, plan, "train.fit", model=model())
    assert seen == [1]
    ask(capped, plan, "train.fit", 1, model=model())
    assert events(capped) == 2


@pytest.mark.parametrize("trust_model", ["local", "none"])
@pytest.mark.parametrize("action", ["train.fit", "train.fisher"])
def test_what_the_memory_can_not_hold_is_refused_before_the_charge(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, action: str, trust_model: str
) -> None:
    """One record of the model is more than the site allows: nothing is paid, and no record is read."""
    private = trust_model == "local"
    consortium = build_consortium(tmp_path, sites=1, cap_epsilon=50.0 if private else None)
    home = SiteHome(consortium.homes[0])
    plan = consortium.plan(privacy=PRIVATE) if private else consortium.plan()
    home.record_path.write_bytes(
        canonical_json(replace(home.record(), machine=MachineSpec(device="cpu", memory_gb=2e-8)))
    )
    before = (home.ledgers / "tiny.jsonl").read_bytes()
    with monkeypatch.context() as patched:
        patched.setattr(DataSets, "load", lambda *_: pytest.fail("a record was read"))
        failure = ask(consortium, plan, action, model=model())
    assert isinstance(failure, Failure)
    assert "of memory at most; one record of this model needs about" in failure.reason
    assert (home.ledgers / "tiny.jsonl").read_bytes() == before


@pytest.mark.parametrize("action", ["train.fit", "train.fisher"])
def test_a_model_that_can_not_be_trained_record_by_record_is_refused_before_the_charge(
    capped: Consortium, monkeypatch: pytest.MonkeyPatch, action: str
) -> None:
    """The trial on synthetic records comes first, and its refusal holds nothing of a record."""

    def refuse(*_: object, **__: object) -> None:
        raise ModelError("the loss of a record depends on its batch")

    trials._verdicts.clear()
    monkeypatch.setattr(trials, "check_per_record", refuse)
    before = (SiteHome(capped.homes[0]).ledgers / "tiny.jsonl").read_bytes()
    failure = ask(capped, capped.plan(privacy=PRIVATE), action, model=model())
    trials._verdicts.clear()
    assert isinstance(failure, Failure)
    assert "can't be trained here: the loss of a record depends on its batch" in failure.reason
    assert (SiteHome(capped.homes[0]).ledgers / "tiny.jsonl").read_bytes() == before


def test_a_site_below_a_ceiling_measures_once(capped: Consortium, monkeypatch: pytest.MonkeyPatch) -> None:
    """The training takes the size that was found before the charge, and its update is that of no ceiling."""
    plan = capped.plan(privacy=PRIVATE)
    whole = ask(twin_of(capped, capped.root.parent / "twin"), plan, "train.fit", model=model())
    home = SiteHome(capped.homes[0])
    home.record_path.write_bytes(
        canonical_json(replace(home.record(), machine=MachineSpec(device="cpu", memory_gb=0.5)))
    )
    measured: list[int] = []
    real = descent.fitting
    monkeypatch.setattr(descent, "fitting", lambda *_, **__: pytest.fail("measured after the charge"))
    monkeypatch.setattr(rehearsal, "fitting", lambda *a, **n: measured.append(min(7, real(*a, **n))) or measured[-1])
    answer = ask(capped, plan, "train.fit", model=model())
    assert measured == [7]
    assert isinstance(answer, Answer)
    assert isinstance(whole, Answer)
    assert np.allclose(answer.arrays["mean"], whole.arrays["mean"], rtol=1e-5, atol=1e-6)


def test_own_statistics_are_charged_under_privacy(capped: Consortium) -> None:
    """Per-site normalisation looks at patients, so a private site charges it beside the training."""
    plan = capped.plan(privacy=PRIVATE)
    data: DataSpec = replace(plan.data, normalisation="site")
    assert isinstance(ask(capped, replace(plan, data=data), "train.fit", model=model()), Answer)
    assert len(SiteAgent.open(capped.homes[0]).ledger("tiny").events()) == 2


def test_federated_statistics_must_come_with_the_round(consortium: Consortium) -> None:
    """A plan that normalises by federated statistics can't silently train without them."""
    plan = consortium.plan()
    plan = replace(plan, data=replace(plan.data, normalisation="federated"))
    without = ask(consortium, plan, "train.fit", model=model())
    arrays = {"mean": np.zeros(3, np.float32), "scale": np.ones(3, np.float32)}
    assert isinstance(without, Failure)
    assert isinstance(ask(consortium, plan, "train.fit", model=model(), **arrays), Answer)


def test_every_answer_is_in_the_audit_log(consortium: Consortium) -> None:
    """The site's own log names each answer that left by plan, action, round and digest, and verifies."""
    plan = consortium.plan()
    answer = ask(consortium, plan, "train.fit", model=model())
    assert isinstance(answer, Answer)
    last = ChainLog(SiteHome(consortium.homes[0]).audit_path).entries()[-1]
    assert (last.kind, last.body["action"], last.body["answer"]) == ("answer", "train.fit", answer.digest())


# --- what an attacker at the coordinator would try -------------------------------------------


def set_policy(consortium: Consortium, **changes: object) -> None:
    """Change the first site's policy, as its administrator would."""
    home = SiteHome(consortium.homes[0])
    home.record_path.write_bytes(canonical_json(SiteRecord(name="h1", policy=replace(home.record().policy, **changes))))


@pytest.mark.parametrize("cohort", [("north",), ("south",), ("nowhere",)])
def test_a_view_that_is_not_allowed_is_refused_alike_whether_it_has_patients_or_not(
    consortium: Consortium, cohort: tuple[str, ...]
) -> None:
    """Naming sub-cohorts and watching which fail would tell exact counts; every unlisted one gets the same words."""
    set_policy(consortium, views=SiteHome(consortium.homes[0]).record().policy.views[:1])
    plan = consortium.plan()
    data = replace(plan.data, cohort_column="ward", cohort=cohort)
    for changed in (replace(plan, data=data), replace(plan, continual=replace(plan.continual, earlier=(data,)))):
        failure = ask(consortium, changed, "evaluate.held_out", model=model())
        assert isinstance(failure, Failure)
        assert failure.reason == "this site allows no study of target 'ill' on that part of 'tiny'"


def test_a_view_without_patients_evaluates_like_any_other(consortium: Consortium) -> None:
    """Whether a listed cohort has patients at this site is not visible in the answer."""
    views = SiteHome(consortium.homes[0]).record().policy.views
    set_policy(consortium, views=(*views, replace(views[1], cohort=("nowhere",))))
    plan = consortium.plan()
    data = replace(plan.data, cohort_column="ward", cohort=("nowhere",))
    plan = replace(plan, continual=replace(plan.continual, earlier=(data,)))
    answer = ask(consortium, plan, "evaluate.held_out", model=model())
    assert isinstance(answer, Answer)
    assert [record.view for record in SiteAgent.open(consortium.homes[0]).evaluations.read(digest(plan))] == [0]


@pytest.mark.parametrize("action", ["train.fisher", "evaluate.held_out", "query.describe"])
def test_one_release_per_plan_and_action(consortium: Consortium, action: str) -> None:
    """Round numbers can't be used to collect releases, or final results, that the plan never announced."""
    failure = ask(consortium, consortium.plan(), action, 1, model=model())
    assert isinstance(failure, Failure)
    assert "1 rounds" in failure.reason


def test_a_round_beyond_the_plan_is_refused(consortium: Consortium) -> None:
    """The plan's number of rounds is what was calibrated; there is no round after it."""
    failure = ask(consortium, consortium.plan(), "train.fit", 3, model=model())
    assert isinstance(failure, Failure)
    assert "3 rounds" in failure.reason


@pytest.mark.parametrize("bad", [model(size=5), model(value=np.nan)], ids=["another size", "not a number"])
def test_a_model_that_can_not_be_used_costs_nothing(capped: Consortium, bad: np.ndarray) -> None:
    """A faulty coordinator's model is refused with its fault before the site's budget is touched."""
    for action in ("train.fit", "train.fisher"):
        failure = ask(capped, capped.plan(privacy=PRIVATE), action, model=bad)
        assert isinstance(failure, Failure)
        assert "can't be used" in failure.reason
    assert SiteAgent.open(capped.homes[0]).ledger("tiny").spent() == 0


def test_a_lowered_cap_holds_from_the_next_charge(capped: Consortium) -> None:
    """The administrator's new cap counts, whatever the ledger was begun with."""
    plan = capped.plan(privacy=PRIVATE)
    assert isinstance(ask(capped, plan, "train.fit", model=model()), Answer)
    set_policy(capped, cap_epsilon=0.001)
    failure = ask(capped, plan, "train.fit", 1, model=model())
    assert isinstance(failure, Failure)
    assert failure.code == "BudgetError"


def test_a_deleted_ledger_is_not_begun_anew(capped: Consortium) -> None:
    """Losing the ledger must not give the budget back."""
    plan = capped.plan(privacy=PRIVATE)
    ask(capped, plan, "train.fit", model=model())
    (SiteHome(capped.homes[0]).ledgers / "tiny.jsonl").unlink()
    failure = ask(capped, plan, "train.fit", 1, model=model())
    assert isinstance(failure, Failure)
    assert failure.code == "IntegrityError"


def test_a_failure_names_no_path_of_the_site(consortium: Consortium) -> None:
    """Damaged state is reported without where it lies."""
    plan = consortium.plan()
    shutil.rmtree(SiteHome(consortium.homes[0]).models / plan.base_digest)
    (SiteHome(consortium.homes[0]).data("tiny") / "table.parquet.sealed").write_bytes(b"damaged")
    for action in ("query.describe", "train.fit"):
        failure = ask(consortium, plan, action, model=model())
        assert isinstance(failure, Failure)
        assert "/" not in failure.reason


@pytest.mark.parametrize("digest_of_base", ["../../etc", "A" * 64, "0" * 63, "0" * 64 + "/"])
def test_a_digest_can_not_be_a_path(consortium: Consortium, digest_of_base: str) -> None:
    """A digest names a folder at the site, so a plan with anything else does not exist."""
    with pytest.raises(ValueError, match="base_digest must be 64 hexadecimal digits"):
        consortium.plan(base_digest=digest_of_base)


def test_a_view_has_one_name(consortium: Consortium) -> None:
    """The same cohort in another order would be another key for stored statistics."""
    with pytest.raises(ValueError, match="sorted and without repetition"):
        replace(consortium.plan().data, cohort_column="ward", cohort=("south", "north"))


def test_a_plan_can_not_hold_a_site_for_ever(consortium: Consortium) -> None:
    """More local steps than the policy allows are refused before the accountant or the trainer sees them."""
    plan = consortium.plan()
    plan = replace(plan, training=replace(plan.training, local_steps=10**9))
    failure = ask(consortium, plan, "train.fit", model=model())
    assert isinstance(failure, Failure)
    assert "100000 local steps" in failure.reason


def test_a_crash_after_own_statistics_were_stored_does_not_block_the_study(
    capped: Consortium, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between storing and releasing its statistics, the site goes on with the stored ones, charged once."""
    plan = capped.plan(privacy=PRIVATE)
    plan = replace(plan, data=replace(plan.data, normalisation="site"))
    original = Ledger.release

    def die(self: Ledger, charge_id: str, reply_digest: str) -> None:
        if charge_id.endswith("/statistics"):
            raise SystemExit
        original(self, charge_id, reply_digest)

    with monkeypatch.context() as patched:
        patched.setattr(Ledger, "release", die)
        with pytest.raises(SystemExit):
            ask(capped, plan, "train.fit", model=model())
    assert isinstance(ask(capped, plan, "train.fit", model=model()), Answer)
    assert len(SiteAgent.open(capped.homes[0]).ledger("tiny").events()) == 2


def test_records_are_read_only_after_the_charge(capped: Consortium, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a record could make fail happens after the round was paid for, so a failure is no free answer."""
    spent: list[float] = []
    original = DataSets.load

    def watch(self: DataSets, *arguments: object) -> object:
        spent.append(Ledger.open(SiteHome(capped.homes[0]).ledgers / "tiny.jsonl", _accountant()).spent())
        return original(self, *arguments)

    monkeypatch.setattr(DataSets, "load", watch)
    plan = capped.plan(privacy=PRIVATE)
    for action in ("train.fit", "train.fisher"):
        ask(capped, plan, action, model=model())
    assert spent
    assert min(spent) > 0


def test_a_full_disk_does_not_let_the_logs_path_out(consortium: Consortium, monkeypatch: pytest.MonkeyPatch) -> None:
    """If even the site's own log can't be written, the coordinator still gets the sanitised reason."""

    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device", "/site/secret/site.log")

    monkeypatch.setattr("fedmed_site.training.train_locally", fail)
    monkeypatch.setattr("fedmed_site.agent.append_durable", fail)
    failure = ask(consortium, consortium.plan(), "train.fit", model=model())
    assert isinstance(failure, Failure)
    assert "secret" not in failure.reason


def _accountant() -> object:
    from fedmed.privacy.engine import PrvAccountant  # noqa: PLC0415  only this helper needs it

    return PrvAccountant()
