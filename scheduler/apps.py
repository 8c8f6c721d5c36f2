from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class SchedulerConfig(AppConfig):
    name = "scheduler"
    verbose_name = _("Commands")

    def ready(self) -> None:
        from infini import badges, clusters, dashboard, event_words, metrics, rounds, stats
        from scheduler import limits, overview, rounding, selectors
        from scheduler import metrics as our_metrics
        from scheduler.event_words import WORDS

        stats.register(selectors.counts)
        dashboard.register(overview.overview)
        badges.register(overview.badges)
        event_words.register(WORDS)
        rounds.register(rounding.round_of_runs)
        clusters.register_waiting(selectors.runs_wait_since)
        metrics.register(our_metrics.figures)
        limits.register()
