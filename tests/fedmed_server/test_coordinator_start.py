"""What keeps a coordinator from starting is one line, before any process of it runs."""

import socket
from datetime import UTC, datetime
from pathlib import Path

import pytest
from offices import COORDINATOR, Office

from fedmed.errors import UsageError
from fedmed.files import LONGEST_SOCKET
from fedmed_server.coordinator import CoordinatorSettings, open_coordinator_process
from fedmed_server.coordinator_making import make_coordinator


def started(root: Path, *, port: int, office: Path) -> None:
    """Make a coordinator for `port` in `root` and run it."""
    consortium = Office(office, now=datetime.now(UTC)).founded()
    make_coordinator(
        consortium.opened(), root, name="own", hosts=("localhost",), port=port, secret=COORDINATOR, now=consortium.now
    )
    settings = CoordinatorSettings(root=root, listen="127.0.0.1")
    open_coordinator_process(settings, COORDINATOR, say=lambda _: None).run()


def test_a_port_that_another_program_holds_is_named(tmp_path: Path):
    """Instead of a SuperLink that ends again and again."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen(1)
        port = other.getsockname()[1]
        with pytest.raises(UsageError, match=f"expected to listen at 127.0.0.1 port {port}, could not"):
            started(tmp_path / "own", port=port, office=tmp_path)


def test_a_folder_whose_path_is_too_long_is_refused(tmp_path: Path):
    """A Unix socket's path holds 108 bytes."""
    root = tmp_path / ("x" * LONGEST_SOCKET)
    with pytest.raises(UsageError, match="expected a path of at most"):
        started(root, port=1, office=tmp_path)
