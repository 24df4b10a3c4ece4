"""The control protocol keeps its word: what an older client sends means the same to a newer agent."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from fedmed_site import protocol
from fedmed_site.protocol import METHODS, SERVICE, control_pb2

FOLDER = Path(protocol.__file__).parent
NUMBERS = {
    "SiteStatus": "site version agent_since node_state node_since coordinator certificate_not_after current"
    " last_exchange tasks_done tasks_refused paused",
    "Current": "study action round since",
    "Exchange": "at outcome",
    "Study": "digest study state seen decided by rounds epsilon delta dataset target model_family trust_model"
    " base_digest version",
    "StudyList": "studies",
    "DecideRequest": "study decision",
    "PauseRequest": "until",
    "PauseReply": "since by until version",
    "BudgetReply": "lines",
    "BudgetLine": "dataset spent_epsilon left_epsilon cap_epsilon delta",
    "AuditRequest": "last",
    "AuditReply": "total entries",
    "AuditEntry": "index kind body",
}
"""Version 1: each message's fields by their numbers from 1 on; a later one may only add at the end."""


def test_the_methods_of_version_1():
    """Name and methods are what an older client calls."""
    assert SERVICE == "fedmed.site.v1.SiteControl"
    assert set(METHODS) >= {"Status", "Studies", "Decide", "Pause", "Resume", "Budget", "Audit", "Stop"}


@pytest.mark.parametrize("message", sorted(NUMBERS))
def test_fields_keep_their_numbers(message: str):
    """A number that changed would be read as another field."""
    fields = control_pb2.DESCRIPTOR.message_types_by_name[message].fields
    by_number = [field.name for field in sorted(fields, key=lambda field: field.number)]
    known = NUMBERS[message].split()
    assert by_number[: len(known)] == known
    assert [field.number for field in sorted(fields, key=lambda field: field.number)] == list(range(1, len(fields) + 1))


@pytest.mark.skipif(find_spec("grpc_tools") is None, reason="needs grpcio-tools (the dev extra)")
def test_the_code_is_that_of_the_definition(tmp_path: Path):
    """Nobody changed control.proto without making its code anew, or the other way round."""
    names = ["fedmed_site/protocol/control.proto"]
    words = [sys.executable, "-m", "grpc_tools.protoc", "-I", str(FOLDER.parents[1]), f"--python_out={tmp_path}"]
    subprocess.run([*words, f"--pyi_out={tmp_path}", *names], check=True)  # noqa: S603  our own tool on our own file
    made = tmp_path / "fedmed_site" / "protocol"

    def described(folder: Path) -> str:
        lines = (folder / "control_pb2.py").read_text().splitlines()
        return next(line for line in lines if line.startswith("DESCRIPTOR = "))

    assert described(made) == described(FOLDER)
    assert (made / "control_pb2.pyi").read_text() == (FOLDER / "control_pb2.pyi").read_text()
