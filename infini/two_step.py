"""The second step of a login: a code from an app (TOTP, RFC 6238), or a recovery code that works once."""

import hashlib
import secrets

import pyotp
import segno
from django.db import transaction
from django.utils import timezone
from django.utils.translation import gettext

from infini import events
from infini.errors import Conflict, Invalid
from infini.models import User

STEP_SECONDS = 30
CLOCK_STEPS = 1  # how far a telephone's clock may be off, in steps
RECOVERY_CODES = 10
ISSUER = "Infini"


def new_secret() -> str:
    return pyotp.random_base32()


def enrolment_address(user: User, secret: str) -> str:
    """What an authenticator app reads from the picture (otpauth://)."""
    return pyotp.TOTP(secret).provisioning_uri(name=user.get_username(), issuer_name=ISSUER)


def enrolment_picture(user: User, secret: str) -> str:
    """The same as an SVG element, black on white whatever the theme: cameras want it so."""
    code = segno.make(enrolment_address(user, secret), error="m")
    return code.svg_inline(scale=4, border=3, dark="#000", light="#fff", omitsize=False)


def turn_on(user: User, *, secret: str, code: str, by: events.Actor) -> list[str]:
    """Ask for codes of ``secret`` from now on; returns the recovery codes, which cannot be had again.

    Raises Invalid when ``code`` is not the secret's, Conflict when it is on already.
    """
    step = _matching_step(secret, code, after=0)
    if step is None:
        text = gettext("This is not the code your app shows now. Check the time on both devices.")
        raise Invalid(text, fields={"code": [text]})
    codes = [_recovery_code() for _ in range(RECOVERY_CODES)]
    with transaction.atomic():
        done = User.objects.filter(pk=user.pk, totp_secret="").update(
            totp_secret=secret, totp_step=step, recovery_digests=[_digest(c) for c in codes]
        )
        if not done:
            raise Conflict(gettext("Two-step login is on already."))
        events.record("user.two_step_on", user, by=by)
    return codes


def turn_off(user: User, *, by: events.Actor) -> None:
    """Doing it twice changes nothing."""
    with transaction.atomic():
        on = User.objects.filter(pk=user.pk).exclude(totp_secret="")
        if on.update(totp_secret="", totp_step=0, recovery_digests=[]):
            events.record("user.two_step_off", user, by=by)


def accept_code(user: User, code: str) -> bool:
    """Whether ``code`` is good now; it is then used up, also when two try it at the same time."""
    typed = code.replace(" ", "").replace("-", "").lower()
    step = _matching_step(user.totp_secret, typed, after=user.totp_step)
    if step is not None:
        return bool(User.objects.filter(pk=user.pk, totp_step__lt=step).update(totp_step=step))
    return _use_recovery_code(user, typed)


def _use_recovery_code(user: User, typed: str) -> bool:
    with transaction.atomic():
        fresh = User.objects.select_for_update().get(pk=user.pk)
        if _digest(typed) not in fresh.recovery_digests:
            return False
        left = [digest for digest in fresh.recovery_digests if digest != _digest(typed)]
        User.objects.filter(pk=user.pk).update(recovery_digests=left)
        events.record("user.recovery_code_used", user, by=user, data={"left": len(left)})
    return True


def _matching_step(secret: str, code: str, *, after: int) -> int | None:
    """The 30 s step whose code this is, if it is near now and later than ``after``."""
    now = int(timezone.now().timestamp()) // STEP_SECONDS
    totp = pyotp.TOTP(secret)
    steps = range(max(after + 1, now - CLOCK_STEPS), now + CLOCK_STEPS + 1)
    matching = [
        step for step in steps if secrets.compare_digest(totp.generate_otp(step).encode(), code.strip().encode())
    ]
    return matching[-1] if matching else None


def _recovery_code() -> str:
    return "-".join(secrets.token_hex(2) for _ in range(4))  # 64 random bits


def _digest(code: str) -> str:
    return hashlib.sha256(code.replace("-", "").encode()).hexdigest()
