"""Numbers and addresses of machines that name a person: resident IDs, phones, records, cards, plates, e-mail, URLs.

Why it exists: these have a form, and a form can be found without knowing anybody.

Rules:
    * `\\b` fails between a Chinese character and a digit: every border is an explicit look-around.
    * What stands after 身份证 or another label is masked, whatever its checksum says.
    * Without a label: a number of seven digits or more is an identifier unless a unit of measure follows. Shorter numbers need a form (a phone's, an SSN's) or a label.

What it does not do: dates (see `dates`), names, addresses of houses.
"""

import datetime as dt
import ipaddress
import re
from collections.abc import Callable, Iterator

from fedmed.deid.text.reading import CJK, Reading
from fedmed.deid.text.spans import Kind, Span

_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
_CHECK = "10X98765432"


def is_resident_id(number: str) -> bool:
    """Say whether `number` is a Chinese resident ID: 18 characters under MOD 11-2, or the older 15 digits.

    Both hold a date of birth, which must exist (GB 11643-1999).

    >>> is_resident_id("11010519491231002X"), is_resident_id("110105194912310021"), is_resident_id("110105491231002")
    (True, False, True)
    """
    if len(number) == 15 and number.isdecimal():
        return _is_date(f"19{number[6:12]}")
    if len(number) != 18 or not number[:17].isdecimal():
        return False
    check = _CHECK[sum(int(digit) * weight for digit, weight in zip(number[:17], _WEIGHTS, strict=True)) % 11]
    return check == number[17].upper() and _is_date(number[6:14])


def find_identifiers(reading: Reading) -> list[Span]:
    """Return the spans of e-mail and web addresses, labelled identifiers, and numbers with an identifier's form."""
    view, lower = reading.view, reading.lower
    return [*_network(view, lower), *_labelled(view, lower), *_numbers(view)]


def _is_date(digits: str) -> bool:
    try:
        return dt.date(int(digits[:4]), int(digits[4:6]), int(digits[6:])).year >= 1850
    except ValueError:
        return False


# --- machines -------------------------------------------------------------------------------------------------

_EMAIL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._%+'\-]{0,63} ?(?:@|\(at\)|\[at\]) ?[A-Za-z0-9\-]+(?:\.[A-Za-z0-9\-]+)+")
_URL = re.compile(
    r"(?:[a-z][a-z0-9+.\-]{1,9}://|www\.)[^\s<>\"'{CJK},，。、;()\[\]]+"
    r"|[a-z0-9](?:[a-z0-9\-]*\.)+(?:com|cn|org|net|edu|gov|info|io|health|hospital|uk|de|hk|tw)(?![a-z0-9\-])(?:[/?#:]"
    r"[^\s<>\"'{CJK},，。、;()\[\]]*)?".replace("{CJK}", CJK)
)
_WEB_SIGNS = ("//", "www.", ".com", ".cn", ".org", ".net", ".edu", ".gov", ".info", ".io", ".h", ".uk", ".de", ".tw")
_HOST = re.compile(
    r"[0-9a-f](?<![0-9a-z.:].)(?:[0-9]{0,2}(?:\.[0-9]{1,3}){3}(?![0-9.]*[0-9])"
    r"|[0-9a-f](?:[:\-][0-9a-f]{2}){5}(?![0-9a-z])|[0-9a-f]{0,3}(?:::?[0-9a-f]{1,4}){3,7}(?![0-9a-z:]))"
)


def _network(view: str, lower: str) -> Iterator[Span]:
    if "@" in view or "(at)" in lower or "[at]" in lower:
        yield from _spans(_EMAIL, view, "EMAIL")
    if any(sign in lower for sign in _WEB_SIGNS):
        yield from _spans(_URL, lower, "URL")
    if lower.count(".") >= 3 or lower.count(":") >= 3 or lower.count("-") >= 5:
        yield from _spans(_HOST, lower, "URL", _is_host)


def _is_host(match: re.Match[str]) -> bool:
    """A section 1.2.3.4 or a time 10:20:30 is no address: ask for a number above 9, or a hexadecimal letter."""
    text = match[0]
    if "." in text:
        parts = [int(part) for part in text.split(".")]
        return max(parts) <= 255 and max(parts) > 9
    if "-" in text or (text.count(":") == 5 and "::" not in text):
        return True
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True


# --- labels ---------------------------------------------------------------------------------------------------

ZH_ID = tuple(
    "身份证 身份证件 居民证 护照 军官证 士兵证 军人证 警官证 驾驶证 驾照 行驶证 通行证 居住证 居留证 社会保障 社会保障卡 社保 社保卡 医保 医保卡"
    " 医疗保险 新农合 农合 合作医疗 合作医疗证 健康卡 市民卡 银行卡 信用卡 借记卡 储蓄卡 账 账户 帐户 卡 证件 车牌 残疾证 出生证 出生医学证明 结婚证 工 学 警"
    " 序列 机身 设备 保险 保险单 保单 证 执业证书 资格证书".split()
)
ZH_RECORD = tuple(
    "住院 病案 病历 病志 病例 门诊 门急诊 急诊 就诊 就诊卡 登记 挂号 登录 检查 影像 放射 超声 心电 心电图 内镜 胃镜 肠镜 核医学 病理 标本 样本 条码 条形 流水"
    " 申请 申请单 处方 发票 收据 体检 留观 档案 诊疗 诊疗卡 患者 病人 报告 报告单 检验 检验单 化验单 ct mr mri x线 x线片 x光 x光片 dr petct pet-ct b超 手术 麻醉"
    " id 会诊 会诊单 血袋 输血单 受试者 筛选 随机 入院 实验室 片 patient pid 编".split()
)
_ZH_NUMBER = ("号码", "编号", "号", "码", "id", "no", "#")
_RESIDENT = "身份证"
_RESIDENT_VALUE = re.compile(
    r"(?:件|号码?|编号|是|为|[(][^()\n]{0,8}[)]|[ :=#])*"
    r"(?P<value>[0-9A-Za-z*〇零○一二三四五六七八九](?:[ \-]{0,3}[0-9A-Za-z*〇零○一二三四五六七八九]){3,29})"
)
_CHAT = re.compile(
    r"(?:微信|wechat|weixin|wx|qq|支付宝|抖音)(?:号码|号|id)?(?:\([^()\n]{0,8}\))? ?(?:[:=#]|为|是)?[ :#]*"
    r"(?P<value>[a-z0-9][-_a-z0-9]{4,30})"
)
_CHAT_SIGNS = ("微信", "支付宝", "抖音", "qq", "wx", "wei", "wechat")

EN_ID = tuple(
    "ssn,s.s.n,s.s.n.,ss,social security,soc sec,soc. sec.,driver's license,drivers license,driver license,license plate,"
    "plate,vin,vehicle identification,serial,s/n,sn,medicare,medicaid,mbi,hicn,insurance,policy,member,membership,subscriber,"
    "group,npi,dea,credit card,debit card,card,bank account,badge,employee,device,certificate,license,licence,national id,health plan,plan,beneficiary,"
    "nhs,tax,passport".split(",")
)
EN_RECORD = tuple(
    "mrn,m.r.n,m.r.n.,mr,medical record,medical records,med rec,med. rec.,record,chart,acct,acct.,account,patient,pt,hospital,"
    "encounter,visit,accession,acc,specimen,case,file,unit,admission,billing,claim,reference,ref,order,csn,fin,har,eid,"
    "registration,confirmation,job,document,dictation,report,lab,pathology,id,study id,subject id,participant".split(",")
)
_EN_SURE = (
    "ssn", "s.s.n", "s.s.n.", "social security", "mrn", "m.r.n", "m.r.n.", "medical record", "csn", "acct", "acct.", "vin",
    "npi", "accession", "passport", "driver's license", "drivers license", "driver license",
)  # fmt: skip
_EN_NUMBER = (" numbers", " number", " num", " nos", " no", " no.", " id", " code", "#", " #")
EN_PHONE = tuple(
    "联系电话 电话 手机 座机 传真 联系方式 联系号码 热线 短号 分机 telephone telphone phone tel cell cellular mobile fax pager beeper ext"
    " extension call called calling reach reached reachable ph mob contact home work".split()
)
_PHONE_AT = re.compile(r"(?:call|reach|phone|contact|page|number|dial)[a-z ]{0,24} (?:at|on|is)$")
_SHORT_PHONE = ("ext", "extension", "pager", "beeper", "分机", "短号", "电话", "tel", "phone")

_VALUE = re.compile(
    r"[0-9A-Za-z*](?<![0-9A-Za-z*].)(?=[A-Za-z\-_/]{0,8}[0-9*])(?:[0-9A-Za-z*_/]|[\-.]{1,2}(?=[0-9*])| (?=[0-9*]{3,}(?![:0-9]))|-(?=[0-9A-Za-z]))+"
)
_PHONE_VALUE = re.compile(r"[+(]?[0-9](?:[0-9]|[ ().\-转]{1,2}(?=[0-9])| ?(?:ext\.?|x|分机) ?(?=[0-9]))*")
_NO_NUMBER = re.compile(r"[A-Z][0-9]{2}(?:\.[0-9xX]{1,4})?|[0-9]{1,3}-(?:year|month|week|day)(?:-old)?")  # ICD-10; an age
_LOOK_BACK = 40


def _labelled(view: str, lower: str) -> Iterator[Span]:
    """Yield what stands after a label: for each value, the words before it are looked at, not the other way round."""
    for match in _VALUE.finditer(view):
        if len(match[0]) >= 3:
            yield from _by_label(view, lower, match)
    at = view.find(_RESIDENT)
    while at >= 0:
        if value := _RESIDENT_VALUE.match(view, at + len(_RESIDENT)):
            yield Span(start=value.start("value"), end=value.end(), kind="ID")
        at = view.find(_RESIDENT, at + 1)
    if any(sign in lower for sign in _CHAT_SIGNS):
        for match in _CHAT.finditer(lower):
            yield Span(start=match.start("value"), end=match.end("value"), kind="ID")


def _by_label(view: str, lower: str, match: re.Match[str]) -> Iterator[Span]:
    start, end = match.span()
    before = lower[max(0, start - _LOOK_BACK) : start]
    label = before.rstrip(" :=#_(+").removesuffix(")") if before.rstrip().endswith((":", "=", "#", ")", "_", "(")) else before
    marked = any(mark in before[len(label.rstrip()) :] for mark in ":=#(")
    label = label.rstrip()
    if "(" in label[-10:] and before.rstrip(" :=#")[-1:] == ")":
        label = label[: label.rindex("(")].rstrip()
    kind = _kind_of(label, marked=marked, size=sum(c.isalnum() or c == "*" for c in match[0]))
    if kind == "PHONE":
        value = _PHONE_VALUE.match(view, start - (view[start - 1] in "+("))
        digits = _digits(value[0]) if value else 0
        if value and (digits >= 7 or (digits >= 3 and label.removesuffix(".").endswith(_SHORT_PHONE))):
            yield Span(start=value.start(), end=value.end(), kind="PHONE")
    elif kind and not _MEASURED.match(view, end) and not _NO_NUMBER.fullmatch(match[0]):
        yield Span(start=start, end=end, kind=kind)


def _kind_of(label: str, *, marked: bool, size: int) -> Kind | None:
    """Return what a value after `label` is: its last words decide.

    Args:
        label: The text before the value in small letters, without marks at its end.
        marked: Whether a colon or a number sign stands between.
        size: How many letters and digits the value has.
    """
    last = label[-1:]
    if last and not last.isascii():
        bare = label.rstrip("为是系 ")
        number = next((word for word in _ZH_NUMBER if bare.endswith(word)), "")
        stem = bare.removesuffix(number).rstrip()
        if number and stem.endswith(ZH_ID):
            return "ID"
        if number and (stem.endswith(ZH_RECORD) or marked):
            return "RECORD"
        return "PHONE" if bare.removesuffix("号").removesuffix("号码").endswith(EN_PHONE) else None
    at = _PHONE_AT.search(label)
    for link in (" is", " was", " of"):
        label = label.removesuffix(link)
    number = next((word for word in _EN_NUMBER if label.endswith(word)), "")
    stem = label.removesuffix(number).rstrip(" #.")
    for listed, kind in ((EN_ID, "ID"), (EN_RECORD, "RECORD")):
        word = next((word for word in listed if stem.endswith(word) and not stem[: -len(word)][-1:].isalnum()), None)
        if word and (word in _EN_SURE or ((number or marked) and size >= 4)):
            return "ID" if kind == "ID" else "RECORD"
    if stem.endswith(ZH_RECORD) and number and not stem[-1:].isascii():
        return "RECORD"
    return "PHONE" if label.rstrip(".").endswith(EN_PHONE) or at else None


def _digits(text: str) -> int:
    return sum(character.isdecimal() for character in text)


# --- forms ----------------------------------------------------------------------------------------------------

_EXTENSION = r"(?:(?: ?(?:ext\.?|extension|x|X|转|分机)[ :.]*|-)[0-9]{1,6}(?![0-9]))?"
_US_EXTENSION = r"(?:,? ?(?:ext\.?|extension|x|X)[ :.]*[0-9]{1,6}(?![0-9]))?"
_MEASURED = re.compile(
    r" ?(?:%|[×*x]? ?10\^|(?:[kmμun]?[gl]|iu|u|copies|cfu|拷贝|个|万|次|元|步|人|cells|people|steps)(?![a-z]))", re.IGNORECASE
)
_NUMBER = re.compile(  # the first character is consumed before it is looked at: so the search skips to digits at once
    r"[+(0-9](?<![0-9][+(0-9])(?<![0-9][.].)(?:"
    r"(?P<ssn>(?<=[0-9])[0-9]{2}(?:-[0-9]{2}-| [0-9]{2} )[0-9]{4}(?![0-9\-]))"
    r"|(?P<resident>(?<=[1-9])[0-9]{5}[ \-]?[12][0-9]{3}[ \-]?[0-9]{2}[ \-]?[0-9]{2}[ \-]?[0-9]{3}[ \-]?[0-9Xx]"
    r"(?![0-9A-Za-z]))"
    r"|(?P<mobile>(?:(?<=\+)86[ \-]?1|(?<=0)086[ \-]?1|(?<=8)6[ \-]?1|(?<=\()\+?86\)[ \-]?1|(?<=1))[3-9][0-9]"
    r"(?:[0-9]{8}|[ \-][0-9]{4}[ \-]?[0-9]{4}|[0-9][ \-][0-9]{3}[ \-][0-9]{4}|[ \-][0-9]{3}[ \-][0-9]{5}"
    r"|[0-9]{4}[ \-][0-9]{4})(?![0-9]))"
    r"|(?P<landline>(?:(?<=0)[0-9]{2,3}[ \-]?|(?<=\()0[0-9]{2,3}\)[ \-]?|(?<=\+)86[ \-]?(?:\(0\))?[0-9]{2,3}[ \-]?)"
    rf"[0-9]{{3,4}}[ \-]?[0-9]{{4}}{_EXTENSION}(?![0-9]))"
    rf"|(?P<service>(?<=[48])00[ \-][0-9]{{3,4}}[ \-]?[0-9]{{3,4}}{_EXTENSION}(?![0-9]))"
    r"|(?P<us>(?:(?:(?<=\+)1|(?<=1))[ .\-]?\(?[2-9][0-9]{2}\)?|(?<=\()[2-9][0-9]{2}\)|(?<=[2-9])[0-9]{2}(?=[ .\-/]))"
    rf"[ .\-/]{{0,2}}[0-9]{{3}}[ .\-][0-9]{{4}}{_US_EXTENSION}(?![0-9]))"
    r"|(?P<abroad>(?<=\+)[1-9][0-9]{0,2}(?:[ .\-]?\(?[0-9]{1,4}\)?){2,5}(?![0-9]))"
    r"|(?P<card>(?<=[0-9])[0-9]{3}(?:[ \-][0-9]{4}){3}(?:[ \-][0-9]{1,3})?(?![0-9]))"
    r"|(?P<long>(?<=[0-9])[0-9]{6,}[Xx]?(?![0-9]))"
    r"|(?P<spaced>(?<=[1-9])(?:[ \-]?[0-9]){13,16}[ \-]?[0-9Xx](?![0-9A-Za-z]))"
    r")"
)
_KIND_OF_FORM: dict[str, Kind] = {
    "ssn": "ID", "resident": "ID", "mobile": "PHONE", "landline": "PHONE", "service": "PHONE", "us": "PHONE",
    "abroad": "PHONE", "card": "ID", "spaced": "ID",
}  # fmt: skip
_PLATE = re.compile(
    r"[京津沪渝冀豫云辽黑湘皖鲁新苏浙赣鄂桂甘晋蒙陕吉闽贵粤青藏川宁琼使][A-Z][·\- ]?(?=[A-Z0-9]*[0-9])[A-Z0-9]{4,6}[挂学警港澳领]?(?![A-Za-z0-9])"
)
_CODED = re.compile(r"[A-Za-z](?<![A-Za-z0-9].)[A-Za-z]{0,3}-?[0-9]{6,}(?![0-9A-Za-z])|\([0-9]{6}\)")
_GROUPED = re.compile(r"[0-9](?<![0-9A-Za-z.\-/].)[0-9]{1,3}-[0-9]{3,4}-[0-9]{2,6}(?![0-9\-/.])")
_REGISTERS = ("NCT", "CTR", "PMID", "GB", "ISBN", "ISSN")  # of trials, papers and standards, not of people


def _numbers(view: str) -> Iterator[Span]:
    for match in _NUMBER.finditer(view):
        form = match.lastgroup
        if form == "long":
            yield from _long(view, match)
        elif form == "spaced" and not is_resident_id(re.sub("[ -]", "", match[0])):
            yield from ()
        elif form == "abroad" and _digits(match[0]) < 8:
            yield from ()
        elif form:
            yield Span(start=match.start(), end=match.end(), kind=_KIND_OF_FORM[form])
    yield from _spans(_PLATE, view, "ID")
    yield from _spans(_GROUPED, view, "RECORD", lambda match: _digits(match[0]) >= 7)
    for match in _CODED.finditer(view):
        if not match[0].upper().startswith(_REGISTERS):
            yield Span(start=match.start(), end=match.end(), kind="RECORD")


def _long(view: str, match: re.Match[str]) -> Iterator[Span]:
    if not _MEASURED.match(view, match.end()) or len(match[0]) >= 15:
        kind: Kind = "ID" if 15 <= len(match[0]) <= 19 else "RECORD"
        start = match.start()
        while start and view[start - 1].isascii() and (view[start - 1].isalpha() or view[start - 1] == "-"):
            start -= 1  # letters that belong to it
        yield Span(start=start, end=match.end(), kind=kind)


def _spans(
    pattern: re.Pattern[str], text: str, kind: Kind, holds: Callable[[re.Match[str]], bool] = bool
) -> Iterator[Span]:
    return (Span(start=m.start(), end=m.end(), kind=kind) for m in pattern.finditer(text) if holds(m))
