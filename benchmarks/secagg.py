"""What secure aggregation costs: masks against a memory copy, a site's round against SecAgg+, wire, unmasking.

Why it exists: speed is promised as ratios within one process, so that they hold on other
machines; this script measures each of them, and how cost grows with sites and with length.

Run from the repository: `python benchmarks/secagg.py [--quick] [--json PATH] [--plots DIR]`.

Rules:
    * All times are CPU time of this process, one thread; what is compared is interleaved.
    * Whole rounds are played through the shipped state machines; nothing is modelled.
    * A site's round is all that it does between the first message and the last, training apart, for both protocols.

What it does not do: train, or send anything.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final, TypeVar, cast

import matplotlib as mpl
import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.client.mod.secure_aggregation.secaggplus_mod import (
    SecAggPlusState,
    _collect_masked_vectors,
    _setup,
    _share_keys,
    _unmask,
)
from flwr.common import ConfigRecord, Parameters, ndarrays_to_parameters
from flwr.common.secure_aggregation.secaggplus_constants import Key
from numpy.typing import NDArray

from fedmed.secagg import client, masking, server, wire
from fedmed.secagg.attempt import Deadline, Outgoing, Phase, ServerState
from fedmed.secagg.masking import Contribution
from fedmed.secagg.messages import CoordinatorMessage, Offer, SiteMessage, Turn
from fedmed.secagg.roster import Policy, Roster, RosterEntry, Segment
from fedmed.secagg.state import ClientState

mpl.use("agg")
from matplotlib import pyplot as plt

LENGTH: Final = 10_000_000
SITES: Final = 10
DROPOUTS: Final = (0, 3)
MODEL: Final = bytes(32)
AUX: Final = 64
MAX_WEIGHT: Final = 100.0
TARGETS: Final = {
    "mask_add_gb_per_s": "at least 3, or mask_add_over_memcpy at least 0.35",
    "mask_add_over_memcpy": "at least 0.35, or mask_add_gb_per_s at least 3",
    "client_cpu_over_secaggplus": "at least 8",
    "wire_over_fp32": "at most 1.02",
}

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """CPU seconds of one round over `sites` sites with `length` parameters.

    `site_s`: one site (median over sites). `secaggplus_s`: one client of SecAgg+, 0 where it was not run.
    `coordinator_s`: all of it, without dropouts. `unmask_s`: from the first reply of the last phase to the
    decoded sum, by number of dropouts. `sent_bytes`, `received_bytes`: of all sites together.
    """

    sites: int
    length: int
    site_s: float
    secaggplus_s: float
    coordinator_s: float
    unmask_s: dict[int, float]
    sent_bytes: int
    received_bytes: int


@dataclass(slots=True)
class Federation:
    """Sites and terms, in memory; `steps` are those of the first site, to be taken again."""

    roster: Roster
    offer: Offer
    signing_keys: dict[str, Ed25519PrivateKey]
    contribution: Contribution
    states: dict[str, ClientState]
    spent_s: dict[str, float]
    sent_bytes: int = 0
    received_bytes: int = 0
    steps: list[tuple[ClientState, CoordinatorMessage]] = field(default_factory=list)

    def answer(self, item: Outgoing) -> SiteMessage:
        """Let a site take one step; its time and both messages' bytes are counted."""
        state = self.states[item.site]
        if item.site == self.offer.cohort[0]:
            self.steps.append((state, item.message))
        (self.states[item.site], reply), seconds = timed(lambda: self.step(item.site, state, item.message))
        self.spent_s[item.site] += seconds
        self.received_bytes += len(wire.encode(item.message))
        self.sent_bytes += len(wire.encode(reply))
        return reply

    def step(self, site: str, state: ClientState, message: CoordinatorMessage) -> tuple[ClientState, SiteMessage]:
        """Take one step of a site, as the shipped site does."""
        follower, reply = client.step(
            state,
            message,
            site=site,
            roster=self.roster,
            model=MODEL,
            signing_key=self.signing_keys[site],
            entropy=os.urandom,
            contribution=self.contribution,
        )
        return follower, cast("SiteMessage", reply)

    def again(self) -> None:
        """Take all steps of the first site's round again."""
        for state, message in self.steps:
            self.step(self.offer.cohort[0], state, message)


def found(sites: int, length: int) -> Federation:
    """Make keys, roster and terms for `sites` sites that all hold one update of `length` float32 values."""
    names = tuple(f"site{index:03}" for index in range(1, sites + 1))
    signing_keys = {name: Ed25519PrivateKey.generate() for name in names}
    delta = Segment(name="delta", bits=32, kind="signed", clip=1.0, fraction_bits=24, max_length=length)
    aux = Segment(name="aux", bits=64, kind="integer", clip=2.0**40, fraction_bits=0, max_length=AUX)
    entries = [RosterEntry(site=s, signing_key=key.public_key().public_bytes_raw()) for s, key in signing_keys.items()]
    policy = Policy(n_min=3, max_corrupt=0, segments=(delta, aux), max_weight=MAX_WEIGHT)
    roster = Roster(serial=1, sites=tuple(entries), policy=policy)
    offer = Offer(
        turn=Turn(run="benchmark", round=1, attempt=0),
        cohort=names,
        threshold=policy.threshold_floor(sites),
        roster=roster.digest(),
        model=MODEL,
        lengths=(length, AUX),
    )
    return Federation(
        roster=roster,
        offer=offer,
        signing_keys=signing_keys,
        contribution=Contribution(weight=50.0, values={"delta": update(length), "aux": np.arange(AUX)}),
        states={name: ClientState() for name in names},
        spent_s=dict.fromkeys(names, 0.0),
    )


def update(length: int) -> NDArray[np.float32]:
    """Return a made-up update."""
    return np.random.default_rng(1).normal(0, 0.01, length).astype(np.float32)


def measure_round(federation: Federation) -> Cost:
    """Play one round up to the uploads, then end it once per number of dropouts that the cohort tolerates."""
    offer = federation.offer
    (state, out), coordinator_s = timed(lambda: server.begin(roster=federation.roster, offer=offer))
    while state.phase is not Phase.MASKING:
        state, out, seconds = exchange(federation, state, out)
        coordinator_s += seconds
    uploads = [federation.answer(item) for item in out]
    unmask_s = {}
    before = dict(federation.states)
    tolerated = [count for count in DROPOUTS if len(uploads) - count >= federation.roster.policy.gate(offer.threshold)]
    for count in reversed(tolerated):  # without dropouts comes last, so that the counts below are its
        counted = federation.sent_bytes, federation.received_bytes, dict(federation.spent_s), len(federation.steps)
        federation.states = dict(before)
        ended, to_uploads_s, unmask_s[count] = finish(federation, state, uploads[: len(uploads) - count])
        if count:
            federation.sent_bytes, federation.received_bytes, federation.spent_s, kept = counted
            del federation.steps[kept:]
    if ended.phase is not Phase.DONE:
        raise SystemExit(f"the round did not end: {ended.failure}")
    return Cost(
        sites=len(offer.cohort),
        length=offer.lengths[0],
        site_s=statistics.median(federation.spent_s.values()),
        secaggplus_s=0.0,
        coordinator_s=coordinator_s + to_uploads_s + unmask_s[0],
        unmask_s=dict(sorted(unmask_s.items())),
        sent_bytes=federation.sent_bytes,
        received_bytes=federation.received_bytes,
    )


def finish(
    federation: Federation, state: ServerState, uploads: Sequence[SiteMessage]
) -> tuple[ServerState, float, float]:
    """End a round with these uploads; return its state and the coordinator's seconds before and in unmasking."""
    out: tuple[Outgoing, ...] = ()
    before_s = unmask_s = 0.0
    for upload in uploads:
        state, out, before_s = advance(state, upload, before_s)
    if state.phase is Phase.MASKING:
        state, out, before_s = advance(state, Deadline(), before_s)
    state, out, seconds = exchange(federation, state, out)
    replies = [federation.answer(item) for item in out]
    for reply in replies:
        state, _, unmask_s = advance(state, reply, unmask_s)
    _, decode_s = timed(lambda: server.result(state))
    return state, before_s + seconds, unmask_s + decode_s


def exchange(
    federation: Federation, state: ServerState, out: Sequence[Outgoing]
) -> tuple[ServerState, tuple[Outgoing, ...], float]:
    """Deliver `out` and take in the replies; return what the coordinator then is, sends and has spent."""
    following: tuple[Outgoing, ...] = ()
    spent_s = 0.0
    for item in out:
        state, more, spent_s = advance(state, federation.answer(item), spent_s)
        following += more
    return state, following, spent_s


def advance(
    state: ServerState, event: SiteMessage | Deadline, spent_s: float
) -> tuple[ServerState, tuple[Outgoing, ...], float]:
    """Take one step of the coordinator and add its seconds to `spent_s`."""
    (follower, out), seconds = timed(lambda: server.step(state, event))
    return follower, out, spent_s + seconds


def secaggplus_client(update_bytes: Parameters, sites: int) -> float:
    """Play the four stages of Flower 1.41's SecAgg+ and return the CPU seconds of its first client.

    The handlers are Flower's own and its parameters the defaults; unpacking Flower's messages is left out.
    """
    terms = {
        Key.SAMPLE_NUMBER: sites,
        Key.SHARE_NUMBER: sites,
        Key.THRESHOLD: sites // 2 + 1,
        Key.CLIPPING_RANGE: 8.0,
        Key.TARGET_RANGE: 1 << 22,
        Key.MOD_RANGE: 1 << 32,
        Key.MAX_WEIGHT: MAX_WEIGHT,
    }
    clients = [SecAggPlusState(nid=index) for index in range(1, sites + 1)]
    made = [timed(lambda: _setup(state, ConfigRecord(dict(terms)))) for state in clients]  # noqa: B023  called at once
    keys = {
        str(state.nid): [reply[Key.PUBLIC_KEY_1], reply[Key.PUBLIC_KEY_2]]
        for state, (reply, _) in zip(clients, made, strict=True)
    }
    shared = [timed(lambda: _share_keys(state, cast("Any", keys))) for state in clients]  # noqa: B023  called at once
    boxes = [
        (state.nid, box)
        for state, (reply, _) in zip(clients[1:], shared[1:], strict=True)
        for target, box in zip(
            cast("list[int]", reply[Key.DESTINATION_LIST]), cast("list[bytes]", reply[Key.CIPHERTEXT_LIST]), strict=True
        )
        if target == 1
    ]
    request = ConfigRecord({Key.SOURCE_LIST: [nid for nid, _ in boxes], Key.CIPHERTEXT_LIST: [box for _, box in boxes]})
    _, masked_s = timed(lambda: _collect_masked_vectors(clients[0], request, 50, update_bytes))
    alive = ConfigRecord({Key.ACTIVE_NODE_ID_LIST: list(range(1, sites + 1)), Key.DEAD_NODE_ID_LIST: list[int]()})
    _, unmask_s = timed(lambda: _unmask(clients[0], alive))
    return made[0][1] + shared[0][1] + masked_s + unmask_s


def compare_clients(federation: Federation, repeats: int) -> tuple[float, float]:
    """Return the median CPU seconds of a site's round and of SecAgg+'s, in turns; the first turn warms up."""
    sites, values = len(federation.offer.cohort), ndarrays_to_parameters([federation.contribution.values["delta"]])
    turns = [(timed(federation.again)[1], secaggplus_client(values, sites)) for _ in range(repeats + 1)]
    ours, theirs = zip(*turns[1:], strict=True)
    return statistics.median(ours), statistics.median(theirs)


def compare_mask(length: int, repeats: int) -> tuple[float, float]:
    """Return the bytes per CPU second of masking a vector, and of copying it, in turns."""
    delta = Segment(name="delta", bits=32, kind="signed", clip=1.0, fraction_bits=24, max_length=length)
    ring = np.zeros(length, dtype="<u4")
    copy = np.ones_like(ring)
    masks, copies = [], []
    for index in range(repeats):
        seed = bytes([index]) * 32
        masks.append(timed(lambda: masking.add_mask(ring, seed, delta))[1])  # noqa: B023  called at once
        copies.append(timed(lambda: np.copyto(copy, ring))[1])
    return ring.nbytes / statistics.median(masks), ring.nbytes / statistics.median(copies)


def timed(work: Callable[[], Value]) -> tuple[Value, float]:
    """Return what `work` returns and the CPU seconds it took."""
    start = time.process_time()
    value = work()
    return value, time.process_time() - start


def measure(*, quick: bool) -> dict[str, Any]:
    """Measure everything; the four promised ratios stand at the top."""
    repeats = 7 if quick else 15
    say("mask against copy")
    mask, copy = compare_mask(LENGTH, 15)
    by_length, by_sites = [], []
    for length in (10_000, 100_000, 1_000_000, LENGTH):
        say(f"{SITES} sites, {length} parameters")
        federation = found(SITES, length)
        cost = measure_round(federation)
        ours, theirs = compare_clients(federation, repeats)
        by_length.append(replace(cost, site_s=ours, secaggplus_s=theirs))
    length = 100_000 if quick else 1_000_000
    for sites in (3, 10, 30, 100):
        say(f"{sites} sites, {length} parameters")
        by_sites.append(measure_round(found(sites, length)))
    whole = by_length[-1]
    return {
        "mask_add_gb_per_s": mask / 1e9,
        "mask_add_over_memcpy": mask / copy,
        "client_cpu_over_secaggplus": theirs / ours,
        "wire_over_fp32": (whole.sent_bytes + whole.received_bytes) / (whole.sites * whole.length * 4),
        "client_s": ours,
        "secaggplus_client_s": theirs,
        "memcpy_gb_per_s": copy / 1e9,
        "by_length": [asdict(cost) for cost in by_length],
        "by_sites": [asdict(cost) for cost in by_sites],
    }


def table(found_costs: Sequence[dict[str, Any]]) -> str:
    """Return rows of costs as text."""
    lines = [f"{'sites':>5} {'length':>9} {'site':>9} {'SecAgg+':>9} {'coordinator':>12} {'unmask, by dropouts':>24}"]
    for row in found_costs:
        unmask = ", ".join(f"{count}: {1e3 * seconds:.1f} ms" for count, seconds in row["unmask_s"].items())
        theirs = f"{1e3 * row['secaggplus_s']:.1f} ms" if row["secaggplus_s"] else "-"
        lines.append(
            f"{row['sites']:5} {row['length']:9} {1e3 * row['site_s']:6.1f} ms {theirs:>9}"
            f" {1e3 * row['coordinator_s']:9.1f} ms {unmask:>24}"
        )
    return "\n".join(lines)


def plot(results: dict[str, Any], folder: Path) -> None:
    """Write `secagg-cost-by-sites.png` and `secagg-cost-by-length.png` into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    by_sites, by_length = results["by_sites"], results["by_length"]
    draw(by_sites, "sites", f"One round with {by_sites[0]['length']:,} parameters", folder / "secagg-cost-by-sites.png")
    draw(by_length, "length", f"One round over {by_length[0]['sites']} sites", folder / "secagg-cost-by-length.png")


def draw(rows: Sequence[dict[str, Any]], axis: str, title: str, path: Path) -> None:
    """Draw the costs in `rows` against the field `axis` on logarithmic axes."""
    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    series = {
        "one site": ("o-", [(row[axis], row["site_s"]) for row in rows]),
        "coordinator": ("s-", [(row[axis], row["coordinator_s"]) for row in rows]),
        "unmasking, no dropout": ("^--", [(row[axis], row["unmask_s"][0]) for row in rows]),
        "unmasking, 3 dropouts": ("v--", [(row[axis], row["unmask_s"][3]) for row in rows if 3 in row["unmask_s"]]),
        "one client of SecAgg+": ("x:", [(row[axis], row["secaggplus_s"]) for row in rows if row["secaggplus_s"]]),
    }
    for label, (style, points) in series.items():
        if points:
            axes.loglog(*zip(*points, strict=True), style, label=label)
    if axis == "sites":
        axes.set_xticks([row["sites"] for row in rows], [str(row["sites"]) for row in rows])
        axes.minorticks_off()
    axes.set_xlabel("sites" if axis == "sites" else "parameters")
    axes.set_ylabel("CPU seconds")
    axes.set_title(title)
    axes.grid(visible=True, alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=150)
    plt.close(figure)


def say(text: str) -> None:
    """Write one line of progress."""
    sys.stderr.write(f"{text}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and write what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true", help="fewer repeats and shorter vectors; under a minute")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the results here")
    parser.add_argument("--plots", type=Path, metavar="DIR", help="write plots of cost by sites and by length here")
    chosen = parser.parse_args(arguments)
    results = measure(quick=chosen.quick)
    for key, target in TARGETS.items():
        sys.stdout.write(f"{key:28} {results[key]:8.3f}   target: {target}\n")
    sys.stdout.write(f"\n{table(results['by_length'])}\n\n{table(results['by_sites'])}\n")
    if chosen.json:
        chosen.json.write_text(json.dumps(results, indent=2) + "\n")
    if chosen.plots:
        plot(results, chosen.plots)
    return 0


if __name__ == "__main__":
    sys.exit(main())
