"""Flower's ServerApp: read the plan from the run's configuration and run the study.

Why it exists: the only room at the coordinator, beside `strategy`, where Flower is known.

What it does not do: plan, calibrate, or keep anything that a checkpoint does not hold.
"""

import hashlib

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedmed.errors import ProtocolError
from fedmed.learning.ewc import Knowledge
from fedmed.records import Plan, decode
from fedmed_server.aggregators import Aggregator, InsecureAggregator
from fedmed_server.strategy import GridChannel
from fedmed_server.study import Listener, StudyFolders, StudyRunner

PLAN_KEY = "plan"
PLAN_DIGEST_KEY = "plan-digest"


def build_server_app(
    folders: StudyFolders,
    *,
    knowledge: Knowledge | None,
    listener: Listener,
    poll_interval_s: float = 0.2,
) -> ServerApp:
    """Return the ServerApp of one study.

    Args:
        folders: Where the base and the study's state are.
        knowledge: What earlier studies left behind.
        listener: Told of rounds and failures.
        poll_interval_s: Seconds between looks for replies.
    """
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        plan = plan_from(context)
        StudyRunner(
            plan,
            folders,
            channel=GridChannel(grid, poll_interval_s=poll_interval_s),
            aggregator=aggregator_for(plan),
            knowledge=knowledge,
            listener=listener,
        ).run()

    return app


def aggregator_for(plan: Plan) -> Aggregator:
    """Return the aggregator that the plan names."""
    return InsecureAggregator(plan.aggregation)


def plan_from(context: Context) -> Plan:
    """Return the plan that travels in a run's configuration.

    Raises:
        ProtocolError: The plan and its digest differ.
    """
    plan_json = str(context.run_config[PLAN_KEY]).encode()
    if hashlib.sha256(plan_json).hexdigest() != context.run_config[PLAN_DIGEST_KEY]:
        raise ProtocolError("the run's plan and its digest differ; launch the study again")
    return decode(plan_json, Plan)
