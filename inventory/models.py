"""What we own: environments, brands, cards, models, servers and their devices."""

from typing import TYPE_CHECKING

from django.conf import settings
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import F, Q
from django.db.models.functions import Lower
from django.utils import timezone
from django.utils.translation import get_language
from django.utils.translation import gettext_lazy as _

from infini.fields import EncryptedTextField
from infini.models import Versioned
from inventory.installation.states import OPEN_STATES, Kind, State
from inventory.querysets import ServerQuerySet, agent_silence_limit

if TYPE_CHECKING:
    from django_stubs_ext import StrOrPromise

PORT_VALIDATORS = [MinValueValidator(1), MaxValueValidator(65535)]


def _port_in_range(column: str, name: str) -> models.CheckConstraint:
    return models.CheckConstraint(condition=Q(**{f"{column}__gte": 1, f"{column}__lte": 65535}), name=name)


class Environment(Versioned):
    """Development, test, production, ...: separates servers and models of one site."""

    name = models.CharField(_("name"), max_length=100)

    class Meta:
        verbose_name = _("environment")
        verbose_name_plural = _("environments")
        ordering = ["name"]
        constraints = [models.UniqueConstraint(Lower("name"), name="environment_name_unique")]

    def __str__(self) -> str:
        return self.name


class EnvironmentLimit(models.Model):
    """A person who is limited to some environments has one of these for each; without any he sees all.

    An environment is kept as long as somebody is limited to it: with its last limit he would see all.
    """

    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.CASCADE, related_name="environment_limits", verbose_name=_("user")
    )
    environment = models.ForeignKey(Environment, models.PROTECT, related_name="limits", verbose_name=_("environment"))

    class Meta:
        verbose_name = _("environment limit")
        verbose_name_plural = _("environment limits")
        constraints = [models.UniqueConstraint(fields=["user", "environment"], name="environment_limit_once")]

    def __str__(self) -> str:
        return str(self.environment)  # whose it is, is not everybody's to know


class Brand(Versioned):
    """A maker of accelerators. ``vendor`` is the stable key by which agents name the same maker."""

    name = models.CharField(_("name"), max_length=100)
    name_zh = models.CharField(_("Chinese name"), max_length=100, blank=True)
    vendor = models.CharField(_("vendor key"), max_length=40, blank=True)
    logo = models.CharField(_("logo"), max_length=200, blank=True, help_text=_("Address of an uploaded picture."))
    sort_order = models.IntegerField(_("order"), default=0, db_index=True)

    class Meta:
        verbose_name = _("brand")
        verbose_name_plural = _("brands")
        ordering = ["sort_order", "-created_at", "-pk"]
        constraints = [models.UniqueConstraint(Lower("name"), name="brand_name_unique")]

    def __str__(self) -> str:
        """As its reader calls it."""
        return (self.name_zh if (get_language() or "").startswith("zh") else "") or self.name


def _figure(label: "StrOrPromise") -> models.FloatField:
    """A published figure; empty when nobody publishes it, and never zero for that."""
    return models.FloatField(label, null=True, blank=True)


class Card(Versioned):
    """One accelerator card as a buyer can tell it apart; figures are the vendor's dense peaks, with their source."""

    FIGURES = (
        "memory",
        "fp8_perf",
        "int8_perf",
        "bf16_perf",
        "fp16_perf",
        "fp32_perf",
        "interconnect_bandwidth",
        "power",
    )

    brand = models.ForeignKey(Brand, models.CASCADE, related_name="cards", verbose_name=_("brand"))
    name = models.CharField(_("name"), max_length=100)
    model = models.CharField(_("variant"), max_length=100, blank=True)
    memory = _figure(_("memory (GB)"))
    memory_type = models.CharField(_("memory type"), max_length=20, blank=True)
    fp8_perf = _figure(_("FP8 (TFLOPS)"))
    int8_perf = _figure(_("INT8 (TOPS)"))
    bf16_perf = _figure(_("BF16 (TFLOPS)"))
    fp16_perf = _figure(_("FP16 (TFLOPS)"))
    fp32_perf = _figure(_("FP32 (TFLOPS)"))
    interconnect_bandwidth = _figure(_("interconnect (GB/s)"))
    power = _figure(_("power (W)"))
    released = models.PositiveSmallIntegerField(_("released"), null=True, blank=True)
    source_url = models.URLField(_("source"), max_length=500, blank=True)
    note = models.TextField(_("note"), blank=True)

    class Meta:
        verbose_name = _("accelerator card")
        verbose_name_plural = _("accelerator cards")
        ordering = ["brand__sort_order", "brand__name", "name", "model"]
        constraints = [
            models.UniqueConstraint("brand", Lower("name"), Lower("model"), name="card_unique_in_brand"),
            *(
                models.CheckConstraint(
                    condition=Q(**{figure: None}) | Q(**{f"{figure}__gt": 0}), name=f"card_{figure}_positive"
                )
                for figure in ("memory", "fp8_perf", "int8_perf", "bf16_perf", "fp16_perf", "fp32_perf")
            ),
            models.CheckConstraint(
                condition=Q(interconnect_bandwidth=None) | Q(interconnect_bandwidth__gt=0),
                name="card_interconnect_positive",
            ),
            models.CheckConstraint(condition=Q(power=None) | Q(power__gt=0), name="card_power_positive"),
        ]

    def __str__(self) -> str:
        return self.model or self.name


class AIModel(Versioned):
    """A model that can be served. ``environments`` empty means all of them."""

    name = models.CharField(_("name"), max_length=200)
    logo = models.CharField(_("logo"), max_length=200, blank=True)
    parameters = models.CharField(
        _("parameters"), max_length=50, blank=True, help_text=_("For example 7B or 671B-A37B.")
    )
    environments = models.ManyToManyField(
        Environment, blank=True, related_name="models", verbose_name=_("environments"), help_text=_("Empty: all.")
    )

    class Meta:
        verbose_name = _("model")
        verbose_name_plural = _("models")
        ordering = ["name", "pk"]
        constraints = [models.UniqueConstraint(Lower("name"), name="aimodel_name_unique")]

    def __str__(self) -> str:
        return self.name


class Server(Versioned):
    """One machine. SSH access and agent access are each optional: a username, a token turn them on.

    The second half is observed: written by checks and agent reports alone, never by people.
    """

    name = models.CharField(_("name"), max_length=100)
    environment = models.ForeignKey(
        Environment, models.PROTECT, null=True, blank=True, related_name="servers", verbose_name=_("environment")
    )
    brand = models.ForeignKey(
        Brand, models.PROTECT, null=True, blank=True, related_name="servers", verbose_name=_("brand")
    )
    card = models.ForeignKey(
        Card, models.PROTECT, null=True, blank=True, related_name="servers", verbose_name=_("card")
    )
    host_ip = models.CharField(_("address"), max_length=253, help_text=_("IP address or host name."))
    labels = models.JSONField(_("labels"), default=dict, blank=True)
    maintenance = models.BooleanField(_("maintenance"), default=False)

    port = models.PositiveIntegerField(_("SSH port"), default=22, validators=PORT_VALIDATORS)
    username = models.CharField(_("SSH account"), max_length=100, blank=True)
    password = EncryptedTextField(_("password"), blank=True, default="")
    private_key = EncryptedTextField(_("private key"), blank=True, default="")
    passphrase = EncryptedTextField(_("passphrase"), blank=True, default="")
    jump = models.ForeignKey(
        "self",
        models.PROTECT,
        null=True,
        blank=True,
        related_name="behind",
        verbose_name=_("jump host"),
        help_text=_("The server over which this one is reached by SSH; empty: directly."),
    )
    # The pin; written by inventory.ssh.host_keys alone.
    host_key = models.TextField(_("pinned host key"), blank=True, editable=False)
    record_terminals = models.BooleanField(
        _("record terminals"),
        default=True,
        db_default=True,
        help_text=_("Counts where the site is set to record as each server says."),
    )

    agent_port = models.PositiveIntegerField(_("agent port"), default=8888, validators=PORT_VALIDATORS)
    agent_token = EncryptedTextField(_("agent token"), blank=True, default="")
    agent_certificate = models.TextField(
        _("agent certificate"), blank=True, help_text=_("PEM, pinned: the agent is then asked over TLS.")
    )

    # Observed by checks.
    reachable = models.BooleanField(_("reachable"), null=True, editable=False)
    last_check = models.DateTimeField(_("last check"), null=True, editable=False)
    check_method = models.CharField(max_length=10, blank=True, editable=False)
    check_error = models.CharField(max_length=300, blank=True, editable=False)
    # Observed by SSH logins: what was last offered in place of the pinned key.
    host_key_offered = models.TextField(blank=True, default="", editable=False)
    # Observed by reports.
    agent_seen_at = models.DateTimeField(_("agent seen"), null=True, editable=False)
    agent_asked_at = models.DateTimeField(_("agent asked"), null=True, editable=False)
    agent_error = models.CharField(_("agent error"), max_length=300, blank=True, editable=False)
    agent_version = models.CharField(_("agent version"), max_length=40, blank=True, editable=False)
    boot_id = models.CharField(max_length=64, blank=True, editable=False)
    figures = models.JSONField(_("figures"), default=dict, editable=False)

    objects = ServerQuerySet.as_manager()

    class Meta:
        verbose_name = _("server")
        verbose_name_plural = _("servers")
        ordering = ["name", "pk"]
        permissions = [
            ("check_server", "Can check servers"),
            ("repin_server", "Can re-pin a host key"),
            ("install_agent", "Can install, upgrade and remove agents"),
        ]
        constraints = [
            models.UniqueConstraint(Lower("name"), name="server_name_unique"),
            _port_in_range("port", "server_port_range"),
            _port_in_range("agent_port", "server_agent_port_range"),
            models.CheckConstraint(condition=Q(jump=None) | ~Q(jump=F("pk")), name="server_jump_is_another"),
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def agent_is_heard(self) -> bool:
        """Whether its agent reported lately enough not to count as silent."""
        return self.agent_seen_at is not None and self.agent_seen_at >= timezone.now() - agent_silence_limit()


class Device(models.Model):
    """One accelerator in a server, as its agent reports it. Its live figures stand in ``Server.figures``.

    ``present`` is false once a report no longer lists it; the row stays, so that nobody takes it for gone.
    """

    server = models.ForeignKey(Server, models.CASCADE, related_name="devices", verbose_name=_("server"))
    uuid = models.CharField(_("UUID"), max_length=100)
    index = models.PositiveSmallIntegerField(_("index"))
    vendor = models.CharField(_("vendor"), max_length=40)
    name = models.CharField(_("name"), max_length=100)
    memory_bytes = models.BigIntegerField(_("memory (bytes)"), null=True)
    slots = models.PositiveSmallIntegerField(_("slots"), default=1)
    present = models.BooleanField(_("present"), default=True)
    # By which variables a process is given this device: {"VARIABLE": "value"}, and what must be set beside them.
    visible_by = models.JSONField(default=dict)
    visible_with = models.JSONField(default=dict)

    class Meta:
        verbose_name = _("device")
        verbose_name_plural = _("devices")
        ordering = ["server__name", "vendor", "index", "uuid"]
        constraints = [models.UniqueConstraint(fields=["server", "uuid"], name="device_unique_on_server")]

    def __str__(self) -> str:
        return f"{self.server}/{self.index}"


class Sample(models.Model):
    """How one server did in one minute, for charts: means of what its reports said, None where none told.

    ``devices`` has an entry per device, by its id: the means of utilisation (%), memory (%), temperature (°C) and
    power (W). A minute without a report has no row: that is the gap in the chart.
    """

    server = models.ForeignKey(Server, models.CASCADE, related_name="samples")
    at = models.DateTimeField(db_index=True)
    cpu_percent = models.FloatField(null=True)
    memory_percent = models.FloatField(null=True)
    disk_percent = models.FloatField(null=True)
    network_in = models.FloatField(null=True)
    network_out = models.FloatField(null=True)
    devices = models.JSONField(default=dict)

    class Meta:
        verbose_name = _("sample")
        verbose_name_plural = _("samples")
        constraints = [models.UniqueConstraint(fields=["server", "at"], name="one_sample_a_minute")]

    def __str__(self) -> str:
        return f"{self.server_id} {self.at:%Y-%m-%d %H:%M}"


class Installation(models.Model):
    """The agent brought onto one server, up to date or off it: what was asked, and each step of it.

    ``batch`` joins what was asked together. Whoever works on it writes ``claim`` and keeps ``leased_until`` ahead of
    the clock; at most one is open per server. The server's name is kept: the row outlives it.
    """

    batch = models.CharField(max_length=32, db_index=True)
    server = models.ForeignKey(
        Server, models.SET_NULL, null=True, related_name="installations", verbose_name=_("server")
    )
    server_name = models.CharField(_("server"), max_length=100)
    kind = models.CharField(_("kind"), max_length=10, choices=Kind.choices, default=Kind.INSTALL)
    dry_run = models.BooleanField(_("dry run"), default=False)
    stop_instances = models.BooleanField(_("stop instances"), default=False)
    by = models.ForeignKey(settings.AUTH_USER_MODEL, models.SET_NULL, null=True, related_name="+", verbose_name=_("by"))
    state = models.CharField(_("state"), max_length=10, choices=State.choices, default=State.QUEUED)
    steps = models.JSONField(_("steps"), default=list)
    reason = models.CharField(_("reason"), max_length=500, blank=True)
    attempts = models.PositiveSmallIntegerField(_("attempts"), default=0)
    cancel_asked = models.BooleanField(default=False)
    created_at = models.DateTimeField(_("asked"), default=timezone.now)
    started_at = models.DateTimeField(_("started"), null=True)
    finished_at = models.DateTimeField(_("finished"), null=True)
    queued_at = models.DateTimeField(default=timezone.now)
    leased_until = models.DateTimeField(null=True)
    claim = models.CharField(max_length=32, blank=True)

    class Meta:
        verbose_name = _("agent installation")
        verbose_name_plural = _("agent installations")
        ordering = ["-pk"]
        constraints = [
            models.UniqueConstraint(
                fields=["server"], condition=Q(state__in=OPEN_STATES), name="one_open_installation_per_server"
            )
        ]
        indexes = [models.Index(fields=["state", "leased_until"], name="installation_due")]

    def __str__(self) -> str:
        return f"{self.get_kind_display()} #{self.pk}"

    @property
    def is_open(self) -> bool:
        return self.state in OPEN_STATES


from inventory.terminals.models import Recording as Recording  # noqa: E402  (after what they refer to)
from inventory.terminals.models import TerminalSession as TerminalSession  # noqa: E402
