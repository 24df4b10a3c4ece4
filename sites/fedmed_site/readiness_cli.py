"""`fedmed site check-data`: is an export ready to be trained on, before anything is prepared.

What it does not do: look at a table; see `readiness`.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fedmed_site.console import Commands, add, add_home, opened, say
from fedmed_site.holdings_cli import described
from fedmed_site.readiness_limits import LEAST_K

if TYPE_CHECKING:
    from fedmed.data.schema import DataSet
    from fedmed_site.readiness import Page

BAD_EXIT: Final = 2
PAGE_JSON, PAGE_HTML = "readiness.json", "readiness.html"
_MARKS: Final = {"ok": ("ok  ", "green"), "warn": ("warn", "yellow"), "bad": ("BAD ", "red")}
_AFTER: Final = f"""\
SOURCE is a raw table, a folder with the tables that the data set's file names, a publisher's files of all sites
(their folder, or the first of them), or a folder that deidentify wrote: its sealed items are opened in memory, each
after the site's audit log was asked. It is only read, and no record's value is shown: counts below the policy's k (at
least {LEAST_K}) are "< k". Exit code 2 if anything would make training fail: a column missing, labels outside the
schema, one class only, an empty table.

  fedmed site check-data processed.cleveland.data --data heart_disease
  fedmed site check-data OUT --data heart_disease --home SITE
  fedmed site check-data exports --data our_ward.yaml --target readmitted --out page
"""


def add_commands(commands: Commands) -> None:
    """Add the command to `fedmed site`."""
    check = add(
        commands, "check-data", "say whether a table or a de-identified folder is ready to be trained on", _run,
        after=_AFTER,
    )  # fmt: skip
    check.add_argument(
        "source", type=Path, metavar="SOURCE", help="a raw table, a folder of them, or what deidentify wrote"
    )
    check.add_argument("--data", required=True, metavar="NAME|FILE", help="what its columns are, as for prepare")
    check.add_argument("--target", action="append", default=[], metavar="NAME", help="what is to be learned; else all")
    check.add_argument("--policy", metavar="NAME|FILE", help="a de-identification policy with a larger k")
    check.add_argument("--out", type=Path, metavar="DIR", help=f"write {PAGE_JSON} and {PAGE_HTML} there")
    add_home(check)
    check.add_argument("--json", action="store_true", help="as JSON, for machines")


def _run(parsed: argparse.Namespace) -> int:
    from fedmed.audit import ChainLog  # noqa: PLC0415  likewise
    from fedmed_site.deidentification_policy import load_choices  # noqa: PLC0415  it imports the engines
    from fedmed_site.item_sets import item_set_of, open_items  # noqa: PLC0415  likewise
    from fedmed_site.manifest import BATCH_FILE  # noqa: PLC0415  likewise
    from fedmed_site.readiness import check_published, check_rows, check_table  # noqa: PLC0415  likewise
    from fedmed_site.readiness_table import tables_in  # noqa: PLC0415  likewise

    dataset = described(parsed.data)
    schema = dataset.schema
    k = LEAST_K if parsed.policy is None else max(LEAST_K, load_choices(parsed.policy).table.k)
    if (parsed.source / BATCH_FILE).is_file():
        home = opened(parsed)
        held = item_set_of(home, parsed.source)
        items = open_items(home, ChainLog(home.audit_path).entries(), dataset, held)
        name, targets = parsed.source.name, parsed.target
        pages = [check_rows(name, items.table, schema, targets=targets, k=k, unpaired=items.unpaired)]
    elif (published := _published_root(parsed.source, dataset)) is not None:
        pages = [check_published(published, dataset, targets=parsed.target, k=k)]
    else:
        tables = tables_in(parsed.source, schema) if parsed.source.is_dir() else (parsed.source,)
        pages = [check_table(table, schema, targets=parsed.target, k=k) for table in tables]
    if parsed.out is not None:
        write_pages(pages, parsed.out)
    if parsed.json:
        say(pages_json(pages).decode())
    else:
        for page in pages:
            _show(page)
        if parsed.out is not None:
            say(str(parsed.out / PAGE_HTML))
    return 0 if all(page.ready for page in pages) else BAD_EXIT


def _published_root(source: Path, dataset: "DataSet") -> Path | None:
    """Return the folder with a publisher's files of all sites that SOURCE means: itself, or its first file's."""
    from fedmed.data.arrays import is_arrays  # noqa: PLC0415  likewise
    from fedmed.data.published import published_path  # noqa: PLC0415  likewise

    if dataset.pooled is None or is_arrays(Path(dataset.pooled.file)):
        return None
    root = source if source.is_dir() else source.parent
    found = published_path(root, dataset.pooled.file, dataset.pooled)
    return root if found is not None and source in (root, found) else None


def pages_json(pages: "Sequence[Page]") -> bytes:
    """Return pages as JSON for machines."""
    plain = {"version": 1, "ready": all(page.ready for page in pages), "tables": list(pages)}
    return msgspec.json.format(msgspec.json.encode(plain, order="deterministic"), indent=2)


def write_pages(pages: "Sequence[Page]", out: Path) -> None:
    """Write the pages into a folder, for a person and for a machine, readable by their owner alone."""
    from fedmed.files import write_atomic  # noqa: PLC0415  for this option alone
    from fedmed_site.report import render  # noqa: PLC0415  likewise

    out.mkdir(parents=True, exist_ok=True)
    write_atomic(out / PAGE_JSON, pages_json(pages) + b"\n")
    write_atomic(out / PAGE_HTML, render("readiness.html.j2", pages=pages))


def _show(page: "Page") -> None:
    """Print one page."""
    console = Console(highlight=False, soft_wrap=True)
    console.print(Text(f"{page.table}: {page.rows} rows, {page.usable} usable, {page.duplicates} repeated; patients:"
                       f" {page.patients}"), style="bold")  # fmt: skip
    table = Table("column", "kind", "missing", "outside", "shift", "spread", box=None, pad_edge=False)
    for column in page.columns:
        shift = "" if column.shift is None else f"{column.shift:+g}"
        spread = "" if column.spread is None else f"{column.spread:g}"
        table.add_row(Text(column.name), column.kind, column.missing, column.outside, shift, spread)
    if page.columns:
        console.print(table)
    for target in page.targets:
        classes = ", ".join(f"{name} {count}" for name, count in target.classes.items())
        console.print(Text(f"target {target.name}: {classes}; without a label {target.without_label}"))
    for finding in page.findings:
        mark, colour = _MARKS[finding.level]
        console.print(Text.assemble((mark, colour), f"  {finding.name}: {finding.found}"))
        if finding.level != "ok":
            console.print(Text(f"      cure: {finding.cure}"))
    red = sum(finding.level == "bad" for finding in page.findings)
    console.print(Text(f"{red} to cure" if red else "ready to be trained on"))
