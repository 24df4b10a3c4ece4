"""Flower's ServerApp: read the plan from the run's configuration and run the study.

Why it exists: the only room at the coordinator, beside `strategy`, where Flower is known.

What it does not do: plan, calibrate, or keep anything that a checkpoint does not hold.
"""

import hashlib
import os
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedmed.bundle import PLAN_DIGEST_KEY, PLAN_KEY
from fedmed.errors import ProtocolError, UsageError
from fedmed.learning.ewc import Knowledge
from fedmed.receipts import Signer
from fedmed.records import Plan, decode
from fedmed.secagg.roster import Roster
from fedmed_server.aggregators import Aggregator, InsecureAggregator
from fedmed_server.attempt_store import AttemptStore
from fedmed_server.receipts import RECEIPTS, StudyReceipts
from fedmed_server.secure import SecureAggregator
from fedmed_server.strategy import GridChannel
from fedmed_server.study import Listener, StudyFolders, StudyRunner


def build_server_app(
    folders: StudyFolders,
    *,
    knowledge: Knowledge | None,
    listener: Listener,
    roster: Roster | None = None,
    signer: Signer | None = None,
    poll_interval_s: float = 0.2,
) -> ServerApp:
    """Return the ServerApp of one study.

    Args:
        folders: Where the base and the study's state are.
        knowledge: What earlier studies left behind.
        listener: Told of rounds and failures.
        roster: The consortium's verified roster, which secure aggregation needs.
        signer: Signs receipts; sites that know their coordinator's key insist on them.
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
            aggregator=aggregator_for(plan, roster=roster, state=folders.state, signer=signer),
            knowledge=knowledge,
            listener=listener,
        ).run()

    return app


def aggregator_for(
    plan: Plan, *, roster: Roster | None, state: Path, signer: Signer | None = None, signed_roster: str = ""
) -> Aggregator:
    """Return the aggregator that the plan names.

    Args:
        plan: Says which.
        roster: Needed for secure aggregation.
        state: The study's folder.
        signer: Signs receipts; sites that know their coordinator's key insist on them.
        signed_roster: The roster's file, for those who verify receipts later.

    Raises:
        UsageError: The plan has secure aggregation and there is no roster.
    """
    if plan.aggregation.kind == "insecure":
        return InsecureAggregator(plan.aggregation)
    if roster is None:
        raise UsageError("expected the consortium's signed roster for secure aggregation, got none; sign one first")
    receipts = StudyReceipts(state / RECEIPTS, signer, os.urandom, signed_roster)
    return SecureAggregator(
        plan.aggregation,
        roster=roster,
        store=AttemptStore(state / "secagg"),
        rounds=plan.training.rounds,
        receipts=receipts,
    )


def plan_from(context: Context) -> Plan:
    """Return the plan that travels in a run's configuration.

    Raises:
        ProtocolError: The plan and its digest differ.
    """
    plan_json = str(context.run_config[PLAN_KEY]).encode()
    if hashlib.sha256(plan_json).hexdigest() != context.run_config[PLAN_DIGEST_KEY]:
        raise ProtocolError("the run's plan and its digest differ; launch the study again")
    return decode(plan_json, Plan)
