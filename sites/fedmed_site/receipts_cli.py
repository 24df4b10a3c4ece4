"""`fedmed site receipts`: what this site uploaded, and the coordinator's word on what became of each.

Why it exists: administrators compare receipts with those of other sites; equal attempts have equal commitments.

What it does not do: verify; `fedmed audit verify` does.
"""

import argparse

from rich.console import Console
from rich.table import Table

from fedmed.audit import ChainLog, Entry
from fedmed.crypto import statements
from fedmed.receipts import RECEIPT, Receipt
from fedmed.secagg.messages import Turn
from fedmed_site.console import Commands, add, add_home, opened, say
from fedmed_site.receipts import RECEIVED, REFUSED, Standing, standings, turn_of

_SHOWN, _PLAN_SHOWN, _MINUTES = 12, 8, len("2030-01-31T12:00")


def add_commands(commands: Commands) -> None:
    """Add the command to `fedmed site`."""
    add_home(add(commands, "receipts", "what this site uploaded, and the coordinator's receipts for it", _receipts))


def _receipts(parsed: argparse.Namespace) -> int:
    home = opened(parsed)
    entries = ChainLog(home.receipts_path).entries()
    given = {turn_of(one): _claim(one) for one in entries if one.kind == RECEIVED}
    table = Table(title=f"Receipts of {home.record().name}", box=None, pad_edge=False)
    for heading in ("plan", "work", "round", "try", "outcome", "sites", "commitment", "at"):
        table.add_column(heading, no_wrap=True)
    for one in standings(entries):
        table.add_row(*_row(one, given.get(one.turn)))
    Console().print(table)
    for entry in entries:
        if entry.kind == REFUSED:
            say(f"refused: {entry.body['reason']} (plan {str(entry.body['plan'])[:12]})")
    say("Receipts of other sites for the same attempt have the same commitment. fedmed audit verify checks them.")
    return 0


def _row(one: Standing, receipt: Receipt | None) -> tuple[str, ...]:
    turn: Turn = one.turn
    place = (one.plan[:_PLAN_SHOWN], turn.run.partition(".")[2], str(turn.round), str(turn.attempt))
    if receipt is None:
        return (*place, "not settled", "", "", "")
    return (*place, receipt.outcome, str(len(receipt.cohort) or ""), receipt.aggregate[:_SHOWN], receipt.at[:_MINUTES])


def _claim(entry: Entry) -> Receipt:
    return statements.parse(str(entry.body["statement"]).encode(), RECEIPT, Receipt).claim
