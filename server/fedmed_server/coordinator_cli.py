"""`fedmed coordinator`: start it, launch studies, watch them, stop and resume them, fetch models.

Why it exists: the consortium coordinator works with studies, not with processes; every command but
`start` reads and writes the coordinator's folder and needs nothing to be running.

Rules:
    * Launching signs: it needs what the coordinator's keys are sealed under. Nothing else does but `start`.
    * What is shown is what files say; a process that died is seen by the age of its progress.

What it does not do: decide anything; the rules are in `coordinator` and `studies`.
"""

import argparse
import math
import shutil
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from fedmed.audit import ChainLog
from fedmed.crypto.passphrases import Secret, obtain_secret
from fedmed.errors import SiteFailureError, UsageError
from fedmed.receipts import sign_mandate
from fedmed.records import digest
from fedmed.secagg.roster_file import open_roster
from fedmed.signed_plans import launch, load_signed_plan, verify
from fedmed_server.consortium_console import FORM, Commands, Parser, Run, add, add_secret
from fedmed_server.coordinator import CoordinatorSettings, open_coordinator_process
from fedmed_server.coordinator_home import CoordinatorIdentity, read_coordinator
from fedmed_server.receipts import PARTICIPATED, RECEIPTS, SETTLED
from fedmed_server.studies import Studies, StudyState
from fedmed_server.study_process import PATIENCE_S, ROSTER, STUDIES

_ABOUT = """\
The coordinator carries messages between the sites of a consortium and runs their studies.
It sees sums of encrypted updates and nothing of one site.

The usual order, in a folder made by fedmed consortium coordinator:
  fedmed coordinator start --home COORD --key-file unlock.key
  fedmed coordinator launch plan.signed.json --base BASE --home COORD --key-file unlock.key
  fedmed coordinator status --watch --home COORD
  fedmed coordinator fetch STUDY --to model --home COORD
"""
_STALE_S: Final = 120
_LOOK_S: Final = 0.2
_CHAINED: Final = {"at", "event", "index", "previous", "digest"}
"""What stands in each line of a study's log beside its facts."""


def coordinator(arguments: Sequence[str]) -> int:
    """Run `fedmed coordinator ARGUMENTS` and return the exit code.

    Raises:
        FedMedError: The one line that the command line shows.
    """
    parsed = _parser().parse_args(arguments)
    parsed.run(parsed)
    return 0


def _parser() -> Parser:
    parser = Parser(prog="fedmed coordinator", description=_ABOUT, formatter_class=FORM, allow_abbrev=False)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    start = _add(commands, "start", "serve the sites and run what is launched, until it is stopped", _start)
    start.add_argument("--listen", default="0.0.0.0", metavar="ADDRESS", help="where to listen (default: everywhere)")  # noqa: S104  only the gate's routes are open
    start.add_argument("--health", metavar="HOST:PORT", help="serve gRPC health here, for a watchdog on this machine")
    start.add_argument("--patience-hours", type=float, default=PATIENCE_S / 3600, metavar="H", help="wait for sites")
    add_secret(start)
    begin = _add(commands, "launch", "sign and queue a plan that the consortium agreed to", _launch)
    begin.add_argument("plan", type=Path, metavar="PLAN", help="from fedmed consortium plan sign")
    begin.add_argument("--base", type=Path, required=True, metavar="DIR", help="folder of the public base model")
    begin.add_argument("--sites", type=int, metavar="N", help="sites that must be ready to begin (default: all)")
    add_secret(begin)
    _add(commands, "studies", "list all studies and where each stands", _studies)
    status = _add(commands, "status", "show what the studies do now", _status)
    status.add_argument("study", nargs="?", metavar="STUDY", help="only this one")
    status.add_argument("--watch", action="store_true", help="go on showing until stopped")
    status.add_argument("--json", action="store_true", help="the same as one JSON object")
    wait = _add(commands, "wait", "wait until a study is finished", _wait)
    wait.add_argument("study", metavar="STUDY", help="name, or beginning of its digest")
    wait.add_argument("--minutes", type=float, default=math.inf, metavar="M", help="give up after so long")
    for name, about, run in (
        ("log", "print what happened in a study", _log),
        ("receipts", "list how each attempt at a round was settled, and who took part", _receipts),
        ("stop", "stop a study; what is reached stays", _stop),
        ("resume", "queue a stopped or failed study again; it goes on where it was", _resume),
    ):
        _add(commands, name, about, run).add_argument("study", metavar="STUDY", help="name, or beginning of its digest")
    fetch = _add(commands, "fetch", "copy a finished study's model, card and facts", _fetch)
    fetch.add_argument("study", metavar="STUDY")
    fetch.add_argument("--to", type=Path, required=True, metavar="DIR", help="a folder that is not there yet")
    return parser


def _add(commands: Commands, name: str, about: str, run: Run) -> Parser:
    parser = add(commands, name, about, run)
    parser.add_argument("--home", type=Path, required=True, metavar="COORD", help="the coordinator's folder")
    return parser


def _start(parsed: argparse.Namespace) -> None:
    settings = CoordinatorSettings(
        root=parsed.home, listen=parsed.listen, health=parsed.health, patience_s=3600 * parsed.patience_hours
    )
    open_coordinator_process(settings, _secret(parsed), say=_say).run()


def _launch(parsed: argparse.Namespace) -> None:
    from fedmed.models.folder import folder_digest  # noqa: PLC0415  it imports torch

    identity = read_coordinator(parsed.home, now=datetime.now(UTC))
    agreed = load_signed_plan(parsed.plan)
    consortium = identity.consortium.ed25519()
    verify(agreed.plan, agreed.signatures, consortium=consortium, coordinator=None)
    found = folder_digest(parsed.base) if parsed.base.is_dir() else "no folder"
    if found != agreed.plan.base_digest:
        raise UsageError(
            f"{parsed.base}: expected the base {agreed.plan.base_digest[:12]} of the plan, got {found[:12]}"
        )
    wanted = parsed.sites or _members(parsed.home, identity)
    if wanted < agreed.plan.aggregation.min_sites:
        raise UsageError(f"--sites: the plan needs at least {agreed.plan.aggregation.min_sites}, got {wanted}")
    plan_key = identity.plan_key(_secret(parsed))
    signed = launch(agreed, plan_key)
    mandate = sign_mandate(digest(signed.plan), coordinator=identity.name, plan_key=plan_key)
    verify(
        signed.plan,
        signed.signatures,
        consortium=consortium,
        coordinator=Ed25519PublicKey.from_public_bytes(identity.statement.plan_key),
    )
    state = _of(parsed).add(signed, parsed.base, sites_wanted=wanted, mandate=mandate)
    _say(f"{state.study} ({state.digest[:12]}) is queued; it begins when {wanted} sites have approved it")


def _studies(parsed: argparse.Namespace) -> None:
    found = _of(parsed)
    for state in found.all():
        plan = found.signed(state.digest).plan
        asked = "none" if plan.privacy.epsilon is None else f"{plan.privacy.epsilon:g}"
        reason = f"  {state.reason}" if state.reason else ""
        _say(f"{state.digest[:12]}  {state.state:<9} {state.study}  epsilon asked {asked}{reason}")
    if not found.all():
        _say("no study was launched yet")


def _status(parsed: argparse.Namespace) -> None:
    found = _of(parsed)
    if parsed.json:
        shown = _chosen(found, parsed.study)
        _say(msgspec.json.encode([_facts(found, state) for state in shown]).decode())
        return
    console = Console()
    if not parsed.watch:
        console.print(_table(found, parsed.study))
        return
    with Live(_table(found, parsed.study), console=console, auto_refresh=False) as live:
        while any(state.state in {"queued", "running"} for state in _chosen(found, parsed.study)):
            live.update(_table(found, parsed.study), refresh=True)
            time.sleep(1)
        live.update(_table(found, parsed.study), refresh=True)


def _wait(parsed: argparse.Namespace) -> None:
    found, deadline = _of(parsed), time.monotonic() + 60 * parsed.minutes
    while True:
        state = found.find(parsed.study)
        if state.state == "finished":
            _say(f"{state.study} is finished")
            return
        if state.state not in {"queued", "running"}:
            raise SiteFailureError(f"{state.study} is {state.state}: {state.reason or 'see fedmed coordinator log'}")
        if time.monotonic() >= deadline:
            raise SiteFailureError(f"{state.study} is still {state.state} after {parsed.minutes:g} minutes; it goes on")
        time.sleep(_LOOK_S)


def _facts(found: Studies, state: StudyState) -> dict[str, object]:
    facts: dict[str, object] = msgspec.to_builtins(state)
    progress = found.progress(state.digest)
    facts["progress"] = None if progress is None else msgspec.to_builtins(progress)
    facts["epsilon_asked"] = found.signed(state.digest).plan.privacy.epsilon
    return facts


def _table(found: Studies, which: str | None) -> Table:
    table = Table(box=None, pad_edge=False)
    for title in ("study", "state", "phase", "round", "seconds", "epsilon asked", "sites"):
        table.add_column(title, overflow="fold")
    for state in _chosen(found, which):
        progress = found.progress(state.digest)
        epsilon = found.signed(state.digest).plan.privacy.epsilon
        sites: list[str] = []
        if progress is not None:
            marked = set(progress.answered)
            sites = [escape(f"{site} answered" if site in marked else site) for site in progress.sites]
            sites += [escape(f"{site}: {reason}") for site, reason in sorted(progress.waiting.items())]
        table.add_row(
            escape(f"{state.study}\n{state.digest[:12]}"),
            escape(state.state if not state.reason else f"{state.state}: {state.reason}"),
            _phase(state, progress.phase if progress else "", progress.at if progress else ""),
            f"{progress.round}/{progress.rounds}" if progress else "",
            f"{progress.seconds:.0f}" if progress else "",
            "none" if epsilon is None else f"{epsilon:g}",
            "\n".join(sites),
        )
    return table


def _phase(state: StudyState, phase: str, at: str) -> str:
    if state.state != "running" or not at:
        return "" if state.state != "queued" else "in the queue"
    age = (datetime.now(UTC) - datetime.fromisoformat(at)).total_seconds()
    return escape(phase) if age < _STALE_S else f"{escape(phase)} (nothing new for {age / 60:.0f} minutes)"


def _log(parsed: argparse.Namespace) -> None:
    found = _of(parsed)
    path = found.folder(found.find(parsed.study).digest).log
    for line in path.read_bytes().splitlines() if path.is_file() else ():
        entry = msgspec.json.decode(line, type=dict[str, object])
        facts = "  ".join(f"{key}={_shown(value)}" for key, value in entry.items() if key not in _CHAINED)
        _say(f"{entry['at']}  {entry['event']:<14} {facts}")


def _receipts(parsed: argparse.Namespace) -> None:
    found = _of(parsed)
    state = found.find(parsed.study)
    entries = ChainLog(found.folder(state.digest).work / RECEIPTS).entries()
    table = Table(title=f"Receipts of {escape(state.study)}", box=None, pad_edge=False)
    for heading in ("work", "round", "try", "outcome", "commitment", "sites"):
        table.add_column(heading, no_wrap=heading != "sites")
    for entry in entries:
        if entry.kind == SETTLED:
            body, cohort = entry.body, str(entry.body["cohort"])
            work = str(body["run"]).partition(".")[2]
            outcome, sites = ("summed", cohort.replace(" ", ", ")) if cohort else ("void", "")
            commitment = str(body.get("aggregate", ""))[:12]
            table.add_row(work, str(body["round"]), str(body["attempt"]), outcome, commitment, sites)
    Console().print(table)
    signed = sum(entry.kind == PARTICIPATED for entry in entries)
    _say(f"{signed} uploads, each signed for by its site; fedmed audit verify checks them")


def _stop(parsed: argparse.Namespace) -> None:
    found = _of(parsed)
    state = found.change(found.find(parsed.study).digest, "stopped", reason="by the coordinator's user")
    _say(f"{state.study} is stopped; fedmed coordinator resume goes on from what it reached")


def _resume(parsed: argparse.Namespace) -> None:
    found = _of(parsed)
    state = found.change(found.find(parsed.study).digest, "queued")
    _say(f"{state.study} is queued again")


def _fetch(parsed: argparse.Namespace) -> None:
    found = _of(parsed)
    state = found.find(parsed.study)
    result = found.folder(state.digest).work / "result"
    if state.state != "finished" or not result.is_dir():
        raise UsageError(f"{state.study} is {state.state}: expected a finished study; see fedmed coordinator status")
    if parsed.to.exists():
        raise UsageError(f"{parsed.to}: expected no such folder yet, found one; nothing was overwritten")
    stage = parsed.to.with_name(f".{parsed.to.name}.part")
    shutil.rmtree(stage, ignore_errors=True)
    shutil.copytree(result, stage)
    stage.rename(parsed.to)
    _say(f"{state.study}: model, base, card and facts are in {parsed.to}")


def _chosen(found: Studies, which: str | None) -> tuple[StudyState, ...]:
    return found.all() if which is None else (found.find(which),)


def _members(root: Path, identity: CoordinatorIdentity) -> int:
    """Return how many sites the roster has, or the list of members where there is none."""
    path = root / ROSTER
    if not path.is_file():
        return len(identity.members().sites)
    key = identity.consortium.ed25519()
    return len(open_roster(path.read_bytes(), consortium_key=key, least_serial=1, now=datetime.now(UTC)).sites)


def _of(parsed: argparse.Namespace) -> Studies:
    if not parsed.home.is_dir():
        raise UsageError(f"{parsed.home}: expected the coordinator's folder, found none; check --home")
    return Studies(parsed.home / STUDIES)


def _secret(parsed: argparse.Namespace) -> Secret:
    return obtain_secret(passphrase_file=parsed.passphrase_file, key_file=parsed.key_file, use="existing key")


def _shown(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
