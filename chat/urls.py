"""Paths of the chat. The completions path is not here: infini/asgi.py gives it to the gateway before Django."""

from django.urls import path

from chat.api import ChatHistoryView
from chat.pages import chat_page
from infini.api import either_slash

urlpatterns = [
    either_slash("api/services/<id>/chat", ChatHistoryView.as_view(), "chat_history"),
    path("admin/chat/service/<int:pk>/", chat_page, name="chat_page"),
]
