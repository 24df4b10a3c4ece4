"""Behaviour of the coordinator's study over an in-memory federation: learning, resuming, remembering, failing."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from federation import PRIVATE, WARDS, Consortium, MemoryChannel, SilentListener, build_consortium, twin_of

from fedmed.errors import ConfigError, IntegrityError, SiteFailureError
from fedmed.exchange import Answer, Failure, Task
from fedmed.learning.ewc import Knowledge
from fedmed.records import AggregationSpec, Plan, PrivacySpec, canonical_json, digest
from fedmed_server.aggregators import InsecureAggregator
from fedmed_server.result import load_knowledge
from fedmed_server.study import StudyFolders, StudyRunner
from fedmed_site.agent import SiteAgent


class KilledError(Exception):
    """The coordinator's process died here."""


@pytest.fixture
def consortium(tmp_path: Path) -> Consortium:
    """Return three prepared sites."""
    return build_consortium(tmp_path)


def accuracies(consortium: Consortium, plan: Plan) -> list[float]:
    """Return the released model's accuracy at every site, as the sites recorded it."""
    records = [SiteAgent.open(home).evaluations.read(digest(plan)) for home in consortium.homes]
    return [record.accuracy for found in records for record in found if record.stage == "final" and record.view == 0]


def kill_at(action: str, number: int, address: int = 1) -> Callable[[int, Task], None]:
    """Return a hook that kills the coordinator when it is about to ask this."""

    def kill(asked: int, task: Task) -> None:
        if (asked, task.action, task.round) == (address, action, number):
            raise KilledError

    return kill


def silence_h3(channel: MemoryChannel) -> Callable[[int, Task], None]:
    """Return a hook that takes the third site off the network once training starts."""

    def silence(_asked: int, task: Task) -> None:
        if task.action == "train.fit":
            channel.silent.add(2)

    return silence


class OtherStart(MemoryChannel):
    """A channel over which h2 says that it starts from another model."""

    def ask(self, tasks: Mapping[int, Task], *, timeout_s: float) -> Iterator[tuple[int, Answer | Failure]]:
        for address, reply in super().ask(tasks, timeout_s=timeout_s):
            if isinstance(reply, Answer) and reply.site == "h2" and "start" in reply.facts:
                yield address, replace(reply, facts={**reply.facts, "start": "0" * 64})
            else:
                yield address, reply


def heard(
    consortium: Consortium, plan: Plan, state: Path, channel: MemoryChannel, *, members: frozenset[str] | None = None
) -> tuple[StudyRunner, SilentListener]:
    """Return a coordinator, and the listener that hears of its sites; only `members` may stand in a sum."""
    listener, aggregator = SilentListener(), InsecureAggregator(plan.aggregation)
    aggregator.members = members
    folders = StudyFolders(base=consortium.base, state=state)
    runner = StudyRunner(plan, folders, channel=channel, aggregator=aggregator, knowledge=None, listener=listener)
    return runner, listener


def test_three_sites_learn_what_none_was_told(consortium: Consortium, tmp_path: Path) -> None:
    """After a few rounds the shared model is better than chance, and every site evaluated it."""
    plan = consortium.plan(training=replace(consortium.plan().training, rounds=6))
    result = consortium.runner(plan, tmp_path / "state").run()
    assert result.sites == result.evaluated == ("h1", "h2", "h3")
    assert np.mean(accuracies(consortium, plan)) > 0.65


def test_the_coordinator_never_gets_a_metric_or_a_name(consortium: Consortium, tmp_path: Path) -> None:
    """No answer holds anything but a mean, its weight, or facts about software; no file holds a name."""
    plan = consortium.plan()
    channel = consortium.channel(plan)
    consortium.runner(plan, tmp_path / "state", channel=channel).run()
    for _, _task, reply in channel.seen:
        assert set(reply.arrays) <= {"mean"}
        assert set(reply.facts) <= {"weight", "fedmed", "start"}
    written = b"".join(path.read_bytes() for path in (tmp_path / "state").rglob("*") if path.is_file())
    assert not [name for name in consortium.patients if name.encode() in written]


@pytest.mark.parametrize("privacy", [None, PRIVATE], ids=["plain", "seeded-noise"])
@pytest.mark.parametrize("point", [("train.fit", 0), ("train.fit", 2), ("evaluate.held_out", 0), ("train.fisher", 0)])
def test_a_killed_study_resumes_to_the_same_result(
    consortium: Consortium, tmp_path: Path, point: tuple[str, int], privacy: object
) -> None:
    """Killed between two sites of an exchange, a coordinator ends with the same bits, and nobody pays twice."""
    plan = consortium.plan() if privacy is None else consortium.plan(privacy=privacy)
    twin = build_consortium(tmp_path / "twin")
    twin.runner(plan, tmp_path / "whole").run()

    channel = consortium.channel(plan)
    channel.before = kill_at(*point)
    with pytest.raises(KilledError):
        consortium.runner(plan, tmp_path / "killed", channel=channel).run()
    consortium.runner(plan, tmp_path / "killed").run()

    whole, killed = (load_knowledge(tmp_path / name) for name in ("whole", "killed"))
    assert (whole.anchor == killed.anchor).all()
    assert (whole.fisher == killed.fisher).all()
    spent = [SiteAgent.open(home).ledger("tiny").spent() for home in (*twin.homes, *consortium.homes)]
    assert len(set(spent)) == 1


def test_a_finished_study_is_not_run_again(consortium: Consortium, tmp_path: Path) -> None:
    """Running a finished study asks no site anything."""
    plan = consortium.plan()
    consortium.runner(plan, tmp_path / "state").run()
    channel = consortium.channel(plan)
    consortium.runner(plan, tmp_path / "state", channel=channel).run()
    assert not channel.seen


def test_a_checkpoint_of_another_plan_is_refused(consortium: Consortium, tmp_path: Path) -> None:
    """Settings that changed between a kill and a resumption are noticed."""
    plan = consortium.plan()
    channel = consortium.channel(plan)
    channel.before = kill_at("train.fit", 1)
    with pytest.raises(KilledError):
        consortium.runner(plan, tmp_path / "state", channel=channel).run()
    with pytest.raises(IntegrityError, match="another plan"):
        consortium.runner(replace(plan, seed=8), tmp_path / "state").run()


def test_a_silent_hospital_is_named_and_the_round_goes_on(consortium: Consortium, tmp_path: Path) -> None:
    """With two of three sites the study completes, and the listener hears who is missing and why."""
    plan = consortium.plan()
    channel = consortium.channel(plan)
    listener = SilentListener()
    runner = StudyRunner(
        plan,
        StudyFolders(base=consortium.base, state=tmp_path / "state"),
        channel=channel,
        aggregator=InsecureAggregator(plan.aggregation),
        knowledge=None,
        listener=listener,
    )
    channel.before = silence_h3(channel)
    assert runner.run().sites == ("h1", "h2", "h3")
    assert {failure.site for failure in listener.failures} == {"h3"}
    assert "no reply" in listener.failures[0].reason


def test_too_few_sites_end_the_round_with_their_names(consortium: Consortium, tmp_path: Path) -> None:
    """Below the plan's minimum the study stops, keeps its checkpoint, and says who is missing."""
    plan = consortium.plan(aggregation=AggregationSpec(kind="insecure", min_sites=3))
    channel = consortium.channel(plan)
    channel.before = silence_h3(channel)
    with pytest.raises(SiteFailureError, match=r"at least 3 sites, got 2; h3: no reply within"):
        consortium.runner(plan, tmp_path / "state", channel=channel).run()
    assert consortium.runner(plan, tmp_path / "state").run().rounds == 3


def test_nobody_connected_is_an_error_not_an_empty_study(consortium: Consortium, tmp_path: Path) -> None:
    """A coordinator without sites says so."""
    plan = consortium.plan()
    with pytest.raises(SiteFailureError, match="got 0; nobody is connected"):
        consortium.runner(plan, tmp_path / "state", channel=MemoryChannel((), canonical_json(plan))).run()


def test_two_sites_of_one_name_are_left_out_and_the_others_go_on(consortium: Consortium, tmp_path: Path) -> None:
    """Nothing tells which of the two is right, and one site must not count twice; the log says so of both."""
    plan = consortium.plan()
    channel = MemoryChannel((*consortium.homes, consortium.homes[0]), canonical_json(plan))
    runner, listener = heard(consortium, plan, tmp_path / "state", channel)
    assert runner.run().sites == ("h2", "h3")
    assert [failure.site for failure in listener.failures] == ["h1", "h1"]
    assert "several nodes call themselves h1" in listener.failures[0].reason


def test_a_site_with_another_start_is_left_out_and_the_others_go_on(consortium: Consortium, tmp_path: Path) -> None:
    """It has another base or another version; it is named, with the cure, and no round asks it."""
    plan = consortium.plan()
    channel = OtherStart(consortium.homes, canonical_json(plan))
    runner, listener = heard(consortium, plan, tmp_path / "state", channel)
    assert runner.run().sites == ("h1", "h3")
    assert [(failure.site, failure.code) for failure in listener.failures] == [("h2", "ProtocolError")]
    assert "starts from another model; give it the same base" in listener.failures[0].reason
    assert {reply.site for _, task, reply in channel.seen if task.action == "train.fit"} == {"h1", "h3"}


def test_too_few_sites_with_the_right_start_are_an_error_that_names_the_others(
    consortium: Consortium, tmp_path: Path
) -> None:
    """The study stops before its first round, and can go on once they are cured."""
    plan = consortium.plan(aggregation=AggregationSpec(kind="insecure", min_sites=3))
    channel = OtherStart(consortium.homes, canonical_json(plan))
    with pytest.raises(SiteFailureError, match=r"at least 3 sites, got 2; h2: it starts from another model"):
        consortium.runner(plan, tmp_path / "state", channel=channel).run()
    assert consortium.runner(plan, tmp_path / "state").run().rounds == 3


def test_a_site_that_is_not_in_the_roster_is_left_out(consortium: Consortium, tmp_path: Path) -> None:
    """Enrolled, and not yet in a signed roster: no other site would share a sum with it."""
    plan = consortium.plan()
    members = frozenset({"h1", "h2"})
    runner, listener = heard(consortium, plan, tmp_path / "state", consortium.channel(plan), members=members)
    assert runner.run().sites == ("h1", "h2")
    assert [failure.site for failure in listener.failures] == ["h3"]
    assert "does not stand in the consortium's signed roster" in listener.failures[0].reason


def test_consolidation_keeps_what_the_fisher_marks(consortium: Consortium, tmp_path: Path) -> None:
    """Coordinates that earlier studies found important stay near the anchor, the others move freely."""
    plan = consortium.plan()
    anchor = np.array([2.0, -2.0, 1.0, 0.5])
    knowledge = Knowledge(anchor=anchor, fisher=np.array([1e6, 0.0, 1e6, 0.0]))
    plan = replace(plan, continual=replace(plan.continual, strength=1.0))
    consortium.runner(plan, tmp_path / "state", knowledge=knowledge).run()
    moved = np.abs(load_knowledge(tmp_path / "state").anchor - anchor)
    assert moved[[0, 2]].max() < 1e-4
    assert moved[[1, 3]].min() > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("privacy", [None, PRIVATE], ids=["plain", "private"])
def test_both_uses_of_earlier_knowledge_keep_the_first_study(
    consortium: Consortium, tmp_path: Path, privacy: PrivacySpec | None
) -> None:
    """After a study of the other ward, closed form, penalty, and penalty beside a proximal term all beat forgetting."""
    changes = {"training": replace(consortium.plan().training, rounds=4, learning_rate=0.5)}
    if privacy is not None:
        changes |= {"privacy": replace(privacy, noise_multiplier=0.3, release_noise_multiplier=0.3, epsilon=500.0)}
    views = [replace(consortium.plan().data, cohort_column="ward", cohort=(ward,)) for ward in WARDS]
    first = consortium.plan(data=views[0], **changes)
    consortium.runner(first, tmp_path / "first").run()
    knowledge = load_knowledge(tmp_path / "first")
    strong = 1.0 / float(knowledge.fisher.max())
    kept = {}
    for name, strength, penalty, mu in (
        ("naive", 0.0, 0.0, 0.0),
        ("closed form", 4 * strong, 0.0, 0.0),
        ("penalty", 0.0, strong, 0.0),
        ("penalty and proximal", 0.0, strong, 0.5),
    ):
        held = twin_of(consortium, tmp_path / name)
        continual = replace(
            first.continual, strength=strength, penalty=penalty, release_fisher=False, earlier=(views[0],)
        )
        training = replace(changes["training"], proximal=mu)
        plan = held.plan(study="second", data=views[1], continual=continual, **(changes | {"training": training}))
        held.runner(plan, tmp_path / f"{name} state", knowledge=knowledge).run()
        found = [SiteAgent.open(home).evaluations.read(digest(plan)) for home in held.homes]
        kept[name] = np.mean([record.accuracy for records in found for record in records if record.view == 1])
    assert min(value for name, value in kept.items() if name != "naive") > kept["naive"] + 0.03, kept


def test_earlier_knowledge_travels_only_where_sites_use_it(consortium: Consortium, tmp_path: Path) -> None:
    """Anchor and Fisher information come with each round of a plan that has a penalty, and with no other."""
    knowledge = Knowledge(anchor=np.zeros(4), fisher=np.ones(4))
    for penalty, names in ((0.0, {"model"}), (0.1, {"model", "anchor", "fisher"})):
        held = twin_of(consortium, tmp_path / f"twin-{penalty}")
        plan = held.plan(continual=replace(held.plan().continual, penalty=penalty))
        channel = held.channel(plan)
        held.runner(plan, tmp_path / f"state-{penalty}", channel=channel, knowledge=knowledge).run()
        assert all(set(task.arrays) == names for _, task, _ in channel.seen if task.action == "train.fit")


def test_a_penalty_whose_steps_overshoot_is_refused_before_any_round(consortium: Consortium, tmp_path: Path) -> None:
    """The coordinator says which strength would do."""
    knowledge = Knowledge(anchor=np.zeros(4), fisher=np.ones(4))
    plan = consortium.plan(continual=replace(consortium.plan().continual, penalty=3.0))
    channel = consortium.channel(plan)
    with pytest.raises(ConfigError, match="use a penalty below 2 or"):
        consortium.runner(plan, tmp_path / "state", channel=channel, knowledge=knowledge).run()
    assert {task.action for _, task, _ in channel.seen} == {"query.describe"}


def test_a_site_charges_nothing_for_a_pull_that_it_cannot_use(consortium: Consortium) -> None:
    """Knowledge that is missing, of another length or not finite is refused before the ledger is touched."""
    continual = replace(consortium.plan().continual, penalty=0.1, knowledge_digest="0" * 64)
    plan = consortium.plan(continual=continual, privacy=PRIVATE)
    model = {"model": np.zeros(4, dtype=np.float32)}
    four, five = np.ones(4, dtype=np.float32), np.ones(5, dtype=np.float32)
    agent = SiteAgent.open(consortium.homes[0])
    for arrays in (
        model,
        model | {"anchor": five, "fisher": five},
        model | {"anchor": four, "fisher": -four},
        model | {"anchor": four * np.float32(np.nan), "fisher": four},
        model | {"frozen": four, "anchor": four, "fisher": four},
    ):
        task = Task(action="train.fit", plan_digest=digest(plan), arrays=arrays)
        reply = agent.respond(canonical_json(plan), task)
        assert isinstance(reply, Failure)
        assert reply.code == "RefusedError"
    assert agent.ledger("tiny").spent() == 0


def test_knowledge_of_another_model_is_refused(consortium: Consortium, tmp_path: Path) -> None:
    """An anchor of another size can't be what this model learned."""
    knowledge = Knowledge(anchor=np.zeros(9), fisher=np.zeros(9))
    with pytest.raises(IntegrityError, match="another model"):
        consortium.runner(consortium.plan(), tmp_path / "state", knowledge=knowledge).run()


def test_the_released_model_is_the_mean_of_the_late_iterates(consortium: Consortium, tmp_path: Path) -> None:
    """With averaging over the second half, the release equals the mean of those rounds' models."""
    plan = consortium.plan()
    plan = replace(plan, training=replace(plan.training, rounds=4, average_from=0.5))
    channel = consortium.channel(plan)
    consortium.runner(plan, tmp_path / "state", channel=channel).run()
    asked = {task.round: task.arrays["model"] for _, task, _ in channel.seen if task.action == "train.fit"}
    released = next(task.arrays["model"] for _, task, _ in channel.seen if task.action == "evaluate.held_out")
    plain = replace(plan, training=replace(plan.training, average_from=1.0))
    other = build_consortium(tmp_path / "other")
    other.runner(plain, tmp_path / "plain").run()
    final_iterate = load_knowledge(tmp_path / "plain").anchor
    np.testing.assert_allclose(released, (asked[3] + final_iterate) / 2, atol=1e-6)


def test_federated_statistics_normalise_every_site_alike(consortium: Consortium, tmp_path: Path) -> None:
    """The sites' sums become one mean and scale that every training task carries."""
    plan = consortium.plan()
    plan = replace(plan, data=replace(plan.data, normalisation="federated"))
    channel = consortium.channel(plan)
    consortium.runner(plan, tmp_path / "state", channel=channel).run()
    tasks = [task for _, task, _ in channel.seen if task.action == "train.fit"]
    assert len({task.arrays["mean"].tobytes() for task in tasks}) == 1
    assert np.abs(tasks[0].arrays["mean"][1:]).max() < 0.3
    assert np.abs(tasks[0].arrays["scale"][1:] - 1).max() < 0.3


def test_bytes_on_the_wire_are_counted_once(consortium: Consortium, tmp_path: Path) -> None:
    """A channel's traffic ends up in the result, also across a resumption."""
    plan = consortium.plan()
    channel = consortium.channel(plan)
    channel.traffic.up, channel.traffic.down = 5, 7
    result = consortium.runner(plan, tmp_path / "state", channel=channel).run()
    assert (result.bytes_up, result.bytes_down) == (5, 7)
