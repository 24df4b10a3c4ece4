"""A site whose SuperNode has a user of its own, and whose agent has no network at all, takes part as any other."""

import os
import pwd
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from consortium_at_work import World, consortium_at_work, wait_until

from fedmed_site.home import SiteHome

pytestmark = [pytest.mark.slow, pytest.mark.processes]

BARE = {"PATH": os.defpath, "LANG": "C.UTF-8"}


def other_user() -> tuple[str, int | None]:
    """Return who is to be the SuperNode: another user where this one may change and that one can run this Python."""
    own = pwd.getpwuid(os.getuid()).pw_name, None
    if os.getuid() != 0:
        return own
    nobody = pwd.getpwnam("nobody")
    try:
        tried = subprocess.run(
            [sys.executable, "-m", "fedmed", "--version"], check=False, capture_output=True,
            user=nobody.pw_uid, group=nobody.pw_gid, extra_groups=[], env=BARE, cwd="/",
        )  # fmt: skip
    except PermissionError:  # its folder is closed to them
        return own
    return own if tried.returncode else (nobody.pw_name, nobody.pw_uid)


def without_network() -> list[str]:
    """Return what starts a command in a network of its own that leads nowhere, where that is allowed."""
    words = ["unshare", "--net"]
    if not shutil.which(words[0]):
        return []
    tried = subprocess.run([*words, "true"], capture_output=True, check=False)  # noqa: S603  two fixed words
    return [] if tried.returncode else words


@contextmanager
def apart(world: World, site: str, door: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Start a site as two services would, and yield the SuperNode's process."""
    name, number = other_user()
    deployment = world.deployment
    words = ("site", "start", "--home", world.home(site), "--key-file", deployment.folder.key(site),
             "--node-socket", door, "--node-user", name)  # fmt: skip
    with (deployment.folder.logs / f"{site}.log").open("ab") as log:
        deployment.processes[site] = subprocess.Popen(  # noqa: S603  our own command
            [*without_network(), sys.executable, "-m", "fedmed", *map(str, words)],
            stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
        )  # fmt: skip
    wait_until(door.exists, lambda: f"the agent opened no door: {world.said(site)}")
    node = subprocess.Popen(  # noqa: S603  likewise
        [sys.executable, "-m", "fedmed", "site", "node", "--agent", str(door)],
        user=number, group=number, extra_groups=None if number is None else [], env=BARE, cwd="/",
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        yield node
    finally:
        if node.poll() is None:
            node.send_signal(signal.SIGKILL)
        _, said = node.communicate()
        sys.stderr.write(said.decode(errors="replace"))


@pytest.fixture
def door() -> Iterator[Path]:
    """Return a place that other users can reach and not change; a test's own folder is closed to them."""
    folder = Path(tempfile.mkdtemp(prefix="fedmed-"))
    folder.chmod(0o711)
    yield folder / f"{secrets.token_hex(4)}.sock"
    shutil.rmtree(folder)


def test_a_study_with_a_supernode_of_another_user_and_an_agent_without_network(
    tmp_path_factory: pytest.TempPathFactory, door: Path
):
    """It trains and is fetched; the SuperNode ends with the agent; another user reads nothing of the site."""
    with consortium_at_work(tmp_path_factory.mktemp("a")) as world:
        site = world.names[0]
        world.deployment.stop(site)
        with apart(world, site, door) as node:
            study = world.begin("apart", rounds=2)
            world.finish(study)
            assert world.rounds(study) == [0, 1]
            assert [entry["sites"] for entry in world.log(study, "round-finished")] == [list(world.names)] * 2
            assert not list(SiteHome.open(world.home(site)).run.glob("flower*")), "the SuperNode wrote into the folder"
            if other_user()[1] is not None:
                uids = Path(f"/proc/{node.pid}/status").read_text().partition("Uid:\t")[2].split()[:4]
                assert "0" not in uids
                peek = ["-c", f"open({str(world.home(site) / 'ledger')!r})"]
                refused = subprocess.run(  # noqa: S603  our own command
                    [sys.executable, *peek], user=int(uids[0]), env=BARE, cwd="/", capture_output=True, check=False
                )
                assert b"PermissionError" in refused.stderr
            world.deployment.stop(site)
            node.wait(timeout=60)
