from prometheus_client import CollectorRegistry

from adapters.bucket.metrics import StoreMetrics


def test_every_count_begins_at_nought_where_there_is_a_bucket():
    registry = CollectorRegistry()
    metrics = StoreMetrics(registry)
    assert not [one for family in registry.collect() for one in family.samples]
    metrics.expect()
    labels = {"operation": "delete", "outcome": "error"}
    assert registry.get_sample_value("graft_object_store_requests_total", labels) == 0
    metrics.tried("put", "ok", 0.2)
    metrics.moved("put", 7)
    assert registry.get_sample_value("graft_object_store_bytes_total", {"operation": "put"}) == 7
    name = "graft_object_store_request_duration_seconds_sum"
    assert registry.get_sample_value(name, {"operation": "put"}) == 0.2
