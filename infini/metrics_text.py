"""Prometheus' text format, by its own library; the web process alone loads it."""

from collections.abc import Iterator
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from infini.metrics import metrics_for

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def metrics_text(user: Any) -> bytes:
    """Every figure this user may see."""
    registry = CollectorRegistry()
    registry.register(_Collector(user))
    return generate_latest(registry)


class _Collector(Collector):
    def __init__(self, user: Any) -> None:
        self.user = user

    def describe(self) -> list[Any]:
        """Nothing is counted before it is asked for."""
        return []

    def collect(self) -> Iterator[Any]:
        for metric in metrics_for(self.user):
            family: Any = CounterMetricFamily if metric.grows else GaugeMetricFamily
            told = family(metric.name, metric.about, labels=metric.labels)
            for values, figure in metric.samples:
                told.add_metric(values, figure)
            yield told
