"""Paths of the chat. The completions path is not here: infini/asgi.py gives it to the gateway before Django."""

from django.urls import path

from chat.api import ChatHistoryView
from chat.gateway_api import EndpointDetail, EndpointList, ServiceTraffic, UsageView
from chat.pages import chat_page
from chat.usage_page import usage_page
from infini.api import either_slash

urlpatterns = [
    either_slash("api/endpoints", EndpointList.as_view(), "endpoints"),
    either_slash("api/endpoints/<id>", EndpointDetail.as_view(), "endpoint"),
    either_slash("api/services/<id>/traffic", ServiceTraffic.as_view(), "service-traffic"),
    either_slash("api/usage", UsageView.as_view(), "usage"),
    path("admin/chat/usage/", usage_page, name="usage_page"),
    either_slash("api/services/<id>/chat", ChatHistoryView.as_view(), "chat_history"),
    path("admin/chat/service/<int:pk>/", chat_page, name="chat_page"),
]
