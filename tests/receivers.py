"""What alerts are sent to, for real: an HTTP server and a minimal SMTP server, each on a port of its own."""

import json
import socketserver
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


@dataclass
class Posted:
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> dict[str, Any]:
        return json.loads(self.body)


@dataclass
class HttpReceiver:
    """Answers the statuses given, one after the other, then 204."""

    url: str
    statuses: list[int] = field(default_factory=list)
    posts: list[Posted] = field(default_factory=list)
    hold: threading.Event | None = None

    @property
    def told(self) -> list[tuple[str, str]]:
        return [(p.json["kind"], p.json["state"]) for p in self.posts]


@contextmanager
def http_receiver(tls: tuple[Path, Path] | None = None) -> Iterator[HttpReceiver]:
    """With ``tls``, a certificate and its key, over HTTPS."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:  # noqa: N802
            body = self.rfile.read(int(self.headers["Content-Length"]))
            receiver.posts.append(Posted({k.lower(): v for k, v in self.headers.items()}, body))
            if receiver.hold:
                receiver.hold.wait(10)
            status = receiver.statuses.pop(0) if receiver.statuses else 204
            self.send_response(status)
            if 300 <= status < 400:
                self.send_header("Location", f"{receiver.url}elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_GET = do_POST  # noqa: N815

        def log_message(self, *args: Any) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    receiver = HttpReceiver(f"{'https' if tls else 'http'}://127.0.0.1:{server.server_port}/")
    if tls:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(*tls)
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    with _serving(server):
        yield receiver


@dataclass
class SmtpSink:
    port: int
    mails: list[Any] = field(default_factory=list)
    recipients: list[str] = field(default_factory=list)
    refuse_recipients: bool = False


@contextmanager
def smtp_sink() -> Iterator[SmtpSink]:
    class Handler(socketserver.StreamRequestHandler):
        def say(self, text: str) -> None:
            self.wfile.write(f"{text}\r\n".encode())

        def handle(self) -> None:
            self.say("220 sink")
            while line := self.rfile.readline().decode().strip():
                word = line[:4].upper()
                if word == "DATA":
                    self.say("354 go on")
                    self.take_mail()
                    self.say("250 taken")
                elif word == "RCPT" and sink.refuse_recipients:
                    self.say("550 no such mailbox")
                elif word == "RCPT":
                    sink.recipients.append(line.partition(":")[2].strip("<> "))
                    self.say("250 known")
                elif word == "QUIT":
                    self.say("221 bye")
                    return
                else:
                    self.say("250 sink")

        def take_mail(self) -> None:
            lines = []
            while (line := self.rfile.readline().decode()) != ".\r\n":
                lines.append(line)
            sink.mails.append(message_from_bytes("".join(lines).encode(), policy=policy.default))

    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    sink = SmtpSink(server.server_address[1])
    with _serving(server):
        yield sink


@contextmanager
def _serving(server: socketserver.BaseServer) -> Iterator[None]:
    thread = threading.Thread(target=lambda: server.serve_forever(poll_interval=0.02), daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
