"""The commands' paths."""

from infini.api import either_slash
from scheduler import api

urlpatterns = [
    either_slash("api/tasks", api.TaskList.as_view(), "tasks"),
    either_slash("api/tasks/preview", api.TaskPreview.as_view(), "tasks-preview"),
    either_slash("api/tasks/<id>", api.TaskDetail.as_view(), "task"),
    either_slash("api/tasks/<id>/execute", api.TaskExecute.as_view(), "task-execute"),
    either_slash("api/tasks/<id>/result", api.TaskResult.as_view(), "task-result"),
    either_slash("api/runs", api.RunList.as_view(), "runs"),
    either_slash("api/runs/<id>", api.RunDetail.as_view(), "run"),
    either_slash("api/runs/<id>/cancel", api.RunCancel.as_view(), "run-cancel"),
    either_slash("api/runs/<id>/retry-failed", api.RunRetryFailed.as_view(), "run-retry-failed"),
    either_slash("api/runs/<id>/output", api.RunOutput.as_view(), "run-output"),
    either_slash("api/commands", api.CommandList.as_view(), "commands"),
    either_slash("api/commands/<id>", api.CommandDetail.as_view(), "command"),
]
