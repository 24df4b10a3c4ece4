"""Sentences of Chinese notes: slots in braces, clinical decoys in double brackets.

Why it exists: what a note says is kept apart from how it is put together.

Rules:
    * One template per line; a slot is one of those that `stage.Stage` fills.
    * Whatever in a template identifies a person is a slot. Decoys are clinical words that begin with a surname
      character, hold an eponym, or look like a date or a number of a document.

What it does not do: describe one coherent illness.
"""

from collections.abc import Mapping, Sequence

from fedmed_sim.phantoms.markup import Section, templates

LABELS: Mapping[str, tuple[str, ...]] = {
    "patient": ("姓名", "患者姓名", "姓 名", "病人姓名", "受检者"),
    "sex": ("性别", "性 别"),
    "age": ("年龄", "年 龄"),
    "birth": ("出生日期", "生日", "出生年月日", "出生"),
    "rid_any": ("身份证号", "身份证", "身份证号码", "公民身份号码", "证件号(身份证)"),
    "phone": ("联系电话", "电话", "手机", "手机号码", "本人电话"),
    "address": ("住址", "家庭住址", "现住址", "户口地址", "联系地址"),
    "record": ("住院号", "病案号", "病历号", "登记号", "ID号"),
    "outpatient": ("门诊号", "就诊卡号", "检查号", "影像号"),
    "insurance": ("医保号", "医保卡号", "社保卡号"),
    "relative": ("联系人", "家属姓名", "紧急联系人", "病史陈述者"),
    "kin_phone": ("联系人电话", "家属电话", "紧急联系电话"),
    "date": ("入院日期", "入院时间", "就诊日期", "检查日期", "记录日期", "报告日期"),
    "doctor": ("主治医师", "经治医生", "申请医师", "管床医生", "接诊医师"),
    "hospital": ("医院", "就诊医院", "送检单位", "转出医院"),
    "city": ("籍贯", "出生地"),
    "ward": ("科室", "科别", "病区"),
    "bed": ("床号", "床位"),
    "email": ("邮箱", "电子邮箱", "E-mail"),
    "work": ("职业",),
}

BANKS: Mapping[str, Sequence[str]] = {
    "opening": templates("""
        患者{patient}，{sex}，{age}岁，因“{complaint}”于{date}收入我科。
        {patient}，{sex}性，{age}岁，{date}因{complaint}入院。
        {patient}（{sex}，{age}岁，住院号{record}）于{date}由{hospital}转入。
        今日查看病人{patient}，{sex}，{age}岁，主因{complaint}来诊。
        兹有患者{patient}，{sex}，现年{age}岁，居住于{address}，因{complaint}就诊。
        {sex}性患者，{age}岁，籍贯{city}，{complaint}，由其家属{relative}陪同入院。
    """),
    "history": templates("""
        患者于{past}无明显诱因出现{complaint}，曾在{other_hospital}就诊，予[[阿莫西林]]口服，症状[[时轻时重]]。
        {past}外院CT示肝内低密度影，大小约{size}，当地未行特殊治疗。
        患者{complaint}加重[[3天]]，无[[畏寒]]、[[高热]]，无[[黄疸]]，大便呈[[陶土样]]。
        其{kin}{relative}代诉：患者{recent}夜间突发气促，[[平卧]]受限，[[双下肢]]水肿。
        {recent}外院查血常规：[[白细胞]]{lab}，[[血红蛋白]]{lab}，予[[头孢曲松]][[2.0g]]静滴。
        患者{patient}诉{complaint}已有[[2年]]，{past}起加重，伴[[张口]]受限。
        自{past}起服用[[华法林]][[2.5mg]]每日一次，[[INR]]维持在[[2.0-3.0]]。
        病程中[[常感]]乏力，[[时有]]头晕，[[纳差]]，体重下降约[[5kg]]。
        {past}于{other_hospital}行[[石膏]]外固定，主刀为{doctor2}医师，术后恢复[[平稳]]。
        由{other_hospital}{doctor2}医生电话{phone2}联系后转来，带来病历号{outpatient}的资料。
        [[江米]]样大便[[两次]]，于急诊留观，心率{pulse}，血压{bp}。
        曾诊断“[[帕金森]]病”“[[高血压病]]3级”，长期口服[[美多芭]]、[[氨氯地平]]。
        {past}体检发现[[甲胎蛋白]]升高，[[余]]无异常，[[周期性]]复查至今。
    """),
    "past_history": templates("""
        [[高血压]]病史[[10余年]]，最高{bp}，[[何首乌]]中毒史1次。
        {past}曾于{other_hospital}行阑尾切除术，[[麦氏点]]可见陈旧瘢痕。
        否认[[肝炎]]、结核史，[[青霉素]]过敏，预防接种史[[不详]]。
        {past_year}有[[马蹄]]内翻足矫形史，[[石膏]]固定[[6周]]。
        糖尿病[[8年]]，[[二甲双胍]][[0.5g]] 每日三次，[[空腹血糖]]{lab}。
        其{kin}{relative}患[[克罗恩病]]，[[白化病]]家族史阴性。
        [[牛皮癣]]病史，外用[[金霉素]]软膏及[[黄连]]膏。
        既往在{other_hospital}就诊，就诊卡号{outpatient}，医保号：{insurance}。
        吸烟[[20年]]，每日[[1/2]]包；偶饮[[黄酒]]。
        {past}输血[[2U]]，无反应，[[梅毒]]及[[艾滋病]]抗体阴性。
    """),
    "exam": templates("""
        T {temp}，P {pulse}，R [[20次/分]]，BP {bp}，神志[[清楚]]，[[张力]]正常。
        全身皮肤无[[黄染]]，[[毛细血管]]充盈[[良好]]，[[颈静脉]]无怒张。
        腹[[平软]]，[[墨菲征]]阴性，[[肠鸣音]][[4次/分]]，[[移动性]]浊音（-）。
        四肢肌力[[5/5]]级，肌[[张力]]不高，[[巴宾斯基征]]未引出，[[霍夫曼征]]阴性。
        双肺呼吸音[[粗]]，[[可闻及]]少许湿啰音，心率{pulse}，[[奔马律]]未及。
        左前臂[[石膏]]固定在位，[[松紧]]适宜，[[末梢]]血运[[好]]。
        [[马尾]]神经症状阴性，[[直腿抬高]]试验[[70°]]，[[L4/5]]压痛。
        患者{patient}[[精神可]]，[[安静]]，[[对答]]切题，[[GCS]] [[15分]]。
        [[温度觉]]减退，[[高张力]]未见，[[方肩]]畸形（-），[[钱币]]状湿疹散在。
    """),
    "labs": templates("""
        {recent}血常规：WBC {lab}，[[Hb]] [[121g/L]]，[[PLT]] [[210×10^9/L]]，[[CRP]] [[12.6mg/L]]。
        [[白蛋白]][[34g/L]]，[[总胆红素]][[18.2μmol/L]]，[[肌酐]]{lab}。
        心电图（{recent}）：窦性心律，[[V1-V3]] ST段[[抬高]][[0.1mV]]。
        胸部CT（{recent}，检查号{outpatient}）：右上肺[[结节]]，大小{size}，[[毛刺]]征[[明显]]。
        [[金黄色]]葡萄球菌培养阳性，[[万古霉素]]敏感（MIC[[≤1]]），[[程度]]：中。
        病理号{outpatient}：[[霍奇金]]淋巴瘤，[[Ki-67]] [[约60%]]，[[CD20]]（+）。
        [[D-二聚体]] [[0.52mg/L]]，[[BNP]] [[1024pg/ml]]，[[cTnI]] [[0.03]]。
        诊断编码{icd}，[[NYHA]] Ⅲ级，[[Child-Pugh]] B级，[[T2N1M0]]。
    """),
    "plan": templates("""
        予[[甘露醇]][[125ml]] [[q8h]]，[[罗库溴铵]]备用，[[常规]]监测[[电解质]]。
        {surname}{title}查房后指示：完善检查，[[择期]]手术，[[方案]]同前。
        {doctor}主任医师查房：[[同意]]目前诊断，于{next}复查[[肌钙蛋白]]。
        拟{next}行腹腔镜手术，已与其{kin}{relative}（电话{kin_phone}）谈话并签字。
        请{hospital}{doctor2}教授会诊，[[明日]]上午[[9:30]]病例讨论。
        [[龙胆泻肝丸]][[6g]]口服，[[云南白药]]外敷，[[左归丸]]停用。
        继续[[阿司匹林]][[100mg]]、[[氯吡格雷]][[75mg]]，[[注意]]消化道出血。
        告知患者{patient}及家属{relative}病情，[[家属]][[表示]]理解。
        {patient}今晨[[排便]]一次，[[任意]]体位可，[[何时]]拆线[[再定]]。
        [[车前子]][[10g]]、[[杜仲]][[15g]]、[[白术]][[12g]]、[[川芎]][[6g]]，[[水煎]]服。
        结果发送至邮箱{email}，电子报告见{url} 。
        [[康复]]训练[[每日]][[2次]]，[[常规]]换药，[[空腹]][[8小时]]。
    """),
    "nursing": templates("""
        {clock} 患者{patient}{temp}，遵[[医嘱]]予[[温水]]擦浴，{clock}复测[[37.2℃]]。
        责任护士{nurse}交班：患者[[安睡]]，[[胡言]]乱语未再出现。
        {clock}，护士{nurse}巡视，[[石膏]]边缘皮肤[[完好]]，[[足背]]动脉搏动[[可及]]。
        家属{relative}来电{kin_phone}询问病情，已转告{doctor}医生。
        患者{patient}诉切口疼痛，NRS [[4分]]，[[曲马多]][[50mg]]口服后[[缓解]]。
        出院宣教已向{patient}及其{kin}{relative}讲解，[[万一]]不适[[随时]]就诊。
        与{nurse}、{nurse2}双人核对，{record}，输[[红细胞]][[2U]]。
        老人由{relative}陪护，[[高危]]跌倒，[[白天]]卧床，[[夏季]]注意[[补水]]。
    """),
    "operation": templates("""
        手术日期：{date}，术者：{doctor}，一助：{doctor2}，麻醉医师：{doctor3}，器械护士：{nurse}。
        {doctor}主刀，{doctor2}、{doctor3}助手，[[气管]]插管全麻[[成功]]后取[[截石]]位。
        逐层进腹，见[[大网膜]]与[[阑尾]]粘连，[[5-0]]可吸收线连续缝合。
        术中出血约[[150ml]]，输[[平衡液]][[1500ml]]，[[文丘里]]面罩吸氧。
        切除标本约{size}，术中冰冻（{outpatient}）：[[慢性]]炎症。
        取[[麦氏切口]]入路，[[毕Ⅱ式]]吻合，[[石蜡]]油润滑[[管腔]]。
        术毕{clock}送返病房，手术器械清点无误，签名：{doctor2}。
        向家属{relative}展示标本，其{kin}签字确认，身份证：{rid_any}。
    """),
    "imaging": templates("""
        与{past}片（影像号{outpatient}）对比：右肺下叶[[磨玻璃]]影较前[[明显]]吸收。
        肝脏形态[[规整]]，[[S6]]段见囊性灶，约{size}，[[CT值]][[12HU]]。
        [[T2WI]]呈高信号，[[DWI]]无受限，[[马鞍]]区未见占位。
        [[史密斯]]骨折，断端[[成角]]约[[15°]]，[[石膏]]影遮挡。
        [[海绵]]状血管瘤可能，[[蜂窝]]样改变，[[液平]]未见。
        甲状腺[[TI-RADS]] [[4a]]类，[[边界]]不清，[[纵横比]][[>1]]。
        [[周围]]脂肪间隙[[清晰]]，[[申通线]]形态如常，[[钟摆]]征阴性。
    """),
    "pathology": templates("""
        肉眼所见：灰[[白色]]组织一块，大小{size}，切面[[灰黄]]，质[[韧]]。
        送检单位：{hospital}，送检医生：{doctor}，收到日期{date}。
        免疫组化：[[CK7]]（+），[[P53]]（野生型），[[HER-2]]（[[1+]]），[[S-100]]（-）。
        [[革兰]]染色阴性，[[刚果红]]染色阴性，[[苏木]]素-[[伊红]]染色[[良好]]。
        会诊意见同{other_hospital}{past}报告（病理号{outpatient}），[[ICD-O]] {icd}。
    """),
    "closing": templates("""
        出院日期{date}，随诊电话{phone}，[[门诊]]复查{next}。
        出院后请于{next}到{hospital}{surname}{title}门诊复诊，联系人{relative}，手机{kin_phone}。
        患者住{address}，[[社区]]随访，联系电话：{phone}。
        感谢{hospital}{doctor2}医生转诊，[[顺颂]]时祺。
        预约网址{url}，或发邮件至{email}。
        补充：患者曾用名未提供，身份证号为{rid_any}，已与{relative}核对。
        {patient}于{date}离院，[[余]]无特殊，诊断{icd}。
    """),
}

KINDS_ZH: Mapping[str, tuple[Section, ...]] = {
    "admission": (
        Section(headings=("", "主诉", "入院情况"), bank="opening", low=1, high=1),
        Section(headings=("现病史", "病史", ""), bank="history", low=2, high=4),
        Section(headings=("既往史", "个人史", ""), bank="past_history", low=1, high=3),
        Section(headings=("体格检查", "查体", "专科检查"), bank="exam", low=1, high=3),
        Section(headings=("辅助检查", "化验", ""), bank="labs", low=1, high=2),
        Section(headings=("诊疗计划", "处理", ""), bank="plan", low=1, high=3),
    ),
    "progress": (
        Section(headings=("", "病程记录", "查房记录"), bank="plan", low=1, high=2),
        Section(headings=("", "查体", "目前情况"), bank="exam", low=1, high=2),
        Section(headings=("", "复查结果"), bank="labs", low=1, high=2),
        Section(headings=("", "今日处理", "处理意见"), bank="plan", low=1, high=2),
    ),
    "discharge": (
        Section(headings=("入院情况", ""), bank="opening", low=1, high=1),
        Section(headings=("诊疗经过", "住院经过"), bank="history", low=1, high=3),
        Section(headings=("检查结果", ""), bank="labs", low=1, high=2),
        Section(headings=("出院医嘱", "出院带药及随访", ""), bank="closing", low=1, high=3),
    ),
    "radiology": (
        Section(headings=("临床资料", "简要病史", ""), bank="history", low=0, high=1),
        Section(headings=("影像所见", "检查所见", "描述"), bank="imaging", low=2, high=4),
        Section(headings=("诊断意见", "印象", "结论"), bank="labs", low=1, high=1),
    ),
    "operation": (
        Section(headings=("手术记录", ""), bank="operation", low=3, high=5),
        Section(headings=("术后处理", ""), bank="plan", low=1, high=2),
    ),
    "referral": (
        Section(headings=("尊敬的同道", "转诊事由", ""), bank="opening", low=1, high=1),
        Section(headings=("", "病情摘要"), bank="history", low=1, high=2),
        Section(headings=("", "既往"), bank="past_history", low=1, high=2),
        Section(headings=("", "转诊目的"), bank="closing", low=1, high=2),
    ),
    "nursing": (
        Section(headings=("护理记录", "", "交班记录"), bank="nursing", low=2, high=5),
        Section(headings=("", "生命体征"), bank="exam", low=0, high=1),
    ),
    "pathology": (
        Section(headings=("标本", "", "病理检查"), bank="pathology", low=2, high=4),
        Section(headings=("病理诊断", ""), bank="labs", low=1, high=1),
    ),
}

SIGNATURES: Sequence[str] = templates("""
    记录者：{doctor} {date}
    医师签名：{doctor}　日期：{date}
    {doctor}/{doctor2}
    报告医师：{doctor}　审核医师：{doctor2}　{date} {clock}
    签名：{nurse} {date}
    住院医师 {doctor2} 主治医师 {doctor}
    书写：{doctor}，{date} {clock}，{hospital}
    {date} {doctor}
""")

COMPLAINTS = (
    "反复咳嗽咳痰1月",
    "突发胸痛2小时",
    "右上腹痛伴发热3天",
    "头晕、肢体麻木半天",
    "发现颈部包块2周",
    "间断便血半年",
    "外伤后右髋疼痛",
    "心悸、气短1周",
    "双眼视物模糊",
)
KIN = ("子", "女", "妻", "丈夫", "儿子", "女儿", "父亲", "母亲", "姐", "弟", "孙女")
TITLES = ("主任", "医生", "教授", "大夫", "副主任", "主治医师", "老师")
WARDS = ("心内科", "普外科", "神经内科", "骨二科", "呼吸与危重症医学科", "消化内科一病区", "ICU", "儿科", "肿瘤科")
