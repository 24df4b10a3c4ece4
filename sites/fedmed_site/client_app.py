"""Flower's ClientApp: a thin translation from messages to agent calls.

Why it exists: the only room at a site where Flower's message types are known.

Rules:
    * One typed action per message type; the agent decides everything else.
    * The plan comes with the run's configuration as canonical JSON, its SHA-256 and its signatures, and is looked
      at only if this site's consortium signed it.
    * Nothing raised here reaches the coordinator but a sanitised failure.

What it does not do: hold state, touch data, choose what to train.
"""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import cast

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from fedmed.bundle import PLAN_DIGEST_KEY, PLAN_KEY, PLAN_SIGNATURES_KEY
from fedmed.errors import RefusedError, UsageError
from fedmed.exchange import ACTIONS, Action, Answer, Failure, Task, Work
from fedmed.records import require_digest
from fedmed.secagg.shamir import Entropy
from fedmed_site.agent import SiteAgent
from fedmed_site.participant import system_entropy

HOME_VARIABLE = "FEDMED_SITE_HOME"


def build_client_app(
    locate: Callable[[Context], Path], *, entropy_of: Callable[[str, bytes], Entropy] = system_entropy
) -> ClientApp:
    """Return the ClientApp of a site.

    Args:
        locate: Says which site folder a context belongs to.
        entropy_of: The generator of keys and masks; only a simulation that must repeat passes another.
    """
    app = ClientApp()
    for name in ACTIONS:
        category, action = name.split(".")
        register = {"train": app.train, "evaluate": app.evaluate, "query": app.query}[category]
        register(action)(_handler(name, lambda context: SiteAgent.open(locate(context), entropy_of=entropy_of)))
    return app


def home_from_environment(_context: Context) -> Path:
    """Return the site folder that the appliance's environment names.

    Raises:
        UsageError: The variable is not set.
    """
    home = os.environ.get(HOME_VARIABLE)
    if not home:
        raise UsageError(f"expected the site's folder in {HOME_VARIABLE}, found nothing; set it in the service's unit")
    return Path(home)


def _handler(action: Action, agent_of: Callable[[Context], SiteAgent]) -> Callable[[Message, Context], Message]:
    def handle(message: Message, context: Context) -> Message:
        return Message(_content_of(_reply(action, message, context, agent_of)), reply_to=message)

    return handle


def _reply(
    action: Action, message: Message, context: Context, agent_of: Callable[[Context], SiteAgent]
) -> Answer | Failure:
    """Translate and ask the agent; Flower would send any exception's text to the coordinator, so none passes."""
    try:
        plan_json = str(context.run_config[PLAN_KEY]).encode()
        announced = context.run_config[PLAN_DIGEST_KEY]
        signatures = str(context.run_config[PLAN_SIGNATURES_KEY])
        agent = agent_of(context)
        if hashlib.sha256(plan_json).hexdigest() != announced:
            return Failure(site=agent.name, code="ProtocolError", reason="the run's plan and its digest differ")
        try:
            agent.admit(plan_json, signatures)
        except RefusedError as error:
            return Failure(site=agent.name, code="RefusedError", reason=str(error))
        return agent.respond(plan_json, _task_from(action, message.content))
    except Exception as error:  # noqa: BLE001  the text of an unforeseen error may name local paths
        return Failure(site="", code=type(error).__name__, reason="the site could not read the task; see its own log")


def _task_from(action: Action, content: RecordDict) -> Task:
    config = content.config_records["task"]
    arrays = content.array_records.get("arrays", ArrayRecord())
    plan_digest = str(config["plan-digest"])
    require_digest("plan-digest", plan_digest)  # it goes into logs
    return Task(
        action=action,
        plan_digest=plan_digest,
        round=int(cast("int", config["round"])),
        arrays={name: array.numpy() for name, array in arrays.items()},
        works=cast("tuple[Work, ...]", tuple(str(config.get("works", "")).split())),
        message=cast("bytes", config.get("message", b"")),
        receipt=cast("bytes", config.get("receipt", b"")),
    )


def _content_of(reply: Answer | Failure) -> RecordDict:
    if isinstance(reply, Failure):
        return RecordDict({"failure": ConfigRecord({"site": reply.site, "code": reply.code, "reason": reply.reason})})
    texts = {key: value for key, value in reply.facts.items() if isinstance(value, str)}
    numbers: dict[str, int | float | list[int] | list[float]] = {
        key: float(value) for key, value in reply.facts.items() if not isinstance(value, str)
    }
    parts = {"message": reply.message, "receipt": reply.receipt}
    sent = {name: data for name, data in parts.items() if data}
    content = RecordDict({"answer": ConfigRecord({"site": reply.site, **sent, **texts})})
    if reply.arrays:  # every record is an object of its own on the way, so there are none without content
        arrays = {name: Array(np.ascontiguousarray(array)) for name, array in reply.arrays.items()}
        content["arrays"] = ArrayRecord(arrays)
    if numbers:
        content["numbers"] = MetricRecord(numbers)
    return content


app = build_client_app(home_from_environment)
