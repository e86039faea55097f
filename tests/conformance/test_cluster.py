"""The fake cluster does what Ray does: the suite of tests/integration/ray, run here without it."""

from collections.abc import Callable

import pytest

from tests.conformance import cluster_suite
from tests.support.fake_cluster import FakeCluster
from trainer.ray.protocol import Cluster


@pytest.mark.parametrize("check", cluster_suite.SUITE, ids=lambda check: check.__name__)
def test_the_fake_cluster(check: Callable[[Cluster], None]) -> None:
    cluster = FakeCluster(places=2)
    cluster.hopeless.add(cluster_suite.HOPELESS)
    check(cluster)
