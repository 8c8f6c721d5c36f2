"""Paths of the chat. The completions path is not here: infini/asgi.py gives it to the gateway before Django."""

from django.urls import path

from chat import conversation_api
from chat.api import ChatHistoryView
from chat.gateway_api import EndpointDetail, EndpointList, ServiceTraffic, UsageHistoryView, UsageView
from chat.pages import chat_page, compare_page, conversation_page, endpoint_chat, model_chat, service_chat
from chat.usage_page import usage_page
from infini.api import either_slash

urlpatterns = [
    either_slash("api/endpoints", EndpointList.as_view(), "endpoints"),
    either_slash("api/endpoints/<id>", EndpointDetail.as_view(), "endpoint"),
    either_slash("api/services/<id>/traffic", ServiceTraffic.as_view(), "service-traffic"),
    either_slash("api/usage", UsageView.as_view(), "usage"),
    either_slash("api/usage/history", UsageHistoryView.as_view(), "usage-history"),
    path("admin/chat/usage/", usage_page, name="usage_page"),
    either_slash("api/services/<id>/chat", ChatHistoryView.as_view(), "chat_history"),
    either_slash("api/chat/services", conversation_api.ServiceChoicesView.as_view(), "chat_services"),
    either_slash("api/conversations", conversation_api.ConversationListView.as_view(), "conversations"),
    either_slash("api/conversations/<id>", conversation_api.ConversationView.as_view(), "conversation"),
    either_slash("api/conversations/<id>/turns", conversation_api.TurnsView.as_view(), "conversation_turns"),
    either_slash("api/conversations/<id>/branch", conversation_api.BranchView.as_view(), "conversation_branch"),
    either_slash("api/conversations/<id>/export", conversation_api.ExportView.as_view(), "conversation_export"),
    path("admin/chat/conversation/", chat_page, name="chat"),
    path("admin/chat/conversation/compare/", compare_page, name="chat_compare"),
    path("admin/chat/conversation/<int:pk>/", conversation_page, name="chat_conversation"),
    path("admin/chat/service/<int:pk>/", service_chat, name="chat_page"),
    path("admin/chat/endpoint/<int:pk>/chat/", endpoint_chat, name="chat_endpoint"),
    path("admin/chat/model/<int:pk>/", model_chat, name="chat_model"),
]
