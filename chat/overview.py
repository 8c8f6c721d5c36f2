"""What the gateway adds to the overview: how much is asked now, and how much it was."""

from django.db.models import F
from django.http import HttpRequest
from django.urls import reverse
from django.utils.translation import gettext as _

from chat.models import UsageDay
from chat.usage import SEE_ALL
from chat.usage_history import rate_now
from deployments.models import Service
from infini.charts import Chart, HistoryCard
from infini.dashboard import Section, Step, Tile
from infini.display import BUSY, QUIET
from infini.visibility import visible


def overview(request: HttpRequest) -> Section:
    """Everybody's for those who may see it, else one's own."""
    if not request.user.has_perm("chat.use_chat"):
        return Section()
    own = not request.user.has_perm(SEE_ALL)
    rate = rate_now(user_id=request.user.pk if own else None, viewer=request.user)
    tile = Tile(
        _("Your requests a minute") if own else _("Requests a minute"),
        short_number(rate.requests),
        reverse("usage_page"),
        "bar_chart",
        _("%(n)s tokens a minute, mean of 5 min") % {"n": short_number(rate.tokens)},
        BUSY if rate.requests else QUIET,
        source=_("gateway, last request") if rate.last_at else _("gateway, no request yet"),
        at=rate.last_at,
    )
    return Section(tiles=[tile], steps=[_step(request)], charts=[usage_card(own)])


def _step(request: HttpRequest) -> Step:
    """The guide's last: somebody was answered, here or over the gateway."""
    ready = Service.objects.answering().order_by("-pk")
    service = visible(ready, request.user).values_list("pk", flat=True).first()
    return Step(
        _("Talk to it"),
        _("Once an instance is ready, its page has a chat."),
        reverse("chat_page", args=[service]) if service else None,
        _("Chat"),
        UsageDay.objects.filter(requests__gt=F("failed") + F("cancelled")).exists(),
    )


def usage_card(own: bool, *, service_id: int | None = None) -> HistoryCard:
    """Requests and tokens over time: of one service, or of all."""
    names = {"requests": _("Requests"), "prompt_tokens": _("Prompt"), "completion_tokens": _("Completion")}
    return HistoryCard(
        "usage-history",
        _("Your requests and tokens") if own else _("Requests and tokens"),
        reverse("usage-history") + (f"?service={service_id}" if service_id else ""),
        [
            Chart(_("Requests a minute"), "requests", "per_minute"),
            Chart(_("Tokens a minute"), "prompt_tokens completion_tokens", "per_minute"),
        ],
        names,
        _("Nothing was asked in this span."),
        span="6h",
        source=_("gateway"),
        more_url=reverse("usage_page"),
    )


def short_number(value: float) -> str:
    """12.3k; one decimal below ten."""
    if value >= 1_000_000:
        return f"{value / 1_000_000:.1f}M"
    if value >= 1000:
        return f"{value / 1000:.1f}k"
    return f"{value:.0f}" if value >= 10 or value == int(value) else f"{value:.1f}"
