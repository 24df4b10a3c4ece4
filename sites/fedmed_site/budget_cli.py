"""`fedmed site budget`: show, cap, verify and export the privacy budget of a site's data sets.

Why it exists: see `budget`; these are its commands.

What it does not do: compute anything.
"""

import argparse
from pathlib import Path

from rich.console import Console
from rich.table import Table

from fedmed.errors import UsageError
from fedmed.files import write_atomic
from fedmed.privacy.plan import Accountant
from fedmed_site import budget as budgeting
from fedmed_site.console import Commands, add, add_home, opened, say
from fedmed_site.home import SiteHome


def add_budget(commands: Commands) -> None:
    """Add the commands of `fedmed site budget`."""
    show = add(commands, "show", "what was spent, on what, and what is left", _budget_show)
    cap = add(commands, "cap", "change what each data set may ever spend", _budget_cap)
    cap.add_argument("epsilon", type=float, metavar="EPSILON", help="above 0; below what is spent stops all charges")
    verify = add(commands, "verify", "check the chain, and print its head to keep elsewhere", _budget_verify)
    verify.add_argument("--expect-head", metavar="HEX", help="a head kept elsewhere; fails if the ledger lost it")
    export = add(commands, "export", "write the ledgers as JSON or CSV", _budget_export)
    export.add_argument("--format", choices=("json", "csv"), default="json")
    export.add_argument("--out", type=Path, metavar="FILE", help="else standard output")
    for parser in (show, verify, export):
        parser.add_argument("--dataset", metavar="NAME", help="one data set; else all")
    for parser in (show, cap, verify, export):
        add_home(parser)


def _budget_show(parsed: argparse.Namespace) -> int:
    home = opened(parsed)
    budgeting.ledgers(home, parsed.dataset)
    found = budgeting.budgets(home, _accountant(), parsed.dataset)
    table = Table(title=f"Privacy budget of {home.record().name}")
    for heading in ("data set", "spent", "left", "cap", "delta"):
        table.add_column(heading, justify="left" if heading == "data set" else "right")
    for one in found:
        cells = (
            budgeting.shown(one.spent_epsilon),
            budgeting.shown(one.left_epsilon),
            budgeting.shown(one.cap_epsilon),
        )
        table.add_row(one.dataset, *cells, f"{one.delta:g}")
    Console().print(table)
    for one in found:
        say(f"\nLast charges of {one.dataset}:" if one.charges else f"\nNothing was charged to {one.dataset} yet.")
        for charge in one.charges:
            fate = "its answer left the site" if charge.left_the_site else "no answer has left under it"
            say(f"  {charge.purpose}: {charge.mechanism}; {fate}")
    return 0


def _budget_cap(parsed: argparse.Namespace) -> int:
    change = budgeting.set_cap(opened(parsed), parsed.epsilon, _accountant())
    say(f"cap of each data set: epsilon {budgeting.shown(change.before)} before, {budgeting.shown(change.after)} now")
    for name in change.exhausted:
        say(f"{name} has spent that much already: nothing more will be charged to it")
    return 0


def _budget_verify(parsed: argparse.Namespace) -> int:
    paths = budgeting.ledgers(opened(parsed), parsed.dataset)
    if parsed.expect_head is not None and len(paths) > 1:
        raise UsageError("--expect-head belongs to one ledger; say --dataset NAME too")
    for path in paths:
        chain = budgeting.verify_chain(path, expected_head=parsed.expect_head)
        since = "" if chain.since is None else f"; {chain.since} entries since the head that you kept"
        say(f"good: {chain.dataset}: {chain.entries} entries{since}\nhead {chain.head}")
    say("Keep the head where this machine cannot change it: it shows later that nothing was rolled back.")
    return 0


def _budget_export(parsed: argparse.Namespace) -> int:
    home = opened(parsed)
    csv = parsed.format == "csv" or (parsed.out is not None and parsed.out.suffix.lower() == ".csv")
    text = budgeting.export_csv(home, parsed.dataset) if csv else _budget_json(home, parsed.dataset)
    if parsed.out is None:
        say(text.rstrip("\n"))
    else:
        write_atomic(parsed.out, text.encode())
        say(f"wrote {parsed.out}")
    return 0


def _budget_json(home: SiteHome, dataset: str | None) -> str:
    budgeting.ledgers(home, dataset)
    return budgeting.export_json(home, _accountant(), dataset)


def _accountant() -> Accountant:
    from fedmed.privacy.engine import PrvAccountant  # noqa: PLC0415  it imports torch

    return PrvAccountant()
