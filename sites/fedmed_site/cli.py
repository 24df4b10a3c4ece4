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

from fedmed.audit_folders import kind_of, verify_folder
from fedmed.deid.pseudonyms import KEY_BYTES
from fedmed.errors import UsageError
from fedmed_site import (
    admin_cli,
    deidentification_cli,
    holdings_cli,
    keys_cli,
    leaving_cli,
    machine_cli,
    models_cli,
    noised_cli,
    policy_cli,
    receipts_cli,
)
from fedmed_site.budget_cli import add_budget
from fedmed_site.console import Commands, Parser, add, add_home, home_path, opened, say
from fedmed_site.home import SiteHome, SiteRecord
from fedmed_site.policy import SitePolicy

DEFAULT_CAP_EPSILON, DEFAULT_DELTA = 1.0, 1e-5


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
    _add_consortium(commands)
    admin_cli.add_commands(commands)
    policy_cli.add_commands(commands)
    machine_cli.add_commands(commands)
    holdings_cli.add_commands(commands)
    models_cli.add_commands(commands)
    leaving_cli.add_commands(commands)
    receipts_cli.add_commands(commands)
    deidentification_cli.add_commands(commands)
    keys_cli.add_commands(commands)
    noised_cli.add_commands(commands)
    budget = commands.add_parser("budget", help="the privacy budget: show, cap, verify, export", allow_abbrev=False)
    add_budget(budget.add_subparsers(title="commands", metavar="COMMAND", required=True))
    return parser


def _add_consortium(commands: Commands) -> None:
    """Add what connects the site with others: joining, and running."""
    from fedmed_site import appliance_cli, doctor_cli, join_cli, readiness_cli  # noqa: PLC0415  X.509 on demand

    join_cli.add_commands(commands)
    doctor_cli.add_commands(commands)
    readiness_cli.add_commands(commands)
    appliance_cli.add_commands(commands)


def parser_of(command: str) -> Parser:
    """Return the parser of `site`, `audit` or `deid`, for whoever checks what is written about them."""
    return {"site": _site_parser, "audit": _audit_parser, "deid": _deid_parser}[command]()


def _audit_parser() -> Parser:
    parser = Parser(prog="fedmed audit", description="Verify what is chained and signed.", allow_abbrev=False)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    verify = add(
        commands,
        "verify",
        "check logs, ledgers, receipts, signatures and items of a folder: exit code 0, or 2 and a line per problem",
        _verify,
    )
    verify.add_argument(
        "path", type=Path, nargs="?", metavar="PATH", help="folder of a site, coordinator, consortium, study or run"
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


def _verify(parsed: argparse.Namespace) -> int:
    from fedmed_site.audit_folder import verify_site_folder  # noqa: PLC0415  other commands start without the engines

    if parsed.path is not None and parsed.home is not None:
        raise UsageError("expected PATH or --home, got both; leave one out")
    if parsed.path is None or kind_of(parsed.path) == "site":
        parsed.home = parsed.path or parsed.home
        found = verify_site_folder(opened(parsed).root, moved=parsed.items, expected_head=parsed.expect_head)
    elif parsed.items or parsed.expect_head is not None:
        raise UsageError("--items and --expect-head belong to a site's folder; leave them out")
    else:
        found = verify_folder(parsed.path)
    for line in (*found.problems, *(f"note: {note}" for note in found.notes)):
        say(line)
    if found.problems:
        return 2
    for line in found.good:
        say(f"good: {line}")
    say("Keep the heads where this machine cannot change them.")
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
