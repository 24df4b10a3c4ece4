"""A site's folder is made once, with its own keys, for its owner only."""

from pathlib import Path

import pytest

from fedmed.errors import IntegrityError, UsageError
from fedmed_site.home import SiteHome, SiteRecord
from fedmed_site.policy import SitePolicy

RECORD = SiteRecord(name="site-01", policy=SitePolicy(cap_epsilon=8.0, delta=1e-5))


def test_a_new_site_is_opened_by_others(tmp_path: Path):
    """A restart, or another worker process, finds name and policy."""
    SiteHome.create(tmp_path / "deep" / "site", RECORD)
    assert SiteHome.open(tmp_path / "deep" / "site").record() == RECORD


def test_a_site_is_made_once(tmp_path: Path):
    """A second creation would replace the keys, and with them every pseudonym; it changes nothing."""
    home = SiteHome.create(tmp_path, RECORD)
    key = home.pseudonym_key_path.read_bytes()
    with pytest.raises(UsageError, match="choose another folder"):
        SiteHome.create(tmp_path, SiteRecord(name="other", policy=RECORD.policy))
    assert home.pseudonym_key_path.read_bytes() == key
    assert home.record() == RECORD


def test_a_creation_that_was_killed_before_its_end_can_be_repeated(tmp_path: Path):
    """The record comes last: without it there is no site yet."""
    home = SiteHome.create(tmp_path, RECORD)
    home.record_path.unlink()
    with pytest.raises(UsageError):
        SiteHome.open(tmp_path)
    SiteHome.create(tmp_path, RECORD)
    assert SiteHome.open(tmp_path).record() == RECORD


def test_two_sites_have_different_keys(tmp_path: Path):
    """The same patient has unrelated tokens at two hospitals."""
    keys = [SiteHome.create(tmp_path / name, RECORD).pseudonym_key_path.read_bytes() for name in ("a", "b")]
    assert keys[0] != keys[1]
    assert [len(key) for key in keys] == [32, 32]


def test_a_site_is_readable_by_its_owner_only(tmp_path: Path):
    """Other users of the machine see neither keys nor records nor results."""
    home = SiteHome.create(tmp_path / "site", RECORD)
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
    assert SiteHome.create(tmp_path / name, record).record().name == name


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
    home = SiteHome.create(tmp_path, RECORD)
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
