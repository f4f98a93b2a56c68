"""Arithmetic written out digit by digit, the same way in every kind of problem.

Each function returns the value and the line a person would write. One operation is one line:

>>> add(348, 162)
(510, '348+162:8+2+0=10,4+6+1=11,3+1+1=05=510')
>>> subtract(510, 162)
(348, '510-162:0-2-0=18,1-6-1=14,5-1-1=03=348')
>>> divide(947, 6)
((157, 5), '947/6:9/6=1r3,34/6=5r4,47/6=7r5=157r5')
"""

from __future__ import annotations

Expression = int | tuple["Expression", str, "Expression"]
"""A number, or (left, operator, right) with one of ``+ - * /``."""


def add(a: int, b: int) -> tuple[int, str]:
    """Sum of a and b; a column is `digit+digit+carry=` and two digits, the new carry first."""
    carry, columns = 0, []
    for x, y in _columns(a, b):
        total = x + y + carry
        columns.append(f"{x}+{y}+{carry}={total:02d}")
        carry = total // 10
    return a + b, f"{a}+{b}:{','.join(columns)}={a + b}"


def subtract(a: int, b: int) -> tuple[int, str]:
    """Difference of a and b, a ≥ b; a column is `digit-digit-borrow=`, the new borrow and the digit."""
    borrow, columns = 0, []
    for x, y in _columns(a, b):
        rest = x - y - borrow
        taken = int(rest < 0)
        columns.append(f"{x}-{y}-{borrow}={taken}{rest + 10 * taken}")
        borrow = taken
    return a - b, f"{a}-{b}:{','.join(columns)}={a - b}"


def multiply(a: int, b: int) -> tuple[int, list[str]]:
    """Product of a and b, a line for each non-zero digit of b and one for each sum of partial products."""
    if b == 0 or a == 0:
        return 0, [f"{a}*{b}=0"]
    lines, total = [], None
    for position, digit in enumerate(reversed(str(b))):
        if digit == "0":
            continue
        factor = int(digit) * 10**position
        lines.append(_multiply_digit(a, int(digit), position))
        if total is None:
            total = a * factor
        else:
            total, line = add(total, a * factor)
            lines.append(line)
    return a * b, lines


def _multiply_digit(a: int, digit: int, position: int) -> str:
    carry, columns = 0, []
    for x in map(int, reversed(str(a))):
        product = x * digit + carry
        columns.append(f"{x}*{digit}+{carry}={product:02d}")
        carry = product // 10
    factor = digit * 10**position
    return f"{a}*{factor}:{','.join(columns)}={a * factor}"


def divide(a: int, b: int) -> tuple[tuple[int, int], str]:
    """(quotient, remainder) of a ÷ b by long division, one column for each digit of a."""
    rest, columns = 0, []
    for digit in map(int, str(a)):
        part = rest * 10 + digit
        rest = part % b
        columns.append(f"{part}/{b}={part // b}r{rest}")
    return divmod(a, b), f"{a}/{b}:{','.join(columns)}={a // b}r{a % b}"


def compare(a: int, b: int) -> tuple[str, str]:
    """('<', '=' or '>') of a and b, digit by digit from the left until one differs."""
    width = max(len(str(a)), len(str(b)))
    columns, sign = [], "="
    for x, y in zip(f"{a:0{width}d}", f"{b:0{width}d}", strict=True):
        sign = "<" if x < y else ">" if x > y else "="
        columns.append(f"{x}{sign}{y}")
        if sign != "=":
            break
    return sign, f"{a:0{width}d}?{b:0{width}d}:{','.join(columns)}"


def reduce_fraction(numerator: int, denominator: int) -> tuple[tuple[int, int], str]:
    """A fraction in lowest terms, by trying 2, 3 and 5; right when the denominator has no other prime."""
    columns = []
    line = f"{numerator}/{denominator}:"
    for prime in (2, 3, 5):
        while numerator % prime == 0 and denominator % prime == 0:
            numerator, denominator = numerator // prime, denominator // prime
            columns.append(f"/{prime}={numerator}/{denominator}")
        columns.append(f"/{prime} no")
    return (numerator, denominator), line + ",".join(columns)


def evaluate(expression: Expression) -> tuple[int, list[str]]:
    """The value of an expression and its lines, innermost and leftmost first; division must come out even."""
    if isinstance(expression, int):
        return expression, []
    left, operator, right = expression
    a, lines = evaluate(left)
    b, more = evaluate(right)
    lines = lines + more
    if operator == "+":
        value, line = add(a, b)
        return value, [*lines, line]
    if operator == "-":
        value, line = subtract(a, b)
        return value, [*lines, line]
    if operator == "*":
        value, steps = multiply(a, b)
        return value, lines + steps
    (quotient, remainder), line = divide(a, b)
    assert remainder == 0, expression
    return quotient, [*lines, line]


def fits(expression: Expression, limit: int) -> bool:
    """Whether every value on the way lies in 0…limit and every division comes out even."""
    return _value(expression, limit) is not None


def _value(expression: Expression, limit: int) -> int | None:
    if isinstance(expression, int):
        return expression
    a, b = _value(expression[0], limit), _value(expression[2], limit)
    if a is None or b is None or (expression[1] == "/" and (b == 0 or a % b)):
        return None
    value = {"+": a + b, "-": a - b, "*": a * b, "/": a // b if b else 0}[expression[1]]
    return value if 0 <= value <= limit else None


def text(expression: Expression, times: str = "*", over: str = "/") -> str:
    """The expression as people write it, with the parentheses it needs.

    >>> text(((12, "+", 7), "*", 4))
    '(12 + 7) * 4'
    """
    if isinstance(expression, int):
        return str(expression)
    left, operator, right = expression
    weak = {"+": 0, "-": 0, "*": 1, "/": 1}
    a, b = text(left, times, over), text(right, times, over)
    if not isinstance(left, int) and weak[left[1]] < weak[operator]:
        a = f"({a})"
    if not isinstance(right, int) and (weak[right[1]] < weak[operator] or (weak[right[1]] == weak[operator])):
        b = f"({b})"
    return f"{a} {({'*': times, '/': over}).get(operator, operator)} {b}"


def _columns(a: int, b: int) -> list[tuple[int, int]]:
    width = max(len(str(a)), len(str(b)))
    return [(int(x), int(y)) for x, y in zip(f"{a:0{width}d}"[::-1], f"{b:0{width}d}"[::-1], strict=True)]
