"""Receipts at the coordinator: one word per attempt, on exchanges that a round has anyway, and each site's own word."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from federation import SECURE, Consortium, appoint, build_consortium, signer_of

from fedmed.audit import ChainLog, Entry
from fedmed.errors import IntegrityError, ProtocolError, SiteFailureError
from fedmed.exchange import Answer, Failure, Task
from fedmed.receipts import (
    Mandate,
    Participation,
    commitment,
    open_mandate,
    open_participation,
    open_receipt,
    sign_mandate,
    sign_participation,
    uploads_digest,
)
from fedmed.records import Plan, digest
from fedmed.secagg.messages import Turn
from fedmed_server.receipts import PARTICIPATED, RECEIPTS, SETTLED, StudyReceipts

KEY = Ed25519PrivateKey.from_private_bytes(bytes([7]) * 32)
STRANGER = Ed25519PrivateKey.from_private_bytes(bytes([8]) * 32)
PHASES = ("query.offer", "train.share", "train.mask", "query.certify", "query.unmask")


@pytest.fixture
def consortium(tmp_path: Path) -> Consortium:
    """Four prepared sites that know their coordinator."""
    made = build_consortium(tmp_path, sites=4, rows=40)
    appoint(made, KEY)
    return made


def plan_of(consortium: Consortium, *, rounds: int = 2) -> Plan:
    """Return a plan of a few rounds over secure aggregation, without Fisher information."""
    plan = consortium.plan(aggregation=SECURE)
    training = replace(plan.training, rounds=rounds, local_steps=1)
    return replace(plan, training=training, continual=replace(plan.continual, release_fisher=False))


def entries_of(state: Path, kind: str) -> list[Entry]:
    """Return the entries of one kind in a study's receipts."""
    return [entry for entry in ChainLog(state / RECEIPTS).entries() if entry.kind == kind]


def test_each_attempt_is_settled_once_over_what_the_sites_signed_for(consortium: Consortium, tmp_path: Path) -> None:
    """A receipt verifies under the coordinator's key, and its uploads are those that the sites' own words name."""
    plan = plan_of(consortium)
    consortium.runner(plan, tmp_path / "state", signer=signer_of(plan, KEY)).run()
    settled = entries_of(tmp_path / "state", SETTLED)
    assert [entry.body["round"] for entry in settled] == [0, 1]
    for entry in settled:
        receipt = open_receipt(str(entry.body["statement"]).encode(), KEY.public_key())
        assert receipt.cohort == ("h1", "h2", "h3", "h4")
        assert (receipt.plan, receipt.coordinator, receipt.outcome) == (digest(plan), "centre", "summed")
    assert len(entries_of(tmp_path / "state", PARTICIPATED)) == 8


def test_receipts_cost_no_exchange(consortium: Consortium, tmp_path: Path) -> None:
    """The first round takes five exchanges, the next four; a receipt comes with the next first message and the last."""
    plan = plan_of(consortium)
    channel = consortium.channel(plan)
    consortium.runner(plan, tmp_path / "state", channel=channel, signer=signer_of(plan, KEY)).run()
    asked = [(task.round, task.action, bool(task.receipt)) for address, task, _ in channel.seen if address == 0]
    assert [item for item in asked if item[1] in (*PHASES, "query.end")] == [
        *((0, action, False) for action in PHASES),
        (1, "train.share", True),
        *((1, action, False) for action in PHASES[2:]),
        (0, "query.end", True),
    ]


def test_a_commitment_hides_the_sum(consortium: Consortium, tmp_path: Path) -> None:
    """Without the coordinator's random bytes nobody can try sums against it; no receipt and no word holds a weight."""
    turn = Turn(run="r", round=0, attempt=0)
    assert commitment(turn, bytes(32), [b"sum"]) != commitment(turn, bytes([1]) * 32, [b"sum"])
    plan = plan_of(consortium, rounds=1)
    channel = consortium.channel(plan)
    consortium.runner(plan, tmp_path / "state", channel=channel, signer=signer_of(plan, KEY)).run()
    (settled,) = entries_of(tmp_path / "state", SETTLED)
    opening = str(settled.body["opening"])
    sent = b"".join(task.receipt for _, task, _ in channel.seen)
    assert len(opening) == 64
    assert opening.encode() not in sent
    words = set(Participation.__dataclass_fields__)
    assert words == {"plan", "run", "round", "attempt", "site", "upload"}


def test_a_failed_attempt_is_void_and_the_next_one_is_settled_for_itself(
    consortium: Consortium, tmp_path: Path
) -> None:
    """Two sites that vanish before uploading end an attempt; all that were asked to mask get the same word on it."""
    plan = replace(plan_of(consortium, rounds=1), aggregation=replace(SECURE, attempts=2))
    channel = consortium.channel(plan)

    def vanish(_address: int, task: Task) -> None:
        channel.silent = {2, 3} if task.action == "train.mask" else set()

    channel.before = vanish
    signer = signer_of(plan, KEY)
    with pytest.raises(SiteFailureError, match="aborted"):
        consortium.runner(plan, tmp_path / "state", channel=channel, signer=signer).run()
    (void,) = entries_of(tmp_path / "state", SETTLED)
    assert open_receipt(str(void.body["statement"]).encode(), KEY.public_key()).outcome == "void"
    channel.before = lambda _address, _task: None
    channel.silent.clear()
    consortium.runner(plan, tmp_path / "state", channel=channel, signer=signer).run()
    settled = entries_of(tmp_path / "state", SETTLED)
    assert [(entry.body["attempt"], bool(entry.body["cohort"])) for entry in settled] == [(0, False), (1, True)]


def test_a_coordinator_that_is_killed_hands_out_the_same_receipt(consortium: Consortium, tmp_path: Path) -> None:
    """Killed at any exchange of the second round and started again, it has settled each attempt once."""
    plan = plan_of(consortium)
    signer = signer_of(plan, KEY)
    for number, action in enumerate(PHASES[1:]):
        channel = consortium.channel(plan)

        def kill(address: int, task: Task, action: str = action) -> None:
            if (address, task.round, task.action) == (1, 1, action):
                raise KeyboardInterrupt

        channel.before = kill
        with pytest.raises(KeyboardInterrupt):
            consortium.runner(plan, tmp_path / "state", channel=channel, signer=signer).run()
        assert len(entries_of(tmp_path / "state", SETTLED)) == 1, number
    first = entries_of(tmp_path / "state", SETTLED)[0].body["statement"]
    consortium.runner(plan, tmp_path / "state", signer=signer).run()
    settled = entries_of(tmp_path / "state", SETTLED)
    assert [entry.body["round"] for entry in settled] == [0, 1]
    assert settled[0].body["statement"] == first


@pytest.mark.parametrize("lie", ["none", "another upload", "another round", "another site's key", "not text"])
def test_an_upload_without_the_sites_word_for_it_is_not_summed(
    consortium: Consortium, tmp_path: Path, lie: str
) -> None:
    """A site that signs for something else, or for nothing, is out before its vector is added."""
    plan = digest(plan_of(consortium))
    turn = Turn(run=f"{plan[:40]}.fit", round=3, attempt=1)
    honest = Participation(plan=plan, run=turn.run, round=3, attempt=1, site="h1", upload="ab" * 32)
    lies: Mapping[str, Any] = {"another upload": {"upload": "cd" * 32}, "another round": {"round": 2}}
    changes = lies.get(lie, {})
    place = 1 if lie == "another site's key" else 0
    key = Ed25519PrivateKey.from_private_bytes((consortium.homes[place] / "keys" / "signing.key").read_bytes())
    data = {"none": b"", "not text": b"\xff"}.get(lie, sign_participation(replace(honest, **changes), key))
    receipts = StudyReceipts(tmp_path / RECEIPTS, None, os.urandom)

    def check(sent: bytes) -> str:
        upload = bytes.fromhex("ab" * 32)
        return receipts.check(sent, plan=plan, turn=turn, site="h1", upload=upload, roster=consortium.roster)

    with pytest.raises(ProtocolError, match="upload of h1: expected its"):
        check(data)
    own = Ed25519PrivateKey.from_private_bytes((consortium.homes[0] / "keys" / "signing.key").read_bytes())
    assert check(sign_participation(honest, own))


def test_a_participation_of_a_site_outside_the_roster_is_refused(consortium: Consortium) -> None:
    """However well it is signed: nobody knows whose key that is."""
    plan = digest(plan_of(consortium))
    stranger = Participation(plan=plan, run=f"{plan[:40]}.fit", round=0, attempt=0, site="stranger", upload="ab" * 32)
    with pytest.raises(IntegrityError, match="expected a site of roster serial 1, got stranger"):
        open_participation(sign_participation(stranger, Ed25519PrivateKey.generate()), consortium.roster)


def test_a_lying_site_is_named_and_the_sum_goes_on_without_it(consortium: Consortium, tmp_path: Path) -> None:
    """One site's word is taken off on its way: its upload is left out, the others' sum is settled."""
    plan = plan_of(consortium, rounds=1)
    channel = consortium.channel(plan)
    real = channel.ask

    def ask(tasks: Mapping[int, Task], *, timeout_s: float) -> Iterator[tuple[int, Answer | Failure]]:
        for address, reply in real(tasks, timeout_s=timeout_s):
            bare = address == 0 and isinstance(reply, Answer)
            yield address, replace(reply, receipt=b"") if bare else reply

    channel.ask = ask  # type: ignore[method-assign]
    consortium.runner(plan, tmp_path / "state", channel=channel, signer=signer_of(plan, KEY)).run()
    (settled,) = entries_of(tmp_path / "state", SETTLED)
    assert settled.body["cohort"] == "h2 h3 h4"


def test_a_mandate_is_for_one_plan_and_from_one_coordinator() -> None:
    """A study's process can't sign for another plan, and a stranger's mandate is worth nothing."""
    data = sign_mandate("ab" * 32, coordinator="centre", plan_key=KEY)
    assert isinstance(open_mandate(data, KEY.public_key(), plan="ab" * 32), Mandate)
    with pytest.raises(IntegrityError, match="expected one for plan cdcdcdcdcdcd"):
        open_mandate(data, KEY.public_key(), plan="cd" * 32)
    with pytest.raises(IntegrityError, match="another coordinator"):
        open_mandate(data, STRANGER.public_key(), plan="ab" * 32)


def test_uploads_of_another_attempt_have_another_digest() -> None:
    """A cohort can't be carried over to an attempt that it was not in."""
    uploads = {"h1": b"1" * 32}
    turn = Turn(run="r", round=0, attempt=0)
    assert uploads_digest(turn, uploads) != uploads_digest(replace(turn, attempt=1), uploads)
