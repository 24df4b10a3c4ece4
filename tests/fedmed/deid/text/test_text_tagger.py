"""The tagger's place: trained on made-up notes, loaded from a folder, one voice beside the rules."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertForTokenClassification, BertModel

from fedmed.deid.text import NoteCleaner, TextOptions
from fedmed.deid.text.gold import read_gold
from fedmed.deid.text.tagger import Tagger
from fedmed.deid.text.training import TrainedTagger, train_tagger
from fedmed.errors import DataError, ModelError

KEY = bytes(range(32))


def made_up(path: Path) -> Path:
    """Write notes of one template in each language, with a name that no rule finds: nothing announces it."""
    notes = []
    for index in range(40):
        name = "甲乙丙丁戊己"[index % 6] + "子丑寅卯辰"[index % 5]
        text = f"随访：{name}恢复尚可，继续服药{index}天。"
        notes.append(
            {"text": text, "language": "zh", "patient": "p", "entities": [{"start": 3, "end": 5, "kind": "NAME"}]}
        )
        word = ("tuft", "karp", "vell")[index % 3]
        text = f"today {word} walked {index} feet without pain"
        end = 6 + len(word)
        notes.append(
            {"text": text, "language": "en", "patient": "p", "entities": [{"start": 6, "end": end, "kind": "NAME"}]}
        )
    path.write_text("\n".join(json.dumps(note, ensure_ascii=False) for note in notes), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrainedTagger]:
    """A folder with a tagger, and what was trained."""
    folder = tmp_path_factory.mktemp("tagger")
    return folder / "model", train_tagger(
        made_up(folder / "gold.jsonl"), folder / "model", seed=5, steps=150, hidden=64, layers=1
    )


def test_tagger_learns_its_templates(trained: tuple[Path, TrainedTagger]) -> None:
    """What training showed, the loaded tagger finds, in both languages."""
    tagger = Tagger.load(trained[0])
    for text, name in (
        ("随访：丙辰恢复尚可，继续服药7天。", "丙辰"),
        ("today karp walked 9 feet without pain", "karp"),
    ):
        assert [(text[span.start : span.end], span.kind) for span in tagger.find(text)] == [(name, "NAME")]


def test_tagger_is_one_voice_of_the_pipeline(trained: tuple[Path, TrainedTagger]) -> None:
    """Its spans join those of the rules."""
    note = "随访：丙辰恢复尚可，继续服药7天。手机13912345678"
    with_tagger = NoteCleaner(options=TextOptions(tagger=str(trained[0])), key=KEY)
    assert NoteCleaner(options=TextOptions(), key=KEY).clean(note, patient="p").text.startswith("随访：丙辰")
    assert with_tagger.clean(note, patient="p").text == "随访：[姓名]恢复尚可，继续服药7天。手机[电话]"


def test_long_note_is_read_to_its_end(trained: tuple[Path, TrainedTagger]) -> None:
    """A note longer than the model's window is read in pieces."""
    text = "随访：丙辰恢复尚可，继续服药7天。" * 60
    found = {span.start for span in Tagger.load(trained[0]).find(text)}
    assert any(start > len(text) - 100 for start in found)


def test_folder_says_what_it_is(trained: tuple[Path, TrainedTagger]) -> None:
    """The folder holds safetensors and no pickle, and its card says that it is not clinical grade."""
    folder, facts = trained
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "not of clinical grade" in card
    assert f"{facts.parameters:,}" in card
    assert {path.suffix for path in folder.iterdir()} == {".json", ".safetensors", ".md"}


def test_training_is_reproducible_and_leaves_the_generator(tmp_path: Path, gold_file: Callable[..., Path]) -> None:
    """The same notes and seed give the same weights; torch's global state is as before."""
    gold, state = gold_file("zh", 6, seed=1), torch.random.get_rng_state()
    for name in ("one", "two"):
        train_tagger(gold, tmp_path / name, seed=9, steps=2, hidden=32, layers=1)
    one, two = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "two"))
    assert one == two
    assert torch.equal(state, torch.random.get_rng_state())


def test_nothing_to_train_on_is_refused(tmp_path: Path) -> None:
    """An empty gold file is refused and no folder is written."""
    (tmp_path / "gold.jsonl").write_text("\n", encoding="utf-8")
    assert list(read_gold(tmp_path / "gold.jsonl")) == []
    with pytest.raises(DataError, match="no notes"):
        train_tagger(tmp_path / "gold.jsonl", tmp_path / "out", seed=1, steps=1)
    assert not (tmp_path / "out").exists()


def test_pickled_weights_are_refused(trained: tuple[Path, TrainedTagger], tmp_path: Path) -> None:
    """A folder with pickled weights in place of safetensors is not loaded."""
    folder = shutil.copytree(trained[0], tmp_path / "model")
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match="safetensors"):
        Tagger.load(folder)


def test_other_folders_are_refused(trained: tuple[Path, TrainedTagger], tmp_path: Path) -> None:
    """No folder, cut weights, unknown labels, and a model without a trained head are refused."""
    with pytest.raises(ModelError, match="safetensors"):
        Tagger.load(tmp_path / "none")
    cut = shutil.copytree(trained[0], tmp_path / "cut")
    (cut / "model.safetensors").write_bytes((cut / "model.safetensors").read_bytes()[:900])
    with pytest.raises(ModelError, match="token-classification"):
        Tagger.load(cut)
    strange = shutil.copytree(trained[0], tmp_path / "strange")
    small = BertConfig(vocab_size=200, hidden_size=32, num_hidden_layers=1, num_attention_heads=1, intermediate_size=32)
    small.id2label, small.label2id = {0: "O", 1: "B-CHEESE"}, {"O": 0, "B-CHEESE": 1}
    BertForTokenClassification(small).save_pretrained(strange)
    with pytest.raises(ModelError, match="labels"):
        Tagger.load(strange)
    headless = shutil.copytree(trained[0], tmp_path / "headless")
    BertModel(small, add_pooling_layer=False).save_pretrained(headless)
    with pytest.raises(ModelError, match="missing"):
        Tagger.load(headless)


def test_common_words_of_a_tagger_are_dropped() -> None:
    """A model that takes 黄疸 or Parkinson for a name is not believed."""
    from fedmed.deid.text import tagger  # noqa: PLC0415  its filter alone

    assert all(tagger._is_common(word) for word in ("黄疸", "高血压", "Parkinson", "Left"))
    assert not any(tagger._is_common(word) for word in ("黄敏", "郎月笙", "Vroonhof", "Jane Parkinson"))
