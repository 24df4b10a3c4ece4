"""`fedmed consortium plan make`: from a few lines to a plan that every site accepts, and to its base."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from federation import Consortium, build_consortium
from model_folders import write_text_folder
from safetensors.torch import load_file, save_file

from fedmed import cli
from fedmed.errors import RefusedError
from fedmed.models import folder_digest
from fedmed.privacy.engine import PrvAccountant
from fedmed.records import Plan, canonical_json, decode
from fedmed.secagg.roster import Roster, sign_roster
from fedmed.secagg.roster_file import roster_to_bytes
from fedmed_site.agent import SiteAgent
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


SHARED = """\
study: falls
data: {description: tiny.yaml, target: ill}
model: {family: linear, adapter: full}
training: {rounds: 3, local_steps: 1, sample_rate: 1.0, learning_rate: 1.0}
privacy: {trust_model: distributed, epsilon: 2.0, delta: 1.0e-5, clip_norm: 0.5}
continual: {strength: 0.0, release_fisher: true}
"""


@pytest.fixture
def consortium(tmp_path: Path) -> Consortium:
    """Return three prepared sites with a roster, its file, and the description of their data."""
    made = build_consortium(tmp_path / "consortium", cap_epsilon=2.0)
    (tmp_path / "tiny.yaml").write_bytes(canonical_json(made.dataset))
    write_roster(tmp_path, made, made.roster)
    return made


def write_roster(folder: Path, consortium: Consortium, roster: Roster) -> None:
    """Write a signed roster."""
    (folder / "roster.json").write_bytes(roster_to_bytes(sign_roster(roster, consortium.consortium_key)))


def make_shared(folder: Path, consortium: Consortium, draft: str = SHARED, *, roster: str = "roster.json") -> int:
    """Make a plan for the consortium's own base and roster."""
    (folder / "falls.yaml").write_text(draft)
    words = ["plan", "make", str(folder / "falls.yaml"), "--base", str(consortium.base), "--out"]
    return cli.main(["consortium", *words, str(folder / "plan.json"), "--roster", str(folder / roster)])


def test_a_plan_with_shared_noise_runs_and_spends_what_it_says(
    tmp_path: Path, consortium: Consortium, capsys: pytest.CaptureFixture[str]
) -> None:
    """Three sites train under the plan that was made for their roster, and each ledger has the epsilon of the draft."""
    assert make_shared(tmp_path, consortium) == 0
    said = capsys.readouterr().out
    assert "the shares of 3 honest sites or more among 3" in said
    assert "while at most 0 of the sites side with the coordinator" in said
    assert "faces the noise of 2" in said
    plan = decode((tmp_path / "plan.json").read_bytes(), Plan)
    require_declared(plan, PrvAccountant())
    assert plan.privacy.distance > 0
    consortium.runner(plan, tmp_path / "state").run()
    spent = [SiteAgent.open(home).ledger("tiny").spent() for home in consortium.homes]
    assert all(1.9 < epsilon <= 2.0 for epsilon in spent)


def test_a_roster_that_cannot_hold_the_noise_is_refused_where_the_plan_is_made(
    tmp_path: Path, consortium: Consortium, capsys: pytest.CaptureFixture[str]
) -> None:
    """A ring too coarse, too narrow or missing is one line with the cure, not a refusal of every site later."""
    policy = consortium.roster.policy
    for clip, fraction_bits, max_weight, says in (
        (0.1, 30, 1.0, "fewer fraction_bits or a larger max_weight for delta"),
        (4.0, 4, 256.0, "sign a roster with more fraction_bits"),
    ):
        segment = replace(policy.segments[0], clip=clip, fraction_bits=fraction_bits)
        segments = (segment, *policy.segments[1:])
        coarse = replace(consortium.roster, policy=replace(policy, segments=segments, max_weight=max_weight))
        write_roster(tmp_path, consortium, coarse)
        assert make_shared(tmp_path, consortium) == 2
        assert says in capsys.readouterr().err
        assert not (tmp_path / "plan.json").exists()
    lacking = replace(consortium.roster, policy=replace(policy, segments=policy.segments[:1]))
    write_roster(tmp_path, consortium, lacking)
    assert make_shared(tmp_path, consortium) == 2
    assert "expected a ring for 'fisher'" in capsys.readouterr().err
    assert make_shared(tmp_path, consortium, roster="none.json") == 2
    assert "expected a roster, found no file" in capsys.readouterr().err


def test_shared_noise_and_a_roster_go_together(
    tmp_path: Path, consortium: Consortium, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither is silently ignored, and what shared noise is not valid for is refused."""
    assert make_shared(tmp_path, consortium, SHARED.replace("distributed", "local")) == 2
    assert "give --roster with trust_model distributed" in capsys.readouterr().err
    assert make(tmp_path, DRAFT.replace("privacy: {", "privacy: {trust_model: distributed, ")) == 2
    assert "give --roster with trust_model distributed" in capsys.readouterr().err
    assert make_shared(tmp_path, consortium, SHARED.replace("sample_rate: 1.0", "sample_rate: 0.5")) == 2
    assert "sampled local steps" in capsys.readouterr().err


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


WARD = """\
name: ward
schema:
  name: ward
  version: 1
  file: "{site}.csv"
  columns:
    - {name: id, kind: identifier, role: patient-key}
    - {name: note, kind: text, role: free-text}
    - {name: ill, kind: binary, role: target, values: ["0", "1"]}
  targets: [{name: ill, column: ill, one_of: ["1"]}]
  text: {column: note, characters: 40}
split: {kind: hash, test_fraction: 0.3}
"""


def test_a_model_that_answers_no_numbers_makes_no_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its weights are finite and overflow on the way: the coordinator learns it before any site does."""
    folder = write_text_folder(tmp_path / "model", "bert")
    weights = load_file(folder / "model.safetensors")
    too_large = {name: torch.full_like(value, 1e38) for name, value in weights.items()}
    save_file(too_large, folder / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "ward.yaml").write_text(WARD)
    draft = UNPROTECTED.replace("synthetic", "ward.yaml").replace(
        "readmitted_30d, cohort_column: ward, cohort: [cardiology]", "ill"
    )
    draft = draft.replace(
        "family: linear, adapter: full", f"family: text-encoder, adapter: lora, path: {folder}, characters: 40"
    )
    assert make(tmp_path, draft) == 2
    assert "outputs on a trial record are not finite" in capsys.readouterr().err
    assert not (tmp_path / "plan.json").exists()
