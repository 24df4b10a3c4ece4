"""`fedmed audit verify` over every kind of folder: what is good, and one line for each thing that is not."""

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from federation import SECURE, Consortium, appoint, build_consortium, signer_of
from older import LATER, older_plan, without

from fedmed.audit import ChainLog
from fedmed.audit_folders import kind_of, verify_folder
from fedmed.crypto.keyfiles import CONSORTIUM, PublicKey, save_public_key
from fedmed.crypto.passphrases import Secret
from fedmed.errors import IntegrityError, UsageError
from fedmed.records import Plan, digest
from fedmed.secagg.roster import sign_roster
from fedmed.secagg.roster_file import roster_to_bytes
from fedmed.signed_plans import agree_to, launch
from fedmed_server import coordinator_cli, study_log
from fedmed_server.consortium import make_consortium
from fedmed_server.receipts import RECEIPTS
from fedmed_server.result import load_result
from fedmed_server.studies import Studies
from fedmed_server.study_process import Journal
from fedmed_site import cli
from fedmed_site.adapters import Adapters
from fedmed_site.approvals import Approvals
from fedmed_site.home import SiteHome

KEY = Ed25519PrivateKey.from_private_bytes(bytes([7]) * 32)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Consortium:
    """Three sites and a coordinator after a finished study, as their folders are."""
    consortium = build_consortium(tmp_path_factory.mktemp("consortium"), sites=3, rows=40)
    run_study(consortium, plan_of(consortium))
    return consortium


@pytest.fixture
def folders(made: Consortium, tmp_path: Path) -> Path:
    """A copy of all folders, to be harmed."""
    shutil.copytree(made.root, tmp_path / "all")
    return tmp_path / "all"


def plan_of(consortium: Consortium) -> Plan:
    """Return a plan of two rounds over secure aggregation, without Fisher information."""
    plan = consortium.plan(aggregation=SECURE)
    training = replace(plan.training, rounds=2, local_steps=1)
    return replace(plan, training=training, continual=replace(plan.continual, release_fisher=False))


def run_study(consortium: Consortium, plan: Plan) -> None:
    """Run a study in a coordinator's folder below the consortium's root."""
    root = consortium.root / "coordinator"
    root.mkdir()
    (root / "coordinator.json").write_bytes(appoint(consortium, KEY))
    (root / "signing.key").write_text("sealed elsewhere")
    key = consortium.consortium_key
    public = PublicKey(name="consortium", purpose=CONSORTIUM, kind="ed25519", key=key.public_key().public_bytes_raw())
    save_public_key(root / "consortium.pub.json", public)
    (root / "roster.json").write_bytes(roster_to_bytes(sign_roster(consortium.roster, key)))
    studies = Studies(root / "studies")
    signer = signer_of(plan, KEY)
    signed = launch(agree_to(plan, key), KEY)
    name = studies.add(signed, consortium.base, sites_wanted=3, mandate=signer.mandate.encode()).digest
    ChainLog(root / "audit.jsonl").append("study-running", {"plan": name, "study": plan.study, "reason": ""})
    studies.change(name, "running", run=1)
    folder = studies.folder(name)
    consortium.runner(plan, folder.work, signer=signer, listener=Journal(folder, plan)).run()
    studies.change(name, "finished")


def study_of(folders: Path) -> Path:
    """Return the one study's folder."""
    (path,) = (folders / "coordinator" / "studies").glob("*/state.json")
    return path.parent


def lines_of(path: Path) -> list[bytes]:
    """Return the lines of a file, each with its end."""
    return path.read_bytes().splitlines(keepends=True)


def verify(folder: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, list[str]]:
    """Return the exit code of the command and its lines."""
    code = cli.audit(["verify", str(folder)])
    return code, capsys.readouterr().out.splitlines()


def test_whole_folders_verify(made: Consortium, capsys: pytest.CaptureFixture[str]) -> None:
    """A site, the coordinator and the study alone are good, and the lines say what was checked."""
    code, lines = verify(made.homes[0], capsys)
    assert code == 0, lines
    assert any("receipts.jsonl: 2 receipts of the coordinator hold" in line for line in lines)
    assert any("ledger/tiny.jsonl" in line for line in lines)
    for folder in (made.root / "coordinator", study_of(made.root)):
        code, lines = verify(folder, capsys)
        assert code == 0, lines
        assert any("6 participations, 2 attempts settled" in line for line in lines)


def test_the_kind_of_a_folder_follows_from_what_it_holds(
    made: Consortium, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An empty folder is none of them; options of a site are refused elsewhere."""
    assert kind_of(made.homes[0]) == "site"
    assert kind_of(made.root / "coordinator") == "coordinator"
    assert kind_of(study_of(made.root)) == "study"
    with pytest.raises(UsageError, match="expected the folder of a site, a coordinator"):
        verify(tmp_path, capsys)
    with pytest.raises(UsageError, match="belong to a site's folder"):
        cli.audit(["verify", str(made.root / "coordinator"), "--expect-head", "0" * 64])
    with pytest.raises(UsageError, match="got both"):
        cli.audit(["verify", str(made.homes[0]), "--home", str(made.homes[0])])


def _altered(path: Path) -> None:
    lines = lines_of(path)
    lines[1] = lines[1].replace(b'"round":0', b'"round":9').replace(b'"state', b'"State')
    lines[1] = lines[1] if b":9" in lines[1] else lines[1].replace(b'"previous":"', b'"previous":"0', 1)
    path.write_bytes(b"".join(lines))


def _missing(path: Path) -> None:
    lines = lines_of(path)
    path.write_bytes(b"".join([*lines[:1], *lines[2:]]))


def _reordered(path: Path) -> None:
    lines = lines_of(path)
    path.write_bytes(b"".join([lines[0], lines[2], lines[1], *lines[3:]]))


@pytest.mark.parametrize("harm", [_altered, _missing, _reordered], ids=lambda harm: harm.__name__.strip("_"))
@pytest.mark.parametrize("log", ["site audit", "site receipts", "site ledger", "study receipts", "study log"])
def test_a_harmed_log_is_one_line_that_names_file_and_entry(
    folders: Path, log: str, harm: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    """Whichever log it is and whichever way it was harmed: exit code 2, one line, the file and the entry."""
    home, study = folders / "sites" / "h1", study_of(folders)
    path, folder = {
        "site audit": (home / "audit.jsonl", home),
        "site receipts": (home / "receipts.jsonl", home),
        "site ledger": (home / "ledger" / "tiny.jsonl", home),
        "study receipts": (study / "work" / RECEIPTS, folders / "coordinator"),
        "study log": (study / "log.jsonl", folders / "coordinator"),
    }[log]
    harm(path)
    code, lines = verify(folder, capsys)
    assert code == 2
    (line,) = lines
    assert path.name in line
    assert "entry 1 is bad" in line


@pytest.mark.parametrize("log", ["site receipts", "site ledger", "study receipts", "study log", "study"])
def test_what_is_gone_as_a_whole_is_noticed(folders: Path, log: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Other files speak of it: the audit log of receipts and studies, the data of its ledger, the state of rounds."""
    home, study = folders / "sites" / "h1", study_of(folders)
    path, folder = {
        "site receipts": (home / "receipts.jsonl", home),
        "site ledger": (home / "ledger" / "tiny.jsonl", home),
        "study receipts": (study / "work" / RECEIPTS, folders / "coordinator"),
        "study log": (study / "log.jsonl", folders / "coordinator"),
        "study": (study, folders / "coordinator"),
    }[log]
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    code, lines = verify(folder, capsys)
    assert code == 2
    assert lines


@pytest.mark.parametrize("log", ["site receipts", "study receipts", "study log"])
def test_an_end_that_was_cut_off_is_noticed(folders: Path, log: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A chain does not show it by itself; another file does."""
    home, study = folders / "sites" / "h1", study_of(folders)
    path, folder = {
        "site receipts": (home / "receipts.jsonl", home),
        "study receipts": (study / "work" / RECEIPTS, folders / "coordinator"),
        "study log": (study / "log.jsonl", folders / "coordinator"),
    }[log]
    path.write_bytes(b"".join(lines_of(path)[:-1]))
    code, lines = verify(folder, capsys)
    assert code == 2
    assert path.name in lines[0]


def rewritten(path: Path, change: Callable[[dict[str, object]], dict[str, object]], kind: str) -> None:
    """Write a chained log anew, as somebody would who can: every digest fits, one kind of entry says something else."""
    entries = ChainLog(path).entries()
    path.unlink()
    log = ChainLog(path)
    for entry in entries:
        body = change(dict(entry.body)) if entry.kind == kind else entry.body
        if body:
            log.append(entry.kind, body)  # type: ignore[arg-type]


def test_a_chain_that_was_made_anew_fails_at_its_signatures(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Who rewrites the whole log can't sign: a receipt of another cohort and a participation less are both found."""
    path = study_of(folders) / "work" / RECEIPTS
    rewritten(path, lambda body: {**body, "cohort": "h1 h2"}, "settled")
    code, lines = verify(folders / "coordinator", capsys)
    assert code == 2
    assert any("the sites signed for other uploads than were summed" in line for line in lines)
    home = folders / "sites" / "h2"
    rewritten(home / "receipts.jsonl", lambda body: {**body, "upload": "0" * 64}, "uploaded")
    rewritten(home / "receipts.jsonl", lambda body: {**body, "uploads": "0" * 64}, "certified")
    code, lines = verify(home, capsys)
    assert code == 2
    assert any("names other sites or uploads than this site certified" in line for line in lines)


def test_a_participation_that_is_not_there_is_named(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A sum over a site that has signed for nothing is found by name."""
    path = study_of(folders) / "work" / RECEIPTS
    rewritten(path, lambda body: {} if '"site":"h2"' in str(body["statement"]) else body, "participated")
    code, lines = verify(folders / "coordinator", capsys)
    assert code == 2
    assert any("expected the participation of h2, found none" in line for line in lines)


def test_a_round_without_its_receipt_is_named(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A log that was made anew to name other sites does not fit the receipts."""
    log = study_of(folders) / "log.jsonl"
    lines = study_log.read(log)
    log.unlink()
    for line in lines:
        facts = {key: value for key, value in line.items() if key not in {"index", "previous", "digest"}}
        if line["event"] == "round-finished" and line["round"] == 1:
            facts["sites"] = ["h1", "h2"]
        study_log.append(log, facts)
    code, found = verify(folders / "coordinator", capsys)
    assert code == 2
    (line_,) = found
    assert "round 1 names h1, h2, its receipt h1, h2, h3" in line_


@pytest.fixture(scope="module")
def upgraded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Consortium, Plan]:
    """Three sites and a coordinator after a study whose plan an older version wrote and signed."""
    consortium = build_consortium(tmp_path_factory.mktemp("upgraded"), sites=3, rows=40)
    plan = older_plan(plan_of(consortium))
    assert digest(plan) == hashlib.sha256(without(plan_of(consortium), *LATER)).hexdigest()
    run_study(consortium, plan)
    return consortium, plan


def test_a_study_of_an_older_versions_plan_runs_and_verifies(
    upgraded: tuple[Consortium, Plan], capsys: pytest.CaptureFixture[str]
) -> None:
    """Sites, coordinator and result name it by the bytes that were signed, and every folder verifies."""
    (consortium, plan), name = upgraded, digest(upgraded[1])
    for folder in (*consortium.homes, consortium.root / "coordinator"):
        code, lines = verify(folder, capsys)
        assert (code, [line for line in lines if "good" not in line and "expected" in line]) == (0, [])
    state = study_of(consortium.root)
    assert state.name == name
    assert Studies(state.parent).signed(name).plan == plan
    work = Studies(state.parent).folder(name).work
    assert hashlib.sha256((work / "result" / "plan.json").read_bytes()).hexdigest() == name
    result = load_result(work, plan_digest=name)
    assert result is not None
    assert result.plan_digest == name
    with pytest.raises(IntegrityError, match="another plan"):
        load_result(work, plan_digest=digest(plan_of(consortium)))
    home = SiteHome(consortium.homes[0])
    assert digest(Approvals(home, ChainLog(home.audit_path)).plan(name)) == name
    assert {entry.plan for entry in Adapters(home.root / "adapters").entries()} == {name}


def test_an_older_versions_plan_that_was_changed_verifies_nowhere(
    upgraded: tuple[Consortium, Plan], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the coordinator's folder, at the site, and in the result; a default that is filled in is a change, too."""
    consortium, name = upgraded[0], digest(upgraded[1])
    filled = (b'"max_tokens":256', b'"max_tokens":256,"precision":"fp32"')
    for number, (old, new) in enumerate(((b'"rounds":2', b'"rounds":3'), filled)):
        root = tmp_path / str(number)
        shutil.copytree(consortium.root, root)
        state = study_of(root)
        plan = Studies(state.parent).folder(name).plan
        assert old in plan.read_bytes()
        plan.write_bytes(plan.read_bytes().replace(old, new))
        assert verify(root / "coordinator", capsys)[0] == 2
        with pytest.raises(IntegrityError, match="got another"):
            Studies(state.parent).signed(name)
        home = SiteHome(root / "sites" / "h1")
        kept = home.studies / name / "plan.json"
        kept.write_bytes(kept.read_bytes().replace(old, new))
        with pytest.raises(IntegrityError, match="expected the plan that came"):
            Approvals(home, ChainLog(home.audit_path)).plan(name)


def test_another_coordinators_key_verifies_nothing(folders: Path, made: Consortium) -> None:
    """A statement that the consortium did not sign makes the whole folder worthless."""
    path = folders / "coordinator" / "coordinator.json"
    path.write_bytes(path.read_bytes().replace(b'"port":9092', b'"port":9093'))
    assert any("signature is not its" in line for line in verify_folder(folders / "coordinator").problems)


def test_a_consortiums_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its register and both lists verify; a list that was changed and one that is gone are named."""
    folder = tmp_path / "consortium"
    make_consortium(folder, name="north", secret=Secret(kind="key-file", value=bytes(32)), now=datetime.now(UTC))
    assert verify(folder, capsys)[0] == 0
    (folder / "members.json").write_bytes(
        (folder / "members.json").read_bytes().replace(b'"edition":1', b'"edition":2')
    )
    (folder / "revoked.json").unlink()
    code, lines = verify(folder, capsys)
    assert code == 2
    assert [line.partition(":")[0] for line in lines] == ["members.json", "revoked.json"]


def test_the_command_lists_a_studys_receipts(made: Consortium, capsys: pytest.CaptureFixture[str]) -> None:
    """One line per attempt, with the sites that were summed."""
    assert coordinator_cli.coordinator(["receipts", "tiny", "--home", str(made.root / "coordinator")]) == 0
    shown = capsys.readouterr().out
    assert shown.count("h1, h2, h3") == 2
    assert "6 uploads" in shown


def test_a_study_log_is_read_by_people_and_scripts_as_before(made: Consortium) -> None:
    """Each line is JSON with a moment and an event; the chain is three more keys."""
    lines = [json.loads(line) for line in (study_of(made.root) / "log.jsonl").read_text().splitlines()]
    assert all({"at", "event", "index", "previous", "digest"} <= line.keys() for line in lines)
    assert [line["event"] for line in lines][:2] == ["launched", "running"]
    assert digest({key: value for key, value in lines[3].items() if key != "digest"}) == lines[3]["digest"]


def test_a_log_of_before_there_were_chains_is_put_aside(tmp_path: Path) -> None:
    """An older study goes on: its old lines stay readable in a file of their own, and a new chain begins."""
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"at":"2026-01-01T00:00:00.000Z","event":"launched"}\n')
    study_log.append(path, {"event": "queued"})
    assert [line["event"] for line in study_log.read(path)] == ["queued"]
    assert b"launched" in (tmp_path / "log.unchained.jsonl").read_bytes()


def test_a_line_that_was_never_committed_gives_way(tmp_path: Path) -> None:
    """A kill in the middle of a line leaves it without an end; the next line takes its place."""
    path = tmp_path / "log.jsonl"
    study_log.append(path, {"event": "queued"})
    path.write_bytes(path.read_bytes() + b'{"event":"runn')
    study_log.append(path, {"event": "running"})
    assert [line["event"] for line in study_log.read(path)] == ["queued", "running"]


def test_a_simulations_run_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its coordinator and all its sites are verified at once; there are no receipts to sign, and rounds still count."""
    consortium = build_consortium(tmp_path / "run", sites=3, rows=40)
    run = consortium.root
    (run / "config.yaml").write_text("")
    (run / "consortium").mkdir()
    (run / "consortium" / "consortium.key").write_bytes(consortium.consortium_key.private_bytes_raw())
    (run / "coordinator").mkdir()
    roster = roster_to_bytes(sign_roster(consortium.roster, consortium.consortium_key))
    (run / "coordinator" / "roster.json").write_bytes(roster)
    consortium.runner(plan_of(consortium), run / "coordinator" / "study-1").run()
    code, lines = verify(run, capsys)
    assert code == 0, lines
    assert any("study-1/receipts.jsonl: 6 participations, 2 attempts settled, not signed" in line for line in lines)
    assert any("sites/h3/receipts.jsonl" in line for line in lines)
    path = run / "coordinator" / "study-1" / RECEIPTS
    path.write_bytes(b"".join(lines_of(path)[:-1]))
    code, lines = verify(run, capsys)
    assert code == 2
    assert "round 1 of the finished study was not settled here" in lines[0]
