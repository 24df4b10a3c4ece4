"""Behaviour of the coordinator's studies on disk, and of the process that waits for their sites."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedmed.errors import IntegrityError, SiteFailureError, UsageError
from fedmed.exchange import Answer, Failure, Task
from fedmed.records import (
    AggregationSpec,
    ContinualSpec,
    DataSpec,
    ModelSpec,
    Plan,
    PrivacySpec,
    TrainingSpec,
    digest,
)
from fedmed.signed_plans import agree_to, launch
from fedmed_server.channel import Traffic
from fedmed_server.coordinator_cli import coordinator
from fedmed_server.studies import NEXT, Studies
from fedmed_server.study_process import Journal, wait_for_sites

KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))
PLAN = Plan(
    study="readmission",
    seed=1,
    data=DataSpec(schema="tiny", schema_digest="0" * 64, target="ill"),
    model=ModelSpec(family="linear", adapter="full"),
    base_digest="1" * 64,
    training=TrainingSpec(rounds=3, local_steps=2, sample_rate=1.0, learning_rate=1.0),
    privacy=PrivacySpec(trust_model="none"),
    aggregation=AggregationSpec(kind="secure", min_sites=3),
    continual=ContinualSpec(strength=0.0, release_fisher=False),
)


class Clock:
    """A clock that moves a second at each look."""

    def __init__(self) -> None:
        self.at = datetime(2030, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        self.at += timedelta(seconds=1)
        return self.at


@pytest.fixture
def studies(tmp_path: Path) -> Studies:
    """Return an empty folder of studies."""
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "model.safetensors").write_bytes(b"base")
    return Studies(tmp_path / "studies", now=Clock())


def add(studies: Studies, tmp_path: Path, study: str = "readmission") -> str:
    """Launch a study and return its digest."""
    signed = launch(agree_to(replace(PLAN, study=study), KEY), KEY)
    return studies.add(signed, tmp_path / "base", sites_wanted=3, mandate=b"{}").digest


def test_studies_stand_in_the_order_of_their_launch(studies: Studies, tmp_path: Path):
    """The first that was launched runs first."""
    names = [add(studies, tmp_path, name) for name in ("b", "a", "c")]
    assert [state.digest for state in studies.all()] == names
    assert studies.signed(names[0]).plan.study == "b"
    assert (studies.folder(names[0]).base / "model.safetensors").read_bytes() == b"base"


def test_a_plan_is_launched_once(studies: Studies, tmp_path: Path):
    """A second launch of the same plan changes nothing."""
    name = add(studies, tmp_path)
    with pytest.raises(UsageError, match="was launched before"):
        add(studies, tmp_path)
    assert studies.find("readmission").digest == name


@pytest.mark.parametrize("before", list(NEXT))
@pytest.mark.parametrize("after", list(NEXT))
def test_a_study_moves_only_as_the_table_says(studies: Studies, tmp_path: Path, before: str, after: str):
    """A finished study never runs again; a stopped one only after it was queued."""
    ways = {"queued": (), "running": ("running",), "finished": ("running", "finished"), "failed": ("running", "failed"),
            "stopped": ("stopped",)}  # fmt: skip
    name = add(studies, tmp_path)
    for state in ways[before]:
        studies.change(name, state)
    if after == before or after in NEXT[before]:
        assert studies.change(name, after, reason="why").state == after
    else:
        with pytest.raises(UsageError, match=f"is {before}"):
            studies.change(name, after)
        assert studies.find(name).state == before


def test_a_script_waits_for_a_study_and_learns_how_it_ended(
    studies: Studies, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`fedmed coordinator wait` ends well only if the study did, and says why if not."""
    home = ["--home", str(tmp_path)]
    study = add(studies, tmp_path)
    with pytest.raises(SiteFailureError, match="is still queued after 0 minutes"):
        coordinator(["wait", "readmission", "--minutes", "0", *home])
    studies.change(study, "running")
    studies.change(study, "failed", reason="two sites left")
    with pytest.raises(SiteFailureError, match="readmission is failed: two sites left"):
        coordinator(["wait", "readmission", *home])
    studies.change(study, "queued")
    studies.change(study, "running")
    studies.change(study, "finished")
    assert coordinator(["wait", "readmission", *home]) == 0
    assert capsys.readouterr().out == "readmission is finished\n"


def test_a_study_is_named_by_its_name_or_the_beginning_of_its_digest(studies: Studies, tmp_path: Path):
    """What could mean two, or is a path, means none."""
    name = add(studies, tmp_path)
    assert studies.find(name[:6]).digest == name
    for which in (name[:3], "", "../studies", "other", "*"):
        with pytest.raises(UsageError, match="expected one study called"):
            studies.find(which)


def test_a_plan_that_was_exchanged_is_noticed(studies: Studies, tmp_path: Path):
    """The folder's name is the digest of what it holds."""
    first, second = add(studies, tmp_path, "a"), add(studies, tmp_path, "b")
    studies.folder(first).plan.write_bytes(studies.folder(second).plan.read_bytes())
    with pytest.raises(IntegrityError, match="got another"):
        studies.signed(first)


class Waiting:
    """A channel whose sites become ready one look after the other."""

    def __init__(self, ready_after: Mapping[str, int]) -> None:
        self.traffic = Traffic()
        self.looks = 0
        self.asked: list[int] = []
        self._ready_after = ready_after

    def addresses(self) -> tuple[int, ...]:
        return tuple(range(len(self._ready_after)))

    def ask(self, tasks: Mapping[int, Task], *, timeout_s: float) -> Iterator[tuple[int, Answer | Failure]]:
        self.looks += 1
        for address in tasks:
            self.asked.append(address)
            site, looks = list(self._ready_after.items())[address]
            if self.looks > looks:
                yield address, Answer(site=site)
            else:
                yield address, Failure(site=site, code="RefusedError", reason="this study waits for its approval")


@pytest.fixture
def journal(studies: Studies, tmp_path: Path) -> Journal:
    """Return the journal of a study."""
    return Journal(studies.folder(add(studies, tmp_path)), PLAN)


def test_a_study_begins_when_its_sites_have_approved_it(studies: Studies, journal: Journal):
    """Who is ready is not asked again; why the others are not is shown and logged once."""
    channel = Waiting({"north": 0, "south": 2, "west": 0})
    wait_for_sites(channel, PLAN, journal, wanted=3, patience_s=100, sleep=lambda _s: None, clock=lambda: 0.0)
    assert channel.asked == [0, 1, 2, 1, 1]
    progress = studies.progress(digest(PLAN))
    assert progress is not None
    assert progress.sites == ("north", "south", "west")
    log = studies.folder(digest(PLAN)).log.read_text()
    assert log.count("waits for its approval") == 1


def test_patience_ends_with_the_reasons(journal: Journal):
    """Whoever launched it reads which site did not approve, without looking anywhere else."""
    channel = Waiting({"north": 0, "south": 10**9, "west": 0})
    ticks = iter(range(100))
    with pytest.raises(SiteFailureError, match=r"expected 3 sites to be ready, 2 were; south: this study waits"):
        wait_for_sites(
            channel, PLAN, journal, wanted=3, patience_s=5, sleep=lambda _s: None, clock=lambda: float(next(ticks))
        )


def test_a_site_that_is_not_in_the_roster_is_not_counted(studies: Studies, journal: Journal):
    """It holds and approves everything and could stand in no sum; the log says what it lacks."""
    channel = Waiting({"north": 0, "south": 2, "stranger": 0})
    wait_for_sites(
        channel, PLAN, journal, wanted=2, patience_s=9, members={"north", "south"}, sleep=lambda _s: None,
        clock=lambda: 0.0,
    )  # fmt: skip
    progress = studies.progress(digest(PLAN))
    assert progress is not None
    assert progress.sites == ("north", "south")
    assert studies.folder(digest(PLAN)).log.read_text().count("does not stand in the consortium's signed roster") == 1
