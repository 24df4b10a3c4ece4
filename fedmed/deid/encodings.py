"""Which encoding a text file is in, and whether what it then says is a language or chance.

Why it exists: almost any bytes are some GB18030. A note in Big5, Windows-1252, Shift-JIS or EUC-KR then reads as
characters that no rule knows, leaves as cleaned, and whoever turns the reading round has the names back.

Rules:
    * UTF-8 proves itself. GB18030 is a guess, believed only of text that reads as Chinese: no private characters, no
      foreign letters, and enough of the characters that Chinese is mostly made of, in the whole and, against lines of
      another encoding, line by line.
    * Another encoding is read only where the site's policy says that its files have it; UTF-8 is told all the same.
    * Whatever is not believed is refused. Few characters prove little: a text with one Han character is refused.

What it does not do: guess among more encodings, or repair a text.
"""

import codecs
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Literal, get_args

from fedmed.deid.text.lexicon_zh import GIVEN, STRONG_SURNAMES
from fedmed.errors import DataError

Encoding = Literal["detect", "utf-8", "gb18030", "big5", "cp1252"]
ENCODINGS: tuple[str, ...] = get_args(Encoding)

UTF_8 = "utf-8-sig"

_CHUNK_BYTES = 1 << 20
_CODECS = {"utf-8": UTF_8, "gb18030": "gb18030", "big5": "big5hkscs", "cp1252": "cp1252"}
_LEAST_COMMON = 0.5
_MOST_FOREIGN = 0.1
_STRANGE_LINE, _LONG_LINE = 0.5, 6

_HAN = re.compile(r"[\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
_PRIVATE = re.compile(r"[\ue000-\uf8ff\U000f0000-\U0010ffff\ufffd]")
_FOREIGN = re.compile(r"[\u0400-\u04ff\u2500-\u259f\u3041-\u30fa\u3105-\u312f\uac00-\ud7a3]")
_HIGH = re.compile(r"[\u0800-\U0010ffff]")
_OUTSIDE_ASCII = re.compile(r"[^\x00-\x7f]")
_RUN = re.compile(r"[\u4e00-\u9fff]+")
_LONGEST_NAME = 3
_BESIDE = re.compile(r"[A-Za-z][\u3400-\u9fff]|[\u3400-\u9fff][A-Za-z]")
_GLUED = re.compile(r"[A-Za-z]([\u3400-\u9fff])(?=[A-Za-z])")


class EncodingError(DataError):
    """A text whose encoding is not known."""


def decode(data: bytes, *, name: str, declared: Encoding = "detect") -> str:
    """Return the text of a file.

    >>> decode("患者诉头晕".encode("gb18030"), name="a note")
    '患者诉头晕'

    Args:
        data: The bytes.
        name: What the message calls the file.
        declared: What the site's policy says; `detect` knows UTF-8 and, if it is believed, GB18030.

    Raises:
        EncodingError: It is not in the encoding, or not believed to be.
    """
    possible: dict[str, str] = {}
    for encoding in _candidates(declared):
        with suppress(UnicodeDecodeError):
            possible[encoding] = data.decode(encoding)
    chosen = _chosen(tuple(possible), lambda encoding: possible[encoding].split("\n"), declared)
    if chosen is None:
        raise _unknown(name, declared)
    return possible[chosen]


def encoding_of(path: Path, take: Callable[[bytes], None], *, declared: Encoding = "detect") -> str:
    """Return the name of a file's encoding as Python has it; memory holds one chunk.

    Args:
        path: The file, which is read once or twice.
        take: Is given every byte of it once, for a hash.
        declared: See `decode`.

    Raises:
        EncodingError: As `decode`.
    """
    possible = {name: codecs.getincrementaldecoder(name)() for name in _candidates(declared)}
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            take(chunk)
            possible = {name: decoder for name, decoder in possible.items() if _decodes(decoder, chunk)}
    possible = {name: decoder for name, decoder in possible.items() if _decodes(decoder, b"", final=True)}
    chosen = _chosen(tuple(possible), lambda encoding: _lines(path, encoding), declared)
    if chosen is None:
        raise _unknown(path.name, declared)
    return chosen


def _lines(path: Path, encoding: str) -> Iterator[str]:
    with path.open(encoding=encoding, newline="") as text:
        yield from text


def _candidates(declared: Encoding) -> tuple[str, ...]:
    other = "gb18030" if declared == "detect" else _CODECS[declared]
    return tuple(dict.fromkeys((UTF_8, other)))


def _unknown(name: str, declared: Encoding) -> EncodingError:
    other = "GB18030" if declared == "detect" else declared
    return EncodingError(
        f"{name}: the text is neither UTF-8 nor {other}; save it as UTF-8, or name its encoding in the policy (files: "
        "encoding); what is only by chance GB18030 does not count"
    )


def _chosen(possible: Sequence[str], lines: Callable[[str], Iterable[str]], declared: Encoding) -> str | None:
    """Return the encoding that is believed, of those that decode a text; `lines` gives the text's lines in one."""
    if UTF_8 in possible:
        # A few Chinese words in GB18030 may be UTF-8 by chance; then they read as letters with marks, or Arabic.
        doubtful = declared == "detect" and len(possible) > 1 and not any(_HIGH.search(line) for line in lines(UTF_8))
        if not doubtful or any(_BESIDE.search(line) for line in lines("gb18030")):
            return UTF_8
        return None if _reads_as_chinese(lines("gb18030"), few=0) else UTF_8
    for encoding in possible:
        known = declared != "detect" and not any(_PRIVATE.search(line) for line in lines(encoding))
        if known or (declared == "detect" and _reads_as_chinese(lines(encoding))):
            return encoding
    return None


def _reads_as_chinese(lines: Iterable[str], *, few: int = 1) -> bool:
    """Say whether lines that decode as GB18030 are Chinese: half of the Han are common, and `few` more."""
    han = common = foreign = other = 0
    for line in lines:
        if line.isascii():
            continue
        if _PRIVATE.search(line) or any(match[1] not in _characters() for match in _GLUED.finditer(line)):
            return False
        found = _HAN.findall(line)
        if len(found) >= _LONG_LINE and sum(one not in _characters() for one in found) > _STRANGE_LINE * len(found):
            return False
        han += len(found)
        named = [name[0] for name in _RUN.finditer(line) if _is_name(name[0])]
        common += sum(one in _COMMON for one in found) + sum(one not in _COMMON for one in "".join(named))
        foreign += len(_FOREIGN.findall(line))
        other += len(_OUTSIDE_ASCII.findall(line))
    return foreign <= _MOST_FOREIGN * other and (common >= _LEAST_COMMON * han + few if han else other > 0 and few > 0)


def _is_name(run: str) -> bool:
    """Say whether a few characters that stand alone are a family's and a given name: tables hold little else."""
    return run[0] in STRONG_SURNAMES and 1 < len(run) <= _LONGEST_NAME and GIVEN.issuperset(run[1:])


@lru_cache(maxsize=1)
def _characters() -> frozenset[str]:
    """Return the Han characters of GB 2312, which nearly all simplified Chinese is made of."""
    rows, cells = range(0xB0, 0xF8), range(0xA1, 0xFF)
    return frozenset(bytes((row, cell)).decode("gb2312", "ignore") for row in rows for cell in cells) - {""}


def _decodes(decoder: codecs.IncrementalDecoder, data: bytes, *, final: bool = False) -> bool:
    try:
        text = decoder.decode(data, final)
    except UnicodeDecodeError:
        return False
    return "\0" not in text  # UTF-16 decodes as either, with a null beside each letter


# The characters that general and clinical Chinese, names and addresses are mostly made of, some in both forms.
_COMMON = frozenset(
    "一丁七万三上下不与且世丙业东两严丧个中临为主丽么义之九也乡书乳了争事二于云五些亡交产京人什今从他付代以们件任休会"
    "伟传伤估伴但位低住体何余作你使來例依侧侯便促保信個倍們候值做健偶像儿元兄先光克免入全兩八公六兰共关其具冀内再军农"
    "冠冯决况准凝几凤出分切划刘则刚判利别到制剂前劉力功加务动勇動務包化北区医區十千半华卒单南卢危即却历压原去县参又及"
    "双反发取受变口只可史右叶号司各合吉同名后向吕否听吳吴吸告呕员周呼命和咳品响員哺唐問單嗽器四回因围国图國在地场址均"
    "型城基報場塞增壓士壮声壽处备复夏外多够大天太夫失头女她好如妇妊妹妻姐姓姚姜娜娟娠婚子孔孕字存孙孟季学宁它宇安宋完"
    "官定宜实室宫家寒对导射将將導小少尔就尹尿局展属山岁崔川州工左差己已巴巷市师带師常干平年并幾广庄庆床应度康廖建开异"
    "弄式引弟张張强当形彩彭影往征很律後徐得德心必忌志怀态思怡急性总恶患情想愈意感愿慢應成我或战戰户所手才打扫把抑抗折"
    "护报拉括持指按振损换据排接控提搏支收放政效敏教数數文斌断斯新斷方施族无既日时明春是显時晋晕晨更曹曾最會月有服望期"
    "未本术朱机权李村杜条来杨杰東板林果染查标栋栓样核根格桂案梁梅梓梗條检植椎楊業楼標樣檔檢次欣欧欲正此武歲死段母每毒"
    "比毛民气氣氨水求汉汗江汪決沈沒没沪河治泌法波注泻洁洋津洪活流测浙浩海消涛液涵清渝温湖準满滥潘激灣灶炎点為烟热無然"
    "照熊爭爱父爾片物特状玉王现玲現理琳琴琼甘生產用田由甲电男界當疗疫疾病症痊痛痰瘤癌發白百的皖皮目直相省看真眠眼着睡"
    "知石研硬确碍磁磊社神禁福秀种科秦移程稳究空立竭笔符第等筛签管籍类粒粤精糖系素結絡統線縣縫红级线组细织经结给绝统续"
    "综编缝缺罗署羅美義老者而耐职聯聲肌肖肝肠肢肤肩育肺肾肿胃胆胞胡胰胸能脂脉脊脏脑脾腔腰腹腺膜膝自至致與般良色艳节芳"
    "苏苗英范荣药莫莲萍葉葛董蒋蒙蔡蕭薛藏藥蘇處號蛋血行術街表衰被裡西要見視親覺觀见观规视觉解計設許診話該認說論謝識護"
    "變讓计认让记许论设访证评识诉诊试话该说谢谭象豫資质贵贺贾资赣走赵起超趙足路踝身转轻辉边辽达过运近还这进退适选通造"
    "進運過道避還邓那邱邵邹郑郝部郭都鄉鄧鄭配酐酒酶酸醉醫采里重量金鎮鑫针钟钱镇镜長长間關门闫问间闷闽队阳阴阻陆陈限陕"
    "院除陳陶隊随障难雪零雷電需霞青静非面韩頭題類项须顾预颅领颈题风飞食饮馬馮驗马验骨髋髓體高魏鲁鹏麻黃黄黎黑點龄龙龚"
)
