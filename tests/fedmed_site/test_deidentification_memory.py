"""What a run over many files keeps in memory: nothing of a file once its record is in the log."""

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedmed.audit import ChainLog
from fedmed_site import cli
from fedmed_site.deidentification import RECORDS_AT_ONCE, _Run
from fedmed_site.deidentification_items import Done
from fedmed_site.home import SiteHome
from fedmed_site.manifest import ITEM_KIND, ItemRecord

FILES, LOOK_AFTER = 3 * RECORDS_AT_ONCE + 5, 63


@pytest.fixture
def home(tmp_path: Path) -> SiteHome:
    """Return a new site."""
    assert cli.site(["init", "--home", str(tmp_path / "home"), "--name", "north"]) == 0
    return SiteHome.open(tmp_path / "home")


def results() -> Iterator[Done]:
    """Yield what became of many files."""
    for number in range(FILES):
        record = ItemRecord(
            batch="0" * 16, item=f"{number:032x}", kind="note", outcome="quarantined", reason="empty",
            options_digest="1" * 64, key_id="2" * 16, tool="fedmed.deid.text", tool_version="0",
        )  # fmt: skip
        yield Done(record=record, fresh=number % 5 != 0)


def held() -> int:
    """Return how many records of these files are alive."""
    gc.collect()
    return sum(type(one) is ItemRecord for one in gc.get_objects())  # isinstance would wake lazy objects of others


def test_records_leave_memory_for_the_log(home: SiteHome) -> None:
    """After any file no more records are alive than go to the log at once; every fresh one is in it, in order."""
    log, seen, most = ChainLog(home.audit_path), 0, 0

    def look(_: Done) -> None:
        nonlocal seen, most
        seen += 1
        if seen % LOOK_AFTER == 0:  # a look takes a while
            most = max(most, held())

    run = _Run(home, log, dry_run=False, on_item=look)
    run.take(results())
    assert 0 < most <= RECORDS_AT_ONCE + 2
    fresh = [f"{number:032x}" for number in range(FILES) if number % 5]
    assert [entry.body["item"] for entry in log.entries() if entry.kind == ITEM_KIND] == fresh
    assert (run.fresh, run.skipped) == (len(fresh), FILES - len(fresh))


def test_a_dry_run_writes_nothing_and_keeps_the_records(home: SiteHome) -> None:
    """Its page is made of the records, and the log has none of them."""
    log = ChainLog(home.audit_path)
    run = _Run(home, log, dry_run=True, on_item=lambda _: None)
    run.take(results())
    assert len(run.records) == FILES
    assert not [entry for entry in log.entries() if entry.kind == ITEM_KIND]
