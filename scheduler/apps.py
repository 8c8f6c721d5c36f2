from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class SchedulerConfig(AppConfig):
    name = "scheduler"
    verbose_name = _("Commands")

    def ready(self) -> None:
        from infini import clusters, dashboard, rounds, stats
        from scheduler import overview, rounding, selectors

        stats.register(selectors.counts)
        dashboard.register(overview.overview)
        rounds.register(rounding.round_of_runs)
        clusters.register_waiting(selectors.runs_wait_since)
