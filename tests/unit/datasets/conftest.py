import pytest

from tests.unit.datasets.judging import Judge


@pytest.fixture
def judge(tmp_path):
    return Judge(tmp_path)
