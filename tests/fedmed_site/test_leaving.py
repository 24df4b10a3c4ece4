"""Leaving: nothing that speaks for the consortium stays usable, nothing that shows what was done is lost."""

import hashlib
import os
import tarfile
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

import pytest
from offices import Office, tree

from fedmed.audit import ChainLog
from fedmed.crypto.seal import DataKey
from fedmed.errors import IntegrityError, UsageError
from fedmed.secagg import store
from fedmed_server import authority
from fedmed_site import cli, leaving
from fedmed_site.control import ControlServer
from fedmed_site.home import SiteHome
from fedmed_site.identity import read_site_identity
from fedmed_site.leaving import leave, open_archive

NOW = datetime(2030, 1, 2, 12, tzinfo=UTC)
KEYS = ("keys/supernode.key", "keys/supernode.pub")


@pytest.fixture
def office(tmp_path: Path) -> Office:
    """Return a consortium that one site has joined."""
    return Office(tmp_path).founded().joined("north")


@pytest.fixture
def home(office: Office) -> SiteHome:
    """Return the site, with an answer that it keeps and records that are its own."""
    home = SiteHome.open(office.home("north"))
    (home.replies / "plan").mkdir()
    (home.replies / "plan" / "0.reply").write_bytes(b"an update in clear" * 1000)
    (home.ledgers / "heart.jsonl").write_bytes(b"a ledger")
    (home.root / "data" / "heart").mkdir(parents=True)
    (home.root / "data" / "heart" / "table.parquet").write_bytes(b"records")
    return home


def test_what_belongs_to_the_consortium_is_gone(home: SiteHome):
    """Certificate, keys, stored answers, roster and state: none is left in clear or in use."""
    signing = home.signing_key_path.read_bytes()
    leave(home, by="ann", now=NOW)
    assert not (home.root / "tls").exists()
    assert not any((home.root / name).exists() for name in KEYS)
    assert list(home.replies.iterdir()) == list(home.consortium.iterdir()) == []
    assert home.signing_key_path.read_bytes() != signing
    everything = b"".join(path.read_bytes() for path in home.root.rglob("*") if path.is_file())
    assert b"an update in clear" not in everything
    assert signing not in everything
    with pytest.raises(UsageError):
        read_site_identity(home.root, now=NOW)


def test_what_the_hospital_answers_for_stays(home: SiteHome):
    """Ledgers, data, the pseudonym key and the seal key are as they were, and the log has one more entry."""
    kept = [home.ledgers / "heart.jsonl", home.root / "data/heart/table.parquet", home.pseudonym_key_path]
    kept += [home.seal_key_path, home.record_path]
    before = [path.read_bytes() for path in kept]
    entries = len(ChainLog(home.audit_path).entries())
    left = leave(home, by="ann", now=NOW)
    assert [path.read_bytes() for path in kept] == before
    after = ChainLog(home.audit_path).entries()
    assert len(after) == entries + 1
    body = after[-1].body
    assert (after[-1].kind, body["by"], body["sha256"]) == ("left-consortium", "ann", left.sha256)
    assert hashlib.sha256(left.archive.read_bytes()).hexdigest() == left.sha256


def test_the_archive_holds_everything_that_went(home: SiteHome, tmp_path: Path):
    """Opened with the site's own key it is a tar of each file, byte for byte."""
    before = {
        name: data for name, data in tree(home.root).items() if name.split("/")[0] in ("tls", "replies", "consortium")
    }
    left = leave(home, by="ann", now=NOW)
    open_archive(home, left.archive, tmp_path / "opened.tar")
    with tarfile.open(tmp_path / "opened.tar") as tar:
        held = {member.name: tar.extractfile(member).read() for member in tar if member.isfile()}  # type: ignore[union-attr]
    assert before.items() <= held.items()
    assert all(name in held for name in (*KEYS, "keys/signing.key", "secagg/state.sealed"))
    assert (tmp_path / "opened.tar").stat().st_mode & 0o077 == 0


def test_the_state_begins_anew(home: SiteHome):
    """The folder is one of a site that has joined nothing, so it can join again."""
    leave(home, by="ann", now=NOW)
    store.restore(home.secagg_state_path, site="north", site_key=home.seal_key_path.read_bytes())
    with pytest.raises(UsageError, match="nothing to leave"):
        leave(home, by="ann", now=NOW)


def test_a_site_that_left_can_join_again(office: Office, home: SiteHome):
    """Once the consortium has revoked it, a new invitation gives it new keys and a new certificate."""
    old = read_site_identity(home.root, now=office.now).tls_serial
    leave(home, by="ann", now=NOW)
    authority.revoke(office.opened(), "north", reason="it left", now=office.now)
    office.joined("north")
    assert read_site_identity(home.root, now=office.now).tls_serial != old


def test_no_agent_may_run(home: SiteHome):
    """While an agent runs nothing is touched."""
    before = tree(home.root)

    class Appliance:
        def status(self) -> object:
            raise AssertionError

        def stop(self) -> None: ...

    with ControlServer(home, Appliance()), pytest.raises(UsageError, match="expected no agent to run"):  # type: ignore[arg-type]
        leave(home, by="ann", now=NOW)
    assert tree(home.root) == before


def test_a_full_disk_removes_nothing(home: SiteHome, monkeypatch: pytest.MonkeyPatch):
    """Without a whole archive every key stays."""
    before = {name: data for name, data in tree(home.root).items() if not name.startswith("left/")}

    def full(*_: object, **__: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(leaving, "seal_stream", full)
    with pytest.raises(OSError, match="No space"):
        leave(home, by="ann", now=NOW)
    assert {name: data for name, data in tree(home.root).items() if not name.startswith("left/")} == before


def test_an_archive_that_does_not_read_back_removes_nothing(home: SiteHome, monkeypatch: pytest.MonkeyPatch):
    """What was sealed is opened again before anything goes."""
    seal = leaving.seal_stream

    def spoil(plain: BinaryIO, sealed: BinaryIO, *, key: DataKey, name: str) -> None:
        seal(plain, sealed, key=key, name=name)
        sealed.seek(-1, 2)
        sealed.write(b"\0")

    monkeypatch.setattr(leaving, "seal_stream", spoil)
    with pytest.raises(IntegrityError):
        leave(home, by="ann", now=NOW)
    assert (home.root / "tls" / "current").exists()
    assert (home.root / "keys/supernode.key").is_file()


def test_an_archive_that_lacks_a_file_removes_nothing(home: SiteHome, monkeypatch: pytest.MonkeyPatch):
    """What was sealed is counted: a file that a failing disk left out stays where it was."""
    whole = leaving._tar
    monkeypatch.setattr(leaving, "_tar", lambda root, names: whole(root, names[:-1]))
    with pytest.raises(IntegrityError, match="nothing was removed"):
        leave(home, by="ann", now=NOW)
    assert (home.root / "tls" / "current").exists()
    assert (home.consortium / "consortium.key").is_file()


def test_a_leaving_that_was_killed_is_finished_by_saying_it_again(home: SiteHome, monkeypatch: pytest.MonkeyPatch):
    """Killed between two removals, the mark of membership still stands, and a second archive takes the rest."""
    remove, done = leaving._remove, []

    def die(path: Path) -> None:
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(path)
        remove(path)

    monkeypatch.setattr(leaving, "_remove", die)
    with pytest.raises(KeyboardInterrupt):
        leave(home, by="ann", now=NOW)
    monkeypatch.setattr(leaving, "_remove", remove)
    leave(home, by="ann", now=NOW.replace(hour=13))
    assert list(home.consortium.iterdir()) == []
    assert len(list((home.root / "left").glob("*.sealed"))) == 2


def test_a_changed_archive_does_not_open(home: SiteHome, tmp_path: Path):
    """Neither a flipped byte nor another site's key opens it, and no half file appears."""
    archive = leave(home, by="ann", now=NOW).archive
    data = bytearray(archive.read_bytes())
    data[len(data) // 2] ^= 1
    archive.write_bytes(data)
    with pytest.raises(IntegrityError):
        open_archive(home, archive, tmp_path / "opened.tar")
    assert not (tmp_path / "opened.tar").exists()


def test_the_command_asks_and_tells_what_to_do_next(home: SiteHome, capsys: pytest.CaptureFixture[str], tmp_path: Path):
    """Without a yes nothing happens; then the archive is named, and that the consortium must revoke the site."""
    with pytest.raises(UsageError, match="--yes"):
        cli.site(["leave", "--home", str(home.root)])
    assert (home.root / "tls").exists()
    assert cli.site(["leave", "--yes", "--home", str(home.root)]) == 0
    assert "revokes north" in capsys.readouterr().out
    (archive,) = (home.root / "left").glob("*.sealed")
    opened = tmp_path / "o.tar"
    assert cli.site(["leave", "--open", str(archive), "--to", str(opened), "--home", str(home.root)]) == 0
    assert tarfile.is_tarfile(opened)
    with pytest.raises(UsageError, match="nothing was overwritten"):
        cli.site(["leave", "--open", str(archive), "--to", str(opened), "--home", str(home.root)])
    with pytest.raises(UsageError, match="together"):
        cli.site(["leave", "--open", str(archive), "--home", str(home.root)])
