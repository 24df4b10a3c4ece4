"""jieba as a further voice: quiet, in a private folder, and under the rules' lists."""

import logging
import sys
import tempfile
from pathlib import Path

import pytest

from fedmed.deid.text import NoteCleaner, TextOptions, jieba_voice
from fedmed.errors import UsageError

pytest.importorskip("jieba")
KEY = bytes(range(32))


def test_finds_a_name_without_context(caplog: pytest.LogCaptureFixture) -> None:
    """A name in the middle of a sentence is found by the dictionary, which is loaded without a word."""
    jieba_voice._segmenter.cache_clear()
    note = "随后李小鹏复查，黄疸消退，张力正常，高血压稳定"
    rules = NoteCleaner(options=TextOptions(), key=KEY).clean(note, patient="p")
    with caplog.at_level(logging.DEBUG):
        both = NoteCleaner(options=TextOptions(jieba=True), key=KEY).clean(note, patient="p")
    assert rules.text == note
    assert both.text == note.replace("李小鹏", "[姓名]")
    assert [record for record in caplog.records if record.name.startswith("jieba")] == []


def test_cache_is_private(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The dictionary's cache is not left as a predictable file in the shared temporary folder."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    jieba_voice._segmenter.cache_clear()
    jieba_voice.find_words("随后李小鹏复查")
    assert list(tmp_path.iterdir()) == []


def test_absent_package_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the package the option is refused with what to do."""
    jieba_voice._segmenter.cache_clear()
    monkeypatch.setitem(sys.modules, "jieba", None)
    with pytest.raises(UsageError, match="pip install jieba"):
        jieba_voice.find_words("患者")
    jieba_voice._segmenter.cache_clear()
