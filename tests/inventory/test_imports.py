"""Adding many servers from pasted lines or a file: nothing before it was seen, every line told."""

from collections.abc import Callable

import pytest
from django.test import Client

from infini.errors import Invalid, TooLarge
from infini.models import Event, User
from inventory.imports.lines import Line, Verdict, judge, write
from inventory.imports.table import MAX_BYTES, MAX_LINES, guess_columns, read_table
from inventory.models import Brand, Card, Environment, Server

pytestmark = pytest.mark.django_db

PAGE = "/admin/inventory/server/import/"


def judged(text: str) -> list[Line]:
    table = read_table(text)
    return judge(table, guess_columns(table), by=None)


def told(text: str) -> list[tuple[str, str]]:
    return [(line.name, line.verdict) for line in judged(text)]


@pytest.mark.parametrize(
    "text",
    [
        "name,address,port\ngpu-1,192.0.2.1,2222\n",
        "名称;IP地址;端口\ngpu-1;192.0.2.1;2222",
        "\ufeffServer\tHost IP\tSSH-Port\r\n# a comment\r\n\r\ngpu-1\t192.0.2.1\t2222\r\n",
        'Name|Address|Port\n"gpu-1"| 192.0.2.1 |2222',
    ],
)
def test_common_files_are_understood(text: str) -> None:
    [line] = judged(text)
    assert (line.name, line.host, line.verdict) == ("gpu-1", "192.0.2.1", Verdict.NEW)
    assert line.values == {"name": "gpu-1", "host_ip": "192.0.2.1", "port": 2222}


def test_lines_without_titles_begin_with_the_address() -> None:
    assert told("192.0.2.1\n192.0.2.2\ngpu-3.example.org") == [
        ("192.0.2.1", "new"),
        ("192.0.2.2", "new"),
        ("gpu-3.example.org", "new"),
    ]
    [line] = judged("192.0.2.1 gpu-1 root secret-word 2200")
    assert line.values == {
        "host_ip": "192.0.2.1",
        "name": "gpu-1",
        "username": "root",
        "password": "secret-word",
        "port": 2200,
    }


def test_each_line_says_what_it_does(operator: User) -> None:
    for number in (1, 2):
        Server.objects.create(name=f"gpu-{number}", host_ip=f"192.0.2.{number}", username="root")
    rows = ["GPU-1,192.0.2.9,root", ",192.0.2.2,root", "gpu-3,192.0.2.3,", "gpu-3,192.0.2.4,", ",nonsense here,"]
    lines = judged("\n".join(["name,address,user", *rows]))
    assert [line.verdict for line in lines] == ["change", "same", "new", "duplicate", "error"]
    assert lines[0].changes == ["name", "host_ip"] and lines[3].problems == ["gpu-3 stands in line 4 already."]
    done = write(lines, by=operator)
    assert (done["new"], done["change"]) == (1, 1)
    assert set(Server.objects.values_list("name", "host_ip")) == {
        ("GPU-1", "192.0.2.9"),
        ("gpu-2", "192.0.2.2"),
        ("gpu-3", "192.0.2.3"),
    }
    assert Event.objects.filter(kind="server.created", actor=operator).count() == 1


def test_what_a_line_refers_to_must_exist() -> None:
    brand = Brand.objects.create(name="ACME")
    card = Card.objects.create(brand=brand, name="X1", model="X1 64GB")
    production = Environment.objects.create(name="production")
    good, *bad = judged(
        "name,host,env,card,brand,labels\n"
        "a,192.0.2.1,Production,x1 64gb,,rack=a1; zone=b\n"
        "b,192.0.2.2,staging,,,\n"
        "c,192.0.2.3,,X9,,\n"
        "d,192.0.2.4,,,Nobody,\n"
        "e,192.0.2.5,,,,rack\n"
        "f,,,,,\n"
        "g,http://192.0.2.6,,,,\n"
    )
    assert good.values["environment"] == production and good.values["card"] == card and good.values["brand"] == brand
    assert good.values["labels"] == {"rack": "a1", "zone": "b"}
    assert [line.verdict for line in bad] == ["error"] * 6
    assert [line.problems[0].split(";")[0] for line in bad] == [
        "There is no environment staging",
        "There is no card X9.",
        "There is no brand Nobody",
        "Labels are written as rack=a1",
        "The address is missing.",
        "Enter an IP address or a host name, without port or scheme.",
    ]


def test_what_cannot_be_read_is_refused() -> None:
    for text in ("", "\n\n", "# only a comment"):
        with pytest.raises(Invalid):
            read_table(text)
    with pytest.raises(TooLarge):
        read_table("x" * (MAX_BYTES + 1))
    with pytest.raises(TooLarge):
        read_table("\n".join(f"10.0.{n // 250}.{n % 250}" for n in range(MAX_LINES + 1)))
    table = read_table("name,port\na,22")
    for columns in (["name", "port"], ["host_ip", "host_ip"], ["host_ip", "status"]):
        with pytest.raises(Invalid):
            judge(table, columns, by=None)


def test_it_is_all_or_nothing_when_somebody_was_faster(operator: User) -> None:
    lines = judged("name,address\na,192.0.2.1\nb,192.0.2.2\n")
    Server.objects.create(name="B", host_ip="192.0.2.2")
    with pytest.raises(Invalid, match="Line 3"):
        write(lines, by=operator)
    assert list(Server.objects.values_list("name", flat=True)) == ["B"]


def test_judging_takes_the_same_queries_for_many(django_assert_num_queries: Callable) -> None:
    with django_assert_num_queries(4):
        judged("192.0.2.1")
    Server.objects.bulk_create(Server(name=f"s{n}", host_ip=f"10.0.0.{n}") for n in range(100))
    with django_assert_num_queries(4):
        judged("\n".join(f"10.0.0.{n}" for n in range(200)))


def test_the_page_previews_then_writes(operator: User, client: Client) -> None:
    client.force_login(operator)
    assert client.get(PAGE).status_code == 200
    text = "name,address,password\ngpu-1,192.0.2.1,hunter2-canary\nbad,not an address,\n"
    looked = client.post(PAGE, {"text": text})
    html = looked.content.decode()
    assert "Add 1 server" in html and "Enter an IP address" in html and looked["Cache-Control"] == "no-store"
    assert not Server.objects.exists()
    again = client.post(PAGE, {"text": text, "columns": ["name", "", ""]})
    assert again.status_code == 400 and "Say which column is the address." in again.content.decode()
    errors = client.post(PAGE, {"text": text, "errors": "1"})
    rows = errors.content.decode("utf-8-sig").splitlines()
    assert rows[0] == "name,address,password,problem" and len(rows) == 2
    assert client.post(PAGE, {"text": text, "write": "1"}).status_code == 302
    server = Server.objects.get()
    assert (server.name, server.password) == ("gpu-1", "hunter2-canary")
    assert "hunter2" not in str(list(Event.objects.values_list("data", flat=True)))


def test_a_file_is_read_in_either_encoding(operator: User, client: Client) -> None:
    from django.core.files.uploadedfile import SimpleUploadedFile

    client.force_login(operator)
    for encoding in ("utf-8-sig", "gb18030"):
        file = SimpleUploadedFile("servers.csv", "名称,地址\n推理一号,192.0.2.1\n".encode(encoding))
        assert "推理一号" in client.post(PAGE, {"file": file}).content.decode()
    picture = SimpleUploadedFile("servers.csv", b"\x89PNG\xff\xff\xfe")
    assert client.post(PAGE, {"file": picture}).status_code == 400


def test_it_takes_the_role(viewer: User, client: Client) -> None:
    assert client.get(PAGE).status_code == 302
    client.force_login(viewer)
    refused = client.post(PAGE, {"text": "192.0.2.1", "write": "1"})
    assert refused.status_code == 403 and "inventory.add_server" in refused.content.decode()
    assert not Server.objects.exists()
