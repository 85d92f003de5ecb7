"""Nested plain data with one part of it changed, as a damaged file or a careless hand leaves it."""

import copy
import math

ODD = [None, True, -1, 0, 1, 10**30, 1e308, -0.5, math.nan, math.inf, "", "1", "inf", [], [1.0], [[1.0]], {}, {"a": 1}]


def places(value, path=()):
    """The way to each part of a nested state."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in items:
        yield (*path, key)
        yield from places(part, (*path, key))


def mutated(data, draw):
    """The data with a part of it replaced, taken away, repeated, or put under another key."""
    data = copy.deepcopy(data)
    path = draw.choice(list(places(data)))
    place = data
    for key in path[:-1]:
        place = place[key]
    how = draw.randrange(4)
    if how == 0:
        place[path[-1]] = draw.choice(ODD)
    elif how == 1:
        del place[path[-1]]
    elif isinstance(place, list):
        place.insert(path[-1], place[path[-1]] if how == 2 else draw.choice(ODD))
    else:
        place[draw.choice(["0 -1 0", "0 0 1", "mean", "step", "x", "1 -1 0"])] = place[path[-1]]
    return data
