"""A terminal through its real socket to a real sshd: it types, resizes, survives its socket, and ends."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from asgiref.sync import sync_to_async

from infini.models import Event, User
from inventory.models import Server
from inventory.terminals import registry
from tests.real_sshd import RealSshd
from tests.terminals.conftest import PROFILE, PROMPT, row_of, server_at

pytestmark = pytest.mark.django_db(transaction=True)
Make = Callable[..., Any]


async def wait_for(condition: Callable[[], Any], seconds: float = 10) -> Any:
    async with asyncio.timeout(seconds):
        while not (found := await sync_to_async(condition)()):
            await asyncio.sleep(0.02)
    return found


async def test_type_resize_and_exit(terminal: Make, operator: User, server: Server) -> None:
    one = await (await terminal(operator)).open(cols=100, rows=30)
    assert {k: one.frames[0][k] for k in ("reused", "offset")} == {"reused": False, "offset": 0}
    await one.until(PROMPT)
    assert await one.run("stty size; echo $TERM; echo $LANG") == "30 100\r\nxterm-256color\r\nC.UTF-8\r\n"
    await one.say({"type": "resize", "cols": 132, "rows": 50})
    assert await one.run("stty size") == "50 132\r\n"
    await one.type("exit 7\r")
    assert await one.end() == 1000
    assert one.frames[-1]["type"] == "exit" and (one.frames[-1]["status"], one.frames[-1]["signal"]) == (7, None)
    await registry.settled()
    row = await sync_to_async(row_of)(one.session)
    assert (row.ending, row.exit_status, row.user_name, row.server_name) == ("exit", 7, "operator", "gpu-1")
    assert row.input_bytes > 10 and row.output_bytes == one.offset
    kinds = await sync_to_async(lambda: list(Event.objects.order_by("id").values_list("kind", flat=True)))()
    assert kinds[-2:] == ["terminal.opened", "terminal.ended"]


async def test_cut_in_mid_output_and_resumed_by_offset(terminal: Make, operator: User) -> None:
    one = await (await terminal(operator)).open()
    await one.until(PROMPT)
    await one.type("seq 1 300000\r")
    await one.until(b"\r\n")
    await one.until(b"\r\n500\r\n")
    shown = bytearray()
    for _cut in range(4):
        for _ in range(3):
            await one.take()
        shown += one.output
        await one.cut()
        before, one = one, await terminal(operator)
        await one.open(session=before.session, offset=before.offset)
        assert one.frames[0]["reused"] is True and one.frames[0]["offset"] == before.offset
    shown += await one.until(PROMPT)
    numbers = bytes(shown).removesuffix(PROMPT).decode().split()
    assert numbers == [str(n) for n in range(501, 300001)]


async def test_a_page_loaded_anew_gets_what_was_shown(terminal: Make, operator: User) -> None:
    one = await (await terminal(operator)).open()
    await one.until(PROMPT)
    await one.run("echo before-$((40+2))")
    await one.cut()
    two = await (await terminal(operator)).open(session=one.session)
    assert b"before-42" in await two.until(b"before-42\r\n" + PROMPT)


async def test_the_shell_goes_on_while_nobody_is_attached(terminal: Make, operator: User, shells: RealSshd) -> None:
    done = shells.folder / "done"
    one = await (await terminal(operator)).open()
    await one.until(PROMPT)
    await one.type(f"sleep 0.3; echo went-on > {done}\r")
    await one.until(b"\r\n")
    await one.cut()
    await wait_for(done.exists)
    two = await (await terminal(operator)).open(session=one.session, offset=one.offset)
    await two.until(PROMPT)


async def test_opened_elsewhere_the_first_one_leaves(terminal: Make, operator: User) -> None:
    one = await (await terminal(operator)).open()
    await one.until(PROMPT)
    two = await (await terminal(operator)).open(session=one.session, offset=one.offset)
    assert await one.end() == 4409 and one.frames[-1]["type"] == "taken"
    assert await two.run("echo mine") == "mine\r\n"


async def test_explicit_disconnect_ends_the_shell(terminal: Make, operator: User, shells: RealSshd) -> None:
    one = await (await terminal(operator)).open()
    await one.until(PROMPT)
    pid = int(await one.run("echo $$"))
    await one.say({"type": "disconnect"})
    assert await one.end() == 1000
    assert (one.frames[-1]["type"], one.frames[-1]["reason"], one.frames[-1]["by"]) == ("exit", "closed", "operator")
    await wait_for(lambda: pid not in shells.processes())
    again = await terminal(operator)
    await again.begin({"type": "connect", "session": one.session})
    assert await again.end() == 4404 and again.frames[-1]["code"] == "session_over"


async def test_nobody_comes_back(terminal: Make, operator: User, settings: Any) -> None:
    settings.TERMINAL_GRACE_SECONDS = 1
    one = await (await terminal(operator)).open()
    await one.until(PROMPT)
    await one.cut()
    await wait_for(lambda: row_of(one.session).ending == "grace")


async def test_idle_counts_typing_alone_and_warns_first(terminal: Make, operator: User, settings: Any) -> None:
    settings.TERMINAL_IDLE_SECONDS = 2
    one = await (await terminal(operator)).open()
    await one.until(PROMPT)
    await one.type("while sleep 0.2; do echo tick; done\r")
    warning = await one.frame("idle")
    assert 1 <= warning["seconds"] <= 2
    await one.say({"type": "resize", "cols": 90, "rows": 30})
    assert await one.end() == 1000
    assert one.frames[-1]["reason"] == "idle"


async def test_shells_of_a_server_share_a_connection(terminal: Make, operator: User, shells: RealSshd) -> None:
    first = await (await terminal(operator)).open()
    await first.until(PROMPT)
    before = shells.log.count("Accepted publickey")
    others = [await terminal(operator) for _ in range(5)]
    await asyncio.gather(*(one.open() for one in others))
    for one in others:
        await one.until(PROMPT)
    assert shells.log.count("Accepted publickey") == before


async def test_more_shells_than_max_sessions(terminal: Make, operator: User) -> None:
    with RealSshd(max_sessions=2) as narrow:
        (narrow.folder / "home" / ".bash_profile").write_text(PROFILE)
        at = await sync_to_async(server_at)(narrow, name="narrow")
        many = [await terminal(operator, at.pk) for _ in range(5)]
        await asyncio.gather(*(one.open() for one in many))
        for number, one in enumerate(many):
            await one.until(PROMPT)
            assert await one.run(f"echo {number}") == f"{number}\r\n"


async def test_a_shell_that_ends_at_once_shows_its_last_words(terminal: Make, operator: User) -> None:
    for _ in range(5):
        one = await (await terminal(operator)).open(auto_command="clear; seq 1 3000; exit 3")
        assert await one.end() == 1000
        assert b"2999\r\n3000\r\n" in one.output and one.frames[-1]["status"] == 3


async def test_the_connection_to_the_server_is_lost(terminal: Make, operator: User) -> None:
    with RealSshd() as sshd:
        at = await sync_to_async(server_at)(sshd, name="falls")
        one = await (await terminal(operator, at.pk)).open()
        sshd.stop()
        assert await one.end() == 1000
    assert one.frames[-1]["reason"] == "lost" and one.frames[-1]["status"] is None
    assert "falls" in one.frames[-1]["message"]


async def test_half_characters_arrive_whole(terminal: Make, operator: User) -> None:
    one = await (await terminal(operator)).open()
    await one.until(PROMPT)
    command = r"printf '\xe4\xbd'; sleep 0.2; printf '\xa0\xe5\xa5\xbd \xf0\x9f'; sleep 0.2; printf '\x98\x80\n'"
    await one.type(command + "\r")
    await one.until(b"\\n'\r\n")
    assert (await one.until(PROMPT)).decode() == "你好 😀\r\n" + PROMPT.decode()
    await one.type("echo 中文\r")
    assert "中文\r\n" in (await one.until("\n中文\r\n".encode())).decode()


async def test_a_service_gives_directory_and_variables(terminal: Make, operator: User, server: Server) -> None:
    from deployments.models import Placement, Revision, Service

    def make() -> int:
        service = Service.objects.create(name="qwen")
        spec = {"env": {"MODEL": "a b'c"}, "secret_env": '{"TOKEN": "canary"}', "cwd": "/tmp"}
        service.current_revision = Revision.objects.create(service=service, number=1, command="true", **spec)
        service.save()
        Placement.objects.create(service=service, server=server)
        return service.pk

    pk = await sync_to_async(make)()
    one = await (await terminal(operator)).open(service=pk)
    await one.until(PROMPT)
    assert await one.run('pwd; echo "$MODEL $INFINI_SERVICE"; env | grep -c canary') == "/tmp\r\na b'c qwen\r\n0\r\n"
    row = await sync_to_async(row_of)(one.session)
    assert row.service_name == "qwen"
    other = await terminal(operator)
    await other.begin({"type": "connect", "service": 987654})
    assert await other.end() == 4404
