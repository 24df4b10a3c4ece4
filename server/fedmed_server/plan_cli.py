"""`fedmed consortium plan`: a study's plan is made from a draft, and the consortium agrees to it by signing it.

Why it exists: sites take part only in what their consortium agreed to. Whoever holds its key looks at
the plan here, in words, and signs exactly that.

Rules:
    * Making a plan needs no key; nothing is overwritten.

What it does not do: launch plans.
"""

import argparse
import shutil
from collections.abc import Iterator
from pathlib import Path

from fedmed.crypto.keyfiles import CONSORTIUM, load_private_key, load_public_key
from fedmed.crypto.passphrases import obtain_secret
from fedmed.errors import IntegrityError, UsageError
from fedmed.records import Plan, canonical_json, decode, digest
from fedmed.secagg.roster import Roster
from fedmed.secagg.roster_file import roster_from_bytes
from fedmed.signed_plans import agree_to, load_signed_plan, save_signed_plan, verify
from fedmed_server.consortium_console import Commands, add, add_secret, require_absent, say, write_new
from fedmed_server.shared_noise import honest_sites

_MAKE = """\
The draft is YAML: study, data, model, training, privacy; docs/how-to/run-the-coordinator.md has one.
The plan is for the consortium to sign; the base is for the coordinator and for every site.
Noise that the sites share (trust_model: distributed) is fitted to the rings of the roster that they will have.

  fedmed consortium plan make study.yaml --base base --out plan.json
  fedmed consortium plan make study.yaml --base base --roster roster.json --out plan.json
"""


def add_commands(commands: Commands) -> None:
    """Add `plan make`, `plan sign` and `plan show`."""
    plan = commands.add_parser("plan", help="make, sign or show a study's plan", allow_abbrev=False)
    below = plan.add_subparsers(title="commands", metavar="COMMAND", required=True)
    make = add(below, "make", "make a plan and its public base from a draft", _make, after=_MAKE)
    make.add_argument("draft", type=Path, metavar="DRAFT", help="what the study is, as YAML")
    make.add_argument(
        "--base", type=Path, required=True, metavar="DIR", help="where the base goes; one that is there is used"
    )
    make.add_argument("--roster", type=Path, metavar="ROSTER", help="the signed roster, for noise that the sites share")
    make.add_argument("--out", type=Path, required=True, metavar="PLAN", help="where the plan goes")
    sign = add(below, "sign", "show what a plan asks of the sites, and sign it", _sign)
    sign.add_argument("plan", type=Path, metavar="PLAN", help="the plan as JSON")
    sign.add_argument("--key", type=Path, required=True, help="the consortium's private key file (consortium.key)")
    sign.add_argument("--out", type=Path, required=True, metavar="SIGNED", help="where the signed plan goes")
    add_secret(sign)
    show = add(below, "show", "show what a signed plan asks of the sites", _show)
    show.add_argument("plan", type=Path, metavar="SIGNED")
    show.add_argument("--key", type=Path, metavar="PUB", help="the consortium's public key; checks the signature")


def describe(plan: Plan) -> tuple[str, ...]:
    """Return what a plan asks of the sites, a line each."""
    privacy, training = plan.privacy, plan.training
    promise = (
        f"epsilon {privacy.epsilon:g} at delta {privacy.delta:g}, noise of the {privacy.trust_model} model"
        if privacy.private and privacy.epsilon is not None
        else "NONE: the model may remember single patients"
    )
    cohort = f", only {', '.join(plan.data.cohort)}" if plan.data.cohort else ""
    return (
        f"study        {plan.study}",
        f"digest       {digest(plan)}",
        f"data         {plan.data.schema}, target {plan.data.target}{cohort}",
        f"model        {plan.model.family}, {plan.model.adapter}; base {plan.base_digest[:12]}",
        f"training     {training.rounds} rounds of {training.local_steps} local steps",
        f"privacy      {promise}",
        f"aggregation  {plan.aggregation.kind}, at least {plan.aggregation.min_sites} sites",
    )


def _make(parsed: argparse.Namespace) -> None:
    from fedmed.models import folder_digest  # noqa: PLC0415  it imports torch
    from fedmed.privacy.engine import PrvAccountant  # noqa: PLC0415  likewise
    from fedmed_server.plan_drafts import Sharing, make_base, plan_of_draft, read_plan_draft  # noqa: PLC0415  likewise

    require_absent(parsed.out)
    draft, dataset = read_plan_draft(parsed.draft)
    roster = None if parsed.roster is None else _read_roster(parsed.roster)
    found = parsed.base.is_dir()
    stage = parsed.base.with_name(f".{parsed.base.name}.part")
    shutil.rmtree(stage, ignore_errors=True)
    base = folder_digest(parsed.base) if found else make_base(draft, dataset, stage)
    try:
        where = parsed.base if found else stage
        sharing = None if roster is None else Sharing.of(draft, roster, where, base_digest=base)
        plan = plan_of_draft(draft, dataset, base_digest=base, accountant=PrvAccountant(), sharing=sharing)
        if not found:
            stage.rename(parsed.base)
    finally:
        shutil.rmtree(stage, ignore_errors=True)
    write_new(parsed.out, canonical_json(plan))
    say("\n".join(describe(plan)))
    say("\n".join(_noise_of(plan, roster)))
    say(f"\nplan         {parsed.out}  for the consortium to look at and sign")
    say(f"base         {parsed.base}  {'(was there) ' if found else ''}for the coordinator and for every site")


def _noise_of(plan: Plan, roster: Roster | None) -> Iterator[str]:
    """Yield what the noise is, and what a promise of shared noise stands on."""
    if not plan.privacy.private:
        return
    noise = f"noise        {plan.privacy.noise_multiplier:g} times the clip norm"
    if roster is None:
        yield f"{noise}, each step of each site"
        return
    cohort = plan.aggregation.sites_per_round or len(roster.sites)
    honest = honest_sites(roster.policy, cohort=cohort)
    yield f"{noise} in each sum, made of the shares of {honest} honest sites or more among {cohort}"
    yield f"holds        for sums, while at most {roster.policy.max_corrupt} of the sites side with the coordinator"
    yield f"             a site that looks at the sums knows its own share, and faces the noise of {honest - 1}"


def _read_roster(path: Path) -> Roster:
    """Return a roster whose signature nobody checks here: every site checks it before it shares noise."""
    try:
        return roster_from_bytes(path.read_bytes()).roster
    except OSError:
        raise UsageError(f"{path}: expected a roster, found no file that can be read") from None
    except IntegrityError as error:
        raise UsageError(f"{path}: {error}") from None


def _sign(parsed: argparse.Namespace) -> None:
    plan = _read(parsed.plan)
    if parsed.out.exists():
        raise UsageError(f"{parsed.out}: expected no file yet, found one; nothing was overwritten, give another --out")
    sealed = load_private_key(parsed.key, purpose=CONSORTIUM)
    secret = obtain_secret(passphrase_file=parsed.passphrase_file, key_file=parsed.key_file, use="existing key")
    save_signed_plan(parsed.out, agree_to(plan, sealed.unseal_ed25519(secret)))
    say("\n".join(describe(plan)))
    say(f"\nSigned by {sealed.public.name}: {parsed.out}")


def _show(parsed: argparse.Namespace) -> None:
    signed = load_signed_plan(parsed.plan)
    say("\n".join(describe(signed.plan)))
    if parsed.key is None:
        say("\nSignature NOT checked: give --key with the consortium's public key file.")
        return
    public = load_public_key(parsed.key, purpose=CONSORTIUM)
    verify(signed.plan, signed.signatures, consortium=public.ed25519(), coordinator=None)
    say(f"\nSignature good, by the key of {public.name}")


def _read(path: Path) -> Plan:
    try:
        data = path.read_bytes()
    except OSError:
        raise UsageError(f"{path}: expected a plan, found no file that can be read") from None
    try:
        plan = decode(data, Plan)
    except IntegrityError as error:
        raise UsageError(f"{path}: expected a plan as JSON; {error}") from None
    if canonical_json(plan) != data.strip():
        plan = decode(canonical_json(plan), Plan)
    return plan
