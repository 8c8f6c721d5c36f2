"""Paths of services."""

from deployments import api, device_api, logs_api, plan_api, unknown_api
from infini.api import either_slash

_UNKNOWN = "api/servers/<id>/unknown-instances"
_KEY = r"(?P<key>[A-Za-z0-9._-]{1,64})"

urlpatterns = [
    either_slash("api/presets", api.PresetList.as_view(), "presets"),
    either_slash("api/services", api.ServiceList.as_view(), "services"),
    either_slash("api/services/refresh-status", api.RefreshStatus.as_view(), "services-refresh-status"),
    either_slash("api/services/plan", plan_api.Plan.as_view(), "services-plan"),
    either_slash("api/services/<id>", api.ServiceDetail.as_view(), "service"),
    either_slash("api/services/<id>/deploy", api.Deploy.as_view(), "service-deploy"),
    either_slash("api/services/<id>/restart", api.Restart.as_view(), "service-restart"),
    either_slash("api/services/<id>/stop", api.Stop.as_view(), "service-stop"),
    either_slash("api/services/<id>/roll-back", api.RollBack.as_view(), "service-roll-back"),
    either_slash("api/services/<id>/revisions", api.RevisionList.as_view(), "service-revisions"),
    either_slash("api/services/<id>/revisions/diff", api.RevisionDiff.as_view(), "service-revisions-diff"),
    either_slash("api/services/<id>/deploy-log", api.DeployLogView.as_view(), "service-deploy-log"),
    either_slash("api/devices", device_api.DeviceList.as_view(), "devices"),
    either_slash("api/instances/<id>/free-devices", device_api.FreeDevices.as_view(), "instance-free-devices"),
    either_slash(_UNKNOWN, unknown_api.UnknownList.as_view(), "unknown-instances"),
    either_slash(f"{_UNKNOWN}/{_KEY}", unknown_api.UnknownDetail.as_view(), "unknown-instance"),
    either_slash(f"{_UNKNOWN}/{_KEY}/adopt", unknown_api.Adopt.as_view(), "unknown-instance-adopt"),
    either_slash(f"{_UNKNOWN}/{_KEY}/stop", unknown_api.StopUnknown.as_view(), "unknown-instance-stop"),
    either_slash("api/instances/<id>/logs", logs_api.InstanceLogs.as_view(), "instance-logs"),
    either_slash("api/instances/<id>/logs/download", logs_api.InstanceLogsDownload.as_view(), "instance-logs-download"),
]
