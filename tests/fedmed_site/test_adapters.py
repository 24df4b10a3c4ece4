"""A site holds the shared adapter, its own and its departments', and applies each of them to its own files."""

import csv
import json
import math
import shutil
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from federation import WARDS, Consortium, build_consortium, tiny_dataset, write_table
from plans import plan_of

from fedmed.audit import ChainLog
from fedmed.data.schema import Column, Schema, Target, TextPart
from fedmed.data.source import Split
from fedmed.deid.policy import DeidPolicy
from fedmed.deid.tabular import AUDIT_KIND
from fedmed.errors import BudgetError, DataError, FedMedError, IntegrityError, UsageError
from fedmed.learning.local import evaluate
from fedmed.models import Architecture, build_module, save_base
from fedmed.records import DataSpec, ModelSpec, Plan, canonical_json, digest
from fedmed_server.result import load_knowledge
from fedmed_site import cli
from fedmed_site.adapters import OWN, SHARED, AdapterEntry, Adapters
from fedmed_site.agent import SiteAgent
from fedmed_site.approvals import Approvals
from fedmed_site.departments import adapt, adaptation_of
from fedmed_site.home import SiteHome
from fedmed_site.plan_model import module_with

NOW = datetime(2030, 1, 1, tzinfo=UTC)
HEADER = "record,patient_name,ward,pressure,glucose"


@pytest.fixture(scope="module")
def studied(tmp_path_factory: pytest.TempPathFactory) -> tuple[Consortium, Plan]:
    """Return a consortium after a study without privacy, in which each site kept a model of its own."""
    consortium = build_consortium(tmp_path_factory.mktemp("studied"), sites=2)
    plan = consortium.plan()
    model = ModelSpec(family="linear", adapter="full", lora_rule="mr-mtl")
    plan = replace(plan, model=model, training=replace(plan.training, proximal=0.1))
    consortium.runner(plan, consortium.root / "state").run()
    return consortium, plan


@pytest.fixture
def site(studied: tuple[Consortium, Plan], tmp_path: Path) -> tuple[SiteHome, Plan]:
    """Return a copy of the first site after the study."""
    consortium, plan = studied
    shutil.copytree(consortium.homes[0], tmp_path / "home")
    return SiteHome(tmp_path / "home"), plan


def capped(home: SiteHome, cap: float) -> SiteHome:
    """Give the site a cap and a ledger without a charge, as if nobody had trained on its data."""
    record = home.record()
    home.record_path.write_bytes(canonical_json(replace(record, policy=replace(record.policy, cap_epsilon=cap))))
    (home.ledgers / "tiny.jsonl").unlink()
    shutil.rmtree(home.data("tiny"))
    write_table(home.root.parent / "again.csv", rows=160, seed=0)
    SiteAgent(home).prepare(home.root.parent / "again.csv", tiny_dataset(), DeidPolicy())
    return home


def run(home: SiteHome, *words: object) -> int:
    """Run a command of the site."""
    return cli.site([*map(str, words), "--home", str(home.root)])


def asked(home: SiteHome, file: Path, *words: object) -> list[dict[str, str]]:
    """Ask a model about a file, and return the answer."""
    out = home.root.parent / "answer.csv"
    assert run(home, "predict", file, "--study", "tiny", "--out", out, *words) == 0
    assert out.stat().st_mode & 0o777 == 0o600
    with out.open(newline="") as rows:
        return list(csv.DictReader(rows))


# --- what a site holds ----------------------------------------------------------------------


def test_a_study_leaves_the_shared_adapter_and_the_own(studied: tuple[Consortium, Plan]) -> None:
    """Every site holds the released model, and under a personal rule its own beside it."""
    consortium, plan = studied
    released = load_knowledge(consortium.root / "state").anchor
    own = []
    for home in consortium.homes:
        held = Adapters(home / "adapters")
        assert [(entry.plan, entry.name, entry.round) for entry in held.entries()] == [
            (digest(plan), SHARED, 3), (digest(plan), OWN, 3),
        ]  # fmt: skip
        assert np.allclose(held.read(digest(plan), SHARED).vector, released, atol=1e-6)
        own.append(held.read(digest(plan), OWN).vector)
    assert not np.allclose(own[0], own[1], atol=1e-3)


def test_the_site_lists_what_it_holds(site: tuple[SiteHome, Plan], capsys: pytest.CaptureFixture[str]) -> None:
    """Study, round, date, and the figures that stay here; as JSON without them."""
    home, plan = site
    assert run(home, "models") == 0
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("tiny", digest(plan)[:12], SHARED, OWN))
    assert run(home, "models", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert [(one["study"], one["name"]) for one in found] == [("tiny", SHARED), ("tiny", OWN)]
    assert run(home, "evaluations") == 0
    shown = capsys.readouterr().out
    assert "final" in shown
    assert "personal" in shown
    assert "2 evaluations; they stay at this site" in shown


def test_a_site_without_a_study_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is listed, nothing is an error."""
    assert cli.site(["init", "--home", str(tmp_path / "home"), "--name", "north"]) == 0
    assert cli.site(["models", "--home", str(tmp_path / "home")]) == 0
    assert "holds no adapter yet" in capsys.readouterr().out
    assert cli.site(["evaluations", "--home", str(tmp_path / "home")]) == 0
    with pytest.raises(UsageError, match="means 0: none"):
        cli.site(["adapt", "tiny", "--by", "ward", "--home", str(tmp_path / "home")])


def test_an_adapter_in_anothers_place_is_refused(site: tuple[SiteHome, Plan]) -> None:
    """A damaged file, and one that was moved, are no adapters."""
    home, plan = site
    held = Adapters(home.root / "adapters")
    shared, own = (held._path(digest(plan), name) for name in (SHARED, OWN))
    shutil.copy(own, shared)
    with pytest.raises(IntegrityError, match="another file"):
        Adapters(home.root / "adapters").read(digest(plan), SHARED)
    shared.write_bytes(b"nothing")
    with pytest.raises(IntegrityError):
        Adapters(home.root / "adapters").entries()


@pytest.mark.parametrize("name", ["mine", "", "../shared"])
def test_names_are_those_of_the_kinds(name: str) -> None:
    """Nothing else can be kept."""
    with pytest.raises(ValueError, match="name must be"):
        AdapterEntry(plan="0" * 64, name=name, round=1, made="2030-01-01T00:00:00Z")


# --- departments ----------------------------------------------------------------------------


def test_one_charge_pays_for_all_departments(site: tuple[SiteHome, Plan], capsys: pytest.CaptureFixture[str]) -> None:
    """Two wards are trained, one event is charged, within what was asked; asked again, it is charged again."""
    home = capped(site[0], 3.0)
    assert run(home, "adapt", "tiny", "--by", "ward", "--epsilon", 1, "--steps", 5, "--yes") == 0
    shown = capsys.readouterr().out
    assert all(f"ward={ward}: trained; accuracy" in shown for ward in WARDS)
    ledger = SiteAgent(home).ledger("tiny")
    (event,) = ledger.events()
    assert (event.steps, event.sample_rate) == (5, 1.0)
    assert 0.98 < ledger.spent() <= 1.0
    assert {entry.name for entry in Adapters(home.root / "adapters").entries()} == {
        SHARED, OWN, "ward=north", "ward=south",
    }  # fmt: skip
    (body,) = [entry.body for entry in ChainLog(home.audit_path).entries() if entry.kind == "departments-adapted"]
    assert (body["column"], body["departments"], body["epsilon"]) == ("ward", 2, 1.0)
    assert ledger.released(str(body["charge"])) is not None
    assert run(home, "adapt", "tiny", "--by", "ward", "--epsilon", 1, "--steps", 5, "--yes") == 0
    assert len(ledger.events()) == 2
    assert 1.0 < ledger.spent() <= 2.0
    assert run(home, "models") == 0
    assert "ward=north" in capsys.readouterr().out


def test_a_department_learns_from_its_own_records_alone(site: tuple[SiteHome, Plan], tmp_path: Path) -> None:
    """A record less in one ward changes nothing of another one's records, and each stands in one ward at most."""
    home, plan = site
    datasets = SiteAgent(home).datasets
    before = datasets.load_parts(plan.data, "train", "ward")
    assert sum(len(part) for part in before.values()) == len(datasets.load(plan.data, "train"))
    lines = (home.root.parent / "h1.csv", tmp_path / "h1.csv")
    write_table(lines[1], rows=160, seed=0)
    rows = lines[1].read_text().splitlines()
    gone = next(place for place, row in enumerate(rows) if ",north," in row)
    nowhere = next(place for place, row in enumerate(rows) if ",north," in row and place > gone)
    rows[nowhere] = rows[nowhere].replace(",north,", ",,")
    lines[1].write_text("\n".join([*rows[:gone], *rows[gone + 1 :]]) + "\n")
    SiteAgent(home).prepare(lines[1], tiny_dataset(), DeidPolicy())
    after = SiteAgent(home).datasets.load_parts(plan.data, "train", "ward")
    assert np.array_equal(before["south"].features, after["south"].features)
    assert 0 <= len(before["north"]) - len(after["north"]) <= 2
    datasets = SiteAgent(home).datasets
    whole = sum(len(datasets.load_parts(plan.data, split, "ward")["north"]) for split in get_args(Split))
    assert whole == sum(",north," in row for row in rows) - 1


def test_beyond_the_cap_nothing_is_trained(site: tuple[SiteHome, Plan], monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither with an epsilon above it nor without protection; no record is read."""
    home = capped(site[0], 0.5)
    monkeypatch.setattr("fedmed_site.departments.train_locally", lambda *_, **__: pytest.fail("trained"))
    for words in (("--epsilon", 1), ()):
        with pytest.raises(BudgetError):
            run(home, "adapt", "tiny", "--by", "ward", "--yes", *words)
    assert SiteAgent(home).ledger("tiny").spent() == 0
    assert len(Adapters(home.root / "adapters").entries()) == 2


def test_the_charge_is_there_before_a_record_is_read(
    site: tuple[SiteHome, Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A site that dies while training has paid, keeps no adapter, and pays anew."""
    home, plan = capped(site[0], 5.0), site[1]

    def die(*_: object, **__: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr("fedmed_site.departments.train_locally", die)
        with pytest.raises(MemoryError):
            run(home, "adapt", "tiny", "--by", "ward", "--epsilon", 1, "--yes")
    assert len(SiteAgent(home).ledger("tiny").events()) == 1
    assert len(Adapters(home.root / "adapters").entries()) == 2
    how = adaptation_of(plan, column="ward", epsilon=1.0, steps=2)
    adapt(home, plan, how, by="ann", now=NOW)
    assert len(SiteAgent(home).ledger("tiny").events()) == 2


def test_unprotected_departments_are_remembered(site: tuple[SiteHome, Plan]) -> None:
    """Without a cap it is allowed, and the ledger says so for ever."""
    home, _ = site
    assert run(home, "adapt", "tiny", "--by", "ward", "--steps", 200, "--yes") == 0
    assert SiteAgent(home).ledger("tiny").spent() == math.inf


def test_departments_fit_better(site: tuple[SiteHome, Plan], capsys: pytest.CaptureFixture[str]) -> None:
    """In one ward glucose decides, in the other pressure: each adapter does better at home than the shared one."""
    home, plan = site
    how = adaptation_of(plan, column="ward", epsilon=None, steps=200)
    for one in adapt(home, plan, how, by="ann", now=NOW):
        assert one.accuracy is not None
        assert one.shared_accuracy is not None
        assert one.accuracy > one.shared_accuracy + 0.05


def test_a_ward_of_one_class_is_trained_like_any_other(site: tuple[SiteHome, Plan], tmp_path: Path) -> None:
    """Whether one is trained must not say what its patients have."""
    home, plan = site
    table = tmp_path / "one.csv"
    write_table(table, rows=160, seed=0)
    rows = [row[:-1] + "1" if ",north," in row else row for row in table.read_text().splitlines()]
    table.write_text("\n".join(rows) + "\n")
    SiteAgent(home).prepare(table, tiny_dataset(), DeidPolicy())
    found = adapt(home, plan, adaptation_of(plan, column="ward", epsilon=None, steps=2), by="ann", now=NOW)
    assert [one.trained for one in found] == [True, True]


def test_small_departments_are_not_trained(site: tuple[SiteHome, Plan], tmp_path: Path) -> None:
    """By the policy's min_records, as for a site; where none is large enough, it is refused."""
    home, plan = site
    table = tmp_path / "small.csv"
    write_table(table, rows=160, seed=0)
    head, *rows = table.read_text().splitlines()
    north, south = ([row for row in rows if f",{ward}," in row] for ward in WARDS)
    table.write_text("\n".join([head, *north[:12], *south]) + "\n")
    SiteAgent(home).prepare(table, tiny_dataset(), DeidPolicy())
    how = adaptation_of(plan, column="ward", epsilon=None, steps=2)
    assert {one.name: one.trained for one in adapt(home, plan, how, by="ann", now=NOW)} == {
        "ward=north": False, "ward=south": True,
    }  # fmt: skip
    table.write_text("\n".join([head, *north[:25], *south[:25]]) + "\n")
    SiteAgent(home).prepare(table, tiny_dataset(), DeidPolicy())
    with pytest.raises(FedMedError, match="no department of ward has 20 training records"):
        adapt(home, plan, how, by="ann", now=NOW)


@pytest.mark.parametrize("column", ["ill", "pressure", "record"])
def test_a_column_that_names_no_departments_is_refused(site: tuple[SiteHome, Plan], column: str) -> None:
    """A label, a number or a key divide nothing; it is said before anything is paid."""
    home = capped(site[0], 5.0)
    with pytest.raises(UsageError, match="no category that models read"):
        run(home, "adapt", "tiny", "--by", column, "--epsilon", 1, "--yes")
    with pytest.raises(DataError, match="no category that models read"):
        SiteAgent(home).datasets.load_parts(site[1].data, "train", column)
    assert SiteAgent(home).ledger("tiny").events() == []


def test_a_recoded_column_is_refused_before_it_is_paid_for(site: tuple[SiteHome, Plan]) -> None:
    """After k-anonymity a record's department depends on others, so one charge would not pay for all."""
    home = capped(site[0], 5.0)
    body = {"schema_name": "tiny", "anonymity.level.ward": 1}
    ChainLog(home.audit_path).append(AUDIT_KIND, body)
    with pytest.raises(UsageError, match="recoded for k-anonymity"):
        run(home, "adapt", "tiny", "--by", "ward", "--epsilon", 1, "--yes")
    assert SiteAgent(home).ledger("tiny").events() == []


# --- predictions ----------------------------------------------------------------------------


def test_each_adapter_answers_for_itself(site: tuple[SiteHome, Plan], tmp_path: Path) -> None:
    """Probabilities are those of the model with that adapter, for records without labels."""
    home, plan = site
    write_table(tmp_path / "raw.csv", rows=40, seed=9)
    lines = [row.rpartition(",")[0] for row in (tmp_path / "raw.csv").read_text().splitlines()]
    (tmp_path / "new.csv").write_text("\n".join(lines) + "\n")
    assert lines[0] == HEADER
    SiteAgent(home).prepare(tmp_path / "raw.csv", replace(tiny_dataset(), name="tiny"), DeidPolicy())
    cohorts = [SiteAgent(home).datasets.load(plan.data, split) for split in ("train", "test")]
    found = {}
    for name in (SHARED, OWN):
        adapter = Adapters(home.root / "adapters").read(digest(plan), name)
        expected = np.concatenate(
            [evaluate(module_with(home, plan, adapter), adapter.vector, cohort).scores[:, 1] for cohort in cohorts]
        )
        answer = asked(home, tmp_path / "new.csv", "--adapter", name)
        assert [int(row["line"]) for row in answer] == list(range(2, 42))
        found[name] = [float(row["yes"]) for row in answer]
        assert sorted(found[name]) == pytest.approx(sorted(expected.tolist()), abs=1e-5)
        assert all(float(row["no"]) + float(row["yes"]) == pytest.approx(1, abs=1e-5) for row in answer)
    assert found[SHARED] != found[OWN]


def test_every_record_has_its_line_and_no_cell_is_in_the_answer(
    site: tuple[SiteHome, Plan], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What can't be read says why; names and values stay in the file; the audit log says who asked."""
    home, plan = site
    rows = [HEADER, "M1,Ann Quill,north,1.5,0.25", "M2,Bob Quill,nowhere,1.0,1.0", '"M3","Cy\nQuill",south,-1.0,',
            "M4,Dee Quill,south,9.75", "M5,Eve Quill,north,abc,2.0"]  # fmt: skip
    (tmp_path / "new.csv").write_text("\n".join(rows) + "\n")
    answer = asked(home, tmp_path / "new.csv")
    assert [(row["line"], row["why_not"]) for row in answer] == [
        ("2", ""), ("3", "ward: not an allowed value"), ("4", ""), ("6", "no row: not 5 cells"),
        ("7", "pressure: not a number"),
    ]  # fmt: skip
    assert [bool(row["yes"]) for row in answer] == [True, False, True, False, False]
    text = (tmp_path / "answer.csv").read_text()
    assert not [word for word in ("Quill", "M1", "nowhere", "9.75", "abc") if word in text]
    assert "2 records have probabilities, 3 have none" in capsys.readouterr().out
    body = ChainLog(home.audit_path).entries()[-1].body
    assert (body["plan"], body["adapter"], body["predicted"], body["skipped"]) == (digest(plan), SHARED, 2, 3)
    assert body["by"]
    assert not list(home.root.glob(".asked-*"))


def test_mistakes_are_one_line(site: tuple[SiteHome, Plan], tmp_path: Path) -> None:
    """Another adapter, study, file or table is refused, and no answer is left."""
    home, _ = site
    good = tmp_path / "good.csv"
    good.write_text(f"{HEADER}\nM1,Ann,north,1.5,0.25\n")
    (tmp_path / "bad.csv").write_text("record,ward\nM1,north\n")
    (tmp_path / "none.csv").write_text(f"{HEADER}\nM1,Ann,north,x,y\n")
    (tmp_path / "empty.csv").write_text("")
    out = tmp_path / "answer.csv"
    for file, study, adapter, message in (
        (good, "tiny", "ward=north", "this site holds: shared, own"),
        (good, "other", SHARED, "means 0: none"),
        (tmp_path / "nowhere.csv", "tiny", SHARED, "found no such file"),
        (tmp_path / "bad.csv", "tiny", SHARED, "the header lacks column"),
        (tmp_path / "none.csv", "tiny", SHARED, "can be read|no rows|cannot be parsed|holds"),
        (tmp_path / "empty.csv", "tiny", SHARED, "the file is empty"),
    ):
        with pytest.raises(FedMedError, match=message):
            run(home, "predict", file, "--study", study, "--adapter", adapter, "--out", out)
    with pytest.raises(UsageError, match="another file for the answer"):
        run(home, "predict", good, "--study", "tiny", "--out", good)
    assert good.read_text().startswith(HEADER)
    assert not out.exists()


def test_notes_are_asked_as_they_were_learned(tmp_path: Path) -> None:
    """JSON Lines of notes: cleaned like the ones that were trained on, numbered by their own lines."""
    columns = (
        Column(name="id", kind="identifier", role="patient-key"),
        Column(name="note", kind="text", role="free-text"),
        Column(name="ill", kind="binary", role="target", values=("0", "1"), required=True),
    )
    schema = Schema(
        name="notes", file="{site}.jsonl", columns=columns, text=TextPart(column="note", characters=40),
        targets=(Target(name="ill", column="ill", one_of=("1",)),),
    )  # fmt: skip
    dataset = replace(tiny_dataset(), name="notes", schema=schema)
    assert cli.site(["init", "--home", str(tmp_path / "home"), "--name", "north"]) == 0
    home = SiteHome(tmp_path / "home")
    lines = [{"id": f"p{i}", "note": "fever\nhigh" if i % 2 else "cough", "ill": i % 2} for i in range(60)]
    (tmp_path / "raw.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    SiteAgent(home).prepare(tmp_path / "raw.jsonl", dataset, DeidPolicy(free_text="clean"))
    spec = ModelSpec(family="ngrams", adapter="full", width=4, characters=40)
    module = build_module(Architecture.of(spec, features=40, classes=2), seed=0)
    name = save_base(tmp_path / "base", Architecture.of(spec, features=40, classes=2), module)
    shutil.copytree(tmp_path / "base", home.models / name)
    plan = replace(
        plan_of("tiny"), model=spec, base_digest=name,
        data=DataSpec(schema="notes", schema_digest=schema.digest, target="ill"),
    )  # fmt: skip
    Approvals(home, ChainLog(home.audit_path)).note(plan, now=NOW)
    size = sum(parameter.numel() for parameter in module.parameters())
    vector = np.random.default_rng(0).normal(size=size)
    entry = AdapterEntry(plan=digest(plan), name=SHARED, round=1, made="2030-01-01T00:00:00Z")
    Adapters(home.root / "adapters").keep(entry, vector)
    new = [json.dumps({"id": "q1", "note": "cough\nand\nfever"}), "{broken", json.dumps({"id": "q2", "note": " "}),
           json.dumps({"id": "q3", "note": "fever"}), json.dumps({"id": "q4", "note": "cough"}),
           json.dumps({"id": "q5", "note": "cough"})]  # fmt: skip
    (tmp_path / "new.jsonl").write_text("\n".join(new))
    answer = asked(home, tmp_path / "new.jsonl")
    assert [(row["line"], row["why_not"]) for row in answer] == [
        ("1", ""), ("2", "no row: not 3 cells"), ("3", "nothing to read"), ("4", ""), ("5", ""), ("6", ""),
    ]  # fmt: skip
    assert answer[4]["yes"] == answer[5]["yes"] != answer[3]["yes"]


def test_what_a_study_leaves_at_a_site_is_the_owners_alone(studied: tuple[Consortium, Plan]):
    """Folders too: models, receipts and stored answers say what was trained on."""
    home = studied[0].homes[0]
    public = home / "models"  # the base, which this consortium copied there
    left = [path for path in home.rglob("*") if path != public and public not in path.parents]
    assert [str(path.relative_to(home)) for path in left if path.stat().st_mode & 0o077] == []
