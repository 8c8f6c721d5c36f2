"""What alerts are sent to."""

from collections.abc import Iterator
from typing import Any

import pytest

from infini.models import AlertTarget
from tests.receivers import HttpReceiver, SmtpSink, http_receiver, smtp_sink

CANARY = "canary-alert-9d1c"


@pytest.fixture
def receiver() -> Iterator[HttpReceiver]:
    with http_receiver() as running:
        yield running


@pytest.fixture
def sink(settings: Any) -> Iterator[SmtpSink]:
    with smtp_sink() as running:
        settings.EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
        settings.EMAIL_HOST, settings.EMAIL_PORT = "127.0.0.1", running.port
        settings.EMAIL_USE_TLS = settings.EMAIL_USE_SSL = False
        yield running


@pytest.fixture
def hook(receiver: HttpReceiver) -> AlertTarget:
    return AlertTarget.objects.create(name="hook", address=receiver.url, secret=CANARY)
