"""`fedmed consortium plan make`: from a few lines to a plan that every site accepts, and to its base."""

from dataclasses import replace
from pathlib import Path

import pytest

from fedmed import cli
from fedmed.errors import RefusedError
from fedmed.models import folder_digest
from fedmed.privacy.engine import PrvAccountant
from fedmed.records import Plan, decode
from fedmed_site.study_cost import require_declared

DRAFT = """\
study: readmission
data: {description: synthetic, target: readmitted_30d, cohort_column: ward, cohort: [cardiology]}
model: {family: linear, adapter: full}
training: {rounds: 4, local_steps: 2, sample_rate: 0.5, learning_rate: 1.0}
privacy: {epsilon: 0.5, delta: 1.0e-5}
continual: {strength: 0.0, release_fisher: true}
"""
UNPROTECTED = DRAFT.replace("epsilon: 0.5", "trust_model: none")


def make(folder: Path, draft: str = DRAFT, *, base: str = "base", out: str = "plan.json") -> int:
    """Make a plan from a draft and return the exit code."""
    (folder / "study.yaml").write_text(draft)
    words = ["plan", "make", str(folder / "study.yaml"), "--base", str(folder / base), "--out", str(folder / out)]
    return cli.main(["consortium", *words])


def test_a_draft_becomes_a_plan_that_keeps_its_word(tmp_path: Path) -> None:
    """The plan names the base that was made, and its noise pays for steps and releases, as a site counts them."""
    assert make(tmp_path) == 0
    plan = decode((tmp_path / "plan.json").read_bytes(), Plan)
    assert plan.base_digest == folder_digest(tmp_path / "base")
    assert plan.data.cohort == ("cardiology",)
    require_declared(plan, PrvAccountant())
    too_little = replace(plan.privacy, noise_multiplier=0.98 * plan.privacy.noise_multiplier)
    with pytest.raises(RefusedError, match="costs"):
        require_declared(replace(plan, privacy=too_little), PrvAccountant())


def test_the_same_draft_gives_the_same_plan(tmp_path: Path) -> None:
    """A base that is there is used, one that is made anew has the same bytes, and nothing is overwritten."""
    assert make(tmp_path, UNPROTECTED) == 0
    assert make(tmp_path, UNPROTECTED, out="again.json") == 0
    assert make(tmp_path, UNPROTECTED, base="other", out="other.json") == 0
    assert len({(tmp_path / name).read_bytes() for name in ("plan.json", "again.json", "other.json")}) == 1
    assert make(tmp_path, out="plan.json") == 2


@pytest.mark.parametrize(
    ("before", "after", "text"),
    [
        ("readmitted_30d", "weight", "weight"),
        ("[cardiology]", "[surgery]", "data.cohort: column ward has no value 'surgery'"),
        ("synthetic", "ward.yaml", "data.description: expected one of"),
        ("epsilon: 0.5, ", "", "epsilon must be a number"),
        ("rounds: 4", "rounds: none", "training.rounds"),
        ("study: readmission", "title: readmission", "title"),
    ],
)
def test_a_mistake_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], before: str, after: str, text: str
) -> None:
    """The line names the field, exit code 2, and no plan and no base is left behind."""
    assert make(tmp_path, DRAFT.replace(before, after)) == 2
    error = capsys.readouterr().err
    assert text in error
    assert error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["study.yaml"]
