"""Chinese forms (simplified characters)."""

from ..concepts import (
    ADJECTIVES,
    GIVE_VERBS,
    NOUNS,
    PERSON_ADJECTIVES,
    PERSON_VERBS,
    PERSONS,
    PLACES,
    VERBS,
)
from .table import table

PERSON = table(
    PERSONS,
    """
    farmer | 农民
    woman | 女人
    boy | 男孩
    girl | 女孩
    doctor | 医生
    man | 男人
    teacher | 老师
    student | 学生
    queen | 女王
    soldier | 士兵
    cook | 厨师
    nurse | 护士
    merchant | 商人
    singer | 歌手
    neighbor | 邻居
    actress | 女演员
    driver | 司机
    writer | 作家
    fisherman | 渔夫
    king | 国王
    """,
    1,
)
# attributive | predicate
PERSON_ADJECTIVE = table(
    PERSON_ADJECTIVES,
    """
    happy | 开心的 | 开心
    tired | 疲惫的 | 累
    kind | 善良的 | 善良
    clever | 聪明的 | 聪明
    strong | 强壮的 | 强壮
    rich | 富有的 | 富有
    poor | 贫穷的 | 穷
    famous | 出名的 | 出名
    """,
    2,
)
# noun | classifier
NOUN = table(
    NOUNS,
    """
    apple | 苹果 | 个
    egg | 鸡蛋 | 个
    book | 书 | 本
    letter | 信 | 封
    chair | 椅子 | 把
    table | 桌子 | 张
    cup | 杯子 | 个
    hat | 帽子 | 顶
    flower | 花 | 朵
    bag | 包 | 个
    cat | 猫 | 只
    dog | 狗 | 只
    horse | 马 | 匹
    bird | 鸟 | 只
    orange | 橙子 | 个
    banana | 香蕉 | 根
    onion | 洋葱 | 个
    lemon | 柠檬 | 个
    cake | 蛋糕 | 个
    newspaper | 报纸 | 份
    shirt | 衬衫 | 件
    coat | 大衣 | 件
    lamp | 灯 | 盏
    plate | 盘子 | 个
    knife | 刀 | 把
    box | 盒子 | 个
    key | 钥匙 | 把
    picture | 画 | 幅
    mirror | 镜子 | 面
    basket | 篮子 | 个
    umbrella | 雨伞 | 把
    boat | 船 | 条
    cow | 奶牛 | 头
    goat | 山羊 | 只
    rabbit | 兔子 | 只
    donkey | 驴 | 头
    sheep | 绵羊 | 只
    hen | 母鸡 | 只
    """,
    2,
)
# attributive | predicate: 是…的 where the adjective only classifies
ADJECTIVE = table(
    ADJECTIVES,
    """
    big | 大 | 大
    small | 小 | 小
    red | 红色的 | 是红色的
    white | 白色的 | 是白色的
    black | 黑色的 | 是黑色的
    new | 新 | 新
    old | 旧 | 旧
    green | 绿色的 | 是绿色的
    beautiful | 漂亮的 | 漂亮
    clean | 干净的 | 干净
    dirty | 脏 | 脏
    expensive | 昂贵的 | 贵
    heavy | 沉重的 | 重
    blue | 蓝色的 | 是蓝色的
    """,
    2,
)
# past | plain, after 正在 | after 会 | after 每天都
VERB = table(
    VERBS,
    """
    buy | 买了 | 买 | 买 | 买
    eat | 吃了 | 吃 | 吃 | 吃
    read | 读了 | 读 | 读 | 读
    find | 找到了 | 找 | 找到 | 找到
    see | 看见了 | 看 | 看见 | 看见
    sell | 卖了 | 卖 | 卖 | 卖
    choose | 选了 | 选 | 选 | 选
    wash | 洗了 | 洗 | 洗 | 洗
    lose | 弄丢了 | 弄丢 | 弄丢 | 弄丢
    write | 写了 | 写 | 写 | 写
    hide | 藏起了 | 藏 | 藏起 | 藏起
    break | 打碎了 | 打碎 | 打碎 | 打碎
    """,
    4,
)
# past | plain, with ~ for the receiver
GIVE_VERB = table(
    GIVE_VERBS,
    """
    give | 给了~ | 给~
    show | 给~看了 | 给~看
    bring | 给~带来了 | 给~带来
    """,
    2,
)
# past | plain, after 正在 | after 会 | after 每天都
PERSON_VERB = table(
    PERSON_VERBS,
    """
    see | 看见了 | 看 | 看见 | 看见
    help | 帮助了 | 帮助 | 帮助 | 帮助
    meet | 遇见了 | 遇见 | 遇见 | 遇见
    thank | 感谢了 | 感谢 | 感谢 | 感谢
    """,
    4,
)
# at | at, as the topic of a sentence | to
PLACE = table(
    PLACES,
    """
    garden | 在花园里 | 花园里 | 花园
    market | 在市场上 | 市场上 | 市场
    school | 在学校里 | 学校里 | 学校
    village | 在村子里 | 村子里 | 村子里
    kitchen | 在厨房里 | 厨房里 | 厨房
    city | 在城里 | 城里 | 城里
    shop | 在商店里 | 商店里 | 商店
    hospital | 在医院里 | 医院里 | 医院
    hotel | 在酒店里 | 酒店里 | 酒店
    station | 在火车站 | 火车站 | 火车站
    library | 在图书馆里 | 图书馆里 | 图书馆
    farm | 在农场里 | 农场里 | 农场
    museum | 在博物馆里 | 博物馆里 | 博物馆
    forest | 在森林里 | 森林里 | 森林
    """,
    3,
)
COUNT = {1: "一", 3: "三", 5: "五"}
WHEN = ("", "昨天", "现在", "明天", "每天", "今天早上", "上周", "下周", "")
