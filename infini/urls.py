"""Where each app's paths hang."""

from django.contrib import admin
from django.urls import include, path
from drf_spectacular.views import SpectacularAPIView, SpectacularSwaggerView

from infini import alert_api, views
from infini.api import either_slash

urlpatterns = [
    path("", views.home, name="home"),
    either_slash("healthz", views.healthz, "healthz"),
    either_slash("readyz", views.readyz, "readyz"),
    either_slash("api/schema", SpectacularAPIView.as_view(), "schema"),
    either_slash("api/docs", SpectacularSwaggerView.as_view(url_name="schema"), "docs"),
    either_slash("api/stats", views.StatsView.as_view(), "stats"),
    either_slash("api/alerts", alert_api.AlertList.as_view(), "alerts"),
    either_slash("api/alert-targets", alert_api.TargetList.as_view(), "alert-targets"),
    either_slash("api/alert-targets/<id>", alert_api.TargetDetail.as_view(), "alert-target"),
    either_slash("api/alert-targets/<id>/test", alert_api.TargetTest.as_view(), "alert-target-test"),
    path("", include("inventory.urls")),
    path("", include("deployments.urls")),
    path("", include("chat.urls")),
    path("", include("scheduler.urls")),
    path("i18n/", include("django.conf.urls.i18n")),
    path("admin/", admin.site.urls),
]

handler400 = "infini.views.bad_request"
handler404 = "infini.views.not_found"
handler500 = "infini.views.server_error"
