"""What Prometheus asks for at ``/metrics``: each app registers its own figures, so that none has to know the others.

Figures are counted when they are asked for, of what the one who asks may see; what nobody has told lately is left out,
since a figure that stands still looks like one that is true.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from django.conf import settings

from infini.models import Alert, AlertKind, AlertState
from infini.visibility import visible


@dataclass(frozen=True)
class Metric:
    """Figures of one name: ``samples`` are the labels' values and the figure. What ``grows`` is a counter, and
    Prometheus adds ``_total`` to its name."""

    name: str
    about: str
    labels: Sequence[str]
    samples: Iterable[tuple[Sequence[str], float]]
    grows: bool = False


Source = Callable[[Any], Iterable[Metric]]  # for a user; a constant number of queries
_sources: list[Source] = []


def register(source: Source) -> None:
    """Called once per app at start."""
    if source not in _sources:
        _sources.append(source)


def by_word(name: str, about: str, label: str, counts: Mapping[str, int], words: Iterable[str]) -> Metric:
    """A count for each of ``words``, 0 included: what is absent cannot be told from what is not counted."""
    return Metric(name, about, [label], [([str(word)], counts.get(word, 0)) for word in words])


def figures(user: Any) -> Iterator[Metric]:
    """One query."""
    yield Metric("infini", "This site; 1.", ["version"], [([settings.VERSION], 1)])
    kinds = Counter(visible(Alert.objects.filter(state=AlertState.OPEN), user).values_list("kind", flat=True))
    yield by_word("infini_open_alerts", "Alerts that are open, by what is wrong.", "kind", kinds, AlertKind.values)


def metrics_for(user: Any) -> Iterator[Metric]:
    """All there are."""
    for source in (figures, *_sources):
        yield from source(user)
