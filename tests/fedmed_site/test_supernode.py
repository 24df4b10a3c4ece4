"""What an administrator is told of the SuperNode: one line each time something begins or ends, with the cure."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from federation import build_consortium
from flwr.common import constant

from fedmed.audit import ChainLog
from fedmed.errors import IntegrityError
from fedmed_site import clocks
from fedmed_site.agent import SiteAgent
from fedmed_site.home import SiteHome
from fedmed_site.node_link import NodeStart
from fedmed_site.supernode import MOST_FOREIGN, News, SuperNode, why_refused

NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)
TRYING = "the SuperNode goes on trying; fedmed site doctor says where the way ends"
RETRY = "WARNING :     Connection attempt failed, retrying in 1.00 seconds"


def never() -> NodeStart:
    """Refuse to start, as with an expired certificate."""
    raise IntegrityError("the certificate expired; fedmed site renew")


@pytest.fixture
def kept(tmp_path: Path) -> tuple[News, list[str], SiteHome]:
    """Return the news of a SuperNode, what is said of it, and its site."""
    home = SiteHome.open(build_consortium(tmp_path, sites=1).homes[0])
    said: list[str] = []
    return News(SiteAgent(home), said.append), said, home


def log(line: str) -> str:
    """Return a line of Flower's log as the SuperNode passes it on."""
    return json.dumps({"log": line})


def test_a_cut_line_is_said_once_and_its_end_as_well(kept: tuple[News, list[str], SiteHome]):
    """However often Flower tries again; the next cut is said again."""
    node, said, _ = kept
    for line in ("INFO : SuperNode ID: 1", RETRY, RETRY, "INFO : Connection successful after 3.1 seconds", RETRY):
        node.heard(log(line))
    cut = f"the coordinator can't be reached; {TRYING}"
    assert said == [cut, "the coordinator is reached again", cut]
    assert not node.linked


def test_what_a_proxy_answers_is_said_and_shown_plainly(kept: tuple[News, list[str], SiteHome]):
    """It tells more than that nothing was reached, and may hold anything."""
    node, said, _ = kept
    node.heard(json.dumps({"proxy": "407 \x1b[31mlog in"}))
    node.heard(log(RETRY))
    assert said == [f"the proxy gives no way to the coordinator (407 ?[31mlog in); {TRYING}"]


def test_a_wrong_clock_is_said_once_although_it_is_never_twice_as_far_off(
    kept: tuple[News, list[str], SiteHome],
):
    """The SuperNode is started again and again, and refused each time."""
    node, said, _ = kept
    for date in ("Tue, 01 Jan 2019 12:00:00 GMT", "Tue, 01 Jan 2019 12:00:09 GMT"):
        node.heard(json.dumps({"refused": 401, "date": date}))
    assert len(said) == 1
    assert "ahead of its own; set this machine's clock" in said[0]


def test_a_foreign_bundle_is_in_the_audit_log(kept: tuple[News, list[str], SiteHome]):
    """Its digest, and what is no report does nothing."""
    node, said, home = kept
    for line in ("no json", "[]", "7", json.dumps({"refused": 401}), json.dumps({"foreign-bundle": "ab" * 32})):
        node.heard(line)
    entry = ChainLog(home.audit_path).entries()[-1]
    assert (entry.kind, entry.body) == ("bundle-refused", {"bundle": "ab" * 32})
    assert said == []


def test_a_node_that_cannot_start_says_why_once(kept: tuple[News, list[str], SiteHome]):
    """It is tried again later."""
    news, said, home = kept
    node = SuperNode(home, never, news)
    node.keep()
    node.keep()
    assert said == ["the SuperNode can't start: the certificate expired; fedmed site renew"]


def test_a_broken_supernode_cannot_fill_the_audit_log(kept: tuple[News, list[str], SiteHome]):
    """Each foreign bundle is noted once, and no more than a hundred of them."""
    news, _, home = kept
    for number in (*range(2 * MOST_FOREIGN), 0, 0):
        news.heard(json.dumps({"foreign-bundle": f"{number:064x}"}))
    noted = [entry.body["bundle"] for entry in ChainLog(home.audit_path).entries() if entry.kind == "bundle-refused"]
    assert len(noted) == len(set(noted)) == MOST_FOREIGN


@pytest.mark.parametrize(
    ("status", "date", "words"),
    [
        (401, "Tue, 01 Jan 2030 11:40:00 GMT", "the clock here is 1200 s ahead of its own; set this machine's clock"),
        (401, "Tue, 01 Jan 2030 12:20:00 GMT", "the clock here is 1200 s behind its own; set this machine's clock"),
        (401, "Tue, 01 Jan 2030 11:59:50 GMT", "the clock here is 10 s ahead of its own"),
        (401, "Tue, 01 Jan 2030 12:00:00 GMT", "the signature of this site's SuperNode; fedmed site doctor"),
        (403, "", "this site's membership; fedmed site doctor"),
    ],
)
def test_why_the_coordinator_refuses(status: int, date: str, words: str):
    """The coordinator's own time tells a wrong clock from a wrong key."""
    assert words in why_refused(status, date, now=NOON)


@pytest.mark.parametrize(
    ("seconds", "refused", "doubtful"),
    [(0, False, False), (3, False, True), (5, True, True), (-29, False, False), (-60, False, True), (-305, True, True)],
)
def test_how_far_a_clock_may_be_off(seconds: int, refused: bool, doubtful: bool):  # noqa: FBT001  a case
    """Hardly ahead, and five minutes behind: as Flower's SuperLink takes what a SuperNode signs."""
    assert clocks.is_refused(timedelta(seconds=seconds)) == refused
    assert clocks.is_doubtful(timedelta(seconds=seconds)) == doubtful
    assert clocks.MOST_AHEAD.total_seconds() == constant.SYSTEM_TIME_TOLERANCE
    assert clocks.MOST_BEHIND.total_seconds() == constant.TIMESTAMP_TOLERANCE + constant.SYSTEM_TIME_TOLERANCE
