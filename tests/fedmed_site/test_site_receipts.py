"""Receipts at a site: what it believes of a coordinator, and what it does when it can't."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from federation import SECURE, Consortium, MemoryChannel, appoint, build_consortium, signer_of

from fedmed.audit import ChainLog, Entry
from fedmed.crypto import statements
from fedmed.errors import SiteFailureError
from fedmed.exchange import Answer, Failure, Task
from fedmed.receipts import RECEIPT, Receipt, Signer
from fedmed.records import Plan, canonical_json, digest
from fedmed_site import cli
from fedmed_site.agent import SiteAgent
from fedmed_site.receipts import CERTIFIED, RECEIVED, REFUSED, UPLOADED, standings

KEY = Ed25519PrivateKey.from_private_bytes(bytes([7]) * 32)
STRANGER = Ed25519PrivateKey.from_private_bytes(bytes([8]) * 32)


@pytest.fixture
def consortium(tmp_path: Path) -> Consortium:
    """Four prepared sites that know their coordinator."""
    made = build_consortium(tmp_path, sites=4, rows=40)
    appoint(made, KEY)
    return made


def plan_of(consortium: Consortium, *, study: str = "tiny") -> Plan:
    """Return a plan of two rounds over secure aggregation, without Fisher information; each study learns otherwise."""
    plan = consortium.plan(aggregation=SECURE, study=study)
    training = replace(plan.training, rounds=2, local_steps=1, learning_rate=1.0 / len(study))
    return replace(plan, training=training, continual=replace(plan.continual, release_fisher=False))


def entries_of(home: Path, *kinds: str) -> list[Entry]:
    """Return the entries of some kinds in a site's receipts."""
    return [entry for entry in ChainLog(home / "receipts.jsonl").entries() if entry.kind in kinds]


def lying(channel: MemoryChannel, lie: Callable[[int, Task], Task]) -> MemoryChannel:
    """Return the channel of a coordinator that changes tasks on their way."""
    real = channel.ask

    def ask(tasks: Mapping[int, Task], *, timeout_s: float) -> Iterator[tuple[int, Answer | Failure]]:
        return real({address: lie(address, task) for address, task in tasks.items()}, timeout_s=timeout_s)

    channel.ask = ask  # type: ignore[method-assign]
    return channel


def claim_of(data: bytes) -> Receipt:
    """Return what a receipt says."""
    return statements.parse(data, RECEIPT, Receipt).claim


def resigned(receipt: Receipt, signer: Signer) -> bytes:
    """Return a receipt that the true coordinator has signed for other things than it should."""
    return statements.sign(RECEIPT, receipt, signer.key)


def test_a_site_holds_a_receipt_for_each_round(consortium: Consortium, tmp_path: Path) -> None:
    """Every site has the coordinator's word on both rounds, equal to the other sites', over what it certified."""
    plan = plan_of(consortium)
    consortium.runner(plan, tmp_path / "state", signer=signer_of(plan, KEY)).run()
    given = []
    for home in consortium.homes:
        assert len(entries_of(home, UPLOADED)) == len(entries_of(home, CERTIFIED)) == 2
        given.append([entry.body["statement"] for entry in entries_of(home, RECEIVED)])
        assert [one.outcome for one in standings(entries_of(home, UPLOADED, CERTIFIED, RECEIVED))] == ["summed"] * 2
    assert all(one == given[0] for one in given)
    assert len(given[0]) == 2


def test_a_receipt_that_comes_again_is_written_once(consortium: Consortium, tmp_path: Path) -> None:
    """A repeated message brings the same receipt; the log has it once."""
    plan = plan_of(consortium)
    channel = consortium.channel(plan)
    consortium.runner(plan, tmp_path / "state", channel=channel, signer=signer_of(plan, KEY)).run()
    last = next(task for address, task, _ in reversed(channel.seen) if address == 0 and task.action == "query.end")
    SiteAgent.open(consortium.homes[0]).respond(canonical_json(plan), last)
    assert len(entries_of(consortium.homes[0], RECEIVED)) == 2


def test_without_the_receipt_of_the_last_round_no_site_goes_on(consortium: Consortium, tmp_path: Path) -> None:
    """A coordinator that gives no receipts gets one round and no more; the reason says what is missing."""
    plan = plan_of(consortium)
    channel = lying(consortium.channel(plan), lambda _address, task: replace(task, receipt=b""))
    with pytest.raises(SiteFailureError, match=r"expected the coordinator's receipt for run .* round 0 attempt 0"):
        consortium.runner(plan, tmp_path / "state", channel=channel, signer=signer_of(plan, KEY)).run()
    assert all(len(entries_of(home, UPLOADED)) == 1 for home in consortium.homes)


def test_a_missing_receipt_is_forgiven_once_it_comes(consortium: Consortium, tmp_path: Path) -> None:
    """It may have been lost on its way: the study goes on when the coordinator is started again."""
    plan = plan_of(consortium)
    channel = lying(consortium.channel(plan), lambda _address, task: replace(task, receipt=b""))
    with pytest.raises(SiteFailureError):
        consortium.runner(plan, tmp_path / "state", channel=channel, signer=signer_of(plan, KEY)).run()
    consortium.runner(plan, tmp_path / "state", signer=signer_of(plan, KEY)).run()
    assert all(len(entries_of(home, RECEIVED)) == 2 for home in consortium.homes)


def test_a_site_without_a_kit_asks_for_no_receipts(tmp_path: Path) -> None:
    """A simulated consortium has no coordinator's key, so its rounds go on as they did."""
    made = build_consortium(tmp_path, sites=3, rows=40)
    plan = plan_of(made)
    made.runner(plan, tmp_path / "state").run()
    assert [len(entries_of(home, UPLOADED)) for home in made.homes] == [2, 2, 2]
    assert all(not entries_of(home, RECEIVED, REFUSED) for home in made.homes)


LIES: dict[str, tuple[Callable[[Receipt], Receipt], str]] = {
    "a smaller cohort": (
        lambda one: replace(one, cohort=one.cohort[:3]),
        "names other sites or uploads than this site certified",
    ),
    "other uploads": (
        lambda one: replace(one, uploads="0" * 64),
        "names other sites or uploads than this site certified",
    ),
    "an attempt that never was": (
        lambda one: replace(one, attempt=1),
        "it names this site, which uploaded nothing there",
    ),
}


@pytest.mark.parametrize("lie", list(LIES))
def test_a_lie_about_what_was_summed_ends_the_plan_at_the_site(
    consortium: Consortium, tmp_path: Path, lie: str
) -> None:
    """The true key does not help: one site is told something else; it writes that down and takes part no more."""
    plan = plan_of(consortium)
    signer = signer_of(plan, KEY)
    change, reason = LIES[lie]

    def tell(address: int, task: Task) -> Task:
        if address or not task.receipt or task.round != 1:
            return task
        return replace(task, receipt=resigned(change(claim_of(task.receipt)), signer))

    channel = lying(consortium.channel(plan), tell)
    consortium.runner(plan, tmp_path / "state", channel=channel, signer=signer).run()
    (refused,) = entries_of(consortium.homes[0], REFUSED)
    assert reason in str(refused.body["reason"])
    assert len(entries_of(consortium.homes[0], UPLOADED)) == 1
    assert len(entries_of(consortium.homes[1], UPLOADED)) == 2
    asked = Task(action="query.describe", plan_digest=digest(plan))
    reply = SiteAgent.open(consortium.homes[0]).respond(canonical_json(plan), asked)
    assert isinstance(reply, Failure)
    assert reason in reply.reason
    assert "\n" not in reply.reason


def test_two_words_on_one_attempt_end_the_plan(consortium: Consortium, tmp_path: Path) -> None:
    """An attempt that was summed can't be void as well: the second word is refused, with both at hand."""
    plan = plan_of(consortium)
    signer = signer_of(plan, KEY)
    channel = consortium.channel(plan)
    consortium.runner(plan, tmp_path / "state", channel=channel, signer=signer).run()
    last = next(task for address, task, _ in reversed(channel.seen) if address == 0 and task.action == "query.end")
    claim = claim_of(last.receipt)
    void = signer.sign(digest(plan), claim.turn, at=claim.at).encode()
    reply = SiteAgent.open(consortium.homes[0]).respond(canonical_json(plan), replace(last, receipt=void))
    assert isinstance(reply, Failure)
    assert "another one for the same attempt came before" in reply.reason


@pytest.mark.parametrize("forgery", ["another coordinator", "another plan", "changed", "not a receipt", "not text"])
def test_a_receipt_that_does_not_verify_is_refused(consortium: Consortium, tmp_path: Path, forgery: str) -> None:
    """Forged, carried over from another plan, or damaged: it is written down, and the site takes part no more."""
    plan, other = plan_of(consortium), plan_of(consortium, study="other")
    signer = signer_of(plan, KEY)
    channel = consortium.channel(other)
    consortium.runner(other, tmp_path / "other", channel=channel, signer=signer_of(other, KEY)).run()
    carried = next(task.receipt for address, task, _ in reversed(channel.seen) if address == 0 and task.receipt)

    def forge(address: int, task: Task) -> Task:
        if address or not task.receipt or task.round != 1:
            return task
        strange = signer_of(plan, STRANGER)
        sent = {
            "another coordinator": resigned(replace(claim_of(task.receipt), mandate=strange.mandate), strange),
            "another plan": carried,
            "changed": task.receipt.replace(b'"attempt":0', b'"attempt":1', 1),
            "not a receipt": b"{}",
            "not text": b"\xff\xfe",
        }
        return replace(task, receipt=sent[forgery])

    lied = lying(consortium.channel(plan), forge)
    consortium.runner(plan, tmp_path / "state", channel=lied, signer=signer).run()
    (refused,) = entries_of(consortium.homes[0], REFUSED)
    assert "receipt" in str(refused.body["reason"])
    assert [one.body["plan"] for one in entries_of(consortium.homes[0], UPLOADED)].count(digest(plan)) == 1


def test_a_refused_plan_says_nothing_about_another(consortium: Consortium, tmp_path: Path) -> None:
    """The site stops in the plan that the false receipt came with, and goes on in others."""
    plan, other = plan_of(consortium), plan_of(consortium, study="other")
    lied = lying(consortium.channel(plan), lambda _address, task: replace(task, receipt=task.receipt and b"{}"))
    with pytest.raises(SiteFailureError):
        consortium.runner(plan, tmp_path / "state", channel=lied, signer=signer_of(plan, KEY)).run()
    consortium.runner(other, tmp_path / "other", signer=signer_of(other, KEY)).run()
    assert all(len(entries_of(home, REFUSED)) == 1 for home in consortium.homes)


def test_what_is_left_of_an_attempt_is_erased_whatever_the_receipt_is(consortium: Consortium, tmp_path: Path) -> None:
    """A false receipt on the last message does not keep the site from ending the run."""
    plan = plan_of(consortium)

    def forge(_address: int, task: Task) -> Task:
        return replace(task, receipt=b"{}") if task.action == "query.end" else task

    channel = lying(consortium.channel(plan), forge)
    consortium.runner(plan, tmp_path / "state", channel=channel, signer=signer_of(plan, KEY)).run()
    sealed = SiteAgent.open(consortium.homes[0])._participant._restore()
    assert sealed.early is None
    assert sealed.turn is None
    assert max(mark.round for mark in sealed.marks) > 10**6
    assert len(entries_of(consortium.homes[0], REFUSED)) == 1


def test_a_site_that_was_late_is_told_that_it_was_left_out(consortium: Consortium, tmp_path: Path) -> None:
    """It uploaded, but the sum went on without it: the receipt does not name it, and it is back in the next round."""
    plan = plan_of(consortium)
    channel = consortium.channel(plan)
    real = channel.ask

    def late(tasks: Mapping[int, Task], *, timeout_s: float) -> Iterator[tuple[int, Answer | Failure]]:
        for address, reply in real(tasks, timeout_s=timeout_s):
            if address == 3 and tasks[address].round == 0 and tasks[address].action == "train.mask":
                yield address, Failure(site="h4", code="timeout", reason="no reply in time")
            else:
                yield address, reply

    channel.ask = late  # type: ignore[method-assign]
    consortium.runner(plan, tmp_path / "state", channel=channel, signer=signer_of(plan, KEY)).run()
    first, second = entries_of(consortium.homes[3], RECEIVED)
    assert claim_of(str(first.body["statement"]).encode()).cohort == ("h1", "h2", "h3")
    assert claim_of(str(second.body["statement"]).encode()).cohort == ("h1", "h2", "h3", "h4")


def test_the_command_lists_receipts(consortium: Consortium, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line per attempt, with the commitment that the sites compare."""
    plan = plan_of(consortium)
    consortium.runner(plan, tmp_path / "state", signer=signer_of(plan, KEY)).run()
    assert cli.site(["receipts", "--home", str(consortium.homes[0])]) == 0
    shown = capsys.readouterr().out
    assert shown.count("summed") == 2
    assert digest(plan)[:6] in shown
