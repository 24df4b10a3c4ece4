"""Enrolment as administrators type it: real processes of `fedmed`, real folders, a terminal, and real TLS."""

import os
import pty
import re
import socket
import ssl
import subprocess
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest

from fedmed.crypto.certificates import site_of
from fedmed.crypto.passphrases import KEY_FILE_VARIABLE, VARIABLE, Secret
from fedmed.errors import RefusedError
from fedmed_server.coordinator_home import read_coordinator
from fedmed_site.home import SiteHome
from fedmed_site.identity import read_site_identity
from fedmed_site.membership import Membership

FEDMED = str(Path(sys.executable).with_name("fedmed"))
PASSPHRASE = "correct horse battery staple"
DRAFT = """\
serial: 1
valid_until: 2099-12-31
policy:
  n_min: 3
  max_weight: 100000
"""
BLOCKS = re.compile(r"(?:[0-9a-f]{4} ){7}[0-9a-f]{4}")


class Desk:
    """A folder in which commands are typed; the environment names no secret."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.said: list[str] = []
        self.environment = {k: v for k, v in os.environ.items() if k not in {VARIABLE, KEY_FILE_VARIABLE}}

    def secret(self, name: str) -> Secret:
        """Return a key file's content; made if absent."""
        path = self.folder / name
        if not path.exists():
            path.write_bytes(os.urandom(32))
            path.chmod(0o600)
        return Secret(kind="key-file", value=path.read_bytes())

    def run(self, line: str, *more: str) -> str:
        """Run a command that must succeed, without a terminal; return what it said."""
        done = self.tried(line, *more)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def refused(self, line: str, *more: str) -> str:
        """Run a command that must fail with one line; return the line."""
        done = self.tried(line, *more)
        assert done.returncode == 2, done.stdout
        assert done.stderr.count("\n") == 1, done.stderr
        assert done.stderr.startswith("fedmed: ")
        return done.stderr

    def tried(self, line: str, *more: str) -> "subprocess.CompletedProcess[str]":
        """Run a command and keep what it said."""
        done = subprocess.run(  # noqa: S603  our own command
            [FEDMED, *line.split(), *more],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        self.said += [done.stdout, done.stderr]
        return done

    def typed(self, line: str, *answers: tuple[str, str]) -> tuple[int, str]:
        """Run a command at a terminal and answer its questions; return the exit code and all that was seen."""
        main_end, terminal = pty.openpty()
        program = (
            "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
        )
        child = subprocess.Popen(  # noqa: S603  our own command
            [sys.executable, "-c", program, FEDMED, *line.split()],
            cwd=self.folder,
            env=self.environment,
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            start_new_session=True,
        )
        os.close(terminal)
        seen = ""
        for question, answer in answers:
            seen += _until(main_end, question)
            os.write(main_end, answer.encode() + b"\n")
        seen += _until(main_end, "")
        os.close(main_end)
        self.said.append(seen)
        return child.wait(timeout=120), seen


def _until(descriptor: int, mark: str) -> str:
    seen = b""
    while not mark or mark.encode() not in seen:
        try:
            part = os.read(descriptor, 4096)
        except OSError:  # the other end is closed
            part = b""
        if not part:
            assert not mark, seen.decode()
            break
        seen += part
    return seen.decode()


def fingerprint(text: str) -> str:
    """Return the last fingerprint that a command showed: what is read out on the telephone."""
    return " ".join(BLOCKS.findall(text)[-2:])


def shaken(desk: Desk, site: str, *, host: str = "localhost") -> str:
    """Shake hands as this site with the coordinator and return the name that it saw; lists are looked at."""
    now = datetime.now(UTC)
    hub = read_coordinator(desk.folder / "COORD", now=now)
    own = read_site_identity(desk.folder / site, now=now)
    accepting = hub.server_context(desk.secret("coordinator.unlock"))
    calling = own.tls_context(desk.secret(f"{site}.unlock"))
    near, far = socket.socketpair()
    seen: list[bytes] = []

    def serve() -> None:
        with accepting.wrap_socket(near, server_side=True) as tls:
            seen.append(tls.getpeercert(binary_form=True) or b"")
            tls.sendall(b"hello")

    thread = threading.Thread(target=serve)
    thread.start()
    with calling.wrap_socket(far, server_hostname=host) as tls:
        assert tls.recv(5) == b"hello"
        assert tls.version() == "TLSv1.3"
    thread.join()
    hub.revoked().require_good(tls_serial=own.tls_serial)
    return hub.members().require_member(site_of(seen[0]), tls_serial=own.tls_serial).site


@pytest.mark.slow
def test_three_hospitals_join_with_key_files(tmp_path: Path):
    """Founded, invited, joined, enrolled, rostered, renewed, revoked: every step as a script of an administrator."""
    desk = Desk(tmp_path)
    for name in ("consortium", "coordinator", "north", "south", "west"):
        desk.secret(f"{name}.unlock")
    key = "--key-file consortium.unlock"
    root = fingerprint(desk.run(f"consortium init --out DIR --name heart-net --permit localhost {key}"))
    desk.run(
        f"consortium coordinator --dir DIR --host localhost --port 8443 --out COORD {key} "
        "--coordinator-key-file coordinator.unlock"
    )
    (tmp_path / "draft.yaml").write_text(DRAFT)
    for site in ("north", "south", "west"):
        desk.run(f"consortium invite {site} --dir DIR --out invite-{site}.json --policy draft.yaml {key}")
        own = f"--home {site} --key-file {site}.unlock"
        join = f"site join invite-{site}.json {own} --out request-{site}.json"
        shown = fingerprint(desk.run(join, "--fingerprint", root))
        enrol = f"consortium enrol request-{site}.json --dir DIR --out kit-{site}.json {key}"
        desk.run(enrol, "--fingerprint", shown)
        desk.run(f"site join kit-{site}.json --home {site}")
        desk.run(f"site join kit-{site}.json --home {site}")  # twice is the same as once
        assert "nothing was overwritten" in desk.refused(enrol, "--fingerprint", shown)
        again = enrol.replace("kit-", "second-kit-")
        assert "answered already" in desk.refused(again, "--fingerprint", shown)
    desk.run(f"consortium roster sign draft.yaml --from-register DIR --out roster.json {key}")
    for site in ("north", "south", "west"):
        desk.run(f"site roster roster.json --home {site}")
    for name in ("members.json", "revoked.json"):
        (tmp_path / "COORD" / name).write_bytes((tmp_path / "DIR" / name).read_bytes())
    assert [shaken(desk, site) for site in ("north", "south", "west")] == ["north", "south", "west"]
    roster = Membership(SiteHome.open(tmp_path / "north")).roster(now=datetime.now(UTC))
    assert roster.names == ("north", "south", "west")

    desk.run("site renew --home north --key-file north.unlock --out renewal.json")
    desk.run(f"consortium renew renewal.json --dir DIR --out kit-2.json --roster roster.json {key}")
    desk.run("site join kit-2.json --home north")
    desk.run(f"consortium coordinator --dir DIR --out COORD --renew {key} --coordinator-key-file coordinator.unlock")
    assert shaken(desk, "north") == "north"

    desk.run("site renew --home south --key-file south.unlock --out late.json")
    revoke = f"consortium roster revoke south --dir DIR {key}"
    out = desk.refused(f"{revoke} --previous roster.json --out roster.json", "--reason", "laptop stolen")
    assert "south is revoked, but no roster was signed: roster: expected at least n_min = 3 sites" in out
    assert "it was revoked at" in desk.refused(f"consortium renew late.json --dir DIR --out kit-3.json {key}")
    assert "revoked at" in desk.run("consortium register --dir DIR")
    (tmp_path / "COORD" / "revoked.json").write_bytes((tmp_path / "DIR" / "revoked.json").read_bytes())
    with pytest.raises(RefusedError, match="site south: expected keys in force, but these were revoked"):
        shaken(desk, "south")
    assert shaken(desk, "north") == "north"
    _no_secret_was_said(desk)


@pytest.mark.slow
def test_one_hospital_joins_at_a_terminal_with_passphrases(tmp_path: Path):
    """The same by hand: passphrases are typed twice without echo, fingerprints are answered with yes."""
    desk = Desk(tmp_path)
    twice = (("Passphrase for the new key: ", PASSPHRASE), ("The same passphrase again: ", PASSPHRASE))
    once = (("Passphrase: ", PASSPHRASE),)
    code, seen = desk.typed("consortium init --out DIR", *twice)
    assert code == 0, seen
    root = fingerprint(seen)
    code, seen = desk.typed(
        "consortium coordinator-request --host localhost --out COORD --request ask.json",
        ("Passphrase for the coordinator's keys: ", "another passphrase"),
        ("The same passphrase again: ", "another passphrase"),
    )
    assert code == 0, seen
    certify = "consortium coordinator-certify ask.json --dir DIR --out hub.json"
    code, seen = desk.typed(f"{certify}", ("Type yes: ", "yes"), *once)
    assert code == 0, seen
    assert "this file has" in desk.refused(
        "consortium coordinator-install hub.json --out COORD", "--fingerprint", "0" * 64
    )
    desk.run("consortium coordinator-install hub.json --out COORD", "--fingerprint", root)
    code, seen = desk.typed("consortium invite north --dir DIR --out invite.json", *once)
    assert code == 0, seen

    join = "site join invite.json --home north --out request.json"
    assert 'give what was read out: --fingerprint "…"' in desk.refused(join)
    code, seen = desk.typed(join, ("Type yes: ", "no"))
    assert code == 2, seen
    assert "nothing was done" in seen
    assert not (tmp_path / "north").exists()
    assert "this file has" in desk.refused(join, "--fingerprint", root.replace(root[0], "f" if root[0] != "f" else "e"))
    assert not (tmp_path / "north").exists()
    code, seen = desk.typed(join, ("Type yes: ", "yes"), *twice)
    assert code == 0, seen
    assert fingerprint(seen.split("Type yes:")[0]) == root
    site = fingerprint(seen)

    enrol = "consortium enrol request.json --dir DIR --out kit.json"
    assert 'give what was read out: --fingerprint "…"' in desk.refused(enrol)
    assert not (tmp_path / "kit.json").exists()
    code, seen = desk.typed(enrol, ("Type yes: ", "yes"), ("Passphrase: ", "a wrong passphrase"))
    assert code == 2, seen
    assert "expected the passphrase that it was sealed under" in seen
    code, seen = desk.typed(enrol, ("Type yes: ", "yes"), *once)
    assert code == 0, seen
    assert fingerprint(seen.split("Type yes:")[0]) == site
    assert "belongs to consortium" in desk.run("site join kit.json --home north")
    assert "give --passphrase-file FILE" in desk.refused("site renew --home north --out renewal.json")
    assert "expected the passphrase" in _typed_wrong(desk)
    code, seen = desk.typed("site renew --home north --out renewal.json", *once)
    assert code == 0, seen
    assert PASSPHRASE not in "".join(desk.said)


def _typed_wrong(desk: Desk) -> str:
    return desk.typed("site renew --home north --out renewal.json", ("Passphrase: ", "a wrong passphrase"))[1]


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("site join none.json --home h", "expected an invitation or a kit, found no such file"),
        ("site join rubbish.json --home h", "expected an invitation or a kit, got another file; check the path"),
        ("site roster none.json --home h", "expected a signed roster, found no such file"),
        ("site renew --home h", "found no site.json; create the site first"),
        ("consortium enrol rubbish.json --dir DIR --out kit.json", "expected a fedmed-site-request file, got another"),
        ("consortium enrol rubbish.json --dir DIR --out rubbish.json", "nothing was overwritten"),
        ("consortium invite north --dir DIR --out i.json", "expected the coordinator's statement, found no such file"),
        ("consortium coordinator --dir DIR --out C", "give --host"),
        ("consortium coordinator --dir DIR --out C --host a:1", "expected a DNS name or an IP address, without port"),
        ("consortium register --dir DIR", "expected the consortium's register, found no such file"),
        ("consortium roster revoke a --dir DIR --reason x --out o", "expected --previous and --out together"),
        ("consortium roster sign rubbish.json --from-register DIR --out o", "found no such file"),
        ("consortium init --out D --key-file k --passphrase-file p", "got both; leave one out"),
    ],
)
def test_a_mistake_is_one_line(tmp_path: Path, line: str, text: str):
    """No traceback, exit code 2, one line with what was expected."""
    (tmp_path / "rubbish.json").write_text("{}")
    assert text in Desk(tmp_path).refused(line)


def _no_secret_was_said(desk: Desk) -> None:
    """Nothing that a command printed holds a key file's content, a code's invitation or a key in PEM."""
    said = "".join(desk.said)
    for path in desk.folder.glob("*.unlock"):
        assert path.read_bytes().hex() not in said
    assert ssl.PEM_HEADER not in said
    assert "PRIVATE" not in said
