"""Numbers after a label that says what they are: 住院号, MRN, SSN, 电话, Policy no.

Why it exists: a short number identifies somebody only if the words before it say so.

Rules:
    * What stands after 身份证 is masked, whatever its checksum says.
    * The words before a number decide, and the nearest first; a label that is also a common word (case, unit)
      needs "number" or a colon after it.
    * A value with a unit of measure behind it is a measurement; a code of ICD-10 is a diagnosis.

What it does not do: numbers whose form alone tells (see `identifiers`).
"""

import re
from collections.abc import Iterator

from fedmed.deid.text.patterns import listed
from fedmed.deid.text.spans import Kind, Span

ZH_ID = listed(
    "身份证 身份证件 身份证字 身分证 身分证字 "
    "居民证 护照 军官证 士兵证 军人证 警官证 驾驶证 驾照 行驶证 通行证 居住证 居留证 "
    "社会保障 社会保障卡 社保 社保卡 医保 医保卡"
    " 医疗保险 新农合 农合 合作医疗 合作医疗证 健康卡 市民卡 银行卡 信用卡 借记卡 储蓄卡 账 账户 帐户 "
    "卡 证件 车牌 残疾证 出生证 出生医学证明 结婚证 工 学 警"
    " 序列 机身 设备 保险 保险单 保单 证 执业证书 资格证书"
)
ZH_RECORD = listed(
    "住院 病案 病历 病志 病例 门诊 门急诊 急诊 就诊 就诊卡 登记 挂号 登录 检查 影像 放射 超声 心电 "
    "心电图 内镜 胃镜 肠镜 核医学 病理 标本 样本 条码 条形 流水"
    " 申请 申请单 处方 发票 收据 体检 留观 档案 诊疗 诊疗卡 患者 病人 报告 报告单 检验 检验单 化验单 "
    "ct mr mri x线 x线片 x光 x光片 dr petct pet-ct b超 手术 麻醉"
    " id 会诊 会诊单 血袋 输血单 受试者 筛选 随机 入院 实验室 片 patient pid 编"
)
_ZH_NUMBER = ("号码", "编号", "号", "码", "id", "no", "#")
_RESIDENT = ("身份证", "身分证")
_RESIDENT_VALUE = re.compile(
    r"(?:件|字?号码?|编号|是|为|[(][^()\n]{0,8}[)]|[ :=#])*"
    r"(?P<value>[0-9A-Za-z*〇零○一二三四五六七八九](?:[ \-]{0,3}[0-9A-Za-z*〇零○一二三四五六七八九]){3,29})"
)
_CHAT = re.compile(
    r"(?:微信|wechat|weixin|wx|qq|支付宝|抖音)(?:号码|号|id)?(?:\([^()\n]{0,8}\))? ?(?:[:=#]|为|是)?[ :#]*"
    r"(?P<value>[a-z0-9][-_a-z0-9]{4,30})"
)
_CHAT_SIGNS = ("微信", "支付宝", "抖音", "qq", "wx", "wei", "wechat")

EN_ID = listed(
    "ssn,s.s.n,s.s.n.,ss,social security,soc sec,soc. sec.,driver's license,drivers license,driver "
    "license,license plate,"
    "plate,vin,vehicle identification,serial,s/n,sn,medicare,medicaid,mbi,hicn,insurance,policy,member,"
    "membership,subscriber,"
    "group,npi,dea,credit card,debit card,card,bank account,badge,employee,device,certificate,license,"
    "licence,national id,health plan,plan,beneficiary,"
    "nhs,tax,passport",
    by=",",
)
EN_RECORD = listed(
    "mrn,m.r.n,m.r.n.,mr,medical record,medical records,med rec,med. rec.,record,chart,acct,acct.,account,patient,pt,"
    "hospital,encounter,visit,accession,acc,specimen,case,file,unit,admission,billing,claim,reference,ref,order,csn,fin,"
    "har,eid,registration,confirmation,job,document,dictation,report,lab,pathology,id,study id,subject id,participant",
    by=",",
)
_EN_SURE = listed(
    "ssn,s.s.n,s.s.n.,social security,mrn,m.r.n,m.r.n.,medical record,csn,acct,acct.,vin,npi,accession,passport,"
    "driver's license,drivers license,driver license",
    by=",",
)
_EN_SURE_ENDS = tuple(f"{word}{end}" for word in _EN_SURE for end in ("", " number", " no", " no.", "#", " #"))
_EN_STEMS = EN_ID + EN_RECORD
_EN_LABELS = frozenset(_EN_STEMS)
_EN_SIZES = sorted({len(label) for label in _EN_LABELS}, reverse=True)
_EN_NUMBER = (" numbers", " number", " num", " nos", " no", " no.", " id", " code", "#", " #")
EN_PHONE = listed(
    "联系电话 电话 手机 座机 传真 联系方式 联系号码 热线 短号 分机 telephone telphone phone tel cell "
    "cellular mobile fax pager beeper ext"
    " extension call called calling reach reached reachable ph mob contact home work"
)
MEASURED = re.compile(
    r" ?(?:%|[×*x]? ?10\^|(?:[kmμun]?[gl]|iu|u|copies|cfu|拷贝|个|万|次|元|步|人|cells|people|steps)(?![a-z]))",
    re.IGNORECASE,
)
_PHONE_LINKS = (" at", " on", " is")
_PHONE_AT = re.compile(r"(?:call|reach|phone|contact|page|number|dial)[a-z ]{0,24} (?:at|on|is)$")
_SHORT_PHONE = ("ext", "extension", "pager", "beeper", "分机", "短号", "电话", "tel", "phone")

_VALUE = re.compile(
    r"[0-9A-Za-z*](?<![0-9A-Za-z*].)(?=[A-Za-z\-_/]{0,8}[0-9*])(?:[0-9A-Za-z*_/]|[\-.]{1,2}(?=[0-9*])| "
    r"(?=[0-9*]{3,}(?![:0-9]))|-(?=[0-9A-Za-z]))+"
)
_PHONE_VALUE = re.compile(r"[+(]?[0-9](?:[0-9]|[ ().\-转]{1,2}(?=[0-9])| ?(?:ext\.?|x|分机) ?(?=[0-9]))*")
_NO_NUMBER = re.compile(
    r"[A-Z][0-9]{2}(?:\.[0-9xX]{1,4})?|[0-9]{1,3}-(?:year|month|week|day)(?:-old)?"
)  # ICD-10; an age
_LOOK_BACK = 40
_MARKS = frozenset(":=#(")


def find_labelled(view: str, lower: str) -> Iterator[Span]:
    """Yield what stands after a label: for each value, the words before it are looked at, not the other way round."""
    for match in _VALUE.finditer(view):
        if len(match[0]) >= 3:
            yield from _by_label(view, lower, match)
    for card in _RESIDENT:
        at = view.find(card)
        while at >= 0:
            if value := _RESIDENT_VALUE.match(view, at + len(card)):
                yield Span(start=value.start("value"), end=value.end(), kind="ID")
            at = view.find(card, at + 1)
    if any(sign in lower for sign in _CHAT_SIGNS):
        for match in _CHAT.finditer(lower):
            yield Span(start=match.start("value"), end=match.end("value"), kind="ID")


def _by_label(view: str, lower: str, match: re.Match[str]) -> Iterator[Span]:
    start, end = match.span()
    before = lower[max(0, start - _LOOK_BACK) : start]
    label = (
        before.rstrip(" :=#_(+").removesuffix(")")
        if before.rstrip().endswith((":", "=", "#", ")", "_", "("))
        else before
    )
    marked = not _MARKS.isdisjoint(before[len(label.rstrip()) :])
    label = label.rstrip()
    if "(" in label[-10:] and before.rstrip(" :=#")[-1:] == ")":
        label = label[: label.rindex("(")].rstrip()
    kind = _kind_of(label, match[0], marked=marked)
    if kind == "PHONE":
        value = _PHONE_VALUE.match(view, start - (view[start - 1] in "+("))
        digits = count_digits(value[0]) if value else 0
        if value and (digits >= 7 or (digits >= 3 and label.removesuffix(".").endswith(_SHORT_PHONE))):
            yield Span(start=value.start(), end=value.end(), kind="PHONE")
    elif (
        kind
        and (count_digits(match[0]) >= 3 or "*" in match[0] or not label.isascii() or label.endswith(_EN_SURE_ENDS))
        and not MEASURED.match(view, end)
        and not _NO_NUMBER.fullmatch(match[0])
    ):
        yield Span(start=start, end=end, kind=kind)


def _kind_of(label: str, value: str, *, marked: bool) -> Kind | None:
    """Return what a value after `label` is: its last words decide.

    Args:
        label: The text before the value in small letters, without marks at its end.
        value: What stands after it.
        marked: Whether a colon or a number sign stands between.
    """
    last = label[-1:]
    if last and not last.isascii():
        bare = label.rstrip("为是系 ")
        number = next((word for word in _ZH_NUMBER if bare.endswith(word)), "") if bare.endswith(_ZH_NUMBER) else ""
        stem = bare.removesuffix(number).rstrip()
        if number and stem.endswith(ZH_ID):
            return "ID"
        if number and (stem.endswith(ZH_RECORD) or marked):
            return "RECORD"
        return "PHONE" if bare.removesuffix("号").removesuffix("号码").endswith(EN_PHONE) else None
    at = _PHONE_AT.search(label) if label.endswith(_PHONE_LINKS) else None
    for link in (" is", " was", " of"):
        label = label.removesuffix(link)
    number = next((word for word in _EN_NUMBER if label.endswith(word)), "") if label.endswith(_EN_NUMBER) else ""
    stem = label.removesuffix(number).rstrip(" #.")
    if stem.endswith(_EN_STEMS):
        word = next((word for size in _EN_SIZES if (word := _stem_end(stem, size))), None)
        if word and (word in _EN_SURE or ((number or marked) and _size(value) >= 4)):
            return "ID" if word in EN_ID else "RECORD"
    if stem.endswith(ZH_RECORD) and number and not stem[-1:].isascii():
        return "RECORD"
    return "PHONE" if label.rstrip(".").endswith(EN_PHONE) or at else None


def _stem_end(stem: str, size: int) -> str:
    """Return the label of this size that ends `stem` and begins a word, or nothing."""
    at = len(stem) - size
    if at < 0 or stem[at:] not in _EN_LABELS or (at and stem[at - 1].isalnum()):
        return ""
    return stem[at:]


def count_digits(text: str) -> int:
    """Return how many decimal digits `text` has."""
    return sum(map(str.isdecimal, text))


def _size(value: str) -> int:
    """Return how many letters, digits and stars a value has."""
    return sum(map(str.isalnum, value)) + value.count("*")
