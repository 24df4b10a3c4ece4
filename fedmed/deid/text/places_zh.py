"""Chinese hospitals and addresses.

Why it exists: where somebody lives or was treated narrows down who it is; only the province is coarse enough to stay.

Rules:
    * A hospital is what ends in 医院, 卫生院 …; 我院, 当地医院 and other words for no particular one stay.
    * An address is what a label (住址：) says, or a chain of places from city to door, or a street with a number.
    * A city is known by its name (GB/T 2260), because 市 alone also ends 超市 and 城市.

What it does not do: lone villages or work places without label; provinces alone stay.
"""

import re
from collections.abc import Iterator

from fedmed.deid.divisions import CITIES, PROVINCE_CODES
from fedmed.deid.text.patterns import PlacedSearch, any_of, by_first, listed
from fedmed.deid.text.reading import CJK
from fedmed.deid.text.spans import Span

_H = "一-鿿"
_PROVINCE_SHORT = sorted(
    {re.sub("壮族自治区|回族自治区|维吾尔自治区|自治区|特别行政区|省|市", "", name) for name in PROVINCE_CODES}
)
_PROVINCE = f"(?:{'|'.join(_PROVINCE_SHORT)})(?:壮族自治区|回族自治区|维吾尔自治区|自治区|特别行政区|省|市)?"
_CITY_NAMES = sorted(
    {city for cities in CITIES.values() for city in cities.split()}, key=lambda city: (-len(city), city)
)
_CITY = "|".join(
    [*_CITY_NAMES, "(?:北京|上海|天津|重庆)市?"]
    + [city[:-1] for city in _CITY_NAMES if city.endswith("市") and len(city) >= 3]
)
_NOT_PLACE = "(?<![城超门都菜夜股上地集])"
_UNIT = (
    rf"[{_H}]{{1,7}}?(?:{_NOT_PLACE}市|自治州|自治县|地区|新区|开发区|(?<![病区灶侧部疫社校])区(?!域|间"
    rf"|分|别)|(?<![院])县|旗|街道办?(?:事处)?|镇(?![静痛咳吐定流])|乡|村委会|(?<![农])村|屯|嘴|社区"
    rf"|居委会)"
)
_STREET = rf"[{_H}0-9]{{1,9}}?(?:路|大道|大街|街|巷|弄|胡同|里弄|公路)(?:[东南西北中]段?|[一二三四五六七八九十]段)?"
_DOOR = (
    r"(?: ?[0-9A-Za-z一二三四五六七八九十百甲乙丙丁]+(?:[\-—][0-9A-Za-z]+)* ?(?:号楼|号院|号|弄|栋|幢"
    r"|座|单元|室|户|楼|层|组|队|社|门|房|房间)(?:-[0-9]+)?|[0-9]+(?:-[0-9]+)+)"
)
_ESTATE = (
    rf"[{_H}]{{2,10}}?(?:小区|花园|公寓|家园|新村|苑|花苑|雅苑|嘉园|名邸|华庭|广场|大厦|山庄|别墅"
    rf"|家属院|宿舍|公馆|府|城|湾|里)"
)
_REST = rf"(?:{_UNIT}){{0,4}}(?:{_STREET})?(?:{_DOOR})?(?:{_ESTATE}(?={_DOOR}))?(?:{_DOOR}){{0,5}}"
_CITY_START = "".join(sorted({name[0] for name in [*_CITY_NAMES, *_PROVINCE_SHORT]}))
_CITY_SECOND = "".join(sorted({name[1] for name in [*_CITY_NAMES, *_PROVINCE_SHORT]}))
_CITY_SIGN = re.compile(rf"[{_CITY_START}](?=[{_CITY_SECOND}])")
_CHAIN = PlacedSearch(
    rf"(?:(?:{_PROVINCE})(?:{_CITY})?|(?:{_CITY}))"
    rf"(?:(?P<more>(?:{_UNIT}){{1,4}}(?:{_STREET})?"
    rf"|{_STREET}(?={_DOOR}))(?:{_DOOR})?(?:{_ESTATE}(?={_DOOR}))?(?:{_DOOR}){{0,5}})?",
    lambda view: [sign.start() for sign in _CITY_SIGN.finditer(view)],
)
_THREE_LEVELS = re.compile(
    rf"[{_H}]{{2,5}}?{_NOT_PLACE}市[{_H}]{{1,5}}?(?:区|县|市|旗)(?:{_UNIT}){{0,"
    rf"3}}(?:{_STREET})?(?:{_DOOR})?(?:{_ESTATE}(?={_DOOR}))?(?:{_DOOR}){{0,5}}"
)
_NUMBERED = re.compile(r"[路道街巷同](?:[东南西北中一二三四五六七八九十]?段?) ?[0-9]")
_ESTATE_SIGN = re.compile("小区|花园|公寓|家园|新村|苑|园|家属院|山庄|大厦")
_STREET_NUMBER = re.compile(
    rf"[{_H}]{{2,7}}?(?:路|大道|大街|街|巷|胡同)(?:[东南西北中]段?|[一二三四五六七八九十]段)? "
    rf"?[0-9]+(?:-[0-9]+)? ?(?:号|弄)(?:院)?(?:-[0-9]+)?(?:{_ESTATE}(?={_DOOR}))?(?:{_DOOR}){{0,5}}"
)
_ESTATE_NUMBER = re.compile(
    rf"[{_H}]{{2,8}}?(?:小区|花园|公寓|家园|新村|花苑|雅苑|嘉园|苑|家属院|山庄"
    rf"|大厦)[0-9A-Za-z一二三四五六七八九十]+(?:号楼|号|栋|幢|座|单元|室|期)(?:{_DOOR}){{0,5}}"
)
_VILLAGE = re.compile(
    rf"[{_H}]{{2,4}}?(?:县|镇(?![静痛咳吐定流])|乡)[{_H}]{{1,5}}?(?:镇(?![静痛咳吐定流])|乡|村|屯"
    rf"|社区)(?:[{_H}]{{1,5}}?村)?(?:[0-9一二三四五六七八九十]+(?:组|队|社|号))*"
    rf"|[{_H}]{{2,4}}?村(?:民委员会)?(?:第?[0-9一二三四五六七八九十]+(?:组|队|社|号|屯))+"
)
_TOWN = re.compile("市")
_RURAL = re.compile("[村镇乡县]")
LABELS = listed(
    "家庭地址 家庭住址 居住地址 现住址 现住地 常住地 常住地址 住址 地址 住所 住所地 户籍地 户籍地址 "
    "户籍 户口地址 户口所在地 籍贯 出生地 工作单位"
    " 单位名称 就业单位 就读学校 通讯地址 通信地址 联系地址 邮寄地址 邮政编码 邮编 来源地 现居"
)
_LABEL = re.compile(
    by_first(
        [
            *(rf"{label}(?:\([^()\n]{{0,8}}\))? ?[:=为是][ ]*" for label in sorted(LABELS, key=len, reverse=True)),
            *listed("家住 现住(?!院) 居住[于在] 住[于在](?!院) 患者住(?!院) 户籍在 户口在"),
        ]
    )
)
_VALUE = re.compile(rf"[{CJK}0-9A-Za-z#\-()·]+(?: (?=[0-9])[0-9A-Za-z\-]+ ?[{CJK}0-9A-Za-z#\-()·]*)*")
_PLACE_END = re.compile(r".*(?:市|区|县|镇|乡|村|路|街|巷|弄|号|栋|幢|室|苑|省|州|旗|花园|公寓|组|屯|楼|单元)")
_NO_ADDRESS = re.compile(
    r"研究|本[社村地市县]|该|当地|我|附近|不详|不明|未知|无|同上|同前|本地|外地|农村|城市|城镇|拒绝"
    r"|保密|待业|退休|务农|居家"
)
_STOP = re.compile(r"电话|手机|联系|邮编|身份证|工作|职业|民族|婚姻|入院|出院|性别|年龄|病史|邮政|于|因")

_SUFFIX = (
    "人民医院|中医院|中心医院|医院|卫生院|卫生服务中心|卫生服务站|卫生站|卫生所|卫生室|医学中心"
    "|医疗中心|诊所|门诊部|保健院|保健所|疗养院|康复中心|急救中心|体检中心|疾控中心|疾病预防控制中心"
    "|养老院|福利院|护理院|医务室|血液中心|医学院|医科大学"
)
_CAMPUS = re.compile(
    rf"(?:[{_H}]{{1,4}}(?:院区|分院)|\([{_H}]{{1,6}}(?:院区|分院|院)\)|分院|[东西南北]院区?"
    rf"|第[一二三四五六七八九]临床(?:医学院|学院))?"
)
_AS_LABEL = re.compile(" ?:")
_HEAD = re.compile(rf"[{_H}0-9A-Za-z()·]{{1,24}}$")
_HOSPITAL_WORD = re.compile(any_of(_SUFFIX.split("|")))
_LEFT = re.compile(
    rf".*(?:的|如|就诊于|就诊|符合|获得|超出|遵守|选择|送达|其中|同时|比如|例如|所做|转诊|转入|转至"
    rf"|转往|转到|收入|送至|送往|送到|前往|来自|住院于|治疗于|任职|急诊|我科|我院|外院|曾在|在|于|至|到"
    rf"|往|赴|由|从|经|自|感谢|意见同|请|患者|遂|曾|([^{_H}()]))"
)
_GENERIC = re.compile(
    r"(?:两家|三家|以上|我|本|该|贵|外|此|其|某|各|多|两|几|一|另|当地|附近|上级|下级|基层|社区|综合"
    r"|专科|三甲|二甲|三级|二级|一级|三级甲等|二级甲等|县级|市级|省级|乡镇|乡|镇|县|市|省|区|村|外地"
    r"|外省|外市|家|多家|大型|当地县|当地市|当地镇|个体|私人|私立|民营|公立|定点|转诊|协作|研究|参与|分"
    r"|整形|儿童|妇幼|妇产|口腔|眼科|精神|肿瘤|传染病|中|中西医结合|骨科|教学|临床|门诊|急诊|急救|健康"
    r"|不同|所在|原|同|去|来|回|入|出|至|到|往|国内|国外|美国|级|医院|的|名|所|省市|康复|体检|他|她|上"
    r"|大|小|地方|军队|正规|某三甲|人民|中心|就近|本地|本地区|本市|本县|本省|全国|其他|其它|任何|住"
    r"|离开|单位|职工|学校|工厂|村级|试验|研究者|者|家所|名医)*"
)


def find_places(view: str) -> list[Span]:
    """Return the spans of hospitals and addresses in the view of a note."""
    found = list(_hospitals(view)) if _HOSPITAL_WORD.search(view) else []
    found += _labelled(view)
    for match in _CHAIN.finditer(view):
        joined = _JOINED.search(match["more"] or "")
        if (match["more"] and not joined) or match[0].endswith(("市", "自治州", "盟")) or _lives(view, match.start()):
            found.append(_address(match.start(), match.end()))
    for sign, pattern in (
        (_TOWN, _THREE_LEVELS),
        (_NUMBERED, _STREET_NUMBER),
        (_ESTATE_SIGN, _ESTATE_NUMBER),
        (_RURAL, _VILLAGE),
    ):
        if sign.search(view):
            found += [_trimmed(match) for match in pattern.finditer(view)]
    return found


_JOINED = re.compile("[或的是有其]")


def _address(start: int, end: int) -> Span:
    return Span(start=start, end=end, kind="ADDRESS")


_LIVES = re.compile(r"(?:籍贯|来自|出生于|生于|居住|住|户籍|老家|长居|久居|返回|前往|去过|旅居|定居)[:于在是为]? ?$")
_TRIM = re.compile(r".*(?:家住|现住|住于|住在|居住|住|位于|于|在|到|至|从|自|来自|返回|为|系|是|:)")


def _lives(view: str, start: int) -> bool:
    return _LIVES.search(view, max(0, start - 6), start) is not None


def _trimmed(match: re.Match[str]) -> Span:
    left = _TRIM.match(match[0])
    return _address(match.start() + (left.end() if left and left.end() < len(match[0]) - 3 else 0), match.end())


def _labelled(view: str) -> Iterator[Span]:
    for label in _LABEL.finditer(view):
        value = _VALUE.match(view, label.end(), label.end() + _LONGEST_VALUE)
        if value is None or _NO_ADDRESS.match(value[0]):
            continue
        stop = _STOP.search(value[0], 2)
        text = value[0][: stop.start()] if stop else value[0]
        if not label[0].rstrip(" ").endswith((":", "=", "为", "是")):
            place = _PLACE_END.match(text)
            text = place[0] if place else ""
        if 2 <= len(text) <= 45:
            yield _address(value.start(), value.start() + len(text.rstrip(" (")))


_LONGEST_VALUE = 512  # an address has 45 characters at most; a run without a mark may be all of a note


def _hospitals(view: str) -> Iterator[Span]:
    last = 0
    for match in _HOSPITAL_WORD.finditer(view):
        before = _HEAD.search(view, max(last, match.start() - 24), match.start())
        if match[0] in {"医学院", "医科大学"} and view.startswith(("附属", "第"), match.end()):
            continue
        last, linked = match.end(), last
        if before is None or _AS_LABEL.match(view, match.end()):
            continue
        head = before[0]
        known = _CHAIN_START.search(head)
        left = _LEFT.match(head)
        if known and "大学" in head[: known.start()]:
            known = None  # the city is inside the name
        cut = known.start() if known else left.end() if left else 0
        name = head[cut:].lstrip("()·") if cut or before.start() != linked else head.lstrip("()·和及与或")
        if name and not _GENERIC.fullmatch(name):
            campus = _CAMPUS.match(view, match.end())
            yield Span(start=match.start() - len(name), end=campus.end() if campus else match.end(), kind="HOSPITAL")


_CHAIN_START = re.compile(f"(?=[{_CITY_START}中解武])(?:{_CITY}|{_PROVINCE}|中国|解放军|武警)")
