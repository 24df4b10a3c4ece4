"""Secure aggregation over Flower's messages: every way in which four sites can drop out, and three segments at once."""

import itertools
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from federation import sign_in, unsigned_receipts
from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from fedmed.errors import SiteFailureError
from fedmed.exchange import ACTIONS, Answer, Round, Task
from fedmed.records import AggregationSpec
from fedmed.secagg import masking
from fedmed.secagg.roster import Roster, Segment
from fedmed_server.aggregators import Collected
from fedmed_server.attempt_store import AttemptStore
from fedmed_server.secure import SecureAggregator
from fedmed_server.strategy import GridChannel
from fedmed_sim.engine import open_engine, partition_of
from fedmed_site.agent import utc_now
from fedmed_site.client_app import _content_of, _task_from
from fedmed_site.home import SiteHome, SiteRecord
from fedmed_site.participant import Participant, system_entropy
from fedmed_site.policy import SitePolicy
from fedmed_site.replies import Stored

NAMES = ("h1", "h2", "h3", "h4")
PHASES = ("query.offer", "train.share", "train.mask", "query.certify", "query.unmask")
NEVER = len(PHASES)
SIZE = 5
WEIGHTS = dict(zip(NAMES, (10.0, 20.0, 30.0, 40.0), strict=True))

SEGMENT = Segment(name="delta", bits=32, kind="signed", clip=4.0, fraction_bits=22, max_length=1 << 20)

Assignment = tuple[int, ...]


def update(name: str, number: int, work: str) -> np.ndarray:
    """Return what a site contributes in a round."""
    return np.random.default_rng([NAMES.index(name), number, len(work)]).normal(0, 0.5, SIZE)


def participants(root: Path) -> tuple[list[Participant], Roster]:
    """Make four sites that have joined one consortium and hold no data."""
    policy = SitePolicy(cap_epsilon=None, delta=1e-5)
    homes = [
        SiteHome.create(root / name, SiteRecord(name=name, policy=policy), pseudonym_key=bytes(32)) for name in NAMES
    ]
    roster = sign_in([home.root for home in homes], Ed25519PrivateKey.generate())
    return [
        Participant(home, name=home.record().name, entropy_of=system_entropy, now=utc_now) for home in homes
    ], roster


def plain_work(name: str, task: Task) -> Answer:
    """Return a site's `update` as its work."""
    return Answer(site=name, arrays={"mean": update(name, task.round, task.action)}, facts={"weight": WEIGHTS[name]})


def client_of(
    sites: list[Participant], silent: Callable[[int, Task], bool], work_of: Callable[[str, Task], Answer]
) -> ClientApp:
    """Return a ClientApp that answers with real participants and fails where told."""

    def handler(action: str) -> Callable[[Message, Context], Message]:
        def handle(message: Message, context: Context) -> Message:
            place = partition_of(context)
            task = _task_from(action, message.content)  # type: ignore[arg-type]
            if action == "query.describe":
                return Message(_content_of(Answer(site=NAMES[place], facts={"fedmed": "test"})), reply_to=message)
            if silent(place, task):
                raise RuntimeError("the power went out")

            def work(inner: Task, _spent: object) -> Stored:
                return Stored(answer=work_of(NAMES[place], inner), edition=0)

            answer = sites[place].answer(task, work, log_clipped=lambda _segment, _count: None)
            return Message(_content_of(answer), reply_to=message)

        return handle

    app = ClientApp()
    for name in ACTIONS:
        category, action = name.split(".")
        {"train": app.train, "evaluate": app.evaluate, "query": app.query}[category](action)(handler(name))
    return app


def play(
    root: Path,
    rounds: Iterable[Round],
    *,
    silent: Callable[[int, Task], bool],
    number: int,
    work_of: Callable[[str, Task], Answer] = plain_work,
) -> list[tuple[int, object]]:
    """Run rounds over Flower in one process; return each round's number with what came of it."""
    sites, roster = participants(root)
    found: list[tuple[int, object]] = []
    server = ServerApp()

    @server.main()
    def main(grid: Grid, _context: Context) -> None:
        channel = GridChannel(grid, poll_interval_s=0.001)
        described = channel.ask(
            dict.fromkeys(channel.addresses(), Task(action="query.describe", plan_digest="0" * 64)), timeout_s=30
        )
        cohort = {address: reply.site for address, reply in described}
        spec = AggregationSpec(kind="secure", min_sites=3, attempts=1, phase_timeout_s=30, round_timeout_s=30)
        aggregator = SecureAggregator(
            spec, roster=roster, store=AttemptStore(root / "secagg"), rounds=number, receipts=unsigned_receipts(root)
        )
        for asked in rounds:
            try:
                found.append((asked.number, aggregator.collect(channel, asked, cohort)))
            except SiteFailureError as error:
                found.append((asked.number, error))

    with open_engine("inprocess", workers=1) as engine:
        engine.run(server, client_of(sites, silent, work_of), nodes=4, run_config={}, tap=lambda _data: None)
    return found


def mean_of(sites: tuple[str, ...], number: int, work: str) -> np.ndarray:
    """Return the weighted mean of the updates of `sites`."""
    weights = [WEIGHTS[name] for name in sites]
    return np.average([update(name, number, work) for name in sites], axis=0, weights=weights)


@pytest.fixture
def quick_root(tmp_path: Path) -> Iterator[Path]:
    """Return a folder in memory where there is one: the test below syncs some hundred thousand small files."""
    memory = Path("/dev/shm")  # noqa: S108  a folder of our own is made in it
    if not (memory.is_dir() and os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > 2**25):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield Path(folder)


@pytest.mark.slow
def test_every_way_to_drop_out_over_flower(quick_root: Path) -> None:
    """For all 6^4 assignments of a phase of dropping out to four sites: the exact sum of who uploaded, or a clean end.

    The rounds follow each other in one run, so adverts of one round are used in the next and a site that was
    silent comes back; a round succeeds exactly when three sites stay to its end.
    """
    assignments: list[Assignment] = list(itertools.product(range(NEVER + 1), repeat=4))

    def silent(place: int, task: Task) -> bool:
        return task.action in PHASES and PHASES.index(task.action) >= assignments[task.round][place]

    rounds = (
        Round(works=("train.fit",), plan_digest="0" * 64, number=number, size=SIZE, arrays={"model": np.zeros(SIZE)})
        for number in range(len(assignments))
    )
    found = play(quick_root, rounds, silent=silent, number=len(assignments))
    assert len(found) == 6**4
    for number, result in found:
        drops = dict(zip(NAMES, assignments[number], strict=True))
        if sum(drop == NEVER for drop in drops.values()) < 3:
            assert isinstance(result, SiteFailureError)
            continue
        assert isinstance(result, Collected)
        uploaded = tuple(name for name, drop in drops.items() if drop > PHASES.index("train.mask"))
        assert result.sites == uploaded
        total = result.totals["train.fit"]
        assert total.weight == sum(WEIGHTS[name] for name in uploaded)
        bound = masking.error_bound(SEGMENT, sites=len(uploaded), weight_sum=total.weight / 256).maximum
        assert np.abs(total.mean() - mean_of(uploaded, number, "train.fit")).max() <= bound


def test_update_weights_and_fisher_information_in_one_round(tmp_path: Path) -> None:
    """The segments delta, aux and fisher of one round come out together, from one set of exchanges."""
    asked = Round(works=("train.fit", "train.fisher"), plan_digest="0" * 64, size=SIZE, arrays={"model": np.ones(SIZE)})
    ((_, result),) = play(tmp_path, [asked], silent=lambda _place, _task: False, number=1)
    assert isinstance(result, Collected)
    assert {total.weight for total in result.totals.values()} == {100.0}
    for work, total in result.totals.items():
        assert np.abs(total.mean() - mean_of(NAMES, 0, work)).max() < 1e-5


@pytest.mark.parametrize("dropped", [None, 3])
def test_noise_is_shared_and_enough_without_a_site_that_drops_out(tmp_path: Path, dropped: int | None) -> None:
    """Four shares are a third more variance than was planned, three are just enough: h = 3 sites are guaranteed."""
    size = 20_000

    def noisy(name: str, _task: Task) -> Answer:
        facts = {"weight": WEIGHTS[name], "clip_norm": 50.0, "noise_multiplier": 2.0, "distance": 1e-6}
        return Answer(site=name, arrays={"mean": np.zeros(size)}, facts=facts)

    asked = Round(works=("train.fit",), plan_digest="0" * 64, size=size, arrays={"model": np.ones(size)})
    ((_, result),) = play(
        tmp_path,
        [asked],
        silent=lambda place, task: place == dropped and task.action == "train.mask",
        number=1,
        work_of=noisy,
    )
    assert isinstance(result, Collected)
    deviation = result.totals["train.fit"].vector.std() / (2.0 * 50.0)
    assert deviation == pytest.approx(np.sqrt(4 / 3) if dropped is None else 1.0, rel=0.02)


def test_a_ring_too_coarse_for_shared_noise_is_refused_by_the_sites(tmp_path: Path) -> None:
    """Where the roster's ring can't hold noise as near to a Gaussian as was planned, no site uploads, and says why."""

    def coarse(name: str, _task: Task) -> Answer:
        facts = {"weight": WEIGHTS[name], "clip_norm": 1.0, "noise_multiplier": 2.0, "distance": 1e-15}
        return Answer(site=name, arrays={"mean": np.zeros(SIZE)}, facts=facts)

    asked = Round(works=("train.fit",), plan_digest="0" * 64, size=SIZE, arrays={"model": np.ones(SIZE)})
    ((_, result),) = play(tmp_path, [asked], silent=lambda _place, _task: False, number=1, work_of=coarse)
    assert isinstance(result, SiteFailureError)
    assert "sign a roster with a finer delta" in str(result)
