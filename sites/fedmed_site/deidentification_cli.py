"""`fedmed site deidentify`, `unseal` and `quarantine`: cleaning files, and what becomes of those that weren't cleaned.

Why it exists: these commands work on folders of files, and load engines that no other command needs.

Rules:
    * Nothing that a patient's file holds is printed: keyed names, counts and reasons only.
    * Work that was stopped goes on when the same command is given again.

What it does not do: clean anything; see `deidentification`.
"""

import argparse
import os
from pathlib import Path
from typing import Final

from fedmed.deid.preset_names import PRESETS
from fedmed.errors import UsageError
from fedmed_site.console import Commands, ProgressBar, add, add_home, opened, say
from fedmed_site.holdings_cli import described

_RESUME: Final = "the same command goes on where this one stopped"
_DEIDENTIFY: Final = f"""\
SOURCE is a file or a folder, at any depth, of DICOM, NIfTI, CSV, Parquet, Excel, TXT, or JSONL notes with a
`text` field.
Everything else is quarantined with a reason. Symbolic links are not followed. The source is only read.

The order is usually:
  fedmed site deidentify EXPORT --out OUT --policy hipaa-safe-harbor --dry-run
  fedmed site deidentify EXPORT --out OUT --policy hipaa-safe-harbor

If there are tables, the first run writes OUT/columns.yaml and stops: read it, correct it, and give it as --columns.
With --data all tables, and JSON Lines of records, are those of a data set; `fedmed site prepare OUT` then takes them.
Policies: {", ".join(PRESETS)}, or a YAML file with the same keys (conf/deid has them).
"""


def add_commands(commands: Commands) -> None:
    """Add the commands to `fedmed site`."""
    _add_deidentify(commands)
    unseal = add(commands, "unseal", "open the sealed items of a folder into another folder", _unseal)
    unseal.add_argument("folder", type=Path, metavar="OUT", help="what deidentify wrote")
    unseal.add_argument("--to", type=Path, required=True, metavar="DIR", help="a new folder for the readable items")
    unseal.add_argument("--key", type=Path, metavar="PRIVATE.pem", help="a recipient's RSA key; else the site's own")
    unseal.add_argument("--passphrase-file", type=Path, metavar="F", help="of an encrypted private key")
    add_home(unseal)
    quarantine = commands.add_parser("quarantine", help="what could not be cleaned", allow_abbrev=False)
    _add_quarantine(quarantine.add_subparsers(title="commands", metavar="COMMAND", required=True))


def _add_deidentify(commands: Commands) -> None:
    parser = add(commands, "deidentify", "de-identify files under a policy", _deidentify, after=_DEIDENTIFY)
    parser.add_argument("source", type=Path, nargs="?", metavar="SOURCE", help="a file or a folder; only read")
    parser.add_argument("--sql", metavar="[SCHEMA.]TABLE", help="a database table instead of SOURCE; only read")
    parser.add_argument("--sql-url-file", type=Path, metavar="F", help="its SQLAlchemy URL; else $FEDMED_SQL_URL_FILE")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="a new folder, or that of a stopped run")
    parser.add_argument("--policy", required=True, metavar="NAME|FILE", help="a shipped policy or a YAML file")
    parser.add_argument("--columns", type=Path, metavar="FILE", help="the confirmed columns of the tables")
    parser.add_argument("--data", metavar="NAME|FILE", help="the data set that the tables belong to, as for prepare")
    parser.add_argument("--export", action="store_true", help="write readable files; sealed ones are the default")
    parser.add_argument("--names", choices=("keyed", "same"), default="keyed", help="names of the outputs")
    parser.add_argument("--recipient", type=Path, metavar="PUBLIC.pem", help="also wrap the key for this RSA-4096 key")
    parser.add_argument("--dry-run", action="store_true", help="write a preview with made-up people, counts, reasons")
    parser.add_argument("--workers", type=int, default=_cores(), metavar="N", help="processes (default: cores)")
    add_home(parser)


def _add_quarantine(commands: Commands) -> None:
    show = add(commands, "list", "items by keyed name, with reasons", _quarantine_list)
    show.add_argument("--folder", metavar="ID", help="of one de-identified folder (its batch)")
    release = add(commands, "release", "write items as they came into a folder", _quarantine_release)
    release.add_argument(
        "--to", type=Path, required=True, metavar="DIR", help="gets the files, with all that identifies"
    )
    delete = add(commands, "delete", "delete the sealed copies of items", _quarantine_delete)
    for parser in (release, delete):
        parser.add_argument("items", nargs="+", metavar="ITEM", help="keyed names, or unique beginnings of them")
        parser.add_argument("--reason", required=True, metavar="TEXT", help="stays in the audit log; no patient's name")
    for parser in (show, release, delete):
        add_home(parser)


def _deidentify(parsed: argparse.Namespace) -> int:
    from fedmed_site import deidentification as engine  # noqa: PLC0415  other commands start without the engines
    from fedmed_site.deidentification_policy import load_choices  # noqa: PLC0415  likewise
    from fedmed_site.deidentification_sql import table_at  # noqa: PLC0415  likewise
    from fedmed_site.preview import write_preview  # noqa: PLC0415  likewise
    from fedmed_site.report import report_of, write_report  # noqa: PLC0415  likewise

    home = opened(parsed)
    if parsed.export and parsed.recipient is not None:
        raise UsageError("--recipient is for sealed items; leave out --export, or leave out --recipient")
    if parsed.data is not None and parsed.columns is not None:
        raise UsageError("--data says what the columns are; leave out --columns, or leave out --data")
    if (parsed.source is None) == (parsed.sql is None):
        raise UsageError("expected SOURCE or --sql TABLE, and not both")
    choices = load_choices(parsed.policy)
    request = engine.Request(
        source=parsed.source if parsed.sql is None else table_at(parsed.sql, parsed.sql_url_file),
        out=parsed.out,
        choices=choices,
        form="readable" if parsed.export else "sealed",
        names=parsed.names,
        columns=parsed.columns,
        schema=None if parsed.data is None else described(parsed.data).schema,
        recipient=parsed.recipient,
        workers=parsed.workers,
        dry_run=parsed.dry_run,
    )
    with ProgressBar() as bar:
        try:
            result = engine.deidentify(home, request, started=bar.start, on_item=lambda _: bar.advance())
        except KeyboardInterrupt:
            raise KeyboardInterrupt(_RESUME) from None
    report = report_of(result, choices, site=home.record().name)
    if parsed.dry_run:
        write_preview(report, choices, parsed.out)
        say(f"dry run: {report.cleaned} files would be cleaned, {report.quarantined} quarantined; nothing was kept")
        say(f"preview: {parsed.out / 'preview.html'}")
        return 0
    write_report(report, parsed.out)
    earlier = f" ({result.skipped} of all files were done by an earlier run)" if result.skipped else ""
    say(f"{report.cleaned} files cleaned into {parsed.out / 'items'}{earlier}")
    if report.left_out:
        parts = " and ".join(f"{count} {what}" for what, count in report.left_out.items())
        say(f"{parts} were left out of files that were cleaned: the report says why")
    if report.quarantined:
        reasons = ", ".join(f"{count} {reason}" for reason, count in result.quarantined.items())
        say(f"{report.quarantined} quarantined in {home.root / 'quarantine'}: {reasons}")
    if parsed.names == "same":
        say("outputs bear the source's own names: look whether those identify anybody")
    say(f"report: {parsed.out / 'report.html'}")
    return 0


def _unseal(parsed: argparse.Namespace) -> int:
    from fedmed_site.unsealing import unseal_folder  # noqa: PLC0415  other commands start without the engines

    home = None if parsed.key is not None else opened(parsed)
    count = unseal_folder(
        parsed.folder, parsed.to, home=home, key_file=parsed.key, passphrase_file=parsed.passphrase_file
    )
    say(f"{count} items opened into {parsed.to}: readable by anybody who gets that folder")
    return 0


def _quarantine_list(parsed: argparse.Namespace) -> int:
    from fedmed_site.deidentification_formats import REASONS  # noqa: PLC0415  other commands start without the engines
    from fedmed_site.quarantine import listing  # noqa: PLC0415  likewise

    items = listing(opened(parsed), parsed.folder)
    for one in items:
        say(f"{one.item}  {one.state:<22}  {one.size:>12,}  {one.reason}: {REASONS.get(one.reason, '')}")
    say(f"{len(items)} items in quarantine" if items else "nothing is in quarantine")
    return 0


def _quarantine_release(parsed: argparse.Namespace) -> int:
    from fedmed_site.quarantine import release  # noqa: PLC0415  other commands start without the engines

    paths = release(opened(parsed), parsed.items, parsed.to, reason=parsed.reason)
    say(f"{len(paths)} items released into {parsed.to}, as they came: they identify patients; the audit log says so")
    return 0


def _quarantine_delete(parsed: argparse.Namespace) -> int:
    from fedmed_site.quarantine import delete  # noqa: PLC0415  other commands start without the engines

    count = delete(opened(parsed), parsed.items, reason=parsed.reason)
    say(f"{count} sealed copies deleted; the source was not touched; the audit log says so")
    return 0


def _cores() -> int:
    return len(os.sched_getaffinity(0))
