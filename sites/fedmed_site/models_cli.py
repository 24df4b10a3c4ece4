"""`fedmed site models|evaluations|adapt|predict`: what studies left at this site, and its use.

Why it exists: a hospital that took part in a study holds its model, sees how it does, fits it to a department, and asks
it about patients, all on its own machine.

Rules:
    * Figures of held-out patients are shown here and leave the site by no command.
    * Predictions go into a file of the site's own; the audit log says who asked.

What it does not do: train with others, or send anything.
"""

import argparse
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec

from fedmed.audit import ChainLog
from fedmed.errors import UsageError
from fedmed.records import Plan
from fedmed_site.adapters import OWN, SHARED, AdapterEntry, Adapters
from fedmed_site.approvals import Approvals, utc_now
from fedmed_site.console import Commands, add, add_home, agreed, opened, say, user_name
from fedmed_site.evaluations import FINAL, PERSONAL, EvaluationLog, EvaluationRecord
from fedmed_site.home import SiteHome
from fedmed_site.measures import TITLES

_DIGEST_SHOWN: Final = 12
_LEAST_PREFIX: Final = 6
_STAGE_OF: Final = {SHARED: FINAL, OWN: PERSONAL}
_STEPS: Final = 20
_ADAPT: Final = """\
Each value of COLUMN, a category of the data set, is a department. The ledger of the data set is charged once for all of
them, before a record is read. Nothing leaves the site.

  fedmed site adapt "who dies" --by ward --epsilon 1
"""
_PREDICT: Final = """\
FILE is a table or notes as the data set describes them; columns of targets may be absent. The answer is a CSV with the
line in FILE, the probability of each class, and why there is none where there is none.

  fedmed site predict monday.csv --study "who dies" --adapter ward=cardiology --out monday-risks.csv
"""


def add_commands(commands: Commands) -> None:
    """Add the commands to `fedmed site`."""
    models = add(commands, "models", "the adapters that this site holds: shared, own, and by department", _models)
    models.add_argument("--json", action="store_true", help="as JSON, for machines")
    evaluations = add(commands, "evaluations", "how each study's models do on this site's held-out records", _figures)
    adapt = add(commands, "adapt", "train an adapter for each department, from the shared one", _adapt, after=_ADAPT)
    adapt.add_argument("study", metavar="STUDY", help="its name, or the beginning of its plan's digest")
    adapt.add_argument("--by", required=True, metavar="COLUMN", help="the category that names a record's department")
    adapt.add_argument("--epsilon", type=float, metavar="E", help="what it may cost; left out, training is unprotected")
    adapt.add_argument("--steps", type=int, default=_STEPS, metavar="N", help=f"gradient steps (default {_STEPS})")
    adapt.add_argument("--yes", action="store_true", help="don't ask")
    predict = add(commands, "predict", "apply an adapter to a table or notes, and write probabilities", _predict,
                  after=_PREDICT)  # fmt: skip
    predict.add_argument("file", type=Path, metavar="FILE", help="a table or notes; only read")
    predict.add_argument("--study", required=True, metavar="S", help="its name, or the beginning of its plan's digest")
    predict.add_argument("--adapter", default=SHARED, metavar="NAME", help=f"{SHARED} (default), {OWN}, COLUMN=VALUE")
    predict.add_argument("--out", type=Path, required=True, metavar="FILE", help="where the probabilities go")
    for parser in (models, evaluations, adapt, predict):
        add_home(parser)


def _models(parsed: argparse.Namespace) -> int:
    home = opened(parsed)
    names = _names(home)
    entries = Adapters(home.root / "adapters").entries()
    if parsed.json:
        plain = [{"study": names.get(entry.plan, ""), **msgspec.to_builtins(entry)} for entry in entries]
        say(msgspec.json.encode(plain, order="sorted").decode())
        return 0
    if not entries:
        say("this site holds no adapter yet: the shared one of a study comes with its last exchange")
        return 0
    rows = [
        (names.get(entry.plan, "unknown"), entry.plan[:_DIGEST_SHOWN], entry.name, f"round {entry.round}", entry.made,
         _figures_of(home, entry))
        for entry in entries
    ]  # fmt: skip
    for line in in_columns(rows):
        say(line)
    return 0


def in_columns(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield rows as lines whose cells stand below each other; what a coordinator named is shown printable.

    >>> list(in_columns([("a", "shared", "1"), ("longer", "own", "2")]))
    ['a       shared  1', 'longer  own     2']
    """
    shown = [["".join(letter if letter.isprintable() else "?" for letter in cell) for cell in row] for row in rows]
    widths = [max(len(cell) for cell in column) for column in zip(*shown, strict=True)]
    for row in shown:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def _names(home: SiteHome) -> dict[str, str]:
    return {one.digest: one.study for one in Approvals(home, ChainLog(home.audit_path)).entries()}


def _figures_of(home: SiteHome, entry: AdapterEntry) -> str:
    """Return how an adapter does on the held-out records that are its own; nothing where it was not evaluated."""
    stage = _STAGE_OF.get(entry.name, f"department {entry.name}")
    records = EvaluationLog(home.evaluations).read(entry.plan)
    return next((_said(record) for record in records if record.stage == stage and record.view == 0), "not evaluated")


def _said(record: EvaluationRecord) -> str:
    figures = [f"accuracy {record.accuracy:.3f}"]
    figures += [f"{TITLES[name]} {value:.3f}" for name, value in record.measures.named().items()]
    return f"{record.records} held-out records: {', '.join(figures)}"


def _figures(parsed: argparse.Namespace) -> int:
    home = opened(parsed)
    log = EvaluationLog(home.evaluations)
    rows = [
        (study, plan[:_DIGEST_SHOWN], record.stage, f"view {record.view}", _said(record))
        for plan, study in _names(home).items()
        for record in log.read(plan)
        if record.stage != "round"
    ]
    for line in in_columns(rows):
        say(line)
    say(f"{len(rows)} evaluations; they stay at this site" if rows else "no study has been evaluated at this site yet")
    return 0


def _adapt(parsed: argparse.Namespace) -> int:
    from fedmed_site.departments import adapt, adaptation_of  # noqa: PLC0415  it imports torch

    home = opened(parsed)
    plan = _meant(home, parsed.study)
    try:
        how = adaptation_of(plan, column=parsed.by, epsilon=parsed.epsilon, steps=parsed.steps)
        how.training(plan)
    except ValueError as error:
        raise UsageError(f"fedmed site adapt: {error}") from None
    cost = "without protection, which the ledger remembers" if how.epsilon is None else f"for epsilon {how.epsilon:g}"
    agreed(f"Train adapters by {how.column} on {plan.data.schema}, {cost}?", yes=parsed.yes)
    for one in adapt(home, plan, how, by=user_name(os.getuid()), now=utc_now()):
        if not one.trained:
            say(f"{one.name}: not trained, fewer training records than the policy's min_records")
        elif one.accuracy is None:
            say(f"{one.name}: trained; nobody is held out there")
        else:
            figures = f"accuracy {one.accuracy:.3f}, shared {one.shared_accuracy:.3f}"
            say(f"{one.name}: trained; {figures} on {one.held_out} held-out records")
    say("fedmed site models lists them; fedmed site predict --adapter NAME uses one")
    return 0


def _predict(parsed: argparse.Namespace) -> int:
    from fedmed_site.prediction import predict  # noqa: PLC0415  it imports torch

    home = opened(parsed)
    plan = _meant(home, parsed.study)
    if not parsed.file.is_file():
        raise UsageError(f"{parsed.file}: expected a table or notes, found no such file; check the path")
    if not parsed.out.absolute().parent.is_dir():
        raise UsageError(f"{parsed.out}: expected a folder that exists, found none; make it first")
    by = user_name(os.getuid())
    done = predict(home, plan, parsed.adapter, parsed.file, parsed.out, by=by, now=utc_now())
    say(f"{done.predicted} records have probabilities, {done.skipped} have none: {parsed.out}")
    if done.images_missing or done.images_unreadable:
        say(f"of the former, {done.images_missing} name no image, {done.images_unreadable} have one that can't be read")
    return 0


def _meant(home: SiteHome, which: str) -> Plan:
    """Return the plan of the study that is meant, of those whose adapters the site holds.

    Raises:
        UsageError: None is, or several are.
    """
    approvals = Approvals(home, ChainLog(home.audit_path))
    held = {entry.plan for entry in Adapters(home.root / "adapters").entries()}
    prefix = which.lower() if len(which) >= _LEAST_PREFIX else None
    found = [
        one.digest
        for one in approvals.entries()
        if one.digest in held and (one.study == which or (prefix is not None and one.digest.startswith(prefix)))
    ]
    if len(found) != 1:
        digests = ", ".join(digest[:_DIGEST_SHOWN] for digest in found) or "none"
        raise UsageError(
            f"expected a study with adapters here, {which[:80]!r} means {len(found)}: {digests}; fedmed site models"
        )
    return approvals.plan(found[0])
