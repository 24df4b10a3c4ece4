"""The doctor's look at the site's folder: certificate, roster, policy, studies, data, ledgers, audit log, agent.

What it does not do: touch the network, or read every file that was ever de-identified (`fedmed audit verify` does).
"""

from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Final

from fedmed.audit import ChainLog
from fedmed.data.schema import DataSet
from fedmed.errors import FedMedError, IntegrityError
from fedmed.records import decode
from fedmed_site.approvals import Approvals, written
from fedmed_site.budget import verify_chain
from fedmed_site.doctor import Check, Finding, Patient, bad, ok, warn
from fedmed_site.membership import Membership

SOON: Final = timedelta(days=14)
JOIN: Final = "join a consortium: fedmed site join INVITATION"
RENEW: Final = "fedmed site renew, send the request to the consortium, then fedmed site join KIT"
RESTORE: Final = "restore it from a backup; don't make a new one"


def certificate(patient: Patient) -> Sequence[Finding]:
    """Look at the dates of the site's certificate, and whether kit, keys and certificate belong together."""
    found = patient.certificate()
    if found is None:
        return [warn("certificate", "this site has joined no consortium", JOIN)]
    now, start, end = patient.now(), found.not_valid_before_utc, found.not_valid_after_utc
    patient.identity()
    if now < start:
        cure = "set this machine's clock: it is behind"
        return [bad("certificate", f"good from {written(start)} on, and it is {written(now)} here", cure)]
    if now >= end:
        return [bad("certificate", f"expired at {written(end)}, and it is {written(now)} here", RENEW)]
    text = f"good until {written(end)}, {(end - now).days} days"
    return [warn("certificate", text, RENEW) if end - now < SOON else ok("certificate", text)]


def roster(patient: Patient) -> Sequence[Finding]:
    """Look whether the roster is in force and this site stands in it under its own key."""
    membership = Membership(patient.home)
    ask = "ask the consortium for its roster, then: fedmed site roster FILE"
    if not (patient.home.consortium / "roster.json").is_file():
        return [warn("roster", "none yet", ask)]
    try:
        held = membership.roster(now=patient.now())
    except FedMedError as error:
        return [bad("roster", str(error), ask)]
    name, key = patient.home.record().name, membership.public_key()
    entries = {entry.site: entry.signing_key for entry in held.sites}
    text = f"serial {held.serial}, {len(held.sites)} sites"
    if entries.get(name) != key:
        missing = "without this site" if name not in entries else "with another key for this site"
        return [bad("roster", f"{text}, {missing}", ask)]
    until = f", until {held.valid_until}" if held.valid_until else ""
    return [ok("roster", f"{text}, this one among them{until}")]


def policy(patient: Patient) -> Sequence[Finding]:
    """Look whether the policy lets anything through, and whether it asks for more than the roster gives."""
    allowed = patient.home.record().policy
    if not allowed.views:
        return [warn("policy", "it allows no data: every study is refused", "fedmed site policy allow DATASET TARGET")]
    if allowed.allow_simulated_noise:
        return [
            bad("policy", "it accepts noise that a seed repeats", "fedmed site policy set allow_simulated_noise=false")
        ]
    missing = [view for view in allowed.views if not (patient.home.data(view.schema) / "dataset.json").is_file()]
    if missing:
        return [
            warn(
                "policy", f"it allows {missing[0]}, which this site doesn't hold", "prepare the data set, or forbid it"
            )
        ]
    return [ok("policy", f"{len(allowed.views)} views, approval of {allowed.approval.replace('-', ' ')}")]


def studies(patient: Patient) -> Sequence[Finding]:
    """Look whether studies wait, and whether the base model of each that may run is here, unchanged."""
    approvals = Approvals(patient.home, ChainLog(patient.home.audit_path))
    entries = approvals.entries()
    found = [_base(patient, entry.study, entry.digest, approvals) for entry in entries if entry.state != "rejected"]
    waiting = sum(entry.state == "waiting" for entry in entries)
    pause = approvals.paused(now=patient.now())
    if pause is not None:
        found.append(warn("studies", f"this site is paused since {pause.since} by {pause.by}", "fedmed site resume"))
    if waiting:
        found.append(warn("studies", f"{waiting} wait for a decision", "fedmed site studies, then approve or reject"))
    return [one for one in found if one is not None] or [ok("studies", f"{len(entries)} came, none waits")]


def _base(patient: Patient, study: str, digest: str, approvals: Approvals) -> Finding | None:
    from fedmed.models.folder import folder_digest  # noqa: PLC0415  it imports torch

    base = approvals.plan(digest).base_digest
    folder = patient.home.models / base
    cure = f"bring the base model to {patient.home.models}/{base[:12]}..., as the coordinator says"
    if not folder.is_dir():
        return bad("studies", f"{study!r} needs the base model {base[:12]}, which is not here", cure)
    if folder_digest(folder) != base:
        return bad("studies", f"{study!r}: the base model {base[:12]} is not what its digest says", cure)
    return None


def data(patient: Patient) -> Sequence[Finding]:
    """Look whether each data set is, byte for byte, what the audit log vouches for under its schema."""
    from fedmed_site.datasets import DataSets  # noqa: PLC0415  it imports the engines

    datasets = DataSets(patient.home, ChainLog(patient.home.audit_path))
    folders = sorted(path.parent for path in patient.home.root.glob("data/*/dataset.json"))
    if not folders:
        return [warn("data", "this site holds no data set", "prepare one; see the how-to of running a site")]
    found = []
    for folder in folders:
        schema = decode((folder / "dataset.json").read_bytes(), DataSet).schema
        if schema.name != folder.name:
            found.append(bad("data", f"{folder.name}: its schema is that of {schema.name}", "prepare it again"))
            continue
        try:
            found.append(ok("data", f"{folder.name}: {datasets.verify(folder.name)}"))
        except FedMedError as error:
            found.append(bad("data", f"{folder.name}: {error}", "prepare it again"))
    return found


def ledgers(patient: Patient) -> Sequence[Finding]:
    """Verify the chain of each privacy ledger."""
    return list(_ledgers(patient)) or [ok("ledgers", "none begun yet")]


def _ledgers(patient: Patient) -> Iterator[Finding]:
    held = {path.parent.name for path in patient.home.root.glob("data/*/dataset.json")}
    present = {path.stem: path for path in patient.home.ledgers.glob("*.jsonl")}
    for name in sorted(held - set(present)):
        yield bad("ledgers", f"{name}: the data set is here and its ledger isn't", RESTORE)
    for name, path in sorted(present.items()):
        try:
            chain = verify_chain(path)
        except IntegrityError as error:
            yield bad("ledgers", f"{name}: {error}", RESTORE)
        else:
            yield ok("ledgers", f"{name}: {chain.entries} entries, head {chain.head[:12]}")


def audit(patient: Patient) -> Sequence[Finding]:
    """Verify the chain of the audit log."""
    try:
        entries = ChainLog(patient.home.audit_path).entries()
    except IntegrityError as error:
        return [bad("audit log", str(error), RESTORE)]
    return [ok("audit log", f"{len(entries)} entries, each following the one before")]


def agent(patient: Patient) -> Sequence[Finding]:
    """Ask the agent how it is."""
    from fedmed_site.control_client import answers, connect  # noqa: PLC0415  gRPC only where an agent may run

    socket = patient.home.run / "control.sock"
    if not answers(socket):
        return [warn("agent", "it does not run", "fedmed site start")]
    with connect(socket) as desk:
        status = desk.status()
    text = f"runs since {status.agent_since}, the node is {status.node_state}"
    if status.node_state in {"unreachable", "stopped"}:
        return [bad("agent", text, "see the findings of the network below, and site.log")]
    return [ok("agent", text)]


CHECKS: Final[Sequence[tuple[str, Check]]] = (
    ("certificate", certificate),
    ("roster", roster),
    ("policy", policy),
    ("audit log", audit),
    ("data", data),
    ("ledgers", ledgers),
    ("studies", studies),
    ("agent", agent),
)
