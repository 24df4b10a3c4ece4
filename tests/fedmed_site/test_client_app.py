"""Behaviour of the thin translation from Flower's messages to agent calls."""

from pathlib import Path
from typing import cast

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from federation import Consortium, build_consortium
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.app.user_config import UserConfig
from flwr.supercore.task_identity import TaskIdentity

from fedmed.errors import UsageError
from fedmed.records import Plan, digest
from fedmed.signed_plans import agree_to, launch, signatures_to_text
from fedmed_site.client_app import HOME_VARIABLE, app, build_client_app, home_from_environment


@pytest.fixture(autouse=True)
def identity() -> None:
    """Give this process the identity that Flower's runtime gives an app before it makes messages."""
    TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1


@pytest.fixture
def consortium(tmp_path: Path) -> Consortium:
    """Return one prepared site."""
    return build_consortium(tmp_path, sites=1)


def context_of(consortium: Consortium, plan: Plan, **changes: str) -> Context:
    """Return a context that carries `plan` in its run configuration, with `changes` to that."""
    config = cast("UserConfig", consortium.run_config(plan) | {key.replace("_", "-"): changes[key] for key in changes})
    return Context(run_id=1, node_id=2, node_config={}, state=RecordDict(), run_config=config)


def message_of(plan: Plan, action: str) -> Message:
    """Return a task as the coordinator would send it."""
    arrays = ArrayRecord({"model": Array(np.zeros(4, dtype=np.float32))})
    task = ConfigRecord({"plan-digest": digest(plan), "round": 0})
    return Message(RecordDict({"arrays": arrays, "task": task}), dst_node_id=2, message_type=action)


@pytest.mark.parametrize("action", ["query.describe", "train.fit", "train.fisher", "evaluate.held_out"])
def test_every_typed_action_reaches_the_agent(consortium: Consortium, action: str) -> None:
    """Flower routes each of our actions by its message type."""
    client = build_client_app(lambda _context: consortium.homes[0])
    plan = consortium.plan()
    reply = client(message_of(plan, action), context_of(consortium, plan))
    assert reply.content.config_records["answer"]["site"] == "h1"


def test_an_unknown_action_is_refused_by_its_type(consortium: Consortium) -> None:
    """A message type that we did not register runs nothing."""
    client = build_client_app(lambda _context: consortium.homes[0])
    plan = consortium.plan()
    with pytest.raises(ValueError, match="No train function"):
        client(message_of(plan, "train.anything"), context_of(consortium, plan))


def test_a_plan_that_differs_from_its_digest_is_refused(consortium: Consortium) -> None:
    """Whoever changes the run's configuration on the way must change both, and the task names the digest too."""
    client = build_client_app(lambda _context: consortium.homes[0])
    plan = consortium.plan()
    reply = client(message_of(plan, "train.fit"), context_of(consortium, plan, plan_digest="0" * 64))
    assert "differ" in str(reply.content.config_records["failure"]["reason"])


def test_a_plan_that_the_consortium_did_not_sign_is_refused(consortium: Consortium) -> None:
    """A coordinator alone, or one that reuses another plan's signature, can't start a study."""
    client = build_client_app(lambda _context: consortium.homes[0])
    plan, stranger = consortium.plan(), Ed25519PrivateKey.generate()
    forged = launch(agree_to(plan, stranger), stranger)
    other = agree_to(consortium.plan(study="another"), consortium.consortium_key)
    for text in (signatures_to_text(forged.signatures), signatures_to_text(other.signatures), "", "{}"):
        context = context_of(consortium, plan, plan_signatures=text)
        failure = client(message_of(plan, "train.fit"), context).content.config_records["failure"]
        assert "signed by this site's consortium" in str(failure["reason"]) or "signatures" in str(failure["reason"])
        assert not any((consortium.homes[0] / "studies").glob("*"))


def test_a_malformed_message_gets_a_failure_without_local_paths(consortium: Consortium) -> None:
    """Flower would send the text of an exception to the coordinator; a path or value never leaves that way."""
    client = build_client_app(lambda _context: consortium.homes[0] / "not-there")
    plan = consortium.plan()
    for message in (
        message_of(plan, "train.fit"),
        Message(RecordDict(), dst_node_id=2, message_type="train.fit"),
    ):
        failure = client(message, context_of(consortium, plan)).content.config_records["failure"]
        assert str(consortium.root) not in str(failure["reason"])


def test_the_appliance_finds_its_folder_in_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The installed app is a plain object; where the site is comes from the service's environment alone."""
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path))
    context = Context(run_id=1, node_id=2, node_config={}, state=RecordDict(), run_config={})
    assert home_from_environment(context) == tmp_path
    monkeypatch.delenv(HOME_VARIABLE)
    with pytest.raises(UsageError, match=HOME_VARIABLE):
        home_from_environment(context)
    assert callable(app)
