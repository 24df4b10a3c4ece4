"""Invented names of people, Chinese and English, composed of characters and syllables.

Why it exists: a list of names can be learned by heart; a composed name has to be
recognised by its form and its place in the text.

Rules:
    * A Chinese name has a romanised form, because DICOM and hospital systems keep both.
    * About one name in six is of a form that simple rules miss: rare and compound surnames, names of
      minorities with a middle dot, O'..., hyphens, particles, suffixes, and surnames that are ordinary words.

What it does not do: follow how frequent names are in any country.
"""

import unicodedata
from dataclasses import dataclass
from typing import Literal

from numpy.random import Generator

from fedmed_sim.phantoms.draws import between, chance, pick, words

Language = Literal["en", "zh"]
Sex = Literal["F", "M"]
Syllable = tuple[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class PersonName:
    """A name, as written and romanised."""

    language: Language
    family: str
    """Empty for a name with a middle dot, which has no surname."""

    given: str
    middle: str = ""
    suffix: str = ""
    roman_family: str
    roman_given: str

    @property
    def full(self) -> str:
        """The usual written form: `欧阳明`, `John A. Smith Jr.`."""
        if self.language == "zh":
            return self.family + self.given
        return " ".join(part for part in (self.given, self.middle, self.family, self.suffix) if part)

    @property
    def roman(self) -> str:
        """Latin letters without accents, surname first, components parted by `^` (DICOM PS3.5, 6.2.1)."""
        return f"{self.roman_family}^{self.roman_given}"


def draw_name(rng: Generator, language: Language, sex: Sex) -> PersonName:
    """Draw a name of this language."""
    return _chinese(rng, sex) if language == "zh" else _english(rng, sex)


def _pairs(text: str) -> tuple[Syllable, ...]:
    """Parse `王wang 欧阳ouyang` into characters and pinyin."""
    cut = [(next(i for i, c in enumerate(word) if c.isascii()), word) for word in words(text)]
    return tuple((word[:at], word[at:]) for at, word in cut)


_COMMON = _pairs(
    "赵zhao 钱qian 孙sun 李li 周zhou 吴wu 郑zheng 王wang 冯feng 陈chen 褚chu 卫wei 蒋jiang 沈shen 韩han "
    "杨yang 朱zhu 秦qin 尤you 许xu 何he 吕lv 施shi 张zhang 孔kong 曹cao 严yan 华hua 金jin 魏wei 陶tao 姜jiang "
    "戚qi 谢xie 邹zou 苏su 潘pan 葛ge 范fan 彭peng 鲁lu 韦wei 马ma 方fang 俞yu 任ren 袁yuan 柳liu 史shi "
    "唐tang 费fei 薛xue 雷lei 贺he 倪ni 汤tang 罗luo 郝hao 常chang 于yu 傅fu 齐qi 康kang 伍wu 余yu 顾gu "
    "孟meng 平ping 黄huang 萧xiao 姚yao 邵shao 汪wang 毛mao 米mi 戴dai 宋song 庞pang 熊xiong 纪ji 舒shu "
    "项xiang 董dong 梁liang 杜du 阮ruan 蓝lan 江jiang 郭guo 梅mei 林lin 钟zhong 徐xu 邱qiu 骆luo 高gao 夏xia "
    "蔡cai 田tian 樊fan 胡hu 凌ling 万wan 卢lu 丁ding 邓deng 石shi 崔cui 龚gong 程cheng 陆lu 段duan 侯hou "
    "武wu 刘liu 龙long 叶ye 黎li 白bai 温wen 廖liao 向xiang 谭tan 曾zeng"
)
_RARE = _pairs(
    "亓qi 仝tong 揭jie 逄pang 郄qie 缑gou 邸di 晁chao 阚kan 佘she 呙guo 禤xuan 蔺lin 殳shu 逯lu 隗kui 佟tong "
    "幺yao 乜nie 冼xian 敖ao 郗xi 苻fu 芮rui 羿yi 储chu 汲ji 邴bing 糜mi 牧mu 隽juan 宓mi 仉zhang 昝zan "
    "蹇jian 訾zi 璩qu 厍she 郏jia 鞠ju 双shuang 展zhan 明ming 计ji 水shui 云yun 安an 时shi 成cheng 支zhi "
    "年nian 党dang 海hai 黑hei 冷leng 那na 门men"
)
_COMPOUND = _pairs(
    "欧阳ouyang 上官shangguan 司马sima 诸葛zhuge 东方dongfang 皇甫huangfu 尉迟yuchi 公孙gongsun 慕容murong "
    "令狐linghu 长孙zhangsun 宇文yuwen 司徒situ 夏侯xiahou 端木duanmu 百里baili 呼延huyan 南宫nangong "
    "西门ximen 闻人wenren 赫连helian 澹台tantai 申屠shentu 轩辕xuanyuan 拓跋tuoba 独孤dugu 鲜于xianyu "
    "淳于chunyu 濮阳puyang 钟离zhongli 公羊gongyang"
)
_GIVEN_M = _pairs(
    "伟wei 强qiang 磊lei 军jun 勇yong 杰jie 涛tao 超chao 刚gang 建jian 国guo 志zhi 海hai 峰feng 浩hao 宇yu "
    "轩xuan 泽ze 晨chen 铭ming 昊hao 翰han 远yuan 鹏peng 飞fei 龙long 虎hu 山shan 川chuan 岳yue 松song 柏bai "
    "栋dong 梁liang 钧jun 锋feng 钢gang 铁tie 毅yi 恒heng 坤kun 乾qian 炜wei 烨ye 煜yu 熙xi 滨bin 洲zhou "
    "渊yuan 亮liang 光guang 辉hui 耀yao 祖zu 德de 仁ren 义yi 礼li 信xin 忠zhong 诚cheng 善shan 福fu 禄lu "
    "寿shou 庆qing 祥xiang 贵gui 兴xing 旺wang 根gen 土tu 树shu"
)
_GIVEN_F = _pairs(
    "芳fang 娜na 敏min 静jing 艳yan 霞xia 桂gui 英ying 玲ling 红hong 丽li 娟juan 燕yan 梅mei 兰lan 菊ju 荷he "
    "莲lian 蓉rong 芬fen 芸yun 茜qian 莉li 萍ping 蓓bei 蕾lei 薇wei 婷ting 婉wan 娴xian 嫣yan 妍yan 姝shu "
    "妮ni 姗shan 琳lin 琪qi 瑶yao 瑾jin 璐lu 珊shan 珍zhen 珠zhu 玉yu 翠cui 彩cai 凤feng 莺ying 雁yan 月yue "
    "雪xue 霜shuang 露lu 虹hong 云yun 秀xiu 慧hui 惠hui 淑shu 贞zhen 洁jie 巧qiao 香xiang 馨xin 怡yi 悦yue "
    "欣xin 思si 念nian 爱ai 美mei 佳jia 依yi 可ke 冰bing"
)
_GIVEN_BOTH = _pairs(
    "明ming 文wen 华hua 平ping 洋yang 晓xiao 春chun 秋qiu 冬dong 阳yang 子zi 天tian 心xin 宁ning 安an 清qing "
    "永yong 新xin 学xue 书shu 俊jun 立li 少shao 小xiao 大da 一yi 中zhong 元yuan 之zhi 若ruo 如ru 雨yu 梓zi "
    "涵han 诺nuo 懿yi 彧yu 翀chong 赟yun 昱yu 旻min 晟sheng 曦xi 淼miao 垚yao 喆zhe 骞qian 麒qi 甯ning 祎yi "
    "翊yi 偲si"
)
_DOTTED = _pairs(
    "阿a 卜bu 迪di 尔er 古gu 丽li 娜na 买mai 提ti 江jiang 吐tu 逊xun 热re 合he 曼man 依yi 布bu 拉la 木mu 努nu "
    "帕pa 孜zi 肉rou 库ku 凯kai 赛sai 麦mai 沙sha 克ke 玛ma 斯si 巴ba 哈ha 穆mu 罕han 苏su 里li 坦tan 卡ka "
    "德de 居ju 格ge 桑sang 旦dan"
)


def _chinese(rng: Generator, sex: Sex) -> PersonName:
    form = rng.random()
    if form < 0.04:
        return _dotted(rng)
    families = _COMPOUND if form < 0.08 else _RARE if form < 0.16 else _COMMON
    own = _GIVEN_M if sex == "M" else _GIVEN_F
    family = pick(rng, families)
    count = 1 if chance(rng, 0.25) else 2
    parts = [pick(rng, own if chance(rng, 0.65) else _GIVEN_BOTH) for _ in range(count)]
    return PersonName(
        language="zh",
        family=family[0],
        given="".join(part[0] for part in parts),
        roman_family=family[1].capitalize(),
        roman_given="".join(part[1] for part in parts).capitalize(),
    )


def _dotted(rng: Generator) -> PersonName:
    """Compose a transliterated name such as those of Uyghur, Kazakh or Tibetan people: given · father's."""
    halves = [[pick(rng, _DOTTED) for _ in range(between(rng, 2, 4))] for _ in range(2)]
    dot = pick(rng, ("·", "·", "·", "•", "．"))
    return PersonName(
        language="zh",
        family="",
        given=dot.join("".join(part[0] for part in half) for half in halves),
        roman_family="".join(part[1] for part in halves[1]).capitalize(),
        roman_given="".join(part[1] for part in halves[0]).capitalize(),
    )


_STARTS = words(
    "Ash Barl Bex Cald Chad Cran Dals Dray Elm Fair Fenn Garr Good Hadd Hart Holm Ingl Kell Kirk Lang Lock Mald Marr "
    "Mers Nor Oak Pem Prest Radd Red Rock Sax Shel Stan Sutt Thorn Tre Wake Warr Wes Whit Wins Wolv Yarr Zeal"
)
_ENDS = words(
    "bury by combe croft dale den don field ford gate ham hurst land ley man mere more ney ridge shaw son "
    "stead stone ton vale wall ward well wick worth"
)
_OTHER = (
    (words("Kow Now Wis Jab Maj Zaw Bor Grab Stach"), words("alski czyk owicz enko ewski arov icka")),
    (words("Fern Hern Gonz Ram Vel Mend Est Quint"), words("ández alez írez asco oza eban anilla ero")),
    (
        words("Sub Ven Krish Nar Raj Chan Bhat Muk"),
        words("ramani kataraman namurthy ayanan endran drasekar tacharya"),
    ),
    (words("Berg Lind Sør Hjel Kjær Löf Grön Åk"), words("ström qvist ensen gaard holm lund dahl")),
    (words("Ok Ad Chuk Eze Nwa Ogun Aki"), words("afor eyemi wuemeka onye bola nkwo leye")),
)
_WORDS = words(
    "Brown Young Long Stone Rose Banks Woods Hall Ward Cook Page Reed Bloom Frost Little Sharp Small White Gray Pope "
    "Bishop Nurse Best Rich Read Law Case Bone Foot Hand Head Bird Fish Lake Hill Moss"
)
_PREFIXES = (
    "O'", "O'", "O'", "D'", "O’", "Mc", "Mc", "Mac", "Fitz", "St. ",
    "de la ", "van der ", "van ", "von ", "de ", "del ", "al-", "ben ",
)  # fmt: skip
_UNACCENTED = {ord("ø"): "o", ord("æ"): "ae", ord("ł"): "l", ord("’"): "'"}
_GIVEN_STARTS = words(
    "Al Bren Cor Dal El Fen Gar Hal Is Jor Kel Lor Mar Nor Os Per Quin Ros Sel Tam Ul Ver Wil Yol Zan An Ber Cla Dor Ev"
)
_GIVEN_ENDS = {
    "M": words("ric mond vin ton bert don ulf ander mus win ard frey rick dan son"),
    "F": words("ella ina ette ice mira anne eth issa lyn ora wen ida etta ana"),
}
_GIVEN_PLAIN = {
    "M": words("John Peter Samuel Victor Henry Luis Omar Raj Chen Ivan Tom Joe Mark Will Grant Dean Frank Carlos Anil"),
    "F": words("Mary Ruth Helen Nora Alice Rosa Fatima Priya Mei Olga Ann Sue Grace May June Joy Carmen Lakshmi Ines"),
}


def _english(rng: Generator, sex: Sex) -> PersonName:
    given, family = _given(rng, sex), _family(rng)
    middle = suffix = ""
    if chance(rng, 0.2):
        middle = pick(rng, "ABCDEFGHJKLMNPRSTW") + pick(rng, (".", "."))
    elif chance(rng, 0.08):
        middle = _given(rng, sex)
    if sex == "M" and chance(rng, 0.05):
        suffix = pick(rng, ("Jr.", "Sr.", "II", "III"))
    return PersonName(
        language="en",
        family=family,
        given=given,
        middle=middle,
        suffix=suffix,
        roman_family=unaccented(family),
        roman_given=unaccented(given),
    )


def _given(rng: Generator, sex: Sex) -> str:
    if chance(rng, 0.4):
        return pick(rng, _GIVEN_PLAIN[sex])
    name = pick(rng, _GIVEN_STARTS) + pick(rng, _GIVEN_ENDS[sex])
    return f"{name}-{pick(rng, _GIVEN_PLAIN[sex])}" if chance(rng, 0.03) else name


def _family(rng: Generator) -> str:
    form = rng.random()
    if form < 0.05:
        return pick(rng, _WORDS)
    if form < 0.25:
        starts, ends = pick(rng, _OTHER)
        return pick(rng, starts) + pick(rng, ends)
    plain = pick(rng, _STARTS) + pick(rng, _ENDS)
    if form < 0.30:
        return f"{plain}-{pick(rng, _STARTS)}{pick(rng, _ENDS)}"
    return pick(rng, _PREFIXES) + plain if form < 0.42 else plain


def unaccented(text: str) -> str:
    """Return `text` in ASCII letters: accents dropped, `ø`, `æ`, `ł` and the curly apostrophe replaced.

    >>> unaccented("Sørensen"), unaccented("O’Hernández")
    ('Sorensen', "O'Hernandez")
    """
    plain = unicodedata.normalize("NFKD", text.translate(_UNACCENTED))
    return "".join(letter for letter in plain if not unicodedata.combining(letter))
