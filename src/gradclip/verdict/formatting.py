"""Numbers in words: how norms, shares and counts are written for people."""

from __future__ import annotations

import math

LARGE, SMALL = 1e5, 1e-3
"""Numbers outside are written with an exponent."""
SPACE = "\N{NO-BREAK SPACE}"
NOTHING = "\N{EN DASH}"


def short(value: float) -> str:
    """A number in three digits.

    >>> short(0.123456), short(1234.5), short(2.5e7), short(0.0), short(float("nan"))
    ('0.123', '1,234', '2.5e+07', '0', 'NaN')
    """
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "infinite" if value > 0 else "-infinite"
    if value == 0 or SMALL <= abs(value) < LARGE:
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return f"{value:.3g}"


def known(value: float) -> str:
    """A number in three digits, a dash where there is none."""
    return NOTHING if math.isnan(value) else short(value)


def percent(share: float) -> str:
    """A share, never rounded to none or to all.

    >>> [percent(share).replace(SPACE, " ") for share in (0.0, 0.00001, 0.034, 0.456, 0.99999, 1.0)]
    ['0 %', '<0.1 %', '3.4 %', '46 %', '>99.9 %', '100 %']
    """
    if math.isnan(share):
        return NOTHING
    if 0 < share < 0.001:
        return f"<0.1{SPACE}%"
    if 0.999 < share < 1:
        return f">99.9{SPACE}%"
    digits = 1 if 0 < share < 0.1 or 0.9 < share < 1 else 0
    return f"{100 * share:.{digits}f}{SPACE}%"


def count(number: int, what: str) -> str:
    """So many of a thing.

    >>> count(1, "step"), count(12000, "step")
    ('1 step', '12,000 steps')
    """
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def duration(seconds: float) -> str:
    """A time that somebody waits, roughly.

    >>> duration(0.4), duration(42.3), duration(200.0), duration(8000.0)
    ('1 s', '42 s', '3 min', '2 h 13 min')
    """
    if seconds < 90:
        return f"{max(round(seconds), 1)} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def time_left(seconds: float, ended: int, to_come: int) -> str:
    """How long the works take that are to come, where so many took these seconds; nothing where none is.

    >>> time_left(20.0, ended=2, to_come=3), time_left(20.0, ended=2, to_come=0)
    ('30 s', '')
    """
    return duration(seconds / ended * to_come) if to_come else ""


def times(ratio: float) -> str:
    """A multiple: two digits are as many as it deserves."""
    return f"{ratio:,.0f}" if ratio >= 10 else f"{ratio:.2g}"


def shortened(name: str, most: int) -> str:
    """A name in at most so many characters: its middle is left out, for the ends tell names apart.

    >>> shortened("transformer.layers.12.attention.query.weight", 20)
    'transform…ery.weight'
    """
    if len(name) <= most:
        return name
    head = (most - 1) // 2
    return f"{name[:head]}…{name[len(name) - (most - 1 - head) :]}"
