"""The sealed store: nothing in clear, nothing changed unnoticed, whole after a kill."""

import os
import signal
import subprocess
import sys
from typing import Any

import pytest

from fedmed.errors import IntegrityError
from fedmed.secagg import store
from fedmed.secagg.attempt import Phase
from fedmed.secagg.state import ClientState

KEY = b"\x07" * 32


def test_a_state_comes_back_and_its_secrets_are_not_on_disk(bench: Any, tmp_path: Any):
    """What was saved is restored; the file holds no secret and is private to its owner."""
    cohort = bench.Cohort(3)
    cohort.play(until=Phase.CERTIFYING)
    state = cohort.sites["site1"].state
    path = tmp_path / "secagg.state"
    store.save(path, state, site="site1", site_key=KEY, entropy=os.urandom)
    assert store.restore(path, site="site1", site_key=KEY) == state
    data = path.read_bytes()
    assert not any(secret in data for secret in (state.dealt.seed, state.advertised.pair.mask_secret))
    assert path.stat().st_mode & 0o777 == 0o600


def test_without_a_file_a_site_starts_anew(tmp_path: Any):
    """A site that has never taken part has an empty state."""
    assert store.restore(tmp_path / "none", site="site1", site_key=KEY) == ClientState()


def test_every_changed_byte_is_noticed():
    """No byte of the file can change, and none can be cut off."""
    sealed = store.seal(ClientState(), site="site1", site_key=KEY, salt=b"s" * 32)
    for index in range(len(sealed)):
        changed = sealed[:index] + bytes([sealed[index] ^ 1]) + sealed[index + 1 :]
        with pytest.raises(IntegrityError, match="expected"):
            store.unseal(changed, site="site1", site_key=KEY)
    for cut in (b"", sealed[:20], sealed[:-1]):
        with pytest.raises(IntegrityError, match="expected"):
            store.unseal(cut, site="site1", site_key=KEY)


@pytest.mark.parametrize(("site", "key"), [("site2", KEY), ("site1", b"\x08" * 32)])
def test_a_foreign_file_is_refused(site: Any, key: Any):
    """A state sealed by another site, or under another key, is not used."""
    sealed = store.seal(ClientState(), site="site1", site_key=KEY, salt=b"s" * 32)
    with pytest.raises(IntegrityError, match="a changed or foreign file"):
        store.unseal(sealed, site=site, site_key=key)


WRITER = """
import os, sys
from pathlib import Path
from fedmed.secagg import store
from fedmed.secagg.messages import Turn
from fedmed.secagg.state import ClientState
for count in range(10**9):
    state = ClientState().marked(Turn(run="run", round=count, attempt=0))
    store.save(Path(sys.argv[1]), state, site="site1", site_key=bytes([7]) * 32, entropy=os.urandom)
    print(count, flush=True)
"""


def test_a_killed_writer_leaves_the_last_acknowledged_state_or_a_later_one(tmp_path: Any):
    """After kill -9 in the middle of writing the file is whole and no older than the last reply."""
    path = tmp_path / "secagg.state"
    for lines in (1, 5, 9):
        writer = subprocess.Popen(  # noqa: S603  our own interpreter and script
            [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True
        )
        with writer:
            for _ in range(lines):
                acknowledged = int(writer.stdout.readline())
            writer.send_signal(signal.SIGKILL)
            acknowledged = max([acknowledged, *(int(line) for line in writer.stdout if line.endswith("\n"))])
        (mark,) = store.restore(path, site="site1", site_key=KEY).marks
        assert mark.round in (acknowledged, acknowledged + 1)
