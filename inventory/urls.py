"""The inventory's paths."""

from django.urls import path

from infini.api import either_slash
from inventory import api, files_api, import_pages, installation_api, pages, terminals_api

urlpatterns = [
    path("admin/inventory/server/import/", import_pages.import_page, name="server-import"),
    either_slash("api/upload", api.PictureUpload.as_view(), "upload"),
    either_slash(r"api/uploads/(?P<filename>[^/]{1,100})", api.Picture.as_view(), "picture"),
    either_slash("api/environments", api.EnvironmentList.as_view(), "environments"),
    either_slash("api/environments/<id>", api.EnvironmentDetail.as_view(), "environment"),
    either_slash("api/brands", api.BrandList.as_view(), "brands"),
    either_slash("api/brands/reorder", api.BrandOrder.as_view(), "brands-reorder"),
    either_slash("api/brands/<id>", api.BrandDetail.as_view(), "brand"),
    either_slash("api/brands/<id>/accelerators", api.BrandCardList.as_view(), "brand-accelerators"),
    either_slash("api/accelerators", api.CardList.as_view(), "accelerators"),
    either_slash("api/accelerators/<id>", api.CardDetail.as_view(), "accelerator"),
    either_slash("api/models", api.AIModelList.as_view(), "models"),
    either_slash("api/models/<id>", api.AIModelDetail.as_view(), "model"),
    either_slash("api/servers", api.ServerList.as_view(), "servers"),
    either_slash("api/servers/check-all", api.ServerCheckAll.as_view(), "servers-check"),
    either_slash("api/servers/resources", api.ServersResources.as_view(), "servers-resources"),
    either_slash("api/servers/<id>", api.ServerDetail.as_view(), "server"),
    either_slash("api/servers/<id>/check", api.ServerCheck.as_view(), "server-check"),
    either_slash("api/servers/<id>/host-key", api.ServerHostKey.as_view(), "server-host-key"),
    either_slash("api/servers/<id>/host-key/scan", api.ServerHostKeyScan.as_view(), "server-host-key-scan"),
    either_slash("api/servers/<id>/resources", api.ServerResources.as_view(), "server-resources"),
    either_slash("api/servers/<id>/history", api.ServerHistory.as_view(), "server-history"),
    either_slash("api/servers/<id>/agent/install", installation_api.AgentInstall.as_view(), "server-agent-install"),
    either_slash("api/servers/<id>/agent/upgrade", installation_api.AgentUpgrade.as_view(), "server-agent-upgrade"),
    either_slash("api/servers/<id>/agent/remove", installation_api.AgentRemove.as_view(), "server-agent-remove"),
    either_slash("api/servers/agents/install", installation_api.AgentsInstall.as_view(), "servers-agents-install"),
    either_slash("api/servers/agents/upgrade", installation_api.AgentsUpgrade.as_view(), "servers-agents-upgrade"),
    either_slash("api/installations", installation_api.InstallationList.as_view(), "installations"),
    either_slash("api/installations/<id>", installation_api.InstallationDetail.as_view(), "installation"),
    either_slash("api/installations/<id>/retry", installation_api.InstallationRetry.as_view(), "installation-retry"),
    either_slash("api/installations/<id>/cancel", installation_api.InstallationCancel.as_view(), "installation-cancel"),
    either_slash("api/servers/<id>/files", files_api.ServerFiles.as_view(), "server-files"),
    either_slash("api/servers/<id>/files/download", files_api.ServerFileDownload.as_view(), "server-file-download"),
    either_slash("api/servers/<id>/files/upload", files_api.ServerFileUpload.as_view(), "server-file-upload"),
    either_slash("api/terminals", terminals_api.TerminalList.as_view(), "terminals"),
    either_slash(r"api/terminals/(?P<key>[0-9a-f]{32})", terminals_api.TerminalDetail.as_view(), "terminal"),
    either_slash("api/recordings", terminals_api.RecordingList.as_view(), "recordings"),
    either_slash("api/recordings/<id>", terminals_api.RecordingDetail.as_view(), "recording"),
    either_slash("api/recordings/<id>/cast", terminals_api.RecordingFile.as_view(), "recording-file"),
    path("admin/inventory/terminal/", pages.terminal_page, name="terminal_page"),
]
