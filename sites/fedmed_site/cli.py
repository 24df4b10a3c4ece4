"""`fedmed site`, `fedmed audit` and `fedmed deid`: what an administrator of a hospital types.

Why it exists: everything that a site owns is looked after by people at a terminal. Each command is one
step, says what it did in plain words, and says what is wrong in one line.

Rules:
    * No option takes a secret; keys come from the site's folder, passphrases from a file or a prompt.
    * Nothing that a patient's file holds is printed: keyed names, counts and reasons only.
    * Work that was stopped goes on when the same command is given again.

What it does not do: decide anything; the rules are in the modules that it calls.
"""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from fedmed.deid.presets import PRESETS
from fedmed.deid.pseudonyms import KEY_BYTES
from fedmed.errors import UsageError
from fedmed_site.budget_cli import add_budget
from fedmed_site.console import Commands, Parser, ProgressBar, add, add_home, home_path, opened, say
from fedmed_site.home import SiteHome, SiteRecord
from fedmed_site.policy import SitePolicy

DEFAULT_CAP_EPSILON, DEFAULT_DELTA = 1.0, 1e-5
_RESUME = "the same command goes on where this one stopped"
_DEIDENTIFY = f"""\
SOURCE is a file or a folder, at any depth, of DICOM, CSV, Parquet, TXT, or JSONL notes with a `text` field. Everything
else is quarantined with a reason. Symbolic links are not followed. The source is only read.

The order is usually:
  fedmed site deidentify EXPORT --out OUT --policy hipaa-safe-harbor --dry-run
  fedmed site deidentify EXPORT --out OUT --policy hipaa-safe-harbor

If there are tables, the first run writes OUT/columns.yaml and stops: read it, correct it, and give it as --columns.
Policies: {", ".join(PRESETS)}, or a YAML file with the same keys (conf/deid has them).
"""


def site(arguments: Sequence[str]) -> int:
    """Run `fedmed site ARGUMENTS` and return the exit code.

    Raises:
        FedMedError: The one line that the command line shows.
    """
    return _run(_site_parser(), arguments)


def audit(arguments: Sequence[str]) -> int:
    """Run `fedmed audit ARGUMENTS` and return the exit code.

    Raises:
        FedMedError: The one line that the command line shows.
    """
    return _run(_audit_parser(), arguments)


def deid(arguments: Sequence[str]) -> int:
    """Run `fedmed deid ARGUMENTS` and return the exit code.

    Raises:
        FedMedError: The one line that the command line shows.
    """
    return _run(_deid_parser(), arguments)


def _run(parser: Parser, arguments: Sequence[str]) -> int:
    parsed = parser.parse_args(arguments)
    return int(parsed.run(parsed))


def _site_parser() -> Parser:
    parser = Parser(prog="fedmed site", description="Look after one hospital's site folder.", allow_abbrev=False)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    init = add(commands, "init", "make a site folder with keys of its own", _init)
    add_home(init)
    init.add_argument("--name", required=True, help="the site's name, as rosters and reports will show it")
    init.add_argument("--cap", type=float, default=DEFAULT_CAP_EPSILON, help="lifetime epsilon of each data set")
    init.add_argument("--delta", type=float, default=DEFAULT_DELTA, help="the delta that ledgers count at")
    _add_deidentify(commands)
    unseal = add(commands, "unseal", "open the sealed items of a folder into another folder", _unseal)
    unseal.add_argument("folder", type=Path, metavar="OUT", help="what deidentify wrote")
    unseal.add_argument("--to", type=Path, required=True, metavar="DIR", help="a new folder for the readable items")
    unseal.add_argument("--key", type=Path, metavar="PRIVATE.pem", help="a recipient's RSA key; else the site's own")
    unseal.add_argument("--passphrase-file", type=Path, metavar="F", help="of an encrypted private key")
    add_home(unseal)
    budget = commands.add_parser("budget", help="the privacy budget: show, cap, verify, export", allow_abbrev=False)
    add_budget(budget.add_subparsers(title="commands", metavar="COMMAND", required=True))
    quarantine = commands.add_parser("quarantine", help="what could not be cleaned", allow_abbrev=False)
    _add_quarantine(quarantine.add_subparsers(title="commands", metavar="COMMAND", required=True))
    return parser


def parser_of(command: str) -> Parser:
    """Return the parser of `site`, `audit` or `deid`, for whoever checks what is written about them."""
    return {"site": _site_parser, "audit": _audit_parser, "deid": _deid_parser}[command]()


def _add_deidentify(commands: Commands) -> None:
    parser = add(commands, "deidentify", "de-identify files under a policy", _deidentify, after=_DEIDENTIFY)
    parser.add_argument("source", type=Path, metavar="SOURCE", help="a file or a folder; only read")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="a new folder, or that of a stopped run")
    parser.add_argument("--policy", required=True, metavar="NAME|FILE", help="a shipped policy or a YAML file")
    parser.add_argument("--columns", type=Path, metavar="FILE", help="the confirmed columns of the tables")
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


def _audit_parser() -> Parser:
    parser = Parser(prog="fedmed audit", description="Verify a site's audit log.", allow_abbrev=False)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    verify = add(
        commands, "verify", "check the chain and every item on disk: exit code 0, or 2 and a line per problem", _verify
    )
    add_home(verify)
    verify.add_argument(
        "--items", type=Path, action="append", default=[], metavar="DIR", help="a folder that was moved"
    )
    verify.add_argument("--expect-head", metavar="HEX", help="a head kept elsewhere; fails if the log lost it")
    return parser


def _deid_parser() -> Parser:
    parser = Parser(prog="fedmed deid", description="Measure and train what cleans notes.", allow_abbrev=False)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    evaluate = add(commands, "evaluate", "recall and over-masking on notes with gold spans", _evaluate)
    evaluate.add_argument("gold", type=Path, metavar="GOLD.jsonl", help="text, language, patient, entities, decoys")
    evaluate.add_argument("--policy", default="hipaa-safe-harbor", metavar="NAME|FILE", help="whose text options")
    evaluate.add_argument("--tagger", type=Path, metavar="DIR", help="a token-classification model as a further voice")
    evaluate.add_argument("--jieba", action="store_true", help="the segmenter jieba as a further voice")
    evaluate.add_argument(
        "--misses", type=Path, metavar="PAGE", help="write each miss in its context: holds the notes' text"
    )
    evaluate.add_argument("--json", type=Path, metavar="FILE", help="write the figures")
    train = add(commands, "train-tagger", "train a small tagger on synthetic notes; NOT of clinical grade", _train)
    train.add_argument("notes", type=Path, metavar="NOTES.jsonl", help="gold notes; synthetic ones only")
    train.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the model")
    train.add_argument("--steps", type=int, default=300)
    train.add_argument("--seed", type=int, default=0)
    return parser


def _init(parsed: argparse.Namespace) -> int:
    path = home_path(parsed)
    try:
        record = SiteRecord(name=parsed.name, policy=SitePolicy(cap_epsilon=parsed.cap, delta=parsed.delta))
    except ValueError as error:
        raise UsageError(f"fedmed site init: {error}") from None
    SiteHome.create(path, record, pseudonym_key=os.urandom(KEY_BYTES))
    say(f"made the site {record.name} in {path}")
    say(f"keys are in {path / 'keys'}: keep a sealed backup; without them nothing can be linked or opened again")
    return 0


def _deidentify(parsed: argparse.Namespace) -> int:
    from fedmed_site import deidentification as engine  # noqa: PLC0415  other commands start without the engines
    from fedmed_site.deidentification_policy import load_choices  # noqa: PLC0415  likewise
    from fedmed_site.preview import write_preview  # noqa: PLC0415  likewise
    from fedmed_site.report import report_of, write_report  # noqa: PLC0415  likewise

    home = opened(parsed)
    if parsed.export and parsed.recipient is not None:
        raise UsageError("--recipient is for sealed items; leave out --export, or leave out --recipient")
    choices = load_choices(parsed.policy)
    request = engine.Request(
        source=parsed.source,
        out=parsed.out,
        choices=choices,
        form="readable" if parsed.export else "sealed",
        names=parsed.names,
        columns=parsed.columns,
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


def _verify(parsed: argparse.Namespace) -> int:
    from fedmed_site.audit_check import verify_site  # noqa: PLC0415  other commands start without the engines

    found = verify_site(opened(parsed), moved=parsed.items, expected_head=parsed.expect_head)
    for problem in found.problems:
        say(problem)
    if found.problems:
        return 2
    say(f"good: {found.entries} entries; {found.items} items in {found.folders} folders, {found.tables} tables")
    say(f"head {found.head}\nKeep the head where this machine cannot change it.")
    return 0


def _evaluate(parsed: argparse.Namespace) -> int:
    from fedmed_site.text_tools import evaluate_notes  # noqa: PLC0415  other commands start without the engines

    for line in evaluate_notes(
        parsed.gold, policy=parsed.policy, tagger=parsed.tagger, jieba=parsed.jieba, misses=parsed.misses,
        figures=parsed.json,
    ):  # fmt: skip
        say(line)
    return 0


def _train(parsed: argparse.Namespace) -> int:
    from fedmed_site.text_tools import train  # noqa: PLC0415  it imports torch

    for line in train(parsed.notes, parsed.out, steps=parsed.steps, seed=parsed.seed):
        say(line)
    return 0


def _cores() -> int:
    return len(os.sched_getaffinity(0))
