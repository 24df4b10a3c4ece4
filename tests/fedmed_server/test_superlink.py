"""The SuperLink's own additions, and the shape of what they stand on."""

import inspect
from types import SimpleNamespace

from flwr.common.constant import TIMESTAMP_TOLERANCE
from flwr.server.superlink.linkstate.sql_linkstate import SqlLinkState

from fedmed_server import superlink


def test_dead_tasks_are_searched_for_once_a_second_and_traffic_is_not_counted():
    """Flower writes to its database for both at every request, with every site waiting for the lock."""
    now, searches = [0.0], []
    state = SimpleNamespace(_cleanup_expired_task_tokens=lambda: searches.append(now[0]), store_traffic=None)
    superlink._unburden(state, lambda: now[0])
    for moment in (0.0, 0.5, 0.99, 1.0, 1.5, 2.1):
        now[0] = moment
        state._cleanup_expired_task_tokens()
    assert searches == [0.0, 1.0, 2.1]
    state.store_traffic(1, bytes_sent=1, bytes_recv=1)


def test_flowers_state_is_the_one_that_is_changed():
    """If Flower renames what is put in its place, nothing would be spared; this says so."""
    assert list(inspect.signature(SqlLinkState._cleanup_expired_task_tokens).parameters) == ["self"]
    wanted = ["self", "run_id", "bytes_sent", "bytes_recv"]
    assert list(inspect.signature(SqlLinkState.store_traffic).parameters) == wanted


def test_a_look_waits_for_less_than_its_signature_is_good():
    """A SuperNode signs the moment of its request; Flower looks at it only when the wait is over."""
    assert superlink.SITE_WAITS_S < TIMESTAMP_TOLERANCE / 2
