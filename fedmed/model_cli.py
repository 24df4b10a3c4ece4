"""`fedmed model`: what a finished study released, and the same in forms that others load.

Why it exists: a model is of use where FedMed is not.

Rules:
    * Nothing is overwritten, and an export that fails leaves nothing.
    * What needs torch is imported when a command runs: a mistake in its words is answered at once.
    * Class and feature names come from the data set's YAML, whose digest must be the plan's.

What it does not do: run a model on patients.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import msgspec

from fedmed import config
from fedmed.data.schema import DataSet, Schema
from fedmed.errors import UsageError

if TYPE_CHECKING:
    from fedmed.released import Released

_EXAMPLES = """\
RESULT is coordinator/study-N/result of a run, or what fedmed coordinator fetch made.

  fedmed model show RESULT
  fedmed model show RESULT --data heart_disease --json
  fedmed model export RESULT --form merged --out merged
  fedmed model export RESULT --form onnx --out graph --data heart_disease
"""


class _Parser(argparse.ArgumentParser):
    """A parser whose complaints are errors of FedMed: one line."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{self.prog}: {message}; see {self.prog} --help")


def model(arguments: Sequence[str]) -> int:
    """Run `fedmed model ARGUMENTS` and return the exit code.

    Raises:
        FedMedError: The one line that the command line shows.
    """
    parsed = parser_of("model").parse_args(arguments)
    parsed.run(parsed)
    return 0


def parser_of(command: str) -> argparse.ArgumentParser:
    """Return the parser of `model`, for whoever checks what is written about it."""
    parser = _Parser(
        prog=f"fedmed {command}", description="Look at a released model, and take it elsewhere.", epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
    )  # fmt: skip
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    showing = commands.add_parser("show", help="what a released model is", allow_abbrev=False)
    showing.add_argument("--json", action="store_true", help="as JSON, for machines")
    showing.set_defaults(run=_show)
    exporting = commands.add_parser("export", help="write it as a merged folder or an ONNX graph", allow_abbrev=False)
    exporting.add_argument("--form", required=True, choices=("merged", "onnx"), help="one folder, or a graph")
    exporting.add_argument("--out", type=Path, required=True, metavar="DIR", help="a folder that is not there yet")
    exporting.set_defaults(run=_export)
    for command_of in (showing, exporting):
        command_of.add_argument("result", type=Path, metavar="RESULT", help="the folder that a finished study left")
        command_of.add_argument("--data", metavar="NAME|FILE", help="the data set, for names of classes and features")
    return parser


def _show(parsed: argparse.Namespace) -> None:
    from fedmed.released import open_released  # noqa: PLC0415  see the rules
    from fedmed.released.preprocessing import refuse_other_schema  # noqa: PLC0415  likewise

    released = open_released(parsed.result)
    schema = _schema(parsed.data)
    if schema is not None:
        refuse_other_schema(released.plan, schema)
    if parsed.json:
        print(_as_json(released, schema))  # noqa: T201  the command's output
        return
    for name, text in _lines(released, schema):
        print(f"{name:<12}{text}")  # noqa: T201  likewise


def _export(parsed: argparse.Namespace) -> None:
    from fedmed.released import open_released  # noqa: PLC0415  see the rules
    from fedmed.released.forms import FACTS, export  # noqa: PLC0415  likewise

    released = open_released(parsed.result)
    seen = export(released, parsed.form, parsed.out, schema=_schema(parsed.data))
    print(  # noqa: T201  the command's output
        f"{released.plan.study}: the {parsed.form} form is in {parsed.out}; on {seen.samples} random samples it gave"
        f" what the released model gives, within {seen.largest_difference:.3g} ({seen.output}; allowed"
        f" {seen.allowed:.3g}); {FACTS} says what goes in and what comes out"
    )


def _schema(name: str | None) -> Schema | None:
    """Return the schema of a data set that ships with FedMed, or in a YAML file."""
    if name is None:
        return None
    shipped = sorted((config.config_dir() / "data").glob("*.yaml"))
    for path in shipped:
        if path.stem == name:
            return config.load(DataSet, path).schema
    if not Path(name).is_file():
        known = ", ".join(path.stem for path in shipped)
        raise UsageError(f"--data: expected a data set's YAML or one of {known}; got {name}")
    return config.load(DataSet, Path(name)).schema


def _lines(released: "Released", schema: Schema | None) -> Iterator[tuple[str, str]]:
    """Yield what a person reads about a released model."""
    from fedmed.released.card import promise  # noqa: PLC0415  see the rules
    from fedmed.released.preprocessing import class_names  # noqa: PLC0415  likewise

    plan, facts, architecture = released.plan, released.facts, released.architecture
    names = class_names(released, schema)
    size = released.weights.stat().st_size
    rule = f"; LoRA rule {plan.model.lora_rule}, rank {plan.model.lora_rank}, alpha {plan.model.lora_alpha:g}"
    yield "study", plan.study
    yield "model", f"{architecture.family}, trained {plan.model.adapter}{rule if released.adapted else ''}"
    for part, kind in sorted(released.kinds.items()):
        yield "base", f"{kind}, reads the {part}"
    yield "base digest", f"{plan.base_digest}, as the plan names it"
    yield "target", f"{plan.data.target} of schema {plan.data.schema}, digest {plan.data.schema_digest}"
    yield "classes", f"{architecture.classes}: {', '.join(names) if names else 'give --data for their names'}"
    yield "weights", f"{released.weights}, {size} bytes, SHA-256 {released.weights_sha256}"
    yield (
        "training",
        f"{facts.rounds} rounds over {len(facts.sites)} sites, of which {len(facts.evaluated)} evaluated it",
    )
    yield "aggregation", facts.aggregation
    yield "privacy", promise(plan.privacy)
    yield "plan digest", facts.plan_digest
    yield "card", str(released.card)


def _as_json(released: "Released", schema: Schema | None) -> str:
    from fedmed.released.preprocessing import class_names  # noqa: PLC0415  see the rules

    plan, facts = released.plan, released.facts
    names = class_names(released, schema)
    shown = {
        "version": 1,
        "study": plan.study,
        "family": released.architecture.family,
        "adapter": plan.model.adapter,
        "lora_rule": plan.model.lora_rule if released.adapted else None,
        "towers": released.kinds,
        "target": plan.data.target,
        "schema": plan.data.schema,
        "schema_digest": plan.data.schema_digest,
        "classes": released.architecture.classes,
        "class_names": None if names is None else list(names),
        "base_digest": plan.base_digest,
        "plan_digest": facts.plan_digest,
        "weights": {
            "path": str(released.weights),
            "bytes": released.weights.stat().st_size,
            "sha256": released.weights_sha256,
        },
        "rounds": facts.rounds,
        "sites": len(facts.sites),
        "evaluated": len(facts.evaluated),
        "aggregation": facts.aggregation,
        "privacy": {
            "trust_model": plan.privacy.trust_model,
            "epsilon": plan.privacy.epsilon,
            "delta": plan.privacy.delta if plan.privacy.private else None,
            "noise_multiplier": plan.privacy.noise_multiplier,
            "noise": plan.privacy.noise,
        },
    }
    return msgspec.json.format(msgspec.json.encode(shown), indent=2).decode()
