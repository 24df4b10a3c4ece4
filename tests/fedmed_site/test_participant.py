"""A site in secure aggregation: what it refuses, what it keeps, and that a killed process never says two things."""

import multiprocessing
import pickle
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from federation import (
    PRIVATE,
    SECURE,
    Consortium,
    MemoryChannel,
    answer_in_child,
    build_consortium,
    sign_in,
    twin_of,
    unsigned_receipts,
)

from fedmed.errors import IntegrityError, RefusedError, SiteFailureError, UsageError
from fedmed.exchange import Answer, Failure, Round, Task, Work, run_of
from fedmed.privacy.plan import Event
from fedmed.records import Plan, canonical_json, digest
from fedmed.secagg import parcels, store, wire
from fedmed.secagg.messages import Finish, MaskRequest, Offer, Refusal, ShareRequest, Turn
from fedmed.secagg.roster import sign_roster
from fedmed.secagg.roster_file import roster_to_bytes
from fedmed.secagg.state import ClientState
from fedmed_server.attempt_store import AttemptStore
from fedmed_server.checkpoint import load_progress
from fedmed_server.secure import SecureAggregator
from fedmed_site.agent import SiteAgent
from fedmed_site.home import SiteHome

SIZE = 4


@pytest.fixture
def consortium(tmp_path: Path) -> Consortium:
    """Three prepared sites under one roster."""
    return build_consortium(tmp_path / "consortium", sites=3, rows=120)


def secure_plan(consortium: Consortium, **changes: Any) -> Plan:
    """Return a private plan of one round under secure aggregation."""
    training = replace(consortium.plan().training, rounds=1)
    continual = replace(consortium.plan().continual, release_fisher=False)
    return consortium.plan(aggregation=SECURE, privacy=PRIVATE, training=training, continual=continual, **changes)


def start_of(plan: Plan) -> Round:
    """Return the first round of a plan from a model of zeros."""
    arrays = {"model": np.zeros(SIZE, np.float32)}
    return Round(works=("train.fit",), plan_digest=digest(plan), arrays=arrays, size=SIZE)


def offer_of(consortium: Consortium, asked: Round, **changes: Any) -> Offer:
    """Return fair terms of a round."""
    fair = Offer(
        turn=Turn(run=run_of(asked.plan_digest, asked.works), round=asked.number, attempt=0),
        cohort=consortium.roster.names,
        threshold=2,
        roster=consortium.roster.digest(),
        model=asked.digest(),
        lengths=(SIZE, 1, 0),
    )
    return replace(fair, **changes)


def task_of(asked: Round, message: Any, *, action: str = "query.offer", **changes: Any) -> Task:
    """Return a phase's task."""
    return replace(
        Task(
            action=action,  # type: ignore[arg-type]
            plan_digest=asked.plan_digest,
            round=asked.number,
            works=asked.works,
            arrays=asked.arrays if action == "query.offer" else {},
            message=wire.encode(message),
        ),
        **changes,
    )


def reason_of(reply: Answer | Failure) -> str:
    """Return why a site said no, in a failure or a refusal of the protocol."""
    if isinstance(reply, Failure):
        return reply.reason
    message = parcels.join(reply.message, reply.arrays)
    assert isinstance(message, Refusal)
    return message.reason


def ask(consortium: Consortium, plan: Plan, task: Task, place: int = 0) -> Answer | Failure:
    """Ask one site."""
    return SiteAgent.open(consortium.homes[place]).respond(canonical_json(plan), task)


def stored_state(home: SiteHome) -> ClientState:
    """Return what a site has on disk of secure aggregation."""
    return store.restore(home.secagg_state_path, site=home.record().name, site_key=home.seal_key_path.read_bytes())


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"roster": bytes(32)}, "expected roster serial 1"),
        ({"cohort": ("h1", "h2", "stranger")}, "unknown ones: stranger"),
        ({"cohort": ("h1", "h2")}, "at least 3 sites"),
        ({"threshold": 1}, "expected a threshold between 2 and 3"),
        ({"model": bytes(32)}, "the digest of another"),
        ({"lengths": (SIZE, 1, SIZE)}, "exactly the segments"),
        ({"lengths": (SIZE, 2, 0)}, "exactly the segments"),
        ({"lengths": (SIZE, 1)}, "expected 3 segment lengths"),
        ({"turn": Turn(run="another", round=0, attempt=0)}, "got one of another"),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, Mapping) else "",
)
def test_unfair_terms_are_refused_before_anything_is_charged(
    consortium: Consortium, changes: dict[str, Any], reason: str
) -> None:
    """Whatever the coordinator changes in its offer, the site says which term it is and its ledger stays as it was."""
    plan = secure_plan(consortium)
    asked = start_of(plan)
    before = (consortium.homes[0] / "ledger" / "tiny.jsonl").read_bytes()
    reply = ask(consortium, plan, task_of(asked, offer_of(consortium, asked, **changes)))
    assert reason in reason_of(reply)
    assert (consortium.homes[0] / "ledger" / "tiny.jsonl").read_bytes() == before


def test_an_offer_of_another_model_than_came_is_refused(consortium: Consortium) -> None:
    """Two sites of one sum can't be made to start from two models: each compares what came with what is agreed."""
    plan = secure_plan(consortium)
    asked = start_of(plan)
    task = task_of(asked, offer_of(consortium, asked), arrays={"model": np.ones(SIZE, np.float32)})
    assert "the digest of another; synchronise it" in reason_of(ask(consortium, plan, task))


@pytest.mark.parametrize(
    ("privacy", "works", "reason"),
    [
        ({"distance": 1e-30}, ("train.fit",), r"expected noise within 1\.0e-30 of a Gaussian"),
        ({"noise_multiplier": 1e4}, ("train.fit",), "expected room for noise"),
        ({"noise_multiplier": 2500.0}, ("train.fit",), "expected noise of a deviation from 45"),
        ({"release_noise_multiplier": 1e6}, ("train.fisher",), "room for noise .* for fisher"),
        ({"release_noise_multiplier": 1e6}, ("train.fit", "train.fisher"), "room for noise .* for fisher"),
        ({"noise_multiplier": 1e4}, ("train.fisher", "train.fit"), "room for noise .* for delta"),
        ({}, ("train.fit", "train.fisher"), None),
    ],
)
def test_shared_noise_that_the_rings_cannot_hold_is_refused_before_anything_is_charged(
    consortium: Consortium, tmp_path: Path, privacy: dict[str, float], works: tuple[Work, ...], reason: str | None
) -> None:
    """Plan, roster and offer show it, also of what the round releases besides; where all fits, each work is charged."""
    plan = consortium.plan(
        aggregation=replace(SECURE, attempts=1),
        training=replace(consortium.plan().training, rounds=1, local_steps=1, sample_rate=1.0),
        privacy=replace(PRIVATE, **{"trust_model": "distributed", "distance": 1e-9, **privacy}),  # type: ignore[arg-type]
    )
    attempts = AttemptStore(tmp_path / "secagg")
    aggregator = SecureAggregator(
        plan.aggregation,
        roster=consortium.roster,
        store=attempts,
        rounds=1,
        receipts=unsigned_receipts(tmp_path),
    )
    asked = replace(start_of(plan), works=works)
    with nullcontext() if reason is None else pytest.raises(SiteFailureError, match=reason):
        aggregator.collect(consortium.channel(plan), asked, dict(enumerate(consortium.roster.names)))
    for home in consortium.homes:
        entries = SiteAgent.open(home).ledger("tiny")._log.entries()
        charges = [str(entry.body["charge_id"]) for entry in entries if entry.kind == "charged"]
        assert [charge.partition("/")[2] for charge in charges] == [f"{work}/0" for work in works if reason is None]


@pytest.mark.parametrize("works", [("train.fit",), ("train.fisher",)])
@pytest.mark.parametrize("trust_model", ["local", "distributed"])
def test_a_sum_beyond_the_cap_is_refused_before_a_record_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trust_model: str, works: tuple[Work, ...]
) -> None:
    """Under secure aggregation too: the ledger says no, nothing is charged or loaded, and the reason is told."""
    consortium = build_consortium(tmp_path / "capped", sites=3, rows=120, cap_epsilon=50.0)
    plan = consortium.plan(
        aggregation=replace(SECURE, attempts=1),
        training=replace(consortium.plan().training, rounds=1, local_steps=1, sample_rate=1.0),
        privacy=replace(PRIVATE, trust_model=trust_model, distance=1e-9 if trust_model == "distributed" else 0.0),  # type: ignore[arg-type]
    )
    earlier = [Event(noise_multiplier=sigma, sample_rate=1.0, steps=steps) for sigma, steps in ((0.5, 11), (2.0, 1))]
    for home in consortium.homes:
        for event in earlier:
            SiteAgent.open(home).ledger("tiny").charge(f"another study {event.steps}", event, purpose="training")
    loaded = []
    monkeypatch.setattr("fedmed_site.datasets.DataSets.load", lambda *_, **__: loaded.append("records"))
    aggregator = SecureAggregator(
        plan.aggregation,
        roster=consortium.roster,
        store=AttemptStore(tmp_path / "secagg"),
        rounds=1,
        receipts=unsigned_receipts(tmp_path),
    )
    asked = replace(start_of(plan), works=works)
    with pytest.raises(SiteFailureError, match="epsilon"):
        aggregator.collect(consortium.channel(plan), asked, dict(enumerate(consortium.roster.names)))
    assert loaded == []
    assert [SiteAgent.open(home).ledger("tiny").events() for home in consortium.homes] == [earlier] * 3


def test_a_round_is_worked_anew_as_often_as_the_plan_allows_and_no_more(consortium: Consortium) -> None:
    """A coordinator that ends every sum at its last step can't spend a site's whole cap under one approved plan."""
    plan = secure_plan(consortium)
    agent = SiteAgent.open(consortium.homes[0])
    task = start_of(plan).task("train.fit")
    editions = [agent._work(plan, task, spent=lambda _: True).edition for _ in range(plan.aggregation.attempts)]
    assert editions == [0, 1, 2]
    with pytest.raises(RefusedError, match="worked 3 times here, as often as the plan allows"):
        agent._work(plan, task, spent=lambda _: True)
    assert len(agent.ledger("tiny").events()) == 3


def test_a_forged_mask_request_spends_no_budget(consortium: Consortium) -> None:
    """A coordinator that skips the sharing can't make a site train: nothing is charged and no record is read."""
    plan = secure_plan(consortium)
    asked = start_of(plan)
    offer = offer_of(consortium, asked)
    assert isinstance(ask(consortium, plan, task_of(asked, offer)), Answer)
    before = (consortium.homes[0] / "ledger" / "tiny.jsonl").read_bytes()
    forged = MaskRequest(turn=offer.turn, headers=(), boxes=())
    reply = ask(consortium, plan, task_of(asked, forged, action="train.mask"))
    assert isinstance(reply, Failure)
    assert (consortium.homes[0] / "ledger" / "tiny.jsonl").read_bytes() == before


def test_a_message_under_another_action_is_refused(consortium: Consortium) -> None:
    """What travels as one phase can't be another one's message."""
    plan = secure_plan(consortium)
    asked = start_of(plan)
    reply = ask(consortium, plan, task_of(asked, offer_of(consortium, asked), action="query.certify"))
    assert "expected CertifyRequest, got Offer" in reason_of(reply)


@pytest.mark.parametrize("works", [(), ("query.describe",), ("train.fit", "everything")])
def test_a_phase_for_unknown_work_is_refused(consortium: Consortium, works: tuple[str, ...]) -> None:
    """A round says what it is for, in words that the site knows."""
    plan = secure_plan(consortium)
    asked = start_of(plan)
    reply = ask(consortium, plan, task_of(asked, offer_of(consortium, asked), works=works))
    assert "no work that this site knows" in reason_of(reply)


@pytest.mark.parametrize("action", ["train.fit", "train.fisher", "query.statistics"])
def test_under_a_secure_plan_no_work_leaves_in_clear(consortium: Consortium, action: str) -> None:
    """A coordinator can't ask for the update itself under a plan that promises a sum."""
    plan = secure_plan(consortium)
    reply = ask(consortium, plan, start_of(plan).task(action))  # type: ignore[arg-type]
    assert "the plan has secure aggregation, which knows no" in reason_of(reply)


def test_under_an_insecure_plan_there_are_no_phases(consortium: Consortium) -> None:
    """And the other way round: a plan is one or the other."""
    plan = consortium.plan()
    asked = start_of(plan)
    reply = ask(consortium, plan, task_of(asked, offer_of(consortium, asked)))
    assert "the plan has insecure aggregation, which knows no query.offer" in reason_of(reply)


def test_a_site_outside_any_consortium_takes_no_part(consortium: Consortium) -> None:
    """Without a pinned key and a roster there is nothing to believe."""
    plan = secure_plan(consortium)
    asked = start_of(plan)
    (consortium.homes[0] / "consortium" / "roster.json").unlink()
    assert "joined no consortium" in reason_of(ask(consortium, plan, task_of(asked, offer_of(consortium, asked))))


def test_a_roster_that_was_changed_on_disk_is_not_believed(consortium: Consortium) -> None:
    """Its signature is verified each time it is read."""
    plan = secure_plan(consortium)
    path = consortium.homes[0] / "consortium" / "roster.json"
    path.write_bytes(path.read_bytes().replace(b'"n_min":3', b'"n_min":4'))
    asked = start_of(plan)
    reply = ask(consortium, plan, task_of(asked, offer_of(consortium, asked)))
    assert isinstance(reply, Failure)
    assert reply.code == "IntegrityError"


def test_an_expired_roster_is_refused(consortium: Consortium) -> None:
    """The site reads until when it was in force, and that its clock may be wrong."""
    now = datetime.now(UTC)
    dated = replace(consortium.roster, serial=2, valid_until=(now + timedelta(days=1)).strftime("%Y-%m-%dT%H:%M:%SZ"))
    signed = roster_to_bytes(sign_roster(dated, consortium.consortium_key))
    membership = SiteAgent.open(consortium.homes[0]).membership
    membership.renew(signed, now=now)
    assert membership.roster(now=now).serial == 2
    with pytest.raises(RefusedError, match="clock"):
        membership.roster(now=now + timedelta(days=2))


def test_an_older_roster_does_not_replace_a_later_one(consortium: Consortium) -> None:
    """Whoever was struck off can't come back by an old list."""
    membership = SiteAgent.open(consortium.homes[0]).membership
    now = datetime.now(UTC)
    first = (consortium.homes[0] / "consortium" / "roster.json").read_bytes()
    sign_in(consortium.homes, consortium.consortium_key, serial=2)
    with pytest.raises(IntegrityError, match="expected serial 2 or later, got 1"):
        membership.renew(first, now=now)


def test_a_roster_replaced_in_the_middle_of_an_attempt_ends_it(consortium: Consortium) -> None:
    """What was agreed under one policy is not gone on with under another."""
    plan = secure_plan(consortium)
    asked = start_of(plan)
    offer = offer_of(consortium, asked)
    assert isinstance(ask(consortium, plan, task_of(asked, offer)), Answer)
    sign_in(consortium.homes, consortium.consortium_key, serial=2)
    later = MaskRequest(turn=offer.turn, headers=(), boxes=())
    assert "replaced in the middle" in reason_of(ask(consortium, plan, task_of(asked, later, action="train.mask")))


def test_the_secrets_of_an_attempt_whose_roster_was_replaced_are_erased_at_once(consortium: Consortium) -> None:
    """No next offer need come: of the attempt, the site's folder has the mark and nothing else."""
    plan = secure_plan(consortium)
    asked = start_of(plan)
    offer = offer_of(consortium, asked)
    assert isinstance(ask(consortium, plan, task_of(asked, offer)), Answer)
    home = SiteHome(consortium.homes[0])
    before = stored_state(home)
    assert before.advertised is not None
    sign_in(consortium.homes, consortium.consortium_key, serial=2)
    assert stored_state(home) == before
    ask(consortium, plan, task_of(asked, MaskRequest(turn=offer.turn, headers=(), boxes=()), action="train.mask"))
    assert stored_state(home) == ClientState(marks=(offer.turn,))
    assert not list((home.secagg / "rounds").iterdir())


def test_another_consortiums_key_is_not_pinned_over_the_first(consortium: Consortium) -> None:
    """A site that belongs to a consortium leaves it before it joins another."""
    membership = SiteAgent.open(consortium.homes[0]).membership
    with pytest.raises(UsageError, match="pinned to another consortium key"):
        membership.join(bytes(32), b"", now=datetime.now(UTC))


def test_a_damaged_state_is_not_used(consortium: Consortium) -> None:
    """A site that can't read what it remembers drops out with a word, and reveals nothing."""
    plan = secure_plan(consortium)
    asked = start_of(plan)
    assert isinstance(ask(consortium, plan, task_of(asked, offer_of(consortium, asked))), Answer)
    path = consortium.homes[0] / "secagg" / "state.sealed"
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    reply = ask(consortium, plan, task_of(asked, offer_of(consortium, asked)))
    assert isinstance(reply, Failure)
    assert reply.code == "IntegrityError"


def test_a_lost_state_is_no_fresh_start(consortium: Consortium) -> None:
    """Whoever removes the state removes what was spent, so a site without it takes no part."""
    plan = secure_plan(consortium)
    asked = start_of(plan)
    (consortium.homes[0] / "secagg" / "state.sealed").unlink()
    reply = ask(consortium, plan, task_of(asked, offer_of(consortium, asked)))
    assert isinstance(reply, Failure)
    assert reply.code == "IntegrityError"


def test_what_is_not_agreed_does_not_fill_the_disk(consortium: Consortium) -> None:
    """Arrays that come with a message that the site refuses are not kept."""
    plan = secure_plan(consortium)
    asked = start_of(plan)
    ask(consortium, plan, task_of(asked, offer_of(consortium, asked, threshold=1)))
    forged = ShareRequest(offer=offer_of(consortium, asked), adverts=())
    ask(consortium, plan, task_of(asked, forged, action="train.share", arrays=asked.arrays))
    rounds = consortium.homes[0] / "secagg" / "rounds"
    assert not rounds.is_dir() or not list(rounds.iterdir())


def test_a_round_of_another_size_than_its_model_is_refused_before_any_charge(consortium: Consortium) -> None:
    """An offer whose work could not be uploaded costs nothing."""
    plan = secure_plan(consortium)
    asked = replace(start_of(plan), size=SIZE + 1)
    offer = offer_of(consortium, asked, lengths=(SIZE + 1, 1, 0))
    assert "the model's size" in reason_of(ask(consortium, plan, task_of(asked, offer)))


def test_an_unforeseen_error_in_training_leaves_no_text(
    consortium: Consortium, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A refusal travels to the coordinator, so it holds a reference to the site's log and nothing of the error."""

    def fail(*_: object, **__: object) -> None:
        raise ValueError("row of Mrs Example")

    monkeypatch.setattr("fedmed_site.training.train_locally", fail)
    plan = secure_plan(consortium)
    channel = consortium.channel(plan)
    with pytest.raises(Exception, match="internal failure"):
        consortium.runner(plan, tmp_path / "state", channel=channel).run()
    for _, _, reply in channel.seen:
        assert b"Example" not in (reply.message if isinstance(reply, Answer) else reply.reason.encode())
    assert b"Example" in (consortium.homes[0] / "site.log").read_bytes()


def test_clipped_values_are_told_to_the_site_and_to_nobody_else(consortium: Consortium, tmp_path: Path) -> None:
    """An update beyond the roster's clip is cut, and the site's own log says how many values."""
    training = replace(consortium.plan().training, rounds=1, learning_rate=1e4)
    plan = replace(secure_plan(consortium), training=training)
    channel = consortium.channel(plan)
    consortium.runner(plan, tmp_path / "state", channel=channel).run()
    assert b"values of delta were beyond the roster's clip" in (consortium.homes[0] / "site.log").read_bytes()


def test_after_the_run_an_offer_of_it_is_refused(consortium: Consortium) -> None:
    """A study that is over can't be begun again to get other sums of the same updates."""
    plan = secure_plan(consortium)
    asked = start_of(plan)
    over = Finish(run=run_of(asked.plan_digest, asked.works))
    assert isinstance(ask(consortium, plan, task_of(asked, over, action="query.end")), Answer)
    assert "expected a turn after" in reason_of(ask(consortium, plan, task_of(asked, offer_of(consortium, asked))))


def test_phases_without_training_need_no_torch(consortium: Consortium) -> None:
    """A whole appliance answers an offer of a plan that it knows without loading torch, opacus or transformers."""
    plan = secure_plan(consortium)
    asked = start_of(plan)
    assert isinstance(ask(consortium, plan, Task(action="query.describe", plan_digest=asked.plan_digest)), Answer)
    job = (str(consortium.homes[0]), canonical_json(plan), pickle.dumps(task_of(asked, offer_of(consortium, asked))))
    code = """
import pickle, sys
from pathlib import Path
from fedmed_site.agent import SiteAgent
from fedmed.exchange import Answer
home, plan, task = pickle.load(sys.stdin.buffer)
reply = SiteAgent.open(Path(home)).respond(plan, pickle.loads(task))
assert isinstance(reply, Answer), reply
loaded = {"torch", "opacus", "transformers", "peft"} & set(sys.modules)
assert not loaded, loaded
"""
    done = subprocess.run([sys.executable, "-c", code], input=pickle.dumps(job), capture_output=True, check=False)  # noqa: S603  our own code
    assert done.returncode == 0, done.stderr.decode()


CHILDREN = multiprocessing.get_context("forkserver")
CHILDREN.set_forkserver_preload(["federation", "fedmed_site.training"])


class MortalChannel(MemoryChannel):
    """A channel on which one site's process is killed at a chosen durable write, and then started again."""

    mortal = 1
    kill_at = 0
    writes = 0
    killed = False

    def ask(self, tasks: Mapping[int, Task], *, timeout_s: float) -> Iterator[tuple[int, Answer | Failure]]:
        for address, task in tasks.items():
            if address != self.mortal or self.killed:
                yield address, self.agent(address).respond(self.plan_json, task)
                continue
            first = self._in_child(task, kill=True)
            if first is not None and self.kill_at:
                yield address, first
                continue
            again = self._in_child(task, kill=False)
            if first is not None and isinstance(again, Answer):
                assert again.message == first.message
                assert again.digest() == first.digest()
            yield address, again if first is None else first

    def _in_child(self, task: Task, *, kill: bool) -> Any:
        """Answer in a process of its own; return None where it was killed."""
        ours, theirs = CHILDREN.Pipe()
        at = self.kill_at - self.writes if kill and not self.killed else 0
        child = CHILDREN.Process(
            target=answer_in_child, args=(theirs, self.homes[self.mortal], self.plan_json, pickle.dumps(task), at)
        )
        child.start()
        theirs.close()
        try:
            count, reply = ours.recv()
        except EOFError:
            self.killed = True
            return None
        finally:
            child.join()
        self.writes += count if kill else 0
        return pickle.loads(reply)  # noqa: S301  from our own child


@pytest.mark.slow
def test_a_site_killed_at_any_write_repeats_its_bytes_or_drops_out(consortium: Consortium, tmp_path: Path) -> None:
    """Kill -9 at each durable write of a round: restarted, it says what it said before, and the sum stays exact.

    Where the process died before its reply left, the restarted one answers afresh; where the reply had
    left and was asked again, the bytes are the same or it refuses. The budget is never under-counted.
    """
    plan = secure_plan(consortium)
    models = []
    for kill_at in range(1 << 10):
        twin = twin_of(consortium, tmp_path / f"twin-{kill_at}")
        channel = MortalChannel(twin.homes, canonical_json(plan))
        channel.kill_at = kill_at
        state = tmp_path / f"state-{kill_at}"
        twin.runner(plan, state, channel=channel).run()
        progress = load_progress(state / "checkpoint.tensors", plan_digest=digest(plan))
        assert progress is not None
        models.append(progress.model)
        assert len(SiteAgent.open(twin.homes[1]).ledger("tiny").events()) == 1
        if kill_at and not channel.killed:
            break
    assert len(models) > 20
    assert all(np.abs(model - models[0]).max() < 1e-5 for model in models)


@pytest.mark.slow
def test_a_site_killed_under_shared_noise_is_charged_for_every_share(consortium: Consortium, tmp_path: Path) -> None:
    """Kill -9 at durable writes of a round and of the Fisher information: each share that may have left is paid.

    A share that was masked once is never used for another sum, so that a restarted site draws anew and pays again.
    """
    plan = consortium.plan(
        aggregation=SECURE,
        training=replace(consortium.plan().training, rounds=1, local_steps=1, sample_rate=1.0),
        privacy=replace(PRIVATE, trust_model="distributed", distance=1e-9),
    )
    killed = 0
    for kill_at in range(5, 1 << 10, 9):
        twin = twin_of(consortium, tmp_path / f"twin-{kill_at}")
        channel = MortalChannel(twin.homes, canonical_json(plan))
        channel.kill_at = kill_at
        twin.runner(plan, tmp_path / f"state-{kill_at}", channel=channel).run()
        ledger = SiteAgent.open(twin.homes[1]).ledger("tiny")
        ledger.verify()
        entries = ledger._log.entries()
        charged = [entry.body["charge_id"] for entry in entries if entry.kind == "charged"]
        left = [entry.body["charge_id"] for entry in entries if entry.kind == "released"]
        assert {"train.fit", "train.fisher"} <= {str(name).split("/")[1] for name in left}
        assert set(left) <= set(charged)
        assert len(set(charged)) == len(charged) == len(ledger.events()) >= 2
        killed += channel.killed
        if not channel.killed:
            break
    assert killed > 3
