"""All that a hospital may hand in wrongly, as its user meets it: one line with the cure, or a record that is counted.

Each is tried through `fedmed simulate`, and the tables through `fedmed site check-data` too. Further cases:
    * model folders: test_text, test_folder
    * labels and cells outside the schema, lines that are no rows: test_deid_tabular, test_readers, test_jsonl
    * labels that no class has, notes and records with nothing in them: test_data_tabular, test_labels
    * images: test_imaging
    * sites of one class, empty tables, wrong commands: test_sim_cli, test_readiness
"""

import json
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from model_folders import write_image_folder, write_text_folder
from PIL import Image as Picture
from safetensors.torch import load_file, save_file

from fedmed.cli import main

SITES = ("north", "east", "south")
ROWS = 60
KEY = {"name": "id", "kind": "identifier", "role": "patient-key"}
ILL = {"name": "ill", "kind": "category", "role": "target", "values": ["no", "yes", "unsure", "other"]}
AGE = {"name": "age", "kind": "number", "role": "feature", "centre": 50, "scale": 20, "low": 0, "high": 120}
TARGETS = [
    {"name": "ill", "column": "ill", "one_of": ["yes"]},
    {"name": "grade", "column": "ill", "one_of": ["no", "yes", "unsure"], "classes": ["a", "b", "c"]},
]
TABLE = {"file": "{site}.csv", "columns": [KEY, AGE, ILL]}
NOTES = {
    "file": "{site}.jsonl", "columns": [KEY, {"name": "note", "kind": "text", "role": "free-text"}, ILL],
    "text": {"column": "note", "characters": 40},
}  # fmt: skip
IMAGES = {
    "file": "{site}.csv", "columns": [KEY, {"name": "file", "kind": "text", "role": "direct-identifier"}, ILL],
    "image": {"column": "file", "size": 16},
}  # fmt: skip


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    """Leave torch's threads as they were: a run sets them."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@dataclass(frozen=True)
class Said:
    """What a command said to its user, and how it ended."""

    code: int
    out: str
    complaints: tuple[str, ...]
    summary: dict[str, Any] | None = None


class User:
    """Somebody with a folder of exports, at a terminal."""

    def __init__(self, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.root, self._capsys = root, capsys
        self.exports = root / "exports"
        self.exports.mkdir()

    def table(self, site: str, lines: list[str], *, header: str = "id,age,ill") -> None:
        """Export a site's table."""
        (self.exports / f"{site}.csv").write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")

    def notes(self, site: str, lines: list[str]) -> None:
        """Export a site's notes."""
        (self.exports / f"{site}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")

    def simulate(self, schema: dict[str, Any], *words: str, target: str = "ill") -> Said:
        """Run two rounds over the exports."""
        data = self.described(schema)
        scenario = self.root / "conf" / "scenario"
        scenario.mkdir(exist_ok=True)
        (scenario / "own.yaml").write_text(yaml.safe_dump({"studies": [{"name": "own", "target": target}]}))
        settings = [f"hydra.searchpath=[file://{data.parents[1]}]", "data=own", "engine=inprocess", "privacy=off"]
        settings += [f"out={self.root / 'runs'}", "plan.rounds=2", "plan.local_steps=1", "plan.consolidation=0"]
        said = self._said(main(["simulate", *settings, *words]))
        runs = list((self.root / "runs").glob("*"))
        if said.code:
            assert not runs, "a mistake leaves no folder behind"
            return said
        return Said(said.code, said.out, said.complaints, json.loads((runs[0] / "summary.json").read_text()))

    def check(self, schema: dict[str, Any], site: str, *words: str) -> Said:
        """Ask whether one site's export is ready."""
        file = self.exports / schema["file"].format(site=site)
        return self._said(main(["site", "check-data", str(file), "--data", str(self.described(schema)), *words]))

    def described(self, schema: dict[str, Any]) -> Path:
        """Write the data set's description and return where it is."""
        path = self.root / "conf" / "data" / "own.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        whole = {"name": "own", "version": 1, "sites": list(SITES), "targets": TARGETS, **schema}
        split = {"kind": "hash", "test_fraction": 0.3, "seed": 0}
        path.write_text(yaml.safe_dump({"name": "own", "root": str(self.exports), "schema": whole, "split": split}))
        return path

    def _said(self, code: int) -> Said:
        shown = self._capsys.readouterr()
        assert "Traceback" not in shown.out + shown.err
        complaints = tuple(line for line in shown.err.splitlines() if line.startswith("fedmed: "))
        assert len(complaints) == (1 if code and not shown.out.strip() else 0), shown.err
        return Said(code, shown.out, complaints)


@pytest.fixture
def user(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> User:
    """Return somebody whose exports are all good so far."""
    found = User(tmp_path, capsys)
    for site in SITES:
        found.table(site, rows())
        found.notes(site, notes())
    return found


def rows() -> list[str]:
    """Return the lines of a good table."""
    return [f"p{place},{30 + place % 40},{('no', 'yes')[place % 2]}" for place in range(ROWS)]


def notes() -> list[str]:
    """Return the lines of good notes."""
    return [
        json.dumps({"id": f"p{i}", "note": "fever" if i % 2 else "cough", "ill": "yes" if i % 2 else "no"})
        for i in range(ROWS)
    ]


def pictures(user: User, site: str) -> None:
    """Export a site's images and the table that names them."""
    rng = np.random.default_rng(0)
    for place in range(ROWS):
        values = rng.integers(0, 100, (12, 12)) + 150 * (place % 2)
        Picture.fromarray(values.astype(np.uint8)).save(user.exports / f"{site}-{place}.png")
    lines = [f"p{place},{site}-{place}.png,{('no', 'yes')[place % 2]}" for place in range(ROWS)]
    user.table(site, lines, header="id,file,ill")


# --- model folders --------------------------------------------------------------------------


def _gone(folder: Path) -> None:
    shutil.rmtree(folder)


def _without_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def _pickle(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def _cut(folder: Path) -> None:
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])


def _without_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def _no_json(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def _other_size(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "hidden_size": 24}))


def _words_for_numbers(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_attention_heads": "many"}))


def _padding_outside(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "pad_token_id": 900}))


def _no_numbers(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights[min(weights)].fill_(float("nan"))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def _too_large(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    for value in weights.values():
        value.fill_(1e38)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def _few_tokens(folder: Path) -> None:
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"] = {token: at for token, at in tokenizer["model"]["vocab"].items() if at < 40}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (_words_for_numbers, "the model can't be read"),
        (_padding_outside, "the model can't be read"),
        (_no_numbers, "expected weights that are numbers"),
        (_too_large, "the model's outputs on a trial record are not finite"),
        (_few_tokens, "the tokenizer does not match the model: it has 40 tokens, the model 300"),
        (_gone, "expected a model folder at"),
        (_without_weights, "expected weights (*.safetensors) in model folder"),
        (_pickle, "the weights are a pickle (pytorch_model.bin), which can run code, so it is not opened"),
        (_cut, "the model can't be read"),
        (_without_tokenizer, "expected a tokenizer (tokenizer.json) in model folder"),
        (_no_json, "the model can't be read"),
        (_other_size, "the weights are not those of its config.json"),
    ],
)
def test_a_bad_model_folder_is_one_line(user: User, spoil: Callable[[Path], None], expected: str) -> None:
    """Nothing is trained, nothing of the folder is run, and no run folder is left."""
    folder = write_text_folder(user.root / "model", "roberta")
    spoil(folder)
    said = user.simulate(NOTES, "model=text_encoder", f"model.path={folder}")
    assert said.code == 2
    assert expected in said.complaints[0]


def test_a_tokenizer_of_another_model_is_one_line(user: User) -> None:
    """It makes tokens that the model does not know."""
    folder = write_text_folder(user.root / "model", "roberta")
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    known = len(tokenizer["model"]["vocab"])
    tokenizer["model"]["vocab"] |= {f"word{place}": place for place in range(known, 359)}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    said = user.simulate(NOTES, "model=text_encoder", f"model.path={folder}")
    assert said.code == 2
    assert "the tokenizer does not match the model: it makes tokens up to 358, the model has 300" in said.complaints[0]


# --- records that are skipped and counted ---------------------------------------------------


def of_site(said: Said, site: str) -> dict[str, int]:
    """Return what the summary says of a site's rows, but for those that were used."""
    assert said.summary is not None
    found = {name: count for name, count in said.summary["records"][site].items() if count}
    assert (
        found.pop("train")
        + found.pop("test")
        + sum(count for name, count in found.items() if not name.startswith("images_"))
        == said.summary["records"]["south"]["train"] + said.summary["records"]["south"]["test"]
    )
    return found


def test_labels_outside_the_schema_are_set_aside_and_counted(user: User) -> None:
    """Three of sixty: the run goes on without them, and terminal, summary and page say how many."""
    lines = rows()
    lines[4:7] = [line.rpartition(",")[0] + ",perhaps" for line in lines[4:7]]
    user.table("north", lines)
    said = user.simulate(TABLE, "model=linear")
    assert of_site(said, "north") == {"quarantined": 3}
    assert "Not used at north: 3 outside the schema" in said.out
    (run,) = (user.root / "runs").iterdir()
    assert '<tr><td>north</td><td class="n">' in (run / "index.html").read_text()
    assert (run / "sites/north/data/own/quarantine.csv").read_text().count("ill,not an allowed value") == 3
    checked = user.check(TABLE, "north")
    assert (checked.code, checked.complaints) == (2, ())
    assert "< 5 labels in ill are not among the schema's" in " ".join(checked.out.split())


def test_too_many_labels_outside_the_schema_are_one_line(user: User) -> None:
    """A third of the rows: another coding, not a slip of the pen."""
    user.table("north", [line.replace("yes", "1") if place % 3 else line for place, line in enumerate(rows())])
    said = user.simulate(TABLE, "model=linear")
    assert said.code == 2
    assert "north.csv: column 'ill' holds values that the schema does not list" in said.complaints[0]
    assert user.check(TABLE, "north").code == 2


def test_a_label_that_no_class_has_is_left_out_and_counted(user: User) -> None:
    """`other` is a value of the column and of no class of the target; a missing label is one of none, too."""
    labels = ["other"] * 4 + [""] * 3
    good = rows()
    user.table(
        "north", [line.rpartition(",")[0] + "," + label for line, label in zip(good, labels, strict=False)] + good[7:]
    )
    said = user.simulate(TABLE, "model=linear", target="grade")
    assert of_site(said, "north") == {"without_label": 7}
    assert "Not used at north: 7 without a label or content" in said.out


def test_lines_that_are_no_rows_are_set_aside_and_counted(user: User) -> None:
    """A CSV line with a cell too many, and JSON Lines that hold no object."""
    lines = rows()
    lines[3] += ",more"
    user.table("north", lines)
    assert of_site(user.simulate(TABLE, "model=linear"), "north") == {"quarantined": 1}
    assert "< 5 lines are no rows" in " ".join(user.check(TABLE, "north").out.split())
    shutil.rmtree(user.root / "runs")
    user.notes("north", [*notes()[:57], "{broken", '["a list"]', "17"])
    said = user.simulate(NOTES, "model=ngrams", "model.width=4")
    assert of_site(said, "north") == {"quarantined": 3}
    assert "< 5 lines are no rows" in " ".join(user.check(NOTES, "north").out.split())


def test_notes_with_nothing_in_them_are_left_out_and_counted(user: User) -> None:
    """There is nothing to learn from; the records are still there, so they are counted."""
    empty = [json.dumps({"id": f"p{place}", "note": "  ", "ill": "yes"}) for place in range(6)]
    user.notes("north", [*empty, *notes()[6:]])
    assert of_site(user.simulate(NOTES, "model=ngrams", "model.width=4"), "north") == {"without_label": 6}


def _damaged(path: Path) -> None:
    path.write_bytes(b"damaged")


def _truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:60])


def _of_zeros(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[40:-12] = bytes(len(data) - 52)
    path.write_bytes(data)


def _half_a_zip(path: Path) -> None:
    path.write_bytes(b"PK\x03\x04" + bytes(200))


def _other_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("image.npy", b"no array")


def _pickled_array(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, image=np.array([{"a": 1}], dtype=object))


def _half_a_dicom(path: Path) -> None:
    path.write_bytes(bytes(128) + b"DICM" + bytes(range(60)))


def _bomb(path: Path) -> None:
    header = bytearray(path.read_bytes())
    header[16:24] = (60_000).to_bytes(4, "big") * 2
    path.write_bytes(header)


def _removed(path: Path) -> None:
    path.unlink()


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


SPOILERS = (
    _damaged, _truncated, _of_zeros, _half_a_zip, _other_zip, _pickled_array, _half_a_dicom, _bomb, _removed, _folder,
)  # fmt: skip


def test_damaged_images_are_skipped_and_counted(user: User) -> None:
    """Every way of being damaged is one image less: no traceback, no silent drop, and check-data says so before."""
    for site in SITES:
        pictures(user, site)
    for place, spoil in enumerate(SPOILERS):
        spoil(user.exports / f"north-{place}.png")
    table = user.exports / "north.csv"
    outside, none, nowhere = "north-20.png", "north-21.png", "north-22.png"
    text = table.read_text().replace(outside, "../conf/data/own.yaml").replace(f",{none},", ",,")
    table.write_text(text.replace(nowhere, "north-23.png#7"))  # a place in a file that is no archive is not looked at
    checked = user.check(IMAGES, "north", "--target", "ill")
    assert checked.code == 0
    assert "< 5 rows name no image; 11 images are missing or damaged" in " ".join(checked.out.split())
    write_image_folder(user.root / "model", "vit")
    said = user.simulate(IMAGES, "model=image_encoder", f"model.path={user.root / 'model'}")
    assert of_site(said, "north") == {"without_label": 12, "images_missing": 1, "images_unreadable": 11}
    assert "1 without an image, 11 with an unreadable image" in said.out
    (run,) = (user.root / "runs").iterdir()
    assert '<th class="n">image unreadable</th>' in (run / "index.html").read_text()


def test_a_site_without_one_good_image_is_one_line(user: User) -> None:
    """The wrong folder, or the wrong column."""
    for site in SITES:
        pictures(user, site)
    for path in user.exports.glob("east-*.png"):
        path.unlink()
    said = user.simulate(IMAGES, "model=image_encoder", f"model.path={user.root / 'model'}")
    assert said.code == 2
    assert "east.csv: none of the 60 images could be read" in said.complaints[0]
    assert "no image can be read" in user.check(IMAGES, "east").out


def test_a_place_beyond_the_archive_is_no_image(user: User) -> None:
    """`file.npz#99` of an archive of three."""
    pictures(user, "north")
    np.savez(user.exports / "all.npz", images=np.zeros((3, 12, 12), np.uint8))
    table = user.exports / "north.csv"
    table.write_text(table.read_text().replace("north-1.png", "all.npz#2").replace("north-3.png", "all.npz#99"))
    assert "< 5 images are missing or damaged" in " ".join(user.check(IMAGES, "north").out.split())


# --- sites that can't take part -------------------------------------------------------------


def _one_class(user: User) -> None:
    user.table("north", [line.replace("yes", "no") for line in rows()])


def _empty(user: User) -> None:
    (user.exports / "north.csv").write_bytes(b"")


def _header_alone(user: User) -> None:
    user.table("north", [])


def _no_labels(user: User) -> None:
    user.table("north", [line.rpartition(",")[0] + "," for line in rows()])


def _no_file(user: User) -> None:
    (user.exports / "north.csv").unlink()


def _no_text(user: User) -> None:
    (user.exports / "north.csv").write_bytes(bytes(range(128, 256)) * 9)


@pytest.mark.parametrize(
    ("spoil", "expected", "checked"),
    [
        (_one_class, "site north, table.parquet: target 'ill': every patient has the same label", "same class"),
        (_empty, "north.csv: the file is empty", None),
        (_header_alone, "north.csv: no rows", "the table has no rows"),
        (_no_labels, "site north, table.parquet: target 'ill': no patients", "no row has a label"),
        (_no_file, "does not hold the table of site north; expected north.csv", None),
        (_no_text, "north.csv: the text is neither UTF-8 nor GB18030", None),
    ],
)
def test_a_site_that_cannot_take_part_is_one_line(
    user: User, spoil: Callable[[User], None], expected: str, checked: str | None
) -> None:
    """The line names the site or its file; check-data is red, or says the same."""
    spoil(user)
    said = user.simulate(TABLE, "model=linear")
    assert said.code == 2
    assert expected in said.complaints[0]
    before = user.check(TABLE, "north", "--target", "ill")
    assert before.code == 2
    assert checked is None or checked in " ".join(before.out.split())
