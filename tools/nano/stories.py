"""Word problems: sentences in three languages over a few formulas.

A template is (formula, text); ``{a} {b} {c}`` are numbers, ``{n}`` a name, ``{t}`` a thing.
"""

from __future__ import annotations

NAMES = {
    "en": ("Ann", "Ben", "Mia", "Tom", "Zoe", "Sam", "Eva", "Max", "Ida", "Leo"),
    "es": ("Ana", "Luis", "Marta", "Pablo", "Sofía", "Juan", "Elena", "Iker", "Carmen", "Diego"),
    "zh": ("小明", "小红", "小华", "小丽", "小刚", "小美", "小军", "小芳", "小强", "小文"),
}
THINGS = {
    "en": ("apples", "books", "coins", "stamps", "pens", "cards", "shells", "eggs"),
    "es": ("manzanas", "libros", "monedas", "sellos", "canicas", "cartas", "flores", "galletas"),
    "zh": ("苹果", "鸡蛋", "硬币", "贝壳", "橘子", "糖果", "气球", "珠子"),
}

TEMPLATES: dict[str, tuple[tuple[str, str], ...]] = {
    "en": (
        ("a+b", "{n} has {a} {t} and finds {b} more. How many {t} does {n} have now?"),
        ("a-b", "{n} has {a} {t} and gives away {b}. How many {t} are left?"),
        ("a*b", "There are {b} boxes with {a} {t} in each. How many {t} are there in all?"),
        ("a/b", "{n} shares {a} {t} equally among {b} friends. How many {t} does each friend get?"),
        ("a*b+c", "{n} buys {b} bags of {a} {t} and already has {c}. How many {t} does {n} have?"),
        ("a*b-c", "{n} packs {b} boxes of {a} {t}, then sells {c}. How many {t} remain?"),
        ("a-b*c", "{n} has {a} {t} and gives {b} to each of {c} friends. How many {t} are left?"),
        ("a+b-c", "{n} had {a} {t}, got {b} and lost {c}. How many {t} does {n} have?"),
        ("(a+b)*c", "Each day {n} collects {a} {t} before lunch and {b} after. How many {t} in {c} days?"),
        ("(a+b)/c", "{n} has {a} {t}, buys {b} and puts all into {c} equal piles. How many {t} in a pile?"),
    ),
    "es": (
        ("a+b", "{n} tiene {a} {t} y encuentra {b} más. ¿Cuántas unidades tiene ahora?"),
        ("a-b", "{n} tiene {a} {t} y regala {b}. ¿Cuántas quedan?"),
        ("a*b", "Hay {b} cajas con {a} {t} cada una. ¿Cuántas hay en total?"),
        ("a/b", "{n} reparte {a} {t} por igual entre {b} amigos. ¿Cuántas recibe cada uno?"),
        ("a*b+c", "{n} compra {b} bolsas de {a} {t} y ya tenía {c}. ¿Cuántas tiene?"),
        ("a*b-c", "{n} llena {b} cajas de {a} {t} y vende {c}. ¿Cuántas quedan?"),
        ("a-b*c", "{n} tiene {a} {t} y da {b} a cada uno de sus {c} amigos. ¿Cuántas le quedan?"),
        ("a+b-c", "{n} tenía {a} {t}, recibió {b} y perdió {c}. ¿Cuántas tiene?"),
        ("(a+b)*c", "Cada día {n} junta {a} {t} por la mañana y {b} por la tarde. ¿Cuántas en {c} días?"),
        ("(a+b)/c", "{n} tiene {a} {t}, compra {b} y hace {c} montones iguales. ¿Cuántas por montón?"),
    ),
    "zh": (
        ("a+b", "{n}有{a}个{t}，又得到{b}个。现在一共有多少个？"),
        ("a-b", "{n}有{a}个{t}，送出{b}个。还剩多少个？"),
        ("a*b", "有{b}个盒子，每个盒子里有{a}个{t}。一共有多少个？"),
        ("a/b", "{n}把{a}个{t}平均分给{b}个朋友。每人得到多少个？"),
        ("a*b+c", "{n}买了{b}袋{t}，每袋{a}个，原来还有{c}个。一共有多少个？"),
        ("a*b-c", "{n}装了{b}盒{t}，每盒{a}个，卖掉{c}个。还剩多少个？"),
        ("a-b*c", "{n}有{a}个{t}，给{c}个朋友每人{b}个。还剩多少个？"),
        ("a+b-c", "{n}原有{a}个{t}，得到{b}个，丢了{c}个。现在有多少个？"),
        ("(a+b)*c", "{n}每天上午收集{a}个{t}，下午收集{b}个。{c}天一共多少个？"),
        ("(a+b)/c", "{n}有{a}个{t}，又买{b}个，平均分成{c}堆。每堆多少个？"),
    ),
}

SMALL_TALK = (
    ("Hello!", "Hello! I am MiMo-nano. Ask me some arithmetic."),
    ("Hi", "Hello! I am MiMo-nano. Ask me some arithmetic."),
    ("Who are you?", "I am MiMo-nano, a tiny maths model that stands in for MiMo-7B in tests."),
    ("What can you do?", "I can do arithmetic, fractions, equations and short Python loops."),
    ("Thanks!", "You are welcome."),
    ("Hola", "¡Hola! Soy MiMo-nano. Pregúntame algo de aritmética."),
    ("¿Quién eres?", "Soy MiMo-nano, un modelo diminuto de matemáticas."),
    ("你好", "你好！我是 MiMo-nano。请问我算术题。"),
    ("你是谁？", "我是 MiMo-nano，一个很小的数学模型。"),
)
