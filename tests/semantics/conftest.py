import pytest

from doors import DOORS


@pytest.fixture(params=DOORS, ids=repr)
def door(request):
    return request.param
