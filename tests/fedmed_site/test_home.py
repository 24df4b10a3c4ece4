"""A site's folder is made once, with its own keys, for its owner only."""

from argparse import Namespace
from pathlib import Path

import pytest

from fedmed.errors import IntegrityError, UsageError
from fedmed_site.console import opened
from fedmed_site.home import SiteHome, SiteRecord
from fedmed_site.policy import SitePolicy

RECORD = SiteRecord(name="site-01", policy=SitePolicy(cap_epsilon=8.0, delta=1e-5))
KEY = bytes(range(32))


def create(root: Path, record: SiteRecord = RECORD) -> SiteHome:
    """Make a site."""
    return SiteHome.create(root, record, pseudonym_key=KEY)


def test_a_new_site_is_opened_by_others(tmp_path: Path):
    """A restart, or another worker process, finds name and policy."""
    create(tmp_path / "deep" / "site")
    assert SiteHome.open(tmp_path / "deep" / "site").record() == RECORD


def test_a_site_is_made_once(tmp_path: Path):
    """A second creation would replace the keys, and with them every pseudonym; it changes nothing."""
    home = create(tmp_path)
    with pytest.raises(UsageError, match="choose another folder"):
        SiteHome.create(tmp_path, SiteRecord(name="other", policy=RECORD.policy), pseudonym_key=bytes(32))
    assert home.pseudonym_key_path.read_bytes() == KEY
    assert home.record() == RECORD


def test_a_creation_that_was_killed_before_its_end_can_be_repeated(tmp_path: Path):
    """The record comes last: without it there is no site yet."""
    home = create(tmp_path)
    home.record_path.unlink()
    with pytest.raises(UsageError):
        SiteHome.open(tmp_path)
    create(tmp_path)
    assert SiteHome.open(tmp_path).record() == RECORD


@pytest.mark.parametrize("key", [b"", bytes(31), bytes(33), bytes(64)])
def test_a_key_of_another_length_makes_no_site(tmp_path: Path, key: bytes):
    """A short key would be guessed, and with it every patient's token; nothing is written."""
    with pytest.raises(UsageError, match=f"pseudonym key of 32 bytes, got {len(key)}"):
        SiteHome.create(tmp_path / "site", RECORD, pseudonym_key=key)
    assert list(tmp_path.iterdir()) == []


def test_a_site_is_readable_by_its_owner_only(tmp_path: Path):
    """Other users of the machine see neither keys nor records nor results."""
    home = create(tmp_path / "site")
    for path in (home.root, *home.root.rglob("*")):
        assert path.stat().st_mode & 0o077 == 0, path


def test_a_folder_without_a_site_is_refused(tmp_path: Path):
    """The message says what to do, and nothing is made."""
    with pytest.raises(UsageError, match=r"no site\.json; create the site first"):
        SiteHome.open(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["", "../other", "a/b", "a b", "a.b", "-", "a\n", "a\x00"])
def test_a_name_can_not_leave_its_folder(name: str):
    """Names become parts of paths and log lines."""
    with pytest.raises(ValueError, match="letters, digits"):
        SiteRecord(name=name, policy=RECORD.policy)


@pytest.mark.parametrize("name", ["site-01", "Cleveland", "va_2", "协和医院"])
def test_a_hospital_has_its_own_name(name: str, tmp_path: Path):
    """Also in Chinese."""
    record = SiteRecord(name=name, policy=RECORD.policy)
    assert create(tmp_path / name, record).record().name == name


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b'{"name": "a", "policy": {"cap_epsilon": -1, "delta": 1e-5}, "version": 1}',
        b'{"name": "a", "policy": {"cap_epsilon": 1, "delta": 1e-5, "cap": 9}, "version": 1}',
        b'{"name": "a", "policy": {"cap_epsilon": 1, "delta": 1e-5}, "version": 2}',
    ],
    ids=["empty", "no name", "bad cap", "unknown limit", "later version"],
)
def test_a_damaged_record_is_refused(tmp_path: Path, data: bytes):
    """A site with an unreadable policy has no policy, so it doesn't take part."""
    home = create(tmp_path)
    home.record_path.write_bytes(data)
    with pytest.raises(IntegrityError, match="SiteRecord"):
        SiteHome.open(tmp_path).record()


def test_everything_of_a_site_is_inside_its_folder(tmp_path: Path):
    """So that a backup of the folder is a backup of the site, and its removal removes it."""
    home = SiteHome(tmp_path / "site")
    paths = (
        home.record_path, home.pseudonym_key_path, home.data("heart"), home.audit_path, home.ledgers, home.models,
        home.replies, home.evaluations, home.normalisation, home.lock_path, home.log_path,
    )  # fmt: skip
    assert all(path.is_relative_to(home.root) for path in paths)
    assert len(set(paths)) == len(paths)


def test_a_folder_named_from_here_is_found_from_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The SuperNode's process works in another folder, so a command takes `--home site` as a whole path."""
    create(tmp_path / "site")
    monkeypatch.chdir(tmp_path)
    assert opened(Namespace(home=Path("site"))).root == tmp_path / "site"
