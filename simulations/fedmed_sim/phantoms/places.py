"""Invented addresses and hospitals, Chinese and American.

Why it exists: an address chain from province to door, and a hospital's name, are
recognised by their suffixes; here they come in many shapes.

Rules:
    * Provinces, US states and some large cities are real, all that is smaller is composed.
    * An address knows its district, because tables generalise by it.

What it does not do: keep postcodes, area codes and cities consistent with each other.
"""

from dataclasses import dataclass

from numpy.random import Generator

from fedmed_sim.phantoms.draws import between, chance, digits, pick, words
from fedmed_sim.phantoms.names import Language


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """An address, whole and in the parts that tables keep."""

    full: str
    region: str
    """Province, or US state."""

    city: str
    district: str
    """District or county; for the US, the ZIP code."""


_PROVINCES = words(
    "河北省 山西省 辽宁省 吉林省 黑龙江省 江苏省 浙江省 安徽省 福建省 江西省 山东省 河南省 湖北省 湖南省 "
    "广东省 海南省 四川省 贵州省 云南省 陕西省 甘肃省 青海省 内蒙古自治区 广西壮族自治区 宁夏回族自治区 "
    "新疆维吾尔自治区 西藏自治区"
)
_MUNICIPAL = words("北京市 上海市 天津市 重庆市")
_CITIES = words(
    "石家庄市 太原市 沈阳市 南京市 苏州市 杭州市 合肥市 福州市 济南市 郑州市 武汉市 长沙市 成都市 贵阳市 昆明市 兰州市"
)
_PLACE = "安宁清和平江河溪山海云石林泉湖桥龙凤金银东西南北新永兴昌明康泰德义仁乐丰庆松柏梅兰竹荷沙岭岗坪塘湾洲港"
_AREA = words(
    "学府 育才 前进 胜利 团结 朝晖 望江 滨河 翠竹 向阳 迎宾 环城 中心 幸福 青年 工农 文昌 鼓楼 钟山 凤起 延安 长征"
)
_STATES = words(
    "AL AZ CA CO CT FL GA IA IL IN KS KY LA MA MD MI MN MO NC NE NJ NM NV NY OH OK OR PA SC TN TX UT VA WA WI"
)
_US_STARTS = words(
    "Maple Cedar Oak Lin Hazel Brook Stone Mill River Spring Fair Green High Clear Pine Elk Fox Deer Clover"
)
_US_ENDS = words("ville ton wood field port burg view haven dale mont ford")
_STREETS = words("St Street Ave Avenue Rd Road Ln Lane Blvd Drive Dr Court Ct Way Terrace Pl Circle")


def draw_address(rng: Generator, language: Language) -> Address:
    """Draw an address of this language."""
    return _chinese(rng) if language == "zh" else _american(rng)


def draw_hospital(rng: Generator, language: Language) -> str:
    """Draw the name of a hospital of this language."""
    if language == "en":
        return _american_hospital(rng)
    place = _place(rng) if chance(rng, 0.6) else pick(rng, _CITIES).removesuffix("市")
    return pick(
        rng,
        (
            f"{place}市第{pick(rng, '一二三四五六')}人民医院",
            f"{place}市{pick(rng, ('中心', '中医', '儿童', '妇幼保健', '肿瘤', '传染病', '骨科'))}医院",
            f"{place}县人民医院",
            f"{place}大学附属{pick(rng, _AREA)}医院",
            f"{place}医科大学第{pick(rng, '一二三')}附属医院",
            f"{place}{pick(rng, ('区妇幼保健院', '镇卫生院', '社区卫生服务中心', '铁路医院'))}",
            f"{place}{pick(rng, ('同德', '仁济', '博爱', '惠民', '康宁'))}医院",
        ),
    )


def draw_city(rng: Generator, language: Language) -> str:
    """Draw a bare place that identifies: province and city, or town and state."""
    if language == "zh":
        city = pick(rng, _CITIES) if chance(rng, 0.5) else f"{_place(rng)}{pick(rng, ('市', '县'))}"
        return f"{pick(rng, _PROVINCES)}{city}"
    return f"{_town(rng)}, {pick(rng, _STATES)}"


def _place(rng: Generator) -> str:
    first, second = pick(rng, _PLACE), pick(rng, _PLACE)
    return first + (second if second != first else "阳")


def _chinese(rng: Generator) -> Address:
    region = pick(rng, _MUNICIPAL) if chance(rng, 0.2) else pick(rng, _PROVINCES)
    city = region if region in _MUNICIPAL else pick(rng, _CITIES) if chance(rng, 0.5) else f"{_place(rng)}市"
    head = region if city == region else region + city
    if chance(rng, 0.25):
        district = f"{_place(rng)}县"
        full = f"{head}{district}{_place(rng)}{pick(rng, ('镇', '乡'))}{_place(rng)}村{_village(rng)}"
    else:
        district = f"{_place(rng)}区"
        full = f"{head}{district}{_street(rng)}"
    if chance(rng, 0.15):
        full = full.removeprefix(region) if city != region else full
    return Address(full=full, region=region, city=city, district=district)


def _village(rng: Generator) -> str:
    number = between(rng, 1, 240)
    return pick(
        rng,
        (f"{between(rng, 1, 12)}组{number}号", f"{number}号", f"{pick(rng, '一二三四五六七八')}队", f"{_place(rng)}屯"),
    )


def _street(rng: Generator) -> str:
    road = (pick(rng, _AREA) if chance(rng, 0.6) else _place(rng)) + pick(
        rng, ("路", "街", "大道", "巷", "北路", "东街", "胡同")
    )
    door = f"{between(rng, 1, 1999)}号"
    estate = f"{_place(rng)}{pick(rng, ('花园', '小区', '家园', '公寓', '苑', '新村'))}"
    room = f"{between(rng, 1, 33)}{between(rng, 0, 9):02d}室"
    return pick(
        rng,
        (
            f"{road}{door}",
            f"{road}{door}{estate}{between(rng, 1, 40)}栋{between(rng, 1, 6)}单元{room}",
            f"{estate}{between(rng, 1, 40)}号楼{room}",
            f"{_place(rng)}街道{road}{between(rng, 1, 300)}弄{between(rng, 1, 90)}号{room}",
            f"{road}{door}-{between(rng, 1, 9)}",
        ),
    )


def _town(rng: Generator) -> str:
    return pick(rng, _US_STARTS) + pick(rng, _US_ENDS)


def _american(rng: Generator) -> Address:
    street = f"{between(rng, 1, 9999)} {pick(rng, ('', '', 'N ', 'W. ', 'East '))}{_town(rng)} {pick(rng, _STREETS)}"
    flat = pick(
        rng,
        (
            "",
            "",
            f", Apt {between(rng, 1, 40)}{pick(rng, 'ABCDE')}",
            f" Unit {between(rng, 1, 99)}",
            f" #{between(rng, 1, 400)}",
        ),
    )
    town, state, code = _town(rng), pick(rng, _STATES), digits(rng, 5)
    tail = f"{code}-{digits(rng, 4)}" if chance(rng, 0.1) else code
    return Address(full=f"{street}{flat}, {town}, {state} {tail}", region=state, city=town, district=code)


def _american_hospital(rng: Generator) -> str:
    town = _town(rng)
    saint = pick(rng, ("Brendan", "Odile", "Corentin", "Werburgh", "Columba"))
    kind = pick(rng, ("General", "Memorial", "Community", "Regional", "County", "Mercy"))
    house = pick(rng, ("Clinic", "Heart Institute", "Cancer Center", "Medical Center", "Rehabilitation Hospital"))
    return pick(
        rng,
        (
            f"{town} {kind} Hospital",
            f"St. {saint}'s Hospital",
            f"University of {town} Medical Center",
            f"{town} {house}",
            f"{pick(rng, ('Northern', 'Royal', 'Old'))} {town} Infirmary",
            f"{town} Veterans Affairs Medical Center",
        ),
    )
