"""What Flower's runtime gives a coordinator before its code runs."""

import pytest
from flwr.supercore.task_identity import TaskIdentity


@pytest.fixture(autouse=True)
def _identity() -> None:
    """Let messages be made outside a run, as the strategies of Flower need."""
    TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1
