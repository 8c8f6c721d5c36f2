"""Paths of services."""

from deployments import api, logs_api
from infini.api import either_slash

urlpatterns = [
    either_slash("api/presets", api.PresetList.as_view(), "presets"),
    either_slash("api/services", api.ServiceList.as_view(), "services"),
    either_slash("api/services/refresh-status", api.RefreshStatus.as_view(), "services-refresh-status"),
    either_slash("api/services/<id>", api.ServiceDetail.as_view(), "service"),
    either_slash("api/services/<id>/deploy", api.Deploy.as_view(), "service-deploy"),
    either_slash("api/services/<id>/restart", api.Restart.as_view(), "service-restart"),
    either_slash("api/services/<id>/stop", api.Stop.as_view(), "service-stop"),
    either_slash("api/services/<id>/roll-back", api.RollBack.as_view(), "service-roll-back"),
    either_slash("api/services/<id>/revisions", api.RevisionList.as_view(), "service-revisions"),
    either_slash("api/services/<id>/deploy-log", api.DeployLogView.as_view(), "service-deploy-log"),
    either_slash("api/instances/<id>/logs", logs_api.InstanceLogs.as_view(), "instance-logs"),
    either_slash("api/instances/<id>/logs/download", logs_api.InstanceLogsDownload.as_view(), "instance-logs-download"),
]
