"""What a target is sent, and the sending itself: one message, one answer, no database."""

import asyncio
import hashlib
import hmac
import json
import smtplib
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import aiohttp
from django.conf import settings
from django.core import mail
from django.utils import timezone, translation
from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop

from infini.models import Alert, AlertDelivery, AlertPhase, AlertState, AlertTarget, TargetKind
from infini.said import said

TIMEOUT_SECONDS = 10.0
NAMED_IN_SUMMARY = 10
LISTED_IN_SUMMARY = 200


class Undelivered(Exception):
    """A target did not take a message; the sentence never holds its address. ``down``: nor would it take another."""

    def __init__(self, message: str, *, down: bool = False) -> None:
        super().__init__(message)
        self.message = message
        self.down = down


@dataclass(frozen=True)
class Message:
    """``document`` is a webhook's body, ``title`` and ``text`` an e-mail's. ``id`` lets a receiver drop doubles."""

    id: str
    title: str
    text: str
    document: dict[str, Any]


def site_address() -> str:
    return settings.PUBLIC_URL or f"http://{socket.gethostname()}:{settings.PORT}"


def in_language_of(target: AlertTarget) -> translation.override:
    """Within it messages are made in what the target reads; words for machines stay as they are."""
    return translation.override(target.language or settings.LANGUAGE_CODE)


def message_of(delivery: AlertDelivery) -> Message:
    """One phase of one alert."""
    alert, over = delivery.alert, delivery.phase == AlertPhase.RECOVERED
    told = said((alert.ending if over else alert.message) or str(alert))
    title = _("Recovered: %(alert)s") % {"alert": alert} if over else str(alert)
    lines = [told, _("Since: %(at)s") % {"at": _moment(alert.opened_at)}]
    if over and alert.recovered_at:
        lines.append(_("Over at: %(at)s") % {"at": _moment(alert.recovered_at)})
    return _message(str(delivery.pk), title, lines, {**_facts(delivery), "message": told})


def summary_of(deliveries: Sequence[AlertDelivery]) -> Message:
    """Many in one, where the rate limit allows no message each."""
    rest = [_short(delivery) for delivery in deliveries]
    named = "; ".join(rest[:NAMED_IN_SUMMARY])
    title = _("and %(n)d more") % {"n": len(rest)}
    told = f"{title}: {named}{'; …' if len(rest) > NAMED_IN_SUMMARY else ''}"
    document = _about_site("summary", told) | {"alerts": [_facts(d) for d in deliveries[:LISTED_IN_SUMMARY]]}
    return _message(str(deliveries[0].pk), title, [title, *rest[:LISTED_IN_SUMMARY]], document)


def test_message() -> Message:
    told = _("This is a test: alerts of this site arrive here.")
    moment = f"test-{timezone.now():%Y%m%d%H%M%S%f}"
    return _message(moment, _("Test"), [told], _about_site("test", told))


async def send(session: aiohttp.ClientSession, target: AlertTarget, message: Message) -> None:
    """Send one message; raises Undelivered with why it was not taken. May wait for ``TIMEOUT_SECONDS``."""
    if target.kind == TargetKind.EMAIL:
        await asyncio.to_thread(_mail, target.address, message)
    else:
        await _post(session, target, message)


async def _post(session: aiohttp.ClientSession, target: AlertTarget, message: Message) -> None:
    """Redirects are not followed: they would lead where no administrator has sent us."""
    body = json.dumps(message.document, ensure_ascii=False).encode()
    headers = {"Content-Type": "application/json", "User-Agent": "Infini", "X-Infini-Delivery": message.id}
    if target.secret:
        digest = hmac.new(target.secret.encode(), body, hashlib.sha256).hexdigest()
        headers["X-Infini-Signature"] = f"sha256={digest}"
    limit = aiohttp.ClientTimeout(total=TIMEOUT_SECONDS)
    try:
        posted = session.post(target.address, data=body, headers=headers, allow_redirects=False, timeout=limit)
        async with posted as answer:
            status = answer.status
    except TimeoutError:
        raise Undelivered(gettext_noop("No answer within %(n)d s.") % {"n": TIMEOUT_SECONDS}, down=True) from None
    except aiohttp.ClientConnectorCertificateError:
        raise Undelivered(gettext_noop("Its TLS certificate is not valid."), down=True) from None
    except aiohttp.ClientConnectorDNSError:
        raise Undelivered(gettext_noop("Its name cannot be resolved."), down=True) from None
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise Undelivered(gettext_noop("It cannot be reached (%(why)s).") % {"why": _why(error)}, down=True) from None
    if 300 <= status < 400:
        raise Undelivered(gettext_noop("It answered %(status)d; redirects are not followed.") % {"status": status})
    if not 200 <= status < 300:
        raise Undelivered(gettext_noop("It answered %(status)d.") % {"status": status})


def _mail(address: str, message: Message) -> None:
    if not settings.EMAIL_HOST:
        raise Undelivered(
            gettext_noop("No mail server is set: set INFINI_SMTP_HOST and start the site again."), down=True
        )
    try:
        connection = mail.get_connection(timeout=TIMEOUT_SECONDS)
        mail.EmailMessage(message.title, message.text, to=[address], connection=connection).send()
    except smtplib.SMTPRecipientsRefused:
        raise Undelivered(gettext_noop("The mail server refused the recipient.")) from None
    except smtplib.SMTPSenderRefused:
        raise Undelivered(
            gettext_noop("The mail server refused the sender; see INFINI_SMTP_FROM."), down=True
        ) from None
    except smtplib.SMTPAuthenticationError:
        raise Undelivered(gettext_noop("The mail server refused the login; see INFINI_SMTP_USER."), down=True) from None
    except TimeoutError:
        text = gettext_noop("No answer from the mail server within %(n)d s.") % {"n": TIMEOUT_SECONDS}
        raise Undelivered(text, down=True) from None
    except smtplib.SMTPResponseException as error:
        raise Undelivered(gettext_noop("The mail server answered %(code)d.") % {"code": error.smtp_code}) from None
    except (OSError, ValueError) as error:  # smtplib's own errors among them
        raise Undelivered(
            gettext_noop("The mail server cannot be used (%(why)s).") % {"why": _why(error)},
            down=isinstance(error, OSError),
        ) from None


def _why(error: BaseException) -> str:
    """The system's word for it, else the kind of error; texts of libraries may hold the address."""
    reason = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    refused = isinstance(reason, ConnectionRefusedError)
    return gettext_noop("connection refused") if refused else getattr(reason, "strerror", None) or type(error).__name__


def _message(identity: str, title: str, lines: Sequence[str], document: dict[str, Any]) -> Message:
    one_line = " ".join(f"[Infini] {title}".split())
    return Message(identity, one_line[:200], "\n".join([*lines, "", site_address()]), document)


def _facts(delivery: AlertDelivery) -> dict[str, Any]:
    alert, over = delivery.alert, delivery.phase == AlertPhase.RECOVERED
    return {
        "kind": str(alert.kind),
        "state": str(AlertState.RECOVERED if over else AlertState.OPEN),
        "subject": {"kind": alert.subject_kind, "id": alert.subject_id, "name": alert.subject_name},
        "opened_at": _iso(alert.opened_at),
        "recovered_at": _iso(alert.recovered_at) if over else None,
        "site": site_address(),
    }


def _about_site(kind: str, told: str) -> dict[str, Any]:
    subject = {"kind": "site", "id": "", "name": "Infini"}
    moments = {"opened_at": _iso(timezone.now()), "recovered_at": None}
    return {"kind": kind, "state": "open", "subject": subject, "message": told, **moments, "site": site_address()}


def _short(delivery: AlertDelivery) -> str:
    alert: Alert = delivery.alert
    return _("Recovered: %(alert)s") % {"alert": alert} if delivery.phase == AlertPhase.RECOVERED else str(alert)


def _iso(moment: datetime | None) -> str | None:
    return moment.isoformat().replace("+00:00", "Z") if moment else None


def _moment(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"
