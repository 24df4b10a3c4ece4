"""The model of a plan at this site, and what this site computes it on.

Why it exists: whoever runs a study's model here, in the study or after it, must run it as the study does.

Rules:
    * The site's machine and the plan's precision and checkpointing always count.
    * What this site can't compute is refused before a record is read.

What it does not do: train, evaluate, or charge.
"""

from torch import nn

from fedmed.errors import ConfigError, RefusedError
from fedmed.learning.machine import Machine
from fedmed.models import attach_adapter, enter_round, load_module
from fedmed.records import Plan
from fedmed_site.adapters import Adapter
from fedmed_site.home import SiteHome


def module_of(home: SiteHome, plan: Plan) -> nn.Module:
    """Return the model of a plan with a new adapter.

    Raises:
        ModelError: The public base is not here any more, or can't be used.
    """
    _, module = load_module(home.models / plan.base_digest, expected_digest=plan.base_digest)
    return attach_adapter(module, plan.model, seed=plan.seed)


def module_with(home: SiteHome, plan: Plan, adapter: Adapter) -> nn.Module:
    """Return the model of a plan with an adapter in it.

    Raises:
        ModelError: The public base is not here any more, or the adapter is not of this plan's model.
    """
    module = module_of(home, plan)
    enter_round(module, plan.model, number=0, frozen=adapter.frozen).write(module, adapter.vector)
    return module


def machine_for(home: SiteHome, plan: Plan) -> Machine:
    """Return what this site computes a plan's model on.

    Raises:
        RefusedError: It can't compute what the plan asks for, or is set to a card that it has not.
    """
    try:
        machine = Machine.found(home.record().machine)
        machine.require(plan.model.precision)
    except ConfigError as error:
        raise RefusedError(str(error)) from None
    return machine
