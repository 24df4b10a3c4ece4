"""A study over secure aggregation: the same model as in the clear, and nothing of one site on the wire."""

import os
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from federation import PRIVATE, SECURE, Consortium, build_consortium, sign_in, twin_of, unsigned_receipts

from fedmed.errors import IntegrityError, SiteFailureError
from fedmed.exchange import Answer, Round, Task, Work, answer_from_bytes
from fedmed.records import OptimiserSpec, TrustModel, digest
from fedmed.secagg import masking, parcels
from fedmed.secagg.bindings import signed_of_advert
from fedmed.secagg.dealing import make_pair
from fedmed.secagg.messages import Masked, Offer, Turn
from fedmed.secagg.server import begin, step
from fedmed_server.attempt_store import AttemptStore
from fedmed_server.checkpoint import load_progress
from fedmed_server.secure import SecureAggregator
from fedmed_sim.entropy import SimulatedEntropy
from fedmed_site.agent import SiteAgent
from fedmed_site.home import SiteHome
from fedmed_site.replies import HEAD_BYTES

SHARED = replace(PRIVATE, trust_model="distributed", distance=1e-9, noise_multiplier=4.0, release_noise_multiplier=8.0)
PHASES = ("query.offer", "train.share", "train.mask", "query.certify", "query.unmask")


@pytest.fixture
def consortium(tmp_path: Path) -> Consortium:
    """Four prepared sites under one roster."""
    return build_consortium(tmp_path, sites=4, rows=120)


def offer_for(consortium: Consortium) -> Offer:
    """Return fair terms of a first round."""
    return Offer(
        turn=Turn(run="run", round=0, attempt=0),
        cohort=consortium.roster.names,
        threshold=3,
        roster=consortium.roster.digest(),
        model=bytes(32),
        lengths=(4, 1, 0),
    )


def model_of(consortium: Consortium, state: Path, **changes: object) -> np.ndarray:
    """Run a study and return the coordinator's last model."""
    plan = consortium.plan(**changes)
    consortium.runner(plan, state).run()
    progress = load_progress(state / "checkpoint.tensors", plan_digest=digest(plan))
    assert progress is not None
    return progress.model


def bound_of(consortium: Consortium, rounds: int, records: int) -> float:
    """Return the largest rounding error that so many rounds can add up to, per coordinate."""
    policy = consortium.roster.policy
    return rounds * masking.error_bound(policy.segments[0], sites=4, weight_sum=records / policy.max_weight).maximum


@pytest.mark.parametrize("kind", ["fedavg", "fedavgm", "fedadam", "fedyogi", "fedadagrad"])
def test_every_optimiser_gets_the_same_mean_as_in_the_clear(consortium: Consortium, tmp_path: Path, kind: str) -> None:
    """One round of each strategy differs from the sum in the clear by the encoding's error and no more."""
    training = replace(consortium.plan().training, rounds=1)
    optimiser = OptimiserSpec(kind=kind, learning_rate=0.5 if kind != "fedavg" else 1.0, tau=0.1)  # type: ignore[arg-type]
    changes = {"training": training, "optimiser": optimiser}
    plain = model_of(consortium, tmp_path / "plain", **changes)
    secure = model_of(consortium, tmp_path / "secure", aggregation=SECURE, **changes)
    assert np.abs(plain).max() > 0.01
    assert np.abs(secure - plain).max() <= 10 * bound_of(consortium, 1, 300)


def test_a_private_study_gives_the_same_model_as_in_the_clear(consortium: Consortium, tmp_path: Path) -> None:
    """With noise from a seed, three rounds and their Fisher information agree to the rounding error."""
    plain = model_of(consortium, tmp_path / "plain", privacy=PRIVATE)
    secure = model_of(consortium, tmp_path / "secure", privacy=PRIVATE, aggregation=SECURE)
    assert np.abs(secure - plain).max() <= 10 * bound_of(consortium, 3, 300)


def test_federated_statistics_agree(consortium: Consortium, tmp_path: Path) -> None:
    """Means and scales that come out of the secure sum are those of the sum in the clear."""
    data = replace(consortium.plan().data, normalisation="federated")
    found = []
    for name, changes in (("plain", {}), ("secure", {"aggregation": SECURE})):
        plan = consortium.plan(data=data, **changes)
        consortium.runner(plan, tmp_path / name).run()
        progress = load_progress(tmp_path / name / "checkpoint.tensors", plan_digest=digest(plan))
        assert progress is not None
        found.append(np.concatenate([progress.mean, progress.scale]))
    assert np.abs(found[0] - found[1]).max() < 1e-3


def test_no_message_holds_an_update_a_weight_or_a_count(consortium: Consortium, tmp_path: Path) -> None:
    """Each masked vector looks nothing like its site's stored work, and no answer has a number in clear."""
    plan = consortium.plan(aggregation=SECURE)
    channel = consortium.channel(plan)
    seen = 0

    def watch(address: int, task: Task) -> None:
        nonlocal seen
        for earlier_address, earlier, reply in channel.seen:
            if earlier.action != "train.mask" or not isinstance(reply, Answer) or earlier_address != address:
                continue
            message = parcels.join(reply.message, reply.arrays)
            assert isinstance(message, Masked)
            stored = SiteHome(channel.homes[address]).replies / digest(plan) / f"train.fit-{earlier.round:06d}.reply"
            if not stored.is_file():
                continue
            mean = answer_from_bytes(stored.read_bytes()[HEAD_BYTES:]).arrays["mean"]
            ring = np.frombuffer(message.payload[0], dtype="<u4")
            clear = np.round(mean * 2.0**22).astype(np.int64).astype(np.uint32)
            assert not set(ring.tolist()) & set(clear.tolist())
            seen += 1

    channel.before = watch
    consortium.runner(plan, tmp_path / "state", channel=channel).run()
    assert seen > 10
    for _, task, reply in channel.seen:
        assert isinstance(reply, Answer)
        if task.action != "query.describe":
            assert not reply.facts
        assert set(reply.arrays) <= {"0", "1", "2"}
        assert not reply.arrays or task.action == "train.mask"


def test_a_round_costs_four_exchanges(consortium: Consortium, tmp_path: Path) -> None:
    """Adverts of the next round ride on this one's unmasking, so only the first round is offered."""
    plan = consortium.plan(aggregation=SECURE, continual=replace(consortium.plan().continual, release_fisher=False))
    channel = consortium.channel(plan)
    consortium.runner(plan, tmp_path / "state", channel=channel).run()
    asked = Counter(task.action for _, task, _ in channel.seen)
    assert asked["query.offer"] == 4
    assert [asked[phase] for phase in PHASES[1:]] == [12, 12, 12, 12]


def test_the_model_travels_once_per_round(consortium: Consortium, tmp_path: Path) -> None:
    """Only the first message of a round brings what it starts from; the others are a few hundred bytes."""
    plan = consortium.plan(aggregation=SECURE)
    channel = consortium.channel(plan)
    consortium.runner(plan, tmp_path / "state", channel=channel).run()
    brought = Counter((task.round, task.works, address) for address, task, _ in channel.seen if task.arrays)
    assert set(brought.values()) == {1}


def test_what_is_left_at_a_site_after_a_study_is_no_key(consortium: Consortium, tmp_path: Path) -> None:
    """At the end every site erases keys, adverts and what the rounds started from."""
    plan = consortium.plan(aggregation=SECURE)
    consortium.runner(plan, tmp_path / "state").run()
    for home in consortium.homes:
        state = SiteAgent.open(home)._participant._restore()
        assert state.early is None
        assert state.advertised is None
        assert not list((home / "secagg" / "rounds").iterdir())


@pytest.mark.parametrize("phase", PHASES)
def test_a_hospital_that_drops_out_is_named_and_the_rest_goes_on(
    consortium: Consortium, tmp_path: Path, phase: str
) -> None:
    """From whichever phase a site is silent in one round, the study ends with a model of the others' sums."""
    plan = consortium.plan(aggregation=SECURE)
    channel = consortium.channel(plan)

    def drop(address: int, task: Task) -> None:
        if address == 2 and task.round == 1 and task.action == phase:
            channel.silent.add(2)
        elif task.round == 2:
            channel.silent.discard(2)

    channel.before = drop
    runner = consortium.runner(plan, tmp_path / "state", channel=channel)
    result = runner.run()
    assert result.rounds == 3
    if phase in PHASES[1:]:
        assert {failure.site for failure in runner._listener.failures} == {"h3"}


def test_too_few_sites_end_the_study_and_name_who_is_missing(consortium: Consortium, tmp_path: Path) -> None:
    """The coordinator reads which phase, how many were needed, who was missing and why."""
    plan = consortium.plan(aggregation=SECURE)
    channel = consortium.channel(plan)

    def drop(_address: int, task: Task) -> None:
        if task.action == "query.offer":
            channel.silent |= {1, 2}

    channel.before = drop
    with pytest.raises(SiteFailureError, match=r"needs 3.*missing: h2, h3.*h2: no reply.*h3: no reply"):
        consortium.runner(plan, tmp_path / "state", channel=channel).run()


def test_a_wrong_roster_is_named(consortium: Consortium, tmp_path: Path) -> None:
    """Sites with a later roster than the coordinator's refuse, and the message says what to distribute."""
    plan = consortium.plan(aggregation=SECURE)
    sign_in(consortium.homes, consortium.consortium_key, serial=2)
    with pytest.raises(SiteFailureError, match="expected roster serial 2"):
        consortium.runner(plan, tmp_path / "state").run()


def test_an_attempt_that_fails_is_begun_again_without_who_failed(consortium: Consortium, tmp_path: Path) -> None:
    """Two of five sites that vanish after the sharing leave too few; the next attempt does without them."""
    five = build_consortium(tmp_path / "five", sites=5, rows=120)
    sign_in(five.homes, five.consortium_key, serial=2, max_corrupt=1)
    five = replace(five, roster=SiteAgent.open(five.homes[0]).membership.roster(now=datetime.now(UTC)))
    plan = five.plan(aggregation=SECURE)
    channel = five.channel(plan)

    def drop(_address: int, task: Task) -> None:
        if task.action == "train.mask" and task.round == 1:
            channel.silent |= {3, 4}

    channel.before = drop
    result = five.runner(plan, tmp_path / "state", channel=channel).run()
    assert result.rounds == 3
    for home in five.homes[:3]:
        charged = SiteAgent.open(home).ledger("tiny")
        assert sum("again" in str(entry.body) for entry in charged._log.entries()) == 0


def test_work_in_a_certified_sum_is_never_offered_again(consortium: Consortium, tmp_path: Path) -> None:
    """If the unmasking fails after sites have certified, they train anew under a charge of its own."""
    plan = consortium.plan(aggregation=SECURE, privacy=PRIVATE)
    channel = consortium.channel(plan)
    failed = []

    def drop(address: int, task: Task) -> None:
        if task.action == "query.certify" and task.round == 0 and not failed:
            failed.append(address)
        if task.action == "query.unmask" and len(failed) == 1:
            channel.silent |= {1, 2, 3}
            failed.append(-1)
        if task.action == "query.offer" and len(failed) == 2:
            channel.silent.clear()

    channel.before = drop
    with pytest.raises(SiteFailureError, match="after training again"):
        consortium.runner(plan, tmp_path / "state", channel=channel).run()
    channel.silent.clear()
    consortium.runner(plan, tmp_path / "state", channel=channel).run()
    ledger = SiteAgent.open(consortium.homes[1]).ledger("tiny")
    charges = [str(entry.body.get("charge_id", "")) for entry in ledger._log.entries() if entry.kind == "charged"]
    assert sum(charge.endswith("train.fit/0/again-1") for charge in charges) == 1


@pytest.mark.parametrize("damaged", [b"", b"{}", b'{"version":1', b'{"version":1,"surprise":0}', b"\xff"])
def test_a_damaged_attempt_says_which_file_it_is_and_what_to_do(
    consortium: Consortium, tmp_path: Path, damaged: bytes
) -> None:
    """Whoever runs the coordinator reads a path and a way on, and no name of a class."""
    (tmp_path / "attempt.json").write_bytes(damaged)
    with pytest.raises(IntegrityError, match=r"attempt\.json: .* damaged .* restore it from a backup") as error:
        AttemptStore(tmp_path).load(consortium.roster)
    assert "_Record" not in str(error.value)


@pytest.mark.parametrize("moment", [0, 2])
@pytest.mark.parametrize("phase", PHASES)
def test_a_killed_coordinator_takes_the_attempt_up(tmp_path: Path, phase: str, moment: int) -> None:
    """Killed between two messages of a phase, it resumes to the very model of a run that was never killed."""
    killed = build_consortium(tmp_path / "killed", sites=4, rows=120)
    whole = twin_of(killed, tmp_path / "whole")
    plan = killed.plan(aggregation=SECURE, privacy=PRIVATE)
    due = [True]

    def die(address: int, task: Task) -> None:
        if due and address == moment and task.action == phase and task.round == (phase != "query.offer"):
            due.clear()
            raise KeyboardInterrupt

    models = []
    for consortium, before in ((whole, None), (killed, die)):
        state = tmp_path / f"state-{len(models)}"
        for _ in range(2):
            channel = consortium.channel(plan)
            channel.entropy_of = SimulatedEntropy(1)
            channel.before = before or channel.before
            with suppress(KeyboardInterrupt):
                consortium.runner(plan, state, channel=channel).run()
                break
        progress = load_progress(state / "checkpoint.tensors", plan_digest=digest(plan))
        assert progress is not None
        models.append(progress.model.tobytes())
    assert not due
    assert models[0] == models[1]


def test_a_study_with_shared_noise_charges_each_site_for_the_whole_noise(
    consortium: Consortium, tmp_path: Path
) -> None:
    """Every site's ledger has the plan's noise and its distance from a Gaussian; the model moved."""
    plan = consortium.plan(
        aggregation=SECURE,
        training=replace(consortium.plan().training, local_steps=1),
        privacy=replace(SHARED, noise="system"),
    )
    consortium.runner(plan, tmp_path / "state").run()
    progress = load_progress(tmp_path / "state" / "checkpoint.tensors", plan_digest=digest(plan))
    assert progress is not None
    assert np.abs(progress.model).max() > 0
    for home in consortium.homes:
        events = SiteAgent.open(home).ledger("tiny").events()
        assert [(event.noise_multiplier, event.distance) for event in events] == [(4.0, 1e-9)] * 3 + [(8.0, 1e-9)]


@pytest.mark.parametrize(
    "changes",
    [
        {"aggregation": replace(SECURE, kind="insecure")},
        {"training": {"local_steps": 2}},
        {"training": {"sample_rate": 0.5}},
    ],
)
def test_shared_noise_is_refused_where_it_would_not_hold(consortium: Consortium, changes: dict[str, Any]) -> None:
    """Outside one clipped sum a round under secure aggregation, no such plan exists."""
    training = replace(
        consortium.plan().training, **{"local_steps": 1, "sample_rate": 1.0, **changes.get("training", {})}
    )
    with pytest.raises(ValueError, match=r"privacy\.trust_model must be local"):
        consortium.plan(aggregation=changes.get("aggregation", SECURE), training=training, privacy=SHARED)


def test_partial_participation(consortium: Consortium, tmp_path: Path) -> None:
    """Three of four sites are invited each round, not always the same, and each round's sum is over just them."""
    plan = consortium.plan(
        aggregation=replace(SECURE, sites_per_round=3),
        training=replace(consortium.plan().training, rounds=6),
        continual=replace(consortium.plan().continual, release_fisher=False),
    )
    channel = consortium.channel(plan)
    consortium.runner(plan, tmp_path / "state", channel=channel).run()
    masked: dict[int, set[int]] = {}
    for address, task, _ in channel.seen:
        if task.action == "train.mask":
            masked.setdefault(task.round, set()).add(address)
    assert [len(sites) for sites in masked.values()] == [3] * 6
    assert len({frozenset(sites) for sites in masked.values()}) > 1


def test_a_ring_of_sixteen_bits_is_coarser_as_its_bound_says(consortium: Consortium, tmp_path: Path) -> None:
    """Half the bytes: the model differs from the one in the clear by no more than the printed error, and by some."""
    sign_in(consortium.homes, consortium.consortium_key, serial=2, bits=16)
    sixteen = replace(consortium, roster=SiteAgent.open(consortium.homes[0]).membership.roster(now=datetime.now(UTC)))
    training = replace(consortium.plan().training, rounds=1)
    plain = model_of(consortium, tmp_path / "plain", training=training)
    coarse = model_of(sixteen, tmp_path / "coarse", training=training, aggregation=SECURE)
    records = sum(
        len(SiteAgent.open(home).datasets.load(sixteen.plan().data, "train").labels) for home in sixteen.homes
    )
    apart = np.abs(coarse - plain).max()
    assert 1e-5 < apart <= bound_of(sixteen, 1, records)


@pytest.mark.parametrize("trust", ["local", "distributed"])
def test_an_upload_that_others_certified_is_not_noised_twice_under_one_charge(
    consortium: Consortium, tmp_path: Path, trust: TrustModel
) -> None:
    """A coordinator that keeps the certification from one site can unmask its upload all the same.

    With noise of its own, what the site offers next time is the same noisy vector and costs nothing; with shared
    noise it is another draw over the same records, so it is charged again.
    """
    plan = consortium.plan(
        aggregation=SECURE,
        training=replace(consortium.plan().training, local_steps=1),
        privacy=SHARED if trust == "distributed" else PRIVATE,
    )
    channel = consortium.channel(plan)
    again = []

    def hide(address: int, task: Task) -> None:
        if task.action == "query.certify" and task.round == 0 and not again:
            channel.silent = {0}
        elif task.action == "query.unmask" and task.round == 0 and address == 1 and not again:
            again.append(True)
            channel.silent = set()
            raise KeyboardInterrupt

    channel.before = hide
    with suppress(KeyboardInterrupt):
        consortium.runner(plan, tmp_path / "first", channel=channel).run()
    (tmp_path / "first" / "secagg" / "attempt.json").unlink()
    channel.before = lambda _address, _task: None
    runner = consortium.runner(plan, tmp_path / "first", channel=channel)
    runner._aggregator._next_attempt = lambda asked: 1 if asked.number == 0 else 0
    runner.run()
    ledger = SiteAgent.open(consortium.homes[0]).ledger("tiny")
    charges = [str(entry.body.get("charge_id", "")) for entry in ledger._log.entries() if entry.kind == "charged"]
    assert sum("train.fit/0" in charge for charge in charges) == (2 if trust == "distributed" else 1)


def test_every_segment_of_a_round_is_charged_anew_on_its_own(consortium: Consortium, tmp_path: Path) -> None:
    """Fisher information that was worked anew does not make the update beside it look fresh, or the other way round."""
    plan = consortium.plan(
        aggregation=replace(SECURE, attempts=3),
        training=replace(consortium.plan().training, rounds=1, local_steps=1),
        privacy=SHARED,
    )
    channel = consortium.channel(plan)
    cohort = dict(enumerate(consortium.roster.names))
    model = np.zeros(4, np.float32)
    store = AttemptStore(tmp_path / "secagg")
    aggregator = SecureAggregator(
        plan.aggregation, roster=consortium.roster, store=store, rounds=1, receipts=unsigned_receipts(tmp_path)
    )
    both: tuple[Work, ...] = ("train.fit", "train.fisher")
    rounds: tuple[tuple[int, tuple[Work, ...]], ...] = ((0, ("train.fisher",)), (0, both), (1, both))
    for number, works in rounds:
        aggregator._next_attempt = lambda _asked, number=number: number
        asked = Round(works=works, plan_digest=digest(plan), arrays={"model": model}, size=4)
        aggregator.collect(channel, asked, cohort)
        (tmp_path / "secagg" / "attempt.json").unlink()
    ledger = SiteAgent.open(consortium.homes[0]).ledger("tiny")
    entries = [entry for entry in ledger._log.entries() if entry.kind == "charged"]
    charges = [str(entry.body["charge_id"]).partition("/")[2] for entry in entries]
    assert charges == [
        "train.fisher/0",
        "train.fit/0",
        "train.fisher/0/again-1",
        "train.fit/0/again-1",
        "train.fisher/0/again-2",
    ]


def test_a_second_study_from_the_same_start_is_another_release(consortium: Consortium, tmp_path: Path) -> None:
    """Equal clipped sums of two plans are each noised and charged; neither plan is refused for the other's sake."""
    training = replace(consortium.plan().training, rounds=1, local_steps=1)
    for seed in (1, 2):
        plan = consortium.plan(aggregation=SECURE, training=training, privacy=SHARED, seed=seed)
        assert consortium.runner(plan, tmp_path / str(seed)).run().rounds == 1


@pytest.mark.parametrize("array", [np.zeros(4, "datetime64[s]"), np.zeros(4), np.zeros((2, 2), np.uint8)])
def test_a_masked_vector_of_another_kind_is_its_sites_fault(
    consortium: Consortium, tmp_path: Path, array: np.ndarray
) -> None:
    """One hostile reply can't end the coordinator; its site is named and the others go on."""
    plan = consortium.plan(aggregation=SECURE)
    channel = consortium.channel(plan)
    original = channel.agent

    class Hostile:
        def __init__(self, agent: SiteAgent) -> None:
            self.agent = agent

        def respond(self, plan_json: bytes, task: Task) -> Answer:
            reply = self.agent.respond(plan_json, task)
            return replace(reply, arrays={"0": array}) if task.action == "train.mask" else reply

    channel.agent = lambda address: Hostile(original(address)) if address == 3 else original(address)
    runner = consortium.runner(plan, tmp_path / "state", channel=channel)
    assert runner.run().rounds == 3
    assert {failure.site for failure in runner._listener.failures} == {"h4"}


def test_a_site_whose_keys_are_another_ones_is_named(consortium: Consortium) -> None:
    """Two adverts with one key would make every site refuse, so the coordinator drops the second and names it."""
    state, _ = begin(roster=consortium.roster, offer=offer_for(consortium))
    keys = [SiteAgent.open(home).membership.signing_key() for home in consortium.homes]
    pair = make_pair(state.offer, site="h1", signing_key=keys[0], entropy=os.urandom)
    state, _ = step(state, pair.advert)
    stolen = replace(pair.advert, site="h2")
    stolen = replace(stolen, signature=keys[1].sign(signed_of_advert(stolen, state.offer)))
    state, _ = step(state, stolen)
    assert [fault.site for fault in state.faults] == ["h2"]
