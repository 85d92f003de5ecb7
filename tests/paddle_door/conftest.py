"""Each test of Paddle runs on a thread: at each operation of a graph Paddle writes down the calls that led to it.

Under pytest these are more than fifty, and take longer than what is tested.
"""

from concurrent.futures import ThreadPoolExecutor

import paddle


def pytest_pyfunc_call(pyfuncitem):
    """A thread can leave no mode but one that it entered itself: it begins in static mode, as this one is then."""
    given = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    paddle.enable_static()
    try:
        with ThreadPoolExecutor(1) as thread:
            thread.submit(in_dynamic_mode, pyfuncitem.obj, given).result()
    finally:
        paddle.disable_static()
    return True


def in_dynamic_mode(test, given):
    paddle.disable_static()
    test(**given)
