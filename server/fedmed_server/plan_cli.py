"""`fedmed consortium plan`: the consortium agrees to a study by signing its plan.

Why it exists: sites take part only in what their consortium agreed to. Whoever holds its key looks at
the plan here, in words, and signs exactly that.

What it does not do: make plans, or launch them.
"""

import argparse
from pathlib import Path

from fedmed.crypto.keyfiles import CONSORTIUM, load_private_key, load_public_key
from fedmed.crypto.passphrases import obtain_secret
from fedmed.errors import IntegrityError, UsageError
from fedmed.records import Plan, canonical_json, decode, digest
from fedmed.signed_plans import agree_to, load_signed_plan, save_signed_plan, verify
from fedmed_server.consortium_console import Commands, add, add_secret, say


def add_commands(commands: Commands) -> None:
    """Add `plan sign` and `plan show`."""
    plan = commands.add_parser("plan", help="sign or show a study's plan", allow_abbrev=False)
    below = plan.add_subparsers(title="commands", metavar="COMMAND", required=True)
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
