"""Where each app's paths hang."""

from django.contrib import admin
from django.urls import include, path
from drf_spectacular.views import SpectacularAPIView, SpectacularSwaggerSplitView

from infini import account_pages, alert_api, finding, key_api, list_pages, login_views, views
from infini.api import either_slash

admin.autodiscover()
urlpatterns = [
    path("", views.home, name="home"),
    either_slash("healthz", views.healthz, "healthz"),
    either_slash("readyz", views.readyz, "readyz"),
    either_slash("metrics", views.MetricsView.as_view(), "metrics"),
    either_slash("api/schema", SpectacularAPIView.as_view(), "schema"),
    either_slash("api/docs", SpectacularSwaggerSplitView.as_view(url_name="schema"), "docs"),
    either_slash("api/stats", views.StatsView.as_view(), "stats"),
    either_slash("api/alerts", alert_api.AlertList.as_view(), "alerts"),
    either_slash("api/alert-targets", alert_api.TargetList.as_view(), "alert-targets"),
    either_slash("api/alert-targets/<id>", alert_api.TargetDetail.as_view(), "alert-target"),
    either_slash("api/alert-targets/<id>/test", alert_api.TargetTest.as_view(), "alert-target-test"),
    either_slash("api/keys", key_api.KeyList.as_view(), "keys"),
    either_slash("api/keys/<id>", key_api.KeyDetail.as_view(), "key"),
    either_slash("api/keys/<id>/revoke", key_api.KeyRevoke.as_view(), "key-revoke"),
    path("", include("inventory.urls")),
    path("", include("deployments.urls")),
    path("", include("chat.urls")),
    path("", include("scheduler.urls")),
    path("i18n/", include("django.conf.urls.i18n")),
    path("admin/login/", login_views.LoginView.as_view()),  # what admin:login leads to
    path("admin/login/code/", login_views.CodeView.as_view(), name="login-code"),
    path("admin/find/", finding.find_view, name="find"),
    path("admin/account/", account_pages.account_page, name="account"),
    path("admin/account/preferences/", account_pages.set_preferences, name="account-preferences"),
    path("admin/account/two-step/begin/", account_pages.begin_two_step, name="account-two-step-begin"),
    path("admin/account/two-step/on/", account_pages.turn_on_two_step, name="account-two-step-on"),
    path("admin/account/two-step/off/", account_pages.turn_off_two_step, name="account-two-step-off"),
    path("admin/account/sessions/end/", account_pages.end_sessions, name="account-sessions-end"),
    path("admin/lists/save/", list_pages.save_list, name="list-save"),
    path("admin/lists/columns/", list_pages.set_columns, name="list-columns"),
    path("admin/lists/<int:pk>/change/", list_pages.change_list, name="list-change"),
    path("admin/lists/<int:pk>/remove/", list_pages.remove_list, name="list-remove"),
    path("admin/", admin.site.urls),
]

handler400 = "infini.views.bad_request"
handler403 = "infini.forbidden.forbidden"
handler404 = "infini.views.not_found"
handler500 = "infini.views.server_error"
