"""A site's home as an auditor sees it: the audit log and all that it speaks of, the ledgers, the receipts.

Why it exists: `audit_check` compares items with their records; here the other chained logs are verified, and every
receipt once more under the keys that the consortium signed.

Rules:
    * A receipt is believed under the coordinator's statement that was in force when it came, which stands in the log.
    * The audit log names the head of the receipts with each answer, so a cut end of them is noticed.
    * A receipt that was refused when it came is no fault of this folder; it is shown.

What it does not do: notice that the end of the audit log itself was cut off; keep its head elsewhere.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from fedmed.audit import ChainLog, Entry, Scalar
from fedmed.audit_folders import Findings
from fedmed.crypto import statements
from fedmed.errors import IntegrityError, RefusedError
from fedmed.kits import COORDINATOR, Coordinator
from fedmed.receipts import open_receipt
from fedmed.records import digest
from fedmed_site.audit_check import verify_site
from fedmed_site.budget import verify_chain
from fedmed_site.home import SiteHome
from fedmed_site.membership import Membership
from fedmed_site.receipts import (
    COORDINATOR_USED,
    RECEIVED,
    REFUSED,
    Standing,
    require_consistent,
    standings,
    turn_of,
)


def verify_site_folder(folder: Path, *, moved: Sequence[Path] = (), expected_head: str | None = None) -> Findings:
    """Verify a site's home.

    Args:
        folder: The home.
        moved: Folders of de-identified items that lie elsewhere now.
        expected_head: The digest of an entry of the audit log that was kept elsewhere.
    """
    home, found = SiteHome.open(folder), Findings(folder)
    checked = verify_site(home, moved=moved, expected_head=expected_head)
    found.problems += [f"{home.audit_path.name}: {problem}" if not checked.head else problem
                       for problem in checked.problems]  # fmt: skip
    if not checked.problems:
        found.good.append(
            f"{home.audit_path.name}: {checked.entries} entries; {checked.items} items in {checked.folders} folders,"
            f" {checked.tables} tables; head {checked.head}"
        )
    _ledgers(home, found)
    _receipts(home, found, _log_of(home))
    return found


def _log_of(home: SiteHome) -> Sequence[Entry]:
    try:
        return ChainLog(home.audit_path).entries()
    except IntegrityError:  # it is among the problems already
        return ()


def _ledgers(home: SiteHome, found: Findings) -> None:
    for path in sorted(home.ledgers.glob("*.jsonl")):
        try:
            chain = verify_chain(path)
        except IntegrityError as error:
            found.wrong(path, str(error).removeprefix("audit chain: "))
        else:
            found.good.append(f"{found.name(path)}: {chain.entries} entries, head {chain.head}")
    for record in sorted((home.root / "data").glob("*/dataset.json")):
        path = home.ledgers / f"{record.parent.name}.jsonl"
        if not path.is_file():
            found.wrong(path, "missing: the data set has been prepared; restore its ledger from a backup")


def _receipts(home: SiteHome, found: Findings, audit: Sequence[Entry]) -> None:
    path = home.receipts_path
    entries = found.chain(path)
    before = len(found.problems)
    named = [(one.index, one.body["receipts"]) for one in audit if "receipts" in one.body]
    known = {digest(one) for one in entries}
    if named and named[-1][1] not in known and not any(line.startswith(path.name) for line in found.problems):
        found.wrong(path, f"an entry is missing that entry {named[-1][0]} of the audit log names: it was cut off")
    key: Ed25519PublicKey | None = None
    pinned = _pinned(home)
    for entry in entries:
        try:
            if entry.kind == COORDINATOR_USED:
                key = _coordinator_key(entry)
                if entry.body["consortium"] != pinned:
                    found.notes.append(f"{path.name}: entry {entry.index}: of a consortium that is not pinned here now")
            elif entry.kind == RECEIVED:
                _check_receipt(home, entry, entries[: entry.index], key)
        except (IntegrityError, RefusedError, ValueError, KeyError) as error:
            found.wrong(path, str(error), entry=entry.index)
        if entry.kind == REFUSED:
            found.notes.append(f"{path.name}: entry {entry.index}: refused when it came: {entry.body['reason']}")
    if len(found.problems) == before:
        open_ones = [one for one in standings(entries) if not one.outcome]
        settled = sum(one.kind == RECEIVED for one in entries)
        found.good.append(f"{path.name}: {settled} receipts of the coordinator hold")
        if open_ones:
            found.notes.append(
                f"{path.name}: {len(open_ones)} uploads have no receipt yet, the last {open_ones[-1].turn}"
            )


def _pinned(home: SiteHome) -> str:
    try:
        return Membership(home).consortium_key().public_bytes_raw().hex()
    except IntegrityError:  # it was left
        return ""


def _coordinator_key(entry: Entry) -> Ed25519PublicKey:
    """Return the key that a logged statement of a consortium names; it may have expired since.

    Raises:
        IntegrityError: The consortium that the entry names did not sign it.
    """
    signed = statements.parse(str(entry.body["statement"]).encode(), COORDINATOR, Coordinator)
    consortium = Ed25519PublicKey.from_public_bytes(bytes.fromhex(str(entry.body["consortium"])))
    return Ed25519PublicKey.from_public_bytes(signed.verify(consortium, cure="the log was changed").plan_key)


def _check_receipt(home: SiteHome, entry: Entry, earlier: Sequence[Entry], key: Ed25519PublicKey | None) -> None:
    """Raise unless a receipt in the log is one that the site could believe when it came.

    Raises:
        IntegrityError: Its signature, its place or its outcome does not hold, or the attempt was settled before.
        RefusedError: It names other sites or uploads than the site certified.
    """
    if key is None:
        raise IntegrityError("receipt: expected the coordinator's statement before it, found none")
    receipt = open_receipt(str(entry.body["statement"]).encode(), key)
    body: Mapping[str, Scalar] = entry.body
    if (receipt.plan, receipt.turn, receipt.outcome) != (body["plan"], turn_of(entry), body["outcome"]):
        raise IntegrityError("receipt: it is of another attempt than its entry says")
    known: Standing | None = next((one for one in standings(earlier) if one.turn == receipt.turn), None)
    if known is None or known.outcome:
        raise IntegrityError(f"receipt for {receipt.turn}: expected one upload before it, found it missing or settled")
    require_consistent(known, receipt, site=home.record().name)
