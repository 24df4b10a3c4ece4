"""`fedmed site policy`: show what the hospital allows, and change it.

Why it exists: a policy is read by people who answer for it; a change of it must be seen, agreed to where it allows
more, and written down.

Rules:
    * Every change is shown as old -> new. One that allows more than before is asked about, or needs --yes.
    * A change is in the audit log before it takes effect, with who made it.
    * The cap is changed where the ledgers are (`fedmed site budget cap`), the delta not at all once a ledger counts.
    * A running agent reads the policy anew for each task.

What it does not do: decide what is allowed; see `policy`.
"""

import argparse
import os
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import Any, Final

import msgspec

from fedmed.audit import ChainLog
from fedmed.errors import ConfigError, UsageError
from fedmed.files import held_alone, write_atomic
from fedmed.records import build, canonical_json
from fedmed_site.approvals import utc_now, written
from fedmed_site.console import Commands, add, add_home, agreed, opened, say, user_name
from fedmed_site.home import SiteHome
from fedmed_site.policy import AllowedView, SitePolicy

PATIENCE_S: Final = 10.0
_LISTS: Final = ("model_families", "segments")
_SET_HELP: Final = """\
KEY is one that `fedmed site policy show` lists. Lists are written a,b,c; null stands for no limit of its own.

  fedmed site policy set max_epsilon=1 max_rounds=50 max_hours_per_day=6
  fedmed site policy set segments=aux,delta
"""
_Looser = Callable[[Any, Any], bool]


def _larger(old: float | None, new: float | None) -> bool:
    return old is not None and (new is None or new > old)


def _smaller(old: float, new: float) -> bool:
    return new < old


def _more(old: tuple[object, ...] | None, new: tuple[object, ...] | None) -> bool:
    return old is not None and (new is None or not set(new) <= set(old))


def _allows(old: object, new: object) -> bool:
    return new in {True, "policy"} and new != old


LOOSER: Final[Mapping[str, _Looser]] = {
    "cap_epsilon": _larger,
    "delta": _larger,
    "views": _more,
    "min_records": _smaller,
    "max_steps": _larger,
    "max_rounds": _larger,
    "max_epsilon": _larger,
    "max_hours_per_study": _larger,
    "max_hours_per_day": _larger,
    "min_cohort": _smaller,
    "model_families": _more,
    "segments": _more,
    "approval": _allows,
    "allow_simulated_noise": _allows,
    "allow_shared_noise": _allows,
    "allow_insecure_aggregation": _allows,
}
"""For each key of a policy, whether a new value allows what the old one did not."""


def add_commands(commands: Commands) -> None:
    """Add the commands to `fedmed site`."""
    policy = commands.add_parser(
        "policy", help="what studies may ask for: show, set, allow, forbid", allow_abbrev=False
    )
    below = policy.add_subparsers(title="commands", metavar="COMMAND", required=True)
    show = add(below, "show", "what this site allows", _show)
    show.add_argument("--json", action="store_true", help="as JSON, for machines")
    change = add(below, "set", "change limits", _set, after=_SET_HELP)
    change.add_argument("changes", nargs="+", metavar="KEY=VALUE")
    allow = add(below, "allow", "let studies use a part of a data set", _allow)
    forbid = add(below, "forbid", "let no study use a part of a data set any more", _forbid)
    for parser in (allow, forbid):
        parser.add_argument("dataset", metavar="DATASET", help="the data set's name")
        parser.add_argument("target", metavar="TARGET", help="what a model may learn to predict")
        parser.add_argument("--cohort", metavar="COLUMN=A,B", help="only the patients with these values; else all")
    for parser in (change, allow, forbid):
        parser.add_argument("--yes", action="store_true", help="agree to what allows more than before")
    for parser in (show, change, allow, forbid):
        add_home(parser)


def _show(parsed: argparse.Namespace) -> int:
    policy = opened(parsed).record().policy
    if parsed.json:
        say(msgspec.json.format(canonical_json(policy), indent=2).decode())
        return 0
    for field in fields(policy):
        if field.name != "views":
            say(f"{field.name:<27} {shown(getattr(policy, field.name))}")
    say(
        f"{'views':<27} {'none: every study is refused; fedmed site policy allow' if not policy.views else ''}".rstrip()
    )
    for view in policy.views:
        say(f"  {view}")
    return 0


def _set(parsed: argparse.Namespace) -> int:
    home = opened(parsed)
    before = home.record().policy
    plain = msgspec.to_builtins(before)
    for change in parsed.changes:
        key, equals, value = change.partition("=")
        if not equals:
            raise UsageError(f"expected KEY=VALUE, got {change!r}; fedmed site policy show lists the keys")
        plain[key] = _value(key, value)
    try:
        after = build(plain, SitePolicy)
    except ConfigError as error:
        raise UsageError(str(error)) from None
    _require_settable(home, before, after)
    return _change(home, after, yes=parsed.yes)


def _allow(parsed: argparse.Namespace) -> int:
    home, view = opened(parsed), _view(parsed)
    policy = home.record().policy
    if view in policy.views:
        raise UsageError(f"studies may use {view} already; nothing was changed")
    if not (home.data(view.schema) / "dataset.json").is_file():
        say(f"note: this site holds no data set {view.schema!r} yet")
    return _change(home, replace(policy, views=(*policy.views, view)), yes=parsed.yes)


def _forbid(parsed: argparse.Namespace) -> int:
    home, view = opened(parsed), _view(parsed)
    policy = home.record().policy
    if view not in policy.views:
        raise UsageError(f"studies may not use {view} as it is; fedmed site policy show lists what they may")
    return _change(home, replace(policy, views=tuple(one for one in policy.views if one != view)), yes=parsed.yes)


def _change(home: SiteHome, after: SitePolicy, *, yes: bool) -> int:
    """Show a change, ask where it allows more, note it, and make it; what others changed meanwhile stops it."""
    before = home.record().policy
    changed = [field.name for field in fields(before) if getattr(before, field.name) != getattr(after, field.name)]
    if not changed:
        say("the policy says that already; nothing was changed")
        return 0
    looser = [name for name in changed if LOOSER[name](getattr(before, name), getattr(after, name))]
    for name in changed:
        more = "   (allows more than before)" if name in looser else ""
        say(f"{name}: {shown(getattr(before, name))} -> {shown(getattr(after, name))}{more}")
    if looser:
        agreed("Allow more than before?", yes=yes)
    with held_alone(home.lock_path, patience_s=PATIENCE_S) as alone:
        if not alone:
            raise UsageError("a task runs right now; try again when it has ended, or say: fedmed site pause")
        record = home.record()
        if record.policy != before:
            raise UsageError("somebody else changed the policy meanwhile; look at it, then say it again")
        by, at, log = user_name(os.getuid()), written(utc_now()), ChainLog(home.audit_path)
        for name in changed:
            old, new = (shown(getattr(policy, name)) for policy in (before, after))
            log.append("policy-changed", {"key": name, "before": old, "after": new, "by": by, "at": at})
        write_atomic(home.record_path, canonical_json(replace(record, policy=after)))
    say("changed; it holds from the next task on")
    return 0


def _require_settable(home: SiteHome, before: SitePolicy, after: SitePolicy) -> None:
    if after.cap_epsilon != before.cap_epsilon:
        raise UsageError("cap_epsilon stands in the ledgers too; change it with: fedmed site budget cap EPSILON")
    if after.views != before.views:
        raise UsageError("views are changed with: fedmed site policy allow, and forbid")
    if after.delta != before.delta and any(home.ledgers.glob("*.jsonl")):
        raise UsageError("delta can't change once a ledger counts at it; a new site folder can have another one")
    if after.allow_simulated_noise and not before.allow_simulated_noise:
        raise UsageError("allow_simulated_noise is for simulated hospitals: whoever knows the seed removes the noise")


def _value(key: str, text: str) -> object:
    """Return what somebody typed as a plain value; what it has to be is for the policy to say."""
    if key not in LOOSER:
        raise UsageError(f"{key[:40]!r}: unknown key; expected one of: {', '.join(sorted(LOOSER))}")
    if text in {"null", "none"}:
        return None
    if key in _LISTS:
        return [part.strip() for part in text.split(",") if part.strip()]
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return text


def _view(parsed: argparse.Namespace) -> AllowedView:
    if parsed.cohort is None:
        return AllowedView(schema=parsed.dataset, target=parsed.target)
    column, equals, values = parsed.cohort.partition("=")
    cohort = tuple(sorted({value.strip() for value in values.split(",") if value.strip()}))
    if not equals or not column or not cohort:
        raise UsageError(f"--cohort: expected COLUMN=A,B, got {parsed.cohort!r}")
    return AllowedView(schema=parsed.dataset, target=parsed.target, cohort_column=column, cohort=cohort)


def shown(value: object) -> str:
    """Return a value of a policy for people.

    >>> shown(None), shown(True), shown(("aux", "delta")), shown(1e-05)
    ('no limit of its own', 'yes', 'aux, delta', '1e-05')
    """
    if value is None:
        return "no limit of its own"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return (("; " if value and isinstance(value[0], AllowedView) else ", ").join(map(str, value))) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)
