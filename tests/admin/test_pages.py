"""Object pages: what is wanted, what is, since when, and why not."""

import re
from collections.abc import Callable
from datetime import timedelta
from html import unescape
from typing import Any

import pytest
from django.test import Client, RequestFactory
from django.utils import timezone

from deployments.models import Instance, Service
from deployments.phases import Phase
from infini import views
from inventory.models import Device, Server
from tests.admin.conftest import run_instances


def test_row_names_lead_to_the_page_and_edit_is_a_button(
    operating: Client, make_service: Callable[..., Service]
) -> None:
    service = make_service()
    page = f"/admin/deployments/service/{service.pk}/"
    assert f'href="{page}"' in operating.get("/admin/deployments/service/").content.decode()
    assert f'href="{page}change/"' in operating.get(page).content.decode()


@pytest.mark.parametrize(
    ("page", "group"),
    [
        ("infini/event/", "Activity"),
        ("infini/user/", "Settings"),
        ("inventory/aimodel/", "Services"),
        ("inventory/card/", "Fleet"),
    ],
)
def test_the_breadcrumb_begins_with_the_group_of_the_navigation(admin: Client, page: str, group: str) -> None:
    html = admin.get(f"/admin/{page}").content.decode()
    header = html[html.index("<header") : html.index("</header>")]
    way = [" ".join(words.split()) for words in re.findall(r"tracking-tight\">([^<]+)<", header)]
    assert way[0] == group and len(way) == 2


def test_a_page_that_is_not_there_says_so_in_the_frame_and_the_readers_language(admin: Client, client: Client) -> None:
    for browser in (admin, client):
        gone = browser.get(
            "/admin/inventory/server/999999/" if browser is admin else "/nowhere", headers={"accept-language": "zh-CN"}
        )
        html = gone.content.decode()
        assert gone.status_code == 404 and "没有" in html and 'lang="zh-hans"' in html
        assert ('aria-label="主导航"' in html or "<nav" in html) is (browser is admin)


def test_errors_of_ours_are_told_without_a_database() -> None:
    request = RequestFactory().get("/admin/")
    broken, unread = views.server_error(request), views.bad_request(request, ValueError())
    assert (broken.status_code, unread.status_code) == (500, 400)
    assert "the site's log tells more" in unescape(broken.content.decode())


def test_a_failed_instance_shows_reason_and_last_lines(viewing: Client, make_service: Callable[..., Service]) -> None:
    service = make_service()
    run_instances(service, Phase.FAILED, ready=False, exit_code=127, reason="Command not found.")
    html = viewing.get(f"/admin/deployments/service/{service.pk}/").content.decode()
    assert "Command not found." in html and "the last line" in html and "127" in html
    assert '<span class="chip-word">Failed</span>' in html and "Not running" in html


def test_an_unseen_exit_code_is_unknown(viewing: Client, make_service: Callable[..., Service]) -> None:
    service = make_service()
    run_instances(service, Phase.FAILED, ready=False, exit_unseen=True)
    assert ">unknown</td>" in viewing.get(f"/admin/deployments/service/{service.pk}/").content.decode()


def test_server_figures_have_source_age_and_reason(viewing: Client, make_server: Callable[..., Server]) -> None:
    figures = {"cpu_percent": 38.2, "memory_percent": 97, "disk_percent": None, "errors": {"disk_percent": "No way."}}
    server = make_server(figures=figures)
    html = viewing.get(f"/admin/inventory/server/{server.pk}/").content.decode()
    assert ">38%<" in html and "bar-bad" in html and "No way." in html and "agent, <time" in html
    assert 'value="0"' not in html.split("<main")[1].split("</dl>")[0]


def test_network_load_and_uptime_as_far_as_they_are_told(viewing: Client, make_server: Callable[..., Server]) -> None:
    rates = {"network_in_bytes_per_second": 12_400_000, "network_out_bytes_per_second": 950}
    server = make_server(figures={**rates, "load_1m": 1.5, "load_5m": 1, "load_15m": 0.25, "uptime_seconds": 93_700})
    html = viewing.get(f"/admin/inventory/server/{server.pk}/").content.decode()
    assert "12.4 MB/s" in html and "950 B/s" in html and "1.5 · 1 · 0.25" in html and "1 d 2 h" in html
    quiet = make_server(name="quiet", figures={"network_in_bytes_per_second": None, "load_1m": "x"})
    assert "Network in" not in viewing.get(f"/admin/inventory/server/{quiet.pk}/").content.decode()


def test_old_figures_are_dated(viewing: Client, make_server: Callable[..., Server]) -> None:
    seen = timezone.now() - timedelta(hours=1)
    server = make_server(figures={"cpu_percent": 38}, agent_seen_at=seen)
    html = viewing.get(f"/admin/inventory/server/{server.pk}/").content.decode()
    assert f"agent, as of {seen:%Y-%m-%d %H:%M:%S}" in html and "is-stale" in html


def test_nonsense_from_an_agent_breaks_no_page(viewing: Client, make_server: Callable[..., Server]) -> None:
    server = make_server(figures={"cpu_percent": "hot", "errors": "all", "memory_total_bytes": "x", "cpu_count": []})
    assert viewing.get(f"/admin/inventory/server/{server.pk}/").status_code == 200
    assert viewing.get("/admin/inventory/server/").status_code == 200


def test_server_shows_its_instances(viewing: Client, make_service: Callable[..., Service]) -> None:
    run_instances(make_service("brain"))
    html = viewing.get(f"/admin/inventory/server/{Server.objects.get().pk}/?tab=instances").content.decode()
    assert "brain" in html and '<span class="chip-word">Ready</span>' in html


def test_live_part_is_asked_more_often_while_busy(viewing: Client, make_service: Callable[..., Service]) -> None:
    from deployments import lifecycle

    service = make_service()
    page = f"/admin/deployments/service/{service.pk}/"
    assert 'id="live" data-live-seconds="5"' in viewing.get(page).content.decode()
    lifecycle.deploy(service, by=None)
    assert 'id="live" data-live-seconds="2"' in viewing.get(page).content.decode()


def test_operation_page_puts_failures_first(viewing: Client, make_service: Callable[..., Service]) -> None:
    operation = run_instances(make_service(), Phase.FAILED, ready=False)
    html = viewing.get(f"/admin/deployments/operation/{operation.pk}/").content.decode()
    assert "the last line" in html and '<span class="chip-word">Failed</span>' in html


def test_text_from_outside_is_escaped(viewing: Client, make_server: Callable[..., Server]) -> None:
    server = make_server(agent_error="<script>alert(1)</script>", agent_version="<b>", labels={"<i>": "<u>"})
    for page in (f"/admin/inventory/server/{server.pk}/", "/admin/inventory/server/", "/admin/"):
        html = viewing.get(page).content.decode()
        assert "<script>alert" not in html and "<b>" not in html and "<i>" not in html


def test_unknown_ids_are_404(viewing: Client) -> None:
    for path in ("inventory/server/99/", "deployments/service/99/", "deployments/operation/99/"):
        assert viewing.get(f"/admin/{path}").status_code == 404


def test_frame_has_landmarks_and_no_inline_scripts(viewing: Client, make_service: Callable[..., Service]) -> None:
    import re

    service = make_service()
    for path in ("", "deployments/service/", f"deployments/service/{service.pk}/"):
        html = viewing.get(f"/admin/{path}").content.decode()
        assert 'class="skip-link"' in html and html.count("<main") == 1
        assert not [tag for tag in re.findall(r"<script[^>]*>", html) if "src=" not in tag]


def test_history_leads_to_the_timeline(viewing: Client, make_service: Callable[..., Service]) -> None:
    service = make_service()
    response = viewing.get(f"/admin/deployments/service/{service.pk}/history/", follow=True)
    assert {event.kind for event in response.context["cl"].result_list} >= {"service.created", "service.revised"}


def test_a_servers_devices_with_what_their_tools_tell_and_what_not(
    viewing: Client, make_server: Callable[..., Server]
) -> None:
    figures = {
        "devices": [
            {"uuid": "a", "memory_used_bytes": 40 * 2**30, "temperature_celsius": 71.4, "health": "unhealthy",
             "health_reason": "Double-bit ECC errors.", "power_watts": None, "utilization_percent": 0.0},
        ],
        "device_errors": {"ascend": "npu-smi did not answer within 5 s and was stopped."},
    }  # fmt: skip
    server = make_server(figures=figures)
    Device.objects.create(server=server, uuid="a", index=0, vendor="nvidia", name="H100", memory_bytes=80 * 2**30)
    Device.objects.create(server=server, uuid="b", index=1, vendor="nvidia", name="H100", present=False)

    text = viewing.get(f"/admin/inventory/server/{server.pk}/").content.decode()

    assert "Unhealthy" in text and "Double-bit ECC errors." in text and "Missing" in text
    assert "40.0 / 80.0 GiB" in text and "71 °C" in text and "unverified" in text
    assert "ascend: npu-smi did not answer" in text
    assert "Its tool does not tell." in text  # a figure that is not there is a dash, and 0 % is 0 %
    assert 'value="0" aria-label="Utilisation"' in text


def test_logs_are_offered_worst_first(viewing: Client, make_service: Callable[..., Service], make_server: Any) -> None:
    service = make_service("svc", make_server("a"), Server.objects.create(name="b", host_ip="127.0.0.1"))
    page = f"/admin/deployments/service/{service.pk}/?tab=logs"
    assert "No log yet" in viewing.get(page).content.decode()
    run_instances(service)
    broken = Instance.objects.get(placement__server__name="b")
    Instance.objects.filter(pk=broken.pk).update(phase=Phase.FAILED, ready=False)
    response = viewing.get(page)
    assert [choice.label for choice in response.context["log_choices"]] == ["b: Failed", "a: Ready"]
    assert f'<option value="{broken.pk}">b: Failed</option>' in response.content.decode()
