"""The plain form of characters that a reader takes for others: traditional, mathematical, circled, look-alike.

Why it exists: the rules know one spelling. Whoever writes 陳 for 陈, ③ for 3, 壹 for 一 or a Cyrillic о for o is read
alike by people, so by the rules too.

Rules:
    * One character becomes one character, so that every index stays.
    * What also has another meaning is only read as a digit or letter among its like: numerals in a run (①③⑧ …, but not
      the ① of a list nor the ⁹ of 10⁹), formal numerals inside a date, look-alike letters inside a Latin word.
    * Traditional characters: those that the project's own words, labels and surnames are written with, and no more.

What it does not do: find anything; words spelled differently in Taiwan or Hong Kong (they are in the lexicon).
"""

import re
import unicodedata

# Each simplified character, then its traditional ones.
_TRADITIONAL = (
    "专專 业業 丛叢 东東 两兩 严嚴 个個 临臨 为為爲 丽麗 义義 乌烏 乐樂 乔喬 习習 乡鄉 书書 买買 乱亂 亚亞 产產 "
    "亲親 亿億 仅僅 从從 仪儀 们們 众眾衆 会會 伟偉 传傳 伤傷 伦倫 侠俠 侧側 侨僑 俪儷 俭儉 储儲 兰蘭 关關 兴興 "
    "养養 内內 写寫 军軍 农農 冯馮 况況 减減 凤鳳 凯凱 刘劉 则則 刚剛 别別 剂劑 办辦 务務 动動 励勵 劲勁 区區 "
    "医醫 华華 协協 单單 卢盧 卫衛 历歷 厉厲 压壓 厦廈 县縣 参參 双雙 发發 叙敘 叶葉 号號 吕呂 吗嗎 启啟啓 吴吳 "
    "员員 咏詠 哑啞 嘱囑 团團 园園 围圍 国國 图圖 圆圓 场場 块塊 坚堅 垒壘 壮壯 声聲 处處 备備 头頭 奥奧 妇婦 "
    "妈媽 姗姍 娄婁 娅婭 娇嬌 婵嬋 孙孫 学學 宝寶 实實 审審 宫宮 宽寬 宾賓 对對 导導 寿壽 将將 尔爾 尘塵 尧堯 "
    "层層 届屆 属屬 岁歲 岗崗 岚嵐 峥崢 嵘嶸 巩鞏 币幣 帅帥 师師 帐帳 带帶 广廣 庆慶 库庫 应應 庞龐 开開 张張 "
    "强強 当當 录錄 径徑 忆憶 总總 恒恆 悦悅 战戰 户戶 执執 扬揚 护護 报報 担擔 择擇 损損 搀攙 携攜 数數 断斷 "
    "无無 旧舊 时時 昼晝 显顯 晋晉 晓曉 晕暈 晖暉 暂暫 术術 权權 条條 来來 杨楊 枫楓 标標 栋棟 树樹 样樣 栾欒 "
    "档檔 桦樺 梦夢 检檢 楼樓 樱櫻 欢歡 欧歐 残殘 毕畢 汇匯 汉漢 汤湯 沟溝 没沒 沪滬 泻瀉 泽澤 浅淺 浆漿 浓濃 "
    "涛濤 润潤 渊淵 渗滲 温溫 湾灣 湿濕 溃潰 滞滯 满滿 滢瀅 滩灘 潇瀟 潜潛 澜瀾 灵靈 灿燦 炜煒 点點 烧燒 烨燁 "
    "热熱 焕煥 爱愛 爷爺 状狀 独獨 狭狹 献獻 玛瑪 玮瑋 现現 珏玨 琼瓊 瑶瑤 电電 画畫 畅暢 疗療 疡瘍 疮瘡 疱皰 "
    "痪瘓 瘫癱 癣癬 盐鹽 监監 盖蓋 矫矯 码碼 砚硯 硕碩 碱鹼 礼禮 祎禕 祯禎 禄祿 积積 称稱 窦竇 筛篩 签簽 简簡 "
    "类類 粤粵 粪糞 红紅 纤纖 约約 级級 纪紀 纯純 纳納 纵縱 纶綸 线線 练練 组組 细細 终終 绍紹 经經 结結 绕繞 "
    "给給 绝絕 继繼 续續 绮綺 维維 综綜 络絡 绿綠 缓緩 编編 缘緣 缝縫 缨纓 缩縮 缪繆 罗羅 聂聶 职職 联聯 聪聰 "
    "肃肅 肠腸 肤膚 肾腎 肿腫 胀脹 胆膽 脉脈 脑腦 脓膿 脚腳 脱脫 腻膩 艳艷豔 艺藝 节節 芦蘆 苏蘇 荆荊 荟薈 荣榮 "
    "药藥 莱萊 莲蓮 获獲 莹瑩 萝蘿 营營 萧蕭 萨薩 蒋蔣 蓝藍 蔺藺 蕴蘊 虑慮 虚虛 虽雖 补補 装裝 见見 观觀 规規 "
    "视視 觉覺 计計 认認 让讓 训訓 议議 讯訊 记記 讲講 许許 设設 证證 评評 识識 诉訴 诊診 词詞 试試 诗詩 诚誠 "
    "话話 诞誕 该該 详詳 说說 请請 诸諸 诺諾 读讀 调調 谈談 谌諶 谐諧 谢謝 谦謙 谨謹 谭譚 贝貝 贞貞 负負 贡貢 "
    "财財 责責 贤賢 账賬 质質 贯貫 贰貳 贵貴 费費 贺賀 贾賈 资資 赋賦 赖賴 赛賽 赞贊 赵趙 跃躍 车車 轩軒 转轉 "
    "轮輪 轶軼 轻輕 较較 辉輝 输輸 辕轅 边邊 辽遼 达達 过過 迈邁 还還 这這 进進 远遠 连連 迟遲 选選 逊遜 遥遙 "
    "邓鄧 邝鄺 邬鄔 邮郵 邹鄒 邻鄰 郑鄭 释釋 针針 钊釗 钙鈣 钝鈍 钟鍾鐘 钠鈉 钢鋼 钧鈞 钰鈺 钱錢 钾鉀 铁鐵 铃鈴 "
    "铎鐸 铭銘 银銀 锋鋒 锐銳 锦錦 键鍵 镇鎮 镜鏡 长長 门門 闫閆 闭閉 问問 闯闖 间間 闵閔 闷悶 闻聞 闾閭 阅閱 "
    "阎閻 阔闊 阙闕 阚闞 队隊 阳陽 阴陰 陆陸 陈陳 险險 随隨 隐隱 隽雋 难難 靓靚 静靜 韦韋 韧韌 韩韓 韬韜 韵韻 "
    "项項 顺順 须須 顾顧 颂頌 预預 颅顱 颈頸 颐頤 频頻 颖穎 颜顏 额額 颤顫 飒颯 飞飛 饭飯 饮飲 饶饒 馆館 马馬 "
    "驰馳 驶駛 驼駝 驾駕 骁驍 骅驊 骆駱 验驗 骏駿 骤驟 髋髖 鱼魚 鲁魯 鲍鮑 鲜鮮 鸣鳴 鸿鴻 鹃鵑 鹏鵬 鹤鶴 鹰鷹 "
    "麦麥 黄黃 齐齊 齿齒 龄齡 龈齦 龙龍 龚龔 台臺 后後 于於 里裡裏 复復複 制製 并並併 占佔 周週 布佈 游遊 系係 "
    "采採 杰傑 准準 万萬 与與 云雲 体體 价價 党黨 冲衝沖 几幾 气氣 丰豐 余餘 适適 床牀 峰峯 群羣 尽盡 听聽 宁寧 "
    "腊臘 岩巖 洁潔 种種 涂塗 范範 征徵 症癥 农辳 闰閏 旷曠 贻貽 钦欽 铨銓 锡錫 镛鏞 骥驥 麟麐 娱娛 绣繡 "
    "绢絹 莺鶯 贸貿 轼軾 逻邏 颉頡 栖棲 纬緯 绪緒 亮喨"
)
_SMALL_CAPITALS = dict(zip(map(ord, "ᴀʙᴄᴅᴇꜰɢʜɪᴊᴋʟᴍɴᴏᴘʀꜱᴛᴜᴠᴡʏᴢ"), "ABCDEFGHIJKLMNOPRSTUVWYZ", strict=True))
_LETTER_BLOCKS = ((0x2102, 0x213A), (0x24B6, 0x24EA), (0x1D400, 0x1D7CC), (0x1F130, 0x1F14A))  # mathematical, circled
_CAPITAL_BLOCKS = (0x1F150, 0x1F170)  # white on black, which have no plain form in Unicode


def _letters() -> dict[int, str]:
    """Return the letters that are ASCII letters in another dress."""
    plain = {
        code: form
        for start, end in _LETTER_BLOCKS
        for code in range(start, end)
        if len(form := unicodedata.normalize("NFKC", chr(code))) == 1 and form.isascii() and form.isalpha()
    }
    dark = {start + index: chr(ord("A") + index) for start in _CAPITAL_BLOCKS for index in range(26)}
    return plain | dark | _SMALL_CAPITALS | {ord("ı"): "i", ord("ɑ"): "a", ord("ɡ"): "g"}


PLAIN_FORMS: dict[int, str] = _letters() | {
    ord(form): pair[0] for pair in _TRADITIONAL.split() for form in pair[1:] if pair[0] != form
}

# --- digits ---------------------------------------------------------------------------------------------------

_DIGIT_BLOCKS = ((0xB2, 0xBA), (0x2070, 0x208A), (0x2460, 0x2500), (0x2776, 0x2794), (0x1F100, 0x1F10B))
_DRESSED = {  # circled, raised, lowered, with a full stop or comma
    code: str(unicodedata.digit(chr(code)))
    for start, end in _DIGIT_BLOCKS
    for code in range(start, end)
    if unicodedata.digit(chr(code), None) is not None and not chr(code).isdecimal()
}
_FORMAL = dict(zip(map(ord, "壹贰叁肆伍陆柒捌玖拾"), "一二三四五六七八九十", strict=True)) | {
    ord("弍"): "二",
    ord("參"): "三",
    ord("参"): "三",
}
_FORMAL_SIGNS = "".join(map(chr, _FORMAL))
FORMAL = {ord(plain): chr(formal) for formal, plain in list(_FORMAL.items())[:10]}
_NUMERALS = dict(zip(map(ord, "〇零○一二三四五六七八九幺"), "0001234567891", strict=True)) | {
    code: str("〇一二三四五六七八九".index(plain)) for code, plain in _FORMAL.items() if plain != "十"
}
_ANY = "".join(map(chr, (_DRESSED | _NUMERALS).keys()))
_DRESSED_SIGNS = "".join(map(chr, _DRESSED))
SPELLED_SIGNS = frozenset(_ANY)
_SPELLED = re.compile(  # three or more near each other, but for the numerals of a year
    rf"[{_ANY}](?:[0-9 \n./()\-]{{0,13}}[{_ANY}]){{2,}}+(?P<year>(?<![{_DRESSED_SIGNS}]) ?年)?"
)
_NUMBER = re.compile(rf"[0-9{_ANY}](?:[ \n\-./()]{{0,2}}[0-9{_ANY}]){{3,}}")
_DRESSED_DATE = re.compile(
    rf"[{_DRESSED_SIGNS}](?=[0-9{_DRESSED_SIGNS}]?[年月日号/.\-])"
    rf"|(?:(?<=[月/.\-])|(?<=[/.\-][0-9{_DRESSED_SIGNS}]))[{_DRESSED_SIGNS}]"
)
_LEAST_SPELLED, _LEAST_NUMERALS = 3, 5

_N = f"〇零○一二三四五六七八九0-9{_FORMAL_SIGNS}"
_M = f"{_N}十廿"
_FORMAL_DATE = re.compile(
    rf"[{_N}]{{2,4}} ?年(?: ?[{_M}]{{1,4}} ?月(?: ?初?[{_M}]{{1,4}} ?[日号])?)?"
    rf"|[{_M}]{{1,4}} ?月 ?初?[{_M}]{{1,4}} ?[日号]"
)


def with_digits(text: str, present: frozenset[str] | set[str]) -> str:
    """Return `text` with the digits of numbers that are spelled out or dressed up; `present`: its characters.

    >>> with_digits("电话①③⑧⓪⓪①③⑧⓪⓪⓪，③次；贰零贰肆年叁月", set("①零贰"))
    '电话13800138000，③次；二零二四年三月'
    """
    if not present.isdisjoint(_FORMAL_SIGNS):
        text = _FORMAL_DATE.sub(lambda match: match[0].translate(_FORMAL), text)
    if all(run["year"] for run in _SPELLED.finditer(text)):  # a run that fails is not tried again from its middle
        return text
    text, numbers = _NUMBER.subn(_as_number, text)
    return _DRESSED_DATE.sub(lambda match: match[0].translate(_DRESSED), text) if numbers else text


def _as_number(match: re.Match[str]) -> str:
    """Return a run of digits in plain ones if it is a number; four numerals may be a year, and stay."""
    run = match[0]
    spelled = [character for character in run if character in SPELLED_SIGNS]
    if len(spelled) < _LEAST_SPELLED:
        return run
    if ord(spelled[0]) not in _DRESSED and ord(spelled[-1]) not in _DRESSED:
        digits = sum(character not in " \n-./()" for character in run)
        if digits < _LEAST_NUMERALS:
            return run
    return run.translate(_DRESSED | _NUMERALS)


# --- letters that look like Latin ones ------------------------------------------------------------------------

_LOOKALIKE = dict(
    zip(
        map(ord, "АВЕЅІЈКМНОРСТУХԌԚԜаеѕіјорсухһԁԛԝӏ" + "ΑΒΕΖΗΙΚΜΝΟΡΤΥΧο"),
        "ABESIJKMHOPCTYXGQWaesijopcyxhdqwl" + "ABEZHIKMNOPTYXo",
        strict=True,
    )
)
LOOKALIKE_SIGNS = frozenset(map(chr, _LOOKALIKE))
_LATIN = "A-Za-zÀ-ÖØ-öø-ɏ"
_MIXED = re.compile(rf"[{_LATIN}{''.join(LOOKALIKE_SIGNS)}]+")
_HAS_LATIN = re.compile(f"[{_LATIN}]")
_OTHER_ALPHABET = re.compile(  # a Cyrillic letter of its own, or a Greek word; single Greek letters are in every note
    rf"[\u0400-\u052f](?<![{''.join(LOOKALIKE_SIGNS)}])|[\u0370-\u03ff]{{3}}"
)


def with_latin(text: str) -> str:
    """Return `text` with Latin letters for those that only look like them, in words that aren't of another alphabet.

    >>> with_latin("J\u043ehn")
    'John'
    """
    foreign = _OTHER_ALPHABET.search(text) is not None

    def plain(match: re.Match[str]) -> str:
        latin = _HAS_LATIN.search(match[0]) is not None
        return match[0].translate(_LOOKALIKE) if latin or not foreign else match[0]

    return _MIXED.sub(plain, text)
