"""A study waits until the administrator decided on its very plan; a pause stops everything; the log has who did it."""

import fcntl
import os
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from plans import plan_of

from fedmed.audit import ChainLog
from fedmed.errors import ConfigError, IntegrityError, RefusedError, UsageError
from fedmed.records import canonical_json, digest
from fedmed_site import approvals
from fedmed_site.approvals import Approvals, StudyEntry
from fedmed_site.home import SiteHome, SiteRecord
from fedmed_site.policy import SitePolicy

NOW = datetime(2030, 1, 31, 12, tzinfo=UTC)
PLAN = plan_of("stroke-1")


@pytest.fixture
def home(tmp_path: Path) -> SiteHome:
    """Return a site that approves each study."""
    record = SiteRecord(name="north", policy=SitePolicy(cap_epsilon=8.0, delta=1e-5))
    return SiteHome.create(tmp_path / "home", record, pseudonym_key=bytes(32))


@pytest.fixture
def desk(home: SiteHome) -> Approvals:
    """Return its approvals."""
    return Approvals(home, ChainLog(home.audit_path))


def kinds(home: SiteHome) -> list[str]:
    """Return what the audit log holds."""
    return [entry.kind for entry in ChainLog(home.audit_path).entries()]


def test_a_plan_waits_until_it_is_approved(desk: Approvals, home: SiteHome):
    """The first task of a new study is refused with a reason that may leave; after the decision it isn't."""
    assert not desk.knows(digest(PLAN))
    desk.note(PLAN, now=NOW)
    assert desk.knows(digest(PLAN))
    with pytest.raises(RefusedError, match="waits for this site's approval"):
        desk.require(digest(PLAN), now=NOW)
    entry = desk.decide("stroke-1", "approved", by="ann", now=NOW)
    assert (entry.state, entry.by, entry.decided, entry.epsilon) == ("approved", "ann", "2030-01-31T12:00:00Z", 2.0)
    desk.require(digest(PLAN), now=NOW)
    assert kinds(home) == ["study-seen", "study-approved"]


def test_the_log_has_who_decided_on_what(desk: Approvals, home: SiteHome):
    """Digest, epsilon, user and time stand in the audit log."""
    desk.note(PLAN, now=NOW)
    desk.decide("stroke-1", "approved", by="ann", now=NOW)
    body = ChainLog(home.audit_path).entries()[-1].body
    expected = {"plan": digest(PLAN), "study": "stroke-1", "epsilon": 2.0, "by": "ann", "at": "2030-01-31T12:00:00Z"}
    assert expected.items() <= body.items()


def test_a_plan_is_remembered_once(desk: Approvals, home: SiteHome):
    """Every task brings the plan again; the folder, the log and the decision stay as they were."""
    desk.note(PLAN, now=NOW)
    desk.decide("stroke-1", "rejected", by="ann", now=NOW)
    desk.note(PLAN, now=NOW + timedelta(days=1))
    (entry,) = desk.entries()
    assert (entry.state, entry.seen) == ("rejected", "2030-01-31T12:00:00Z")
    assert kinds(home) == ["study-seen", "study-rejected"]


def test_the_plan_is_kept_byte_for_byte(desk: Approvals, home: SiteHome):
    """What was approved can be shown later, to the byte."""
    desk.note(PLAN, now=NOW)
    assert (home.studies / digest(PLAN) / "plan.json").read_bytes() == canonical_json(PLAN)
    assert desk.plan(digest(PLAN)) == PLAN


def test_a_rejected_study_is_refused(desk: Approvals):
    """The coordinator learns that it was rejected, and nothing else."""
    desk.note(PLAN, now=NOW)
    desk.decide("stroke-1", "rejected", by="ann", now=NOW)
    with pytest.raises(RefusedError, match=r"^this study was rejected by this site$"):
        desk.require(digest(PLAN), now=NOW)


def test_the_last_decision_counts(desk: Approvals):
    """An administrator may change his mind in either direction."""
    desk.note(PLAN, now=NOW)
    desk.decide("stroke-1", "approved", by="ann", now=NOW)
    desk.decide("stroke-1", "rejected", by="bob", now=NOW)
    with pytest.raises(RefusedError):
        desk.require(digest(PLAN), now=NOW)


def test_an_approval_is_of_one_plan(desk: Approvals):
    """A plan that differs in its seed alone waits anew, also under the same name."""
    desk.note(PLAN, now=NOW)
    desk.decide("stroke-1", "approved", by="ann", now=NOW)
    other = replace(PLAN, seed=1)
    desk.note(other, now=NOW)
    with pytest.raises(RefusedError, match="waits"):
        desk.require(digest(other), now=NOW)


def test_a_plan_that_never_came_waits(desk: Approvals):
    """A task can't be answered because its plan is unknown here."""
    with pytest.raises(RefusedError, match="waits"):
        desk.require("0" * 64, now=NOW)


def test_two_plans_of_one_name_need_a_digest(desk: Approvals):
    """A second plan under an approved name isn't approved by mistake; each can be meant by its digest."""
    other = replace(PLAN, seed=1)
    for plan in (PLAN, other):
        desk.note(plan, now=NOW)
    with pytest.raises(UsageError, match="is 2 plans"):
        desk.decide("stroke-1", "approved", by="ann", now=NOW)
    assert desk.decide(digest(other)[:12].upper(), "approved", by="ann", now=NOW).digest == digest(other)


def test_a_study_named_like_another_ones_digest_is_ambiguous(desk: Approvals):
    """A coordinator can't name a study so that approving another approves it."""
    imposter = plan_of(digest(PLAN)[:12])
    for plan in (PLAN, imposter):
        desk.note(plan, now=NOW)
    with pytest.raises(UsageError, match="is 2 plans"):
        desk.decide(digest(PLAN)[:12], "approved", by="ann", now=NOW)


@pytest.mark.parametrize("which", ["", "nothing", "../../site.json", "/etc/passwd", "*", "a" * 65, "abc", "x" * 5000])
def test_an_unknown_study_is_refused(desk: Approvals, home: SiteHome, which: str):
    """What is typed is compared with names and digests; it never becomes a path, and the complaint is short."""
    desk.note(PLAN, now=NOW)
    with pytest.raises(UsageError, match="expected a study that came") as refused:
        desk.decide(which, "approved", by="ann", now=NOW)
    assert len(str(refused.value)) < 250
    assert kinds(home) == ["study-seen"]


@pytest.mark.parametrize("name", ["../../escape", "/etc/escape", "a/b", ".", "..", "-rf", "[red]x", "名前"])
def test_a_study_may_be_named_like_a_path(desk: Approvals, home: SiteHome, name: str):
    """Folders are named by digests, whatever a coordinator calls its study."""
    desk.note(plan_of(name), now=NOW)
    before = {path for path in home.root.parent.rglob("*") if "escape" in path.name}
    assert desk.decide(name, "approved", by="ann", now=NOW).study == name
    assert not before
    assert [path.name for path in home.studies.iterdir() if path.is_dir()] == [digest(plan_of(name))]


@pytest.mark.parametrize("bad", ["../../x", "0" * 63, "A" * 64, ""])
def test_a_digest_that_is_none_never_becomes_a_path(desk: Approvals, bad: str):
    """A task that names its plan by a path is refused before the folder is looked at."""
    with pytest.raises(ValueError, match="64 hexadecimal"):
        desk.require(bad, now=NOW)


def test_a_decision_is_one_of_two(desk: Approvals):
    """A message over the socket can't set a state of its own."""
    desk.note(PLAN, now=NOW)
    with pytest.raises(UsageError, match="approved or rejected"):
        desk.decide("stroke-1", "by-policy", by="ann", now=NOW)  # type: ignore[arg-type]


def test_waiting_plans_are_bounded(desk: Approvals, monkeypatch: pytest.MonkeyPatch):
    """A coordinator can't fill a site's disk with plans; a decision makes room."""
    monkeypatch.setattr(approvals, "MOST_WAITING", 2)
    for number in range(2):
        desk.note(plan_of(f"study {number}"), now=NOW)
    with pytest.raises(RefusedError, match="too many studies wait"):
        desk.note(plan_of("study 2"), now=NOW)
    desk.decide("study 0", "rejected", by="ann", now=NOW)
    desk.note(plan_of("study 2"), now=NOW)


def test_a_plan_of_any_length_is_not_kept(desk: Approvals, home: SiteHome):
    """One plan can't fill a site's disk either."""
    with pytest.raises(RefusedError, match="the plan is longer"):
        desk.note(plan_of("x" * approvals.MOST_PLAN_BYTES), now=NOW)
    assert list(home.studies.glob("*/*")) == []


def test_a_policy_may_speak_for_the_administrator(desk: Approvals, home: SiteHome):
    """Under `approval: policy` nothing waits; when that is taken back, what nobody approved waits again."""
    record = home.record()
    home.record_path.write_bytes(canonical_json(replace(record, policy=replace(record.policy, approval="policy"))))
    desk.note(PLAN, now=NOW)
    desk.require(digest(PLAN), now=NOW)
    assert desk.entries()[0].state == "by-policy"
    desk.decide("stroke-1", "rejected", by="ann", now=NOW)
    with pytest.raises(RefusedError):
        desk.require(digest(PLAN), now=NOW)
    other = plan_of("stroke-2")
    desk.note(other, now=NOW)
    home.record_path.write_bytes(canonical_json(record))
    with pytest.raises(RefusedError):
        desk.require(digest(other), now=NOW)


def test_a_paused_site_takes_no_part(desk: Approvals, home: SiteHome):
    """Approved studies are refused too, until somebody resumes; both are logged with their user."""
    desk.note(PLAN, now=NOW)
    desk.decide("stroke-1", "approved", by="ann", now=NOW)
    desk.pause(by="bob", now=NOW)
    with pytest.raises(RefusedError, match=r"^this site is paused$"):
        desk.require(digest(PLAN), now=NOW + timedelta(days=999))
    desk.resume(by="ann", now=NOW)
    desk.require(digest(PLAN), now=NOW)
    assert kinds(home)[-2:] == ["paused", "resumed"]
    assert [entry.body["by"] for entry in ChainLog(home.audit_path).entries()[-2:]] == ["bob", "ann"]


def test_a_pause_may_end_by_itself(desk: Approvals):
    """A pause until a moment holds until then and no longer."""
    desk.note(PLAN, now=NOW)
    desk.decide("stroke-1", "approved", by="ann", now=NOW)
    desk.pause(by="bob", now=NOW, until=NOW + timedelta(hours=1))
    with pytest.raises(RefusedError):
        desk.require(digest(PLAN), now=NOW + timedelta(minutes=59))
    desk.require(digest(PLAN), now=NOW + timedelta(hours=1))


def test_a_pause_of_the_past_and_a_resume_of_nothing_are_mistakes(desk: Approvals):
    """Neither changes anything."""
    with pytest.raises(UsageError, match="a time to come"):
        desk.pause(by="bob", now=NOW, until=NOW)
    with pytest.raises(UsageError, match="not paused"):
        desk.resume(by="bob", now=NOW)


def test_a_decision_moved_to_another_plan_is_noticed(desk: Approvals, home: SiteHome):
    """Copying an approved state into another plan's folder doesn't approve it."""
    other = replace(PLAN, seed=1)
    for plan in (PLAN, other):
        desk.note(plan, now=NOW)
    desk.decide(digest(PLAN), "approved", by="ann", now=NOW)
    source, target = (home.studies / digest(plan) / "state.json" for plan in (PLAN, other))
    target.write_bytes(source.read_bytes())
    with pytest.raises(IntegrityError, match="about another plan"):
        desk.require(digest(other), now=NOW)


def test_a_changed_plan_is_noticed(desk: Approvals, home: SiteHome):
    """The plan on disk is the one that came, or it is not used."""
    desk.note(PLAN, now=NOW)
    (home.studies / digest(PLAN) / "plan.json").write_bytes(canonical_json(replace(PLAN, seed=1)))
    with pytest.raises(IntegrityError, match="expected the plan that came"):
        desk.plan(digest(PLAN))


def test_a_killed_note_is_repeated(desk: Approvals, home: SiteHome):
    """A folder with a plan and no state is one that was cut short: the next task completes it."""
    folder = home.studies / digest(PLAN)
    folder.mkdir()
    (folder / "plan.json").write_bytes(b"torn")
    desk.note(PLAN, now=NOW)
    assert desk.plan(digest(PLAN)) == PLAN
    assert len(desk.entries()) == 1


def test_a_decision_waits_for_no_task(desk: Approvals, home: SiteHome):
    """While a task holds the agent's lock for minutes, a site can still be paused."""
    descriptor = os.open(home.lock_path, os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        desk.pause(by="bob", now=NOW)
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("change", [{"by": None}, {"decided": None}, {"state": "waiting"}, {"digest": "x"}])
def test_an_impossible_state_is_refused(desk: Approvals, change: dict[str, object]):
    """A decision has a decider and a time, and only a decision has."""
    desk.note(PLAN, now=NOW)
    entry = desk.decide("stroke-1", "approved", by="ann", now=NOW)
    with pytest.raises((ValueError, ConfigError)):
        replace(entry, **change)  # type: ignore[arg-type]


def test_entries_come_in_the_order_of_their_arrival(desk: Approvals):
    """The newest study is the last line that an administrator reads."""
    for hours, name in ((2, "late"), (0, "early"), (1, "middle")):
        desk.note(plan_of(name), now=NOW + timedelta(hours=hours))
    assert [entry.study for entry in desk.entries()] == ["early", "middle", "late"]
    assert all(isinstance(entry, StudyEntry) for entry in desk.entries())
