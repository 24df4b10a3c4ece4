"""Bytes are read in the encoding that they are in, or not at all."""

import gzip
from pathlib import Path

import pytest

from fedmed.deid.encodings import EncodingError, decode, encoding_of

CHINESE = (
    "患者贾思远，女，58岁，因反复咳嗽、咳痰伴气促10余年，加重3天入院。查体：双肺可闻及湿啰音。",
    "姓名,性别,年龄,诊断\n贾思远,女,58,慢性阻塞性肺疾病\n陶喆,男,41,癫痫\n苏珮,女,37,髋关节脱位\n",
    "体温 38.5℃，血压 150/95 mmHg，α-羟丁酸脱氢酶 210 U/L。",
    "BP 120/80, temp 37.0℃, dose 5 μg ±0.5",
    "主诉：头晕",
    "编号,备注\n7,头晕\n",
    "name,age\n邓晗,32\n谭岱岳,45\n葛嵘,61\n丁弘曦,70\n殷昊旻,55\n鲍彦彬,40\n",
    "The patient (贾思远) was seen by 李医生 on the ward.",
)
TRADITIONAL = (
    "姓名：吳宗翰，病歷號 55310，患者吳宗翰自訴胸悶三天，住院治療，主治醫師林淑芬。",
    "病患蔡佩珊，女，62歲，因腹痛至急診就診。",
    "蔡佩珊",
)
WESTERN = (
    "Herr Jörg Krüger, geb. Müller, wurde am Dienstag für drei Tage aufgenommen.",
    "Zoë",
    "patient: Andrée Lefèbvre, née à Orléans",
    "Señor Núñez, 41 años; dolor torácico.",
    "Temp 38 °C, dose 5µg; Dr Sjögren",
)
JAPANESE = ("患者は鈴木一郎さん、62歳男性。胸痛を主訴に入院した。", "ｽｽﾞｷ ｲﾁﾛｳ", "さくら", "山田花子")
KOREAN = (
    "name,age\n최은정,47\n박지영,61\n윤서연,33\n정하윤,29\n임도현,51\n강민준,44\n",
    "환자 김민수는 흉통으로 입원하였다. 고혈압 병력이 있다.",
    "이름,나이\n김민수,54\n박지영,61\n최은정,47",
    "김민수",
)
RUSSIAN = ("Пациент Сергей Иванов поступил с жалобами на боль в груди.", "Иванова")


@pytest.mark.parametrize("text", CHINESE)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "gb18030"])
def test_chinese_is_read_in_both_of_its_usual_encodings(tmp_path: Path, text: str, encoding: str):
    """Notes and tables, long and short, with symbols, rare characters of names and English among them, come out."""
    data = text.encode(encoding)
    assert decode(data, name="it") == text
    (tmp_path / "t.csv").write_bytes(data)
    seen: list[bytes] = []
    assert encoding_of(tmp_path / "t.csv", seen.append) == ("gb18030" if encoding == "gb18030" else "utf-8-sig")
    assert b"".join(seen) == data


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        *((text, name) for text in TRADITIONAL for name in ("big5", "big5hkscs")),
        *((text, name) for text in WESTERN for name in ("cp1252", "latin-1")),
        *((text, name) for text in JAPANESE for name in ("cp932", "euc_jp")),
        *((text, "cp949") for text in KOREAN),
        *((text, name) for text in RUSSIAN for name in ("cp1251", "koi8-r", "iso8859-5")),
        *((text, "utf-16") for text in (CHINESE[0], WESTERN[1])),
    ],
)
def test_other_encodings_are_refused(tmp_path: Path, text: str, encoding: str):
    """What was not written as UTF-8 or GB18030 is refused, though its bytes may be some GB18030; no text is shown."""
    data = text.encode(encoding)
    with pytest.raises(EncodingError, match="UTF-8") as caught:
        decode(data, name="it")
    assert str(caught.value).isascii()
    (tmp_path / "t.csv").write_bytes(data)
    with pytest.raises(EncodingError, match="neither"):
        encoding_of(tmp_path / "t.csv", lambda _: None)


@pytest.mark.parametrize("cell", ["一般", "右", "轻", "六", "退休", "父母", "痊愈"])
def test_a_column_of_one_common_word_is_chinese(tmp_path: Path, cell: str):
    """A table whose only Chinese is the same short word in each row is as sure as any; a refusal would cost it all."""
    (tmp_path / "t.csv").write_bytes("".join(f"{row},{cell}\n" for row in range(40)).encode("gb18030"))
    assert encoding_of(tmp_path / "t.csv", lambda _: None) == "gb18030"


def test_a_name_in_another_encoding_among_sound_chinese_is_refused():
    """One foreign line, or one foreign letter within a word, refuses the file: its neighbours don't vouch for it."""
    sound = (CHINESE[0] + "\n").encode("gb18030") * 20
    for foreign in (
        "Krüger\n".encode("cp1252"),
        "贾思远因胸闷住院治疗三天\n".encode(),
        TRADITIONAL[0].encode("big5"),
        "諸症改善し退院となった\n".encode("cp932"),
        "\ue000\ue001\n".encode("gb18030"),
    ):
        with pytest.raises(EncodingError):
            decode(sound + foreign, name="it")


def test_a_site_may_say_what_its_files_are_in(tmp_path: Path):
    """A declared encoding is read as such; UTF-8 is known all the same; what fits neither is refused."""
    assert decode(TRADITIONAL[0].encode("big5"), name="it", declared="big5") == TRADITIONAL[0]
    assert decode(WESTERN[0].encode("cp1252"), name="it", declared="cp1252") == WESTERN[0]
    assert decode(CHINESE[0].encode(), name="it", declared="big5") == CHINESE[0]
    assert decode("陶".encode("gb18030"), name="it", declared="gb18030") == "陶"
    with pytest.raises(EncodingError):
        decode(CHINESE[0].encode("gb18030"), name="it", declared="utf-8")
    with pytest.raises(EncodingError):
        decode(WESTERN[0].encode("cp1252"), name="it", declared="big5")
    with pytest.raises(EncodingError):
        decode("\ue000\ue001\n".encode("gb18030"), name="it", declared="gb18030")
    (tmp_path / "t.csv").write_bytes(TRADITIONAL[0].encode("big5"))
    assert encoding_of(tmp_path / "t.csv", lambda _: None, declared="big5") == "big5hkscs"


def test_one_character_proves_nothing(tmp_path: Path):
    """A single common character may be two letters of another encoding, and nulls between letters are UTF-16."""
    with pytest.raises(EncodingError):
        decode("王".encode("gb18030"), name="it")
    (tmp_path / "t.csv").write_bytes("name,age".encode("utf-16-le"))
    with pytest.raises(EncodingError):
        encoding_of(tmp_path / "t.csv", lambda _: None)


def test_chinese_that_is_utf8_by_chance_is_refused():
    """Two words in GB18030 whose bytes also make UTF-8 are refused; other letters in UTF-8 are not."""
    data = "陆,魏".encode("gb18030")
    assert data.decode("utf-8") != "陆,魏"
    with pytest.raises(EncodingError):
        decode(data, name="it")
    for text in (*WESTERN, "naïve café, 37 °C", "سارة", "Ελένη", *RUSSIAN):
        assert decode(text.encode(), name="it") == text


def test_real_chinese_text_comes_out():
    """Of real criteria of studies as GB18030, three a file, at most one in a hundred is refused."""
    path = Path(__file__).parents[4] / "shared" / "data" / "trial-criteria-zh" / "test.txt.gz"
    if not path.is_file():
        pytest.skip("the shared data are not there")
    lines = [line.split("\t")[-1] for line in gzip.decompress(path.read_bytes()).decode().splitlines()]
    texts = ["\n".join(lines[at : at + 3]) for at in range(0, len(lines), 3)]
    refused = 0
    for text in texts:
        try:
            refused += decode(text.encode("gb18030"), name="it") != text
        except EncodingError:
            refused += 1
    assert len(texts) > 300
    assert refused <= len(texts) / 100
