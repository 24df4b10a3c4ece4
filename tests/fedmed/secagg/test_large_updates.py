"""A 200 MB update from five sites: the masking phase of each site in its own process, the coordinator in another."""

import json
import os
import subprocess
import sys
from collections import deque
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

import fedmed
from fedmed.secagg import client, masking, server, wire
from fedmed.secagg.attempt import Phase
from fedmed.secagg.masking import Contribution
from fedmed.secagg.messages import Masked, MaskRequest, Offer, Turn
from fedmed.secagg.roster import Policy, Roster, RosterEntry, Segment
from fedmed.secagg.state import ClientState, dump, load

LENGTH = 50_000_000
UPDATE_BYTES = 4 * LENGTH
NAMES = tuple(f"site{index}" for index in range(1, 6))
MODEL = bytes(32)
DELTA = Segment(name="delta", bits=32, kind="signed", clip=1.0, fraction_bits=24, max_length=LENGTH)
AUX = Segment(name="aux", bits=64, kind="integer", clip=1000, fraction_bits=0, max_length=1)
WEIGHTS = {name: 10.0 * index for index, name in enumerate(NAMES, start=1)}
STATUS = Path("/proc/self/status")


def signing_key(name: str) -> Ed25519PrivateKey:
    """Return the made-up key of a site."""
    return Ed25519PrivateKey.from_private_bytes(name.encode().ljust(32))


def roster() -> Roster:
    """Return the five sites and a policy for their update."""
    entries = [RosterEntry(site=name, signing_key=signing_key(name).public_key().public_bytes_raw()) for name in NAMES]
    policy = Policy(n_min=3, max_corrupt=0, segments=(DELTA, AUX), max_weight=100.0)
    return Roster(serial=1, sites=tuple(entries), policy=policy)


def update(name: str, start: int = 0, stop: int = LENGTH) -> np.ndarray:
    """Return elements of a site's update, float32; made in pieces, so that it needs no more memory than itself."""
    values = np.empty(stop - start, dtype=np.float32)
    factor = 7 + NAMES.index(name)
    for place in range(start, stop, 1 << 20):
        end = min(place + (1 << 20), stop)
        values[place - start : end - start] = (np.arange(place, end) * factor % 1009 - 504) / 5040
    return values


def memory(field: str) -> int:
    """Return a size from this process's status, in bytes; VmHWM is the peak since `forget_peak`."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(f"{field}:"))
    return int(line.split()[1]) * 1024


def forget_peak() -> int:
    """Start the peak anew and return the present size in bytes."""
    Path("/proc/self/clear_refs").write_text("5")
    return memory("VmRSS")


def run(role: str, folder: Path, *names: str) -> dict[str, Any]:
    """Run this file as a process of its own and return what it reports."""
    environment = {**os.environ, "PYTHONPATH": str(Path(fedmed.__file__).parents[1])}
    done = subprocess.run(  # noqa: S603  our own interpreter on this file
        [sys.executable, __file__, role, str(folder), *names], env=environment, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def mask(folder: Path, name: str) -> dict[str, Any]:
    """Answer the masking request in `folder` as site `name`: its process, from the update to the upload."""
    start = forget_peak()
    request = wire.decode((folder / "request").read_bytes())
    contribution = Contribution(weight=WEIGHTS[name], values={"delta": update(name), "aux": np.array([1])})
    state, reply = client.step(
        load((folder / "state").read_bytes()),
        request,
        site=name,
        roster=roster(),
        model=MODEL,
        signing_key=signing_key(name),
        entropy=os.urandom,
        contribution=contribution,
    )
    (folder / "state").write_bytes(dump(state))
    assert isinstance(reply, Masked)
    for place, part in enumerate(reply.payload):
        (folder / f"vector{place}").write_bytes(part)
    (folder / "reply").write_bytes(wire.encode(replace(reply, payload=())))
    return {"peak": memory("VmHWM") - start}


def upload(folder: Path) -> Masked:
    """Return the upload in `folder` and remove its vectors."""
    paths = [folder / f"vector{place}" for place in range(2)]
    payload = tuple(memoryview(np.fromfile(path, dtype=np.uint8)) for path in paths)
    for path in paths:
        path.unlink()
    message = wire.decode((folder / "reply").read_bytes())
    assert isinstance(message, Masked)
    return replace(message, payload=payload)


def coordinate(folder: Path) -> dict[str, Any]:
    """Play a round as the coordinator; the sites' light steps are taken here, masking in processes of their own."""
    terms = roster()
    offer = Offer(
        turn=Turn(run="large", round=1, attempt=0),
        cohort=NAMES,
        threshold=3,
        roster=terms.digest(),
        model=MODEL,
        lengths=(LENGTH, 1),
    )
    states = dict.fromkeys(NAMES, ClientState())
    site_peaks = []
    start = forget_peak()
    state, out = server.begin(roster=terms, offer=offer)
    queue = deque(out)
    while queue:
        item = queue.popleft()
        if isinstance(item.message, MaskRequest):
            (folder / "request").write_bytes(wire.encode(item.message))
            (folder / "state").write_bytes(dump(states[item.site]))
            site_peaks.append(run("mask", folder, item.site)["peak"])
            states[item.site] = load((folder / "state").read_bytes())
            state, out = server.step(state, upload(folder))
        else:
            states[item.site], reply = client.step(
                states[item.site],
                item.message,
                site=item.site,
                roster=terms,
                model=MODEL,
                signing_key=signing_key(item.site),
                entropy=os.urandom,
            )
            state, out = server.step(state, reply)
        queue.extend(out)
    assert state.phase is Phase.DONE, state
    sums = server.result(state).sums
    peak = memory("VmHWM") - start
    return {"peak": peak, "site_peaks": site_peaks, "aux": int(sums["aux"][0]), "error": largest_error(sums["delta"])}


def largest_error(total: np.ndarray) -> float:
    """Return the largest error of the weighted mean, in units of its bound, over pieces from both ends and between."""
    shares = {name: weight / 100.0 for name, weight in WEIGHTS.items()}
    bound = masking.error_bound(DELTA, sites=len(NAMES), weight_sum=sum(shares.values())).maximum
    worst = 0.0
    for start in (0, 123_456, LENGTH // 2, LENGTH - 1000):
        exact = sum(share * update(name, start, start + 1000).astype(np.float64) for name, share in shares.items())
        worst = max(worst, float(np.abs(total[start : start + 1000] - exact).max()) / sum(shares.values()))
    return worst / bound


@pytest.mark.slow
@pytest.mark.skipif(not STATUS.exists(), reason="needs Linux's /proc to measure the peak of a process")
def test_a_200_mb_update_from_five_sites_stays_within_its_memory(tmp_path: Path):
    """Beyond the model a site takes 2 GB at most, the coordinator 4 GB; in fact under 3 and 5 times the update."""
    report = run("coordinate", tmp_path)
    assert report["aux"] == len(NAMES)
    assert report["error"] <= 1
    assert max(report["site_peaks"]) <= min(2e9, 3 * UPDATE_BYTES)
    assert report["peak"] <= min(4e9, 5 * UPDATE_BYTES)


if __name__ == "__main__":
    ROLES = {"mask": mask, "coordinate": coordinate}
    sys.stdout.write(json.dumps(ROLES[sys.argv[1]](Path(sys.argv[2]), *sys.argv[3:])))
