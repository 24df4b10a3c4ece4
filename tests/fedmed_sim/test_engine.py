"""Behaviour of Flower's simulation as we drive it, and the shape of the internals that it stands on."""

import inspect
from pathlib import Path

import pytest
from federation import Consortium, SilentListener, build_consortium
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.serde import message_from_proto
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.server.superlink.fleet.vce import vce_api
from flwr.serverapp import Grid, ServerApp
from flwr.supercore.task_identity import TaskIdentity

from fedmed.errors import SiteFailureError
from fedmed.records import AggregationSpec, Plan
from fedmed_server.result import load_knowledge
from fedmed_server.server_app import build_server_app
from fedmed_server.study import StudyFolders
from fedmed_sim.engine import Engine, open_engine, partition_of
from fedmed_sim.settings import EngineKind
from fedmed_site.client_app import build_client_app


@pytest.fixture
def consortium(tmp_path: Path) -> Consortium:
    """Return three prepared sites."""
    return build_consortium(tmp_path)


def run(engine: Engine, consortium: Consortium, plan: Plan, state: Path, messages: list[bytes]) -> None:
    """Run `plan` through Flower between real apps."""
    engine.run(
        build_server_app(
            StudyFolders(base=consortium.base, state=state),
            knowledge=None,
            listener=SilentListener(),
            poll_interval_s=0.01,
        ),
        build_client_app(lambda context: consortium.homes[partition_of(context)]),
        nodes=len(consortium.homes),
        run_config=consortium.run_config(plan),
        tap=messages.append,
    )


def test_flower_carries_what_calls_carry(consortium: Consortium, tmp_path: Path) -> None:
    """A study through Flower's messages ends with the same bits as one through direct calls."""
    plan = consortium.plan()
    twin = build_consortium(tmp_path / "twin")
    twin.runner(plan, tmp_path / "direct").run()
    with open_engine("inprocess", workers=1) as engine:
        run(engine, consortium, plan, tmp_path / "flower", [])
    direct, flower = (load_knowledge(tmp_path / name) for name in ("direct", "flower"))
    assert (direct.anchor == flower.anchor).all()
    assert (direct.fisher == flower.fisher).all()


def test_every_message_that_reaches_the_coordinator_is_shown(consortium: Consortium, tmp_path: Path) -> None:
    """The tap sees one message per site and exchange, bit for bit, and no patient's name in any."""
    messages: list[bytes] = []
    with open_engine("inprocess", workers=1) as engine:
        run(engine, consortium, consortium.plan(), tmp_path / "state", messages)
    exchanges = 1 + 3 + 1 + 1  # describe, rounds, evaluate, Fisher
    assert len(messages) == 3 * exchanges
    parsed = [message_from_proto(ProtoMessage.FromString(data)) for data in messages]
    assert {str(m.content.config_records["answer"]["site"]) for m in parsed} == {"h1", "h2", "h3"}
    assert not [name for name in consortium.patients if any(name.encode() in data for data in messages)]


def test_the_error_of_a_coordinator_reaches_the_caller(consortium: Consortium, tmp_path: Path) -> None:
    """A study that can't go on ends the simulation with its own error."""
    plan = consortium.plan(aggregation=AggregationSpec(kind="insecure", min_sites=4))
    with (
        open_engine("inprocess", workers=1) as engine,
        pytest.raises(SiteFailureError, match="at least 4 sites, got 3"),
    ):
        run(engine, consortium, plan, tmp_path / "state", [])


def test_a_site_that_raises_is_a_failure_without_its_text(tmp_path: Path) -> None:
    """Flower would pass the text of a client's exception on; the exchange reports only that it stopped."""
    from fedmed.exchange import Failure, Task  # noqa: PLC0415  only this test speaks to the channel
    from fedmed_server.strategy import GridChannel  # noqa: PLC0415  likewise

    client, server, replies = ClientApp(), ServerApp(), []

    @client.query("describe")
    def fail(message: Message, context: Context) -> Message:
        raise RuntimeError("row of Mrs Example")

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        channel = GridChannel(grid, poll_interval_s=0.01)
        task = Task(action="query.describe", plan_digest="0" * 64)
        replies.extend(channel.ask(dict.fromkeys(channel.addresses(), task), timeout_s=20))

    with open_engine("inprocess", workers=1) as engine:
        engine.run(server, client, nodes=1, run_config={}, tap=lambda _data: None)
    ((_, reply),) = replies
    assert isinstance(reply, Failure)
    assert "Example" not in reply.reason


def test_a_malformed_reply_is_that_sites_failure(tmp_path: Path) -> None:
    """One hostile or outdated site can't end the exchange of the others with a crash."""
    from fedmed.exchange import Failure, Task  # noqa: PLC0415  only this test speaks to the channel
    from fedmed_server.strategy import GridChannel  # noqa: PLC0415  likewise

    client, server, replies = ClientApp(), ServerApp(), []

    @client.query("describe")
    def answer(message: Message, context: Context) -> Message:
        return Message(RecordDict({"something": ConfigRecord({"else": 1})}), reply_to=message)

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        channel = GridChannel(grid, poll_interval_s=0.01)
        task = Task(action="query.describe", plan_digest="0" * 64)
        replies.extend(channel.ask(dict.fromkeys(channel.addresses(), task), timeout_s=20))

    with open_engine("inprocess", workers=1) as engine:
        engine.run(server, client, nodes=1, run_config={}, tap=lambda _data: None)
    ((_, reply),) = replies
    assert isinstance(reply, Failure)
    assert reply.code == "malformed"


def test_a_site_that_never_answers_times_out(tmp_path: Path) -> None:
    """The exchange ends after its time limit and says whom it waited for, so a round can go on without."""
    from fedmed.exchange import Failure, Task  # noqa: PLC0415  only this test speaks to the channel
    from fedmed_server.strategy import GridChannel  # noqa: PLC0415  likewise

    class DeafGrid:
        def push_messages(self, messages: list[Message]) -> list[str]:
            return [str(index) for index, _ in enumerate(messages)]

        def pull_messages(self, _ids: list[str]) -> list[Message]:
            return []

    TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1  # as Flower's runtime does for an app
    channel = GridChannel(DeafGrid(), poll_interval_s=0.001)  # type: ignore[arg-type]  # the two calls that are used
    replies = dict(
        channel.ask(dict.fromkeys((3, 5), Task(action="query.describe", plan_digest="0" * 64)), timeout_s=0.01)
    )
    assert set(replies) == {3, 5}
    assert all(isinstance(reply, Failure) and reply.code == "timeout" for reply in replies.values())


@pytest.mark.parametrize("kind", ["inprocess"])
def test_the_run_configuration_reaches_both_apps(kind: EngineKind) -> None:
    """Plan and digest travel in the run's configuration as in production."""
    client, server, seen = ClientApp(), ServerApp(), []

    @client.query("describe")
    def answer(message: Message, context: Context) -> Message:
        return Message(RecordDict({"c": ConfigRecord({"plan": context.run_config["plan"]})}), reply_to=message)

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        (node,) = grid.get_node_ids()
        asked = Message(RecordDict(), dst_node_id=node, message_type="query.describe")
        (reply,) = grid.send_and_receive([asked])
        seen.extend([context.run_config["plan"], reply.content.config_records["c"]["plan"]])

    with open_engine(kind, workers=1) as engine:
        engine.run(server, client, nodes=1, run_config={"plan": "研究"}, tap=lambda _data: None)
    assert seen == ["研究", "研究"]


def test_flower_internals_still_have_the_shape_we_stand_on() -> None:
    """An upgrade of Flower that moves what the engine uses breaks here, and says where to look."""
    assert list(inspect.signature(vce_api.run_api).parameters) == [
        "app_fn",
        "backend_fn",
        "nodes_mapping",
        "state_factory",
        "node_info_stores",
        "f_stop",
        "metrics",
    ]
    assert list(inspect.signature(vce_api._register_nodes).parameters) == ["num_nodes", "state_factory"]
    assert list(inspect.signature(vce_api._register_node_info_stores).parameters)[:2] == ["nodes_mapping", "run"]
