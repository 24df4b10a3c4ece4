"""Folders of a consortium's servers as an auditor sees them: coordinator, one study, consortium, and simulated runs.

Why it exists: a coordinator says that it learns nothing of one site and leaves nobody out. Its logs, the receipts that
it gave and the signatures that it was given are compared with each other here, under keys that it does not hold.

Rules:
    * Signatures are verified under the consortium's key and what that key signed; expiry does not matter afterwards.
    * A sum stands on one participation of each site that it names, and its receipt on exactly those uploads.
    * A round that the study's log calls finished has such a sum, over the sites that the log names.

What it does not do: know whether a site was told the same; the site's own folder says so.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from fedmed.audit import ChainLog, Entry
from fedmed.audit_folders import Findings
from fedmed.crypto import statements
from fedmed.crypto.keyfiles import CONSORTIUM, load_public_key
from fedmed.errors import FedMedError, IntegrityError
from fedmed.exchange import Work, run_of
from fedmed.kits import COORDINATOR, Coordinator
from fedmed.members import MEMBERS, REVOKED, Members, Revoked
from fedmed.receipts import Participation, open_participation, open_receipt, uploads_digest
from fedmed.records import Plan, decode, digest
from fedmed.secagg.messages import Turn
from fedmed.secagg.roster import Roster, verify_signature
from fedmed.secagg.roster_file import roster_from_bytes
from fedmed.signed_plans import load_signed_plan, verify
from fedmed_server import study_log
from fedmed_server.consortium import files_of, public_of_consortium
from fedmed_server.coordinator import AUDIT
from fedmed_server.coordinator_home import PUBLIC
from fedmed_server.receipts import PARTICIPATED, RECEIPTS, ROSTER_USED, SETTLED
from fedmed_server.register import read_register
from fedmed_server.studies import Studies, StudyFolder
from fedmed_server.study_process import ROSTER, STUDIES

_FIT: Final[tuple[Work, ...]] = ("train.fit",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """What signatures are verified under; `plan_key` is None in a simulation, whose coordinator signs nothing."""

    consortium: Ed25519PublicKey
    plan_key: Ed25519PublicKey | None
    roster: Roster | None


def verify_coordinator(folder: Path) -> Findings:
    """Verify a coordinator's folder: its audit log, and every study."""
    found = Findings(folder)
    entries = found.chain(folder / AUDIT)
    try:
        keys = _keys_of(folder)
    except (FedMedError, OSError) as error:
        found.problems.append(str(error))
        return found
    plans = {str(one.body["plan"]): one.index for one in entries if "plan" in one.body}
    for name, index in sorted(plans.items()):
        if not StudyFolder(folder / STUDIES / name).state.is_file():
            found.wrong(folder / STUDIES / name, f"missing: entry {index} of {AUDIT} speaks of it")
    for path in sorted((folder / STUDIES).glob("*/plan.json")):
        if path.parent.name[0] != ".":
            _study(found, StudyFolder(path.parent), keys)
    return found


def verify_one_study(folder: Path) -> Findings:
    """Verify one study of a coordinator, in the coordinator's folder."""
    found = Findings(folder)
    try:
        keys = _keys_of(folder.resolve().parent.parent)
    except (FedMedError, OSError) as error:
        found.problems.append(f"expected the coordinator's folder two levels above the study: {error}")
        return found
    _study(found, StudyFolder(folder), keys)
    return found


def verify_consortium(folder: Path) -> Findings:
    """Verify a consortium's folder: its register, and the lists that were signed for the coordinator."""
    found, files = Findings(folder), files_of(folder)
    if not found.chain(files.register):
        return found
    try:
        register = read_register(folder)
        key = public_of_consortium(folder).ed25519()
    except FedMedError as error:
        found.problems.append(str(error))
        return found
    for path, form, kind, current in (
        (files.members, MEMBERS, Members, register.members),
        (files.revoked, REVOKED, Revoked, register.revoked),
    ):
        try:
            signed = statements.parse(path.read_bytes(), form, kind).verify(key, cure="make the lists again")
        except OSError:
            found.wrong(path, "missing")
        except IntegrityError as error:
            found.wrong(path, str(error))
        else:
            if signed.sites != current:  # type: ignore[attr-defined]  # both lists have it
                found.wrong(path, "it has other sites than the register")
            else:
                found.good.append(f"{path.name}: edition {signed.edition} is the register's")  # type: ignore[attr-defined]
    return found


def verify_simulated(folder: Path) -> Findings:
    """Verify the coordinator of a simulation's run folder; its sites are verified as sites."""
    found = Findings(folder)
    deployed = folder / "deployment"
    for below, function in (("coordinator", verify_coordinator), ("consortium", verify_consortium)):
        if (deployed / below).is_dir():
            found.add(function(deployed / below))
    key_path, roster_path = folder / "consortium" / "consortium.key", folder / "coordinator" / ROSTER
    if not (key_path.is_file() and roster_path.is_file()):
        return found
    try:
        key = Ed25519PrivateKey.from_private_bytes(key_path.read_bytes()).public_key()
        keys = Keys(consortium=key, plan_key=None, roster=_roster(roster_path.read_bytes(), key))
    except (IntegrityError, ValueError) as error:
        found.wrong(roster_path, str(error))
        return found
    for path in sorted((folder / "coordinator").glob(f"study-*/{RECEIPTS}")):
        settled = _receipts(found, path, keys, plan=None)
        plan_path = path.parent / "result" / "plan.json"
        if plan_path.is_file() and settled is not None:
            plan = decode(plan_path.read_bytes(), Plan)
            _rounds_settled(found, path, settled, plan, rounds=plan.training.rounds)
    return found


def _keys_of(folder: Path) -> Keys:
    """Return the keys of a coordinator's folder.

    Raises:
        FedMedError: They are missing, or the consortium did not sign the coordinator's statement or the roster.
    """
    consortium = load_public_key(folder / PUBLIC, purpose=CONSORTIUM).ed25519()
    signed = statements.parse((folder / "coordinator.json").read_bytes(), COORDINATOR, Coordinator)
    statement = signed.verify(consortium, cure="fetch coordinator.json again from the consortium")
    roster = folder / ROSTER
    return Keys(
        consortium=consortium,
        plan_key=Ed25519PublicKey.from_public_bytes(statement.plan_key),
        roster=_roster(roster.read_bytes(), consortium) if roster.is_file() else None,
    )


def _roster(data: bytes, consortium: Ed25519PublicKey) -> Roster:
    signed = roster_from_bytes(data)
    verify_signature(signed, consortium)
    return signed.roster


def _study(found: Findings, folder: StudyFolder, keys: Keys) -> None:
    try:
        signed = load_signed_plan(folder.plan)
        verify(signed.plan, signed.signatures, consortium=keys.consortium, coordinator=keys.plan_key)
    except FedMedError as error:
        found.wrong(folder.plan, str(error))
        return
    plan = signed.plan
    if digest(plan) != folder.root.name:
        found.wrong(folder.plan, f"expected the plan {folder.root.name[:12]}, got another")
        return
    try:
        lines = study_log.read(folder.log)
    except IntegrityError as error:
        found.wrong(folder.log, str(error))
        return
    found.good.append(f"{found.name(folder.log)}: {len(lines)} entries")
    aside = folder.log.with_name("log.unchained.jsonl")
    if aside.is_file():
        found.notes.append(f"{found.name(aside)}: written before logs were chained; nothing of it can be verified")
    settled: dict[Turn, tuple[str, ...]] | None = None
    if plan.aggregation.kind == "secure":
        settled = _receipts(found, folder.work / RECEIPTS, keys, plan=digest(plan))
    _log_against_receipts(found, folder, plan, lines, settled)


def _log_against_receipts(
    found: Findings,
    folder: StudyFolder,
    plan: Plan,
    lines: Sequence[Mapping[str, object]],
    settled: dict[Turn, tuple[str, ...]] | None,
) -> None:
    finished = {int(str(line["round"])): line for line in lines if line["event"] == "round-finished"}
    over = Studies(folder.root.parent).find(folder.root.name).state == "finished"
    if over and not any(line["event"] == "finished" for line in lines):
        found.wrong(folder.log, "it lacks the study's end, though the study is finished: it was cut off")
    missing = [number for number in range(plan.training.rounds) if over and number not in finished]
    if missing and not folder.log.with_name("log.unchained.jsonl").is_file():
        found.wrong(folder.log, f"it lacks round {missing[0]}, though the study is finished")
    if settled is None:
        return
    run = run_of(digest(plan), _FIT)
    for number, line in sorted(finished.items()):
        named = line["sites"]
        sites = tuple(sorted(str(site) for site in named)) if isinstance(named, list) else ()
        sums = [cohort for turn, cohort in settled.items() if (turn.run, turn.round) == (run, number) and cohort]
        if not sums:
            found.wrong(folder.log, f"round {number} is finished, {RECEIPTS} lacks it", entry=int(str(line["index"])))
        elif sites not in sums:
            found.wrong(
                folder.log,
                f"round {number} names {', '.join(sites)}, its receipt {', '.join(sums[-1])}",
                entry=int(str(line["index"])),
            )


def _rounds_settled(
    found: Findings, path: Path, settled: dict[Turn, tuple[str, ...]], plan: Plan, *, rounds: int
) -> None:
    run = run_of(digest(plan), _FIT)
    summed = {turn.round for turn, cohort in settled.items() if turn.run == run and cohort}
    missing = [number for number in range(rounds) if number not in summed]
    if missing:
        found.wrong(path, f"round {missing[0]} of the finished study was not settled here: an entry is missing")


def _receipts(found: Findings, path: Path, keys: Keys, *, plan: str | None) -> dict[Turn, tuple[str, ...]] | None:
    """Verify a study's receipts and return whose uploads each attempt summed; None if the chain does not hold."""
    try:
        entries = ChainLog(path).entries()
    except IntegrityError as error:
        found.wrong(path, str(error).removeprefix("audit chain: "))
        return None
    book = _Book(keys=keys, plan=plan)
    for entry in entries:
        try:
            book.take(entry)
        except (FedMedError, ValueError, KeyError) as error:
            found.wrong(path, str(error), entry=entry.index)
    if entries:
        signed = "" if keys.plan_key is not None else ", not signed in a simulation"
        head = digest(entries[-1])
        found.good.append(
            f"{found.name(path)}: {book.participations} participations, {len(book.settled)} attempts settled{signed};"
            f" head {head}"
        )
    return book.settled


class _Book:
    """A study's receipts as they are read, one entry after the other."""

    def __init__(self, *, keys: Keys, plan: str | None) -> None:
        self.settled: dict[Turn, tuple[str, ...]] = {}
        self.participations = 0
        self._keys = keys
        self._roster = keys.roster
        self._plan = plan
        self._uploads: dict[Turn, dict[str, bytes]] = {}

    def take(self, entry: Entry) -> None:
        """Verify one entry.

        Raises:
            FedMedError: It does not hold.
        """
        if entry.kind == ROSTER_USED:
            self._roster = _roster(str(entry.body["statement"]).encode(), self._keys.consortium)
        elif entry.kind == PARTICIPATED:
            self._participated(entry)
        elif entry.kind == SETTLED:
            self._settle(entry)

    def _participated(self, entry: Entry) -> None:
        if self._roster is None:
            raise IntegrityError("expected a roster before it, found none")
        one: Participation = open_participation(str(entry.body["statement"]).encode(), self._roster)
        if one.turn != _turn(entry) or self._plan not in {None, one.plan}:
            raise IntegrityError(f"participation of {one.site}: it is of another attempt or plan")
        self._uploads.setdefault(one.turn, {})[one.site] = bytes.fromhex(one.upload)
        self.participations += 1

    def _settle(self, entry: Entry) -> None:
        turn, body = _turn(entry), entry.body
        cohort = tuple(str(body["cohort"]).split())
        if turn in self.settled:
            raise IntegrityError(f"{turn}: it was settled before")
        self.settled[turn] = cohort
        missing = [site for site in cohort if site not in self._uploads.get(turn, {})]
        if missing:
            raise IntegrityError(f"{turn}: expected the participation of {missing[0]}, found none")
        uploads = {site: self._uploads[turn][site] for site in cohort}
        if cohort and body["uploads"] != uploads_digest(turn, uploads):
            raise IntegrityError(f"{turn}: the sites signed for other uploads than were summed")
        if self._keys.plan_key is None:
            return
        receipt = open_receipt(str(body["statement"]).encode(), self._keys.plan_key)
        said = (receipt.turn, receipt.cohort, receipt.uploads, receipt.aggregate)
        if said != (turn, cohort, body.get("uploads", ""), body.get("aggregate", "")) or receipt.plan != self._plan:
            raise IntegrityError(f"{turn}: its receipt says something else than its entry")


def _turn(entry: Entry) -> Turn:
    body = entry.body
    return Turn(run=str(body["run"]), round=int(str(body["round"])), attempt=int(str(body["attempt"])))
