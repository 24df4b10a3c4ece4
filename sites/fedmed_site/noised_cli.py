"""`fedmed site noised count|sum|mean`: a number about patients, with noise, charged to the budget.

Why it exists: see `noised`; these are its commands.

What it does not do: compute anything.
"""

import argparse

from fedmed.errors import UsageError
from fedmed_site.budget import shown
from fedmed_site.console import Commands, add, add_home, opened, say


def add_commands(commands: Commands) -> None:
    """Add the commands to `fedmed site`."""
    noised = commands.add_parser("noised", help="a number about patients, with noise", allow_abbrev=False)
    kinds = noised.add_subparsers(title="commands", metavar="COMMAND", required=True)
    count = add(kinds, "count", "how many patients a data set has, with Laplace noise", _noised)
    total = add(kinds, "sum", "the sum of a column, with Laplace noise", _noised)
    mean = add(kinds, "mean", "the mean of a column, with Laplace noise", _noised)
    for kind, parser in (("count", count), ("sum", total), ("mean", mean)):
        parser.set_defaults(kind=kind, column=None, low=None, high=None, contributions=1)
        parser.add_argument("dataset", metavar="DATASET", help="a prepared data set, whose budget pays")
        if kind != "count":
            parser.add_argument("column", metavar="COLUMN", help="a column of numbers")
            parser.add_argument("--low", type=float, required=True, metavar="X", help="what a lesser value becomes")
            parser.add_argument("--high", type=float, required=True, metavar="X", help="what a greater value becomes")
            parser.add_argument("--contributions", type=int, default=1, metavar="N", help="values of each patient")
        parser.add_argument("--epsilon", type=float, required=True, metavar="E", help="above 0; less is more noise")
        add_home(parser)


def _noised(parsed: argparse.Namespace) -> int:
    from fedmed.privacy.engine import PrvAccountant  # noqa: PLC0415  it imports torch
    from fedmed_site.noised import Question, release  # noqa: PLC0415  other commands start without the engines

    try:
        question = Question(
            dataset=parsed.dataset, epsilon=parsed.epsilon, column=parsed.column, mean=parsed.kind == "mean",
            low=parsed.low, high=parsed.high, contributions=parsed.contributions,
        )  # fmt: skip
    except ValueError as error:
        raise UsageError(f"fedmed site noised: {error}") from None
    number, spent = release(opened(parsed), question, PrvAccountant())
    say(f"{number.kind} with noise: {number.value:.6g}")
    clamps = "" if number.low is None else f", clamps {number.low:g} to {number.high:g}"
    scales = " and ".join(f"{scale:.4g}" for scale in number.scales)
    say(f"Laplace: epsilon {number.epsilon:g}, sensitivity {number.sensitivity:g}, scale {scales}{clamps}")
    say(
        f"budget of {parsed.dataset}: {shown(spent.epsilon)} of {shown(spent.cap_epsilon)} spent at delta "
        f"{spent.delta:g}, this number included"
    )
    return 0
