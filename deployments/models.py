"""What runs: what people want (services, revisions, placements), what is (instances) and the way between."""

from django.conf import settings
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import F, Q
from django.db.models.functions import Lower
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from deployments.phases import (
    OPEN_STATES,
    OperationKind,
    OperationState,
    Outcome,
    Phase,
    RestartPolicy,
    ResultState,
    Wanted,
)
from deployments.querysets import ServiceQuerySet
from infini.fields import EncryptedTextField
from infini.models import Versioned
from inventory.models import AIModel, Device, Environment, Server


class Service(Versioned):
    """A model service: what is wanted. What is, stands in its instances; ``deploy_status`` is derived from both."""

    name = models.CharField(_("name"), max_length=100)
    environment = models.ForeignKey(
        Environment, models.PROTECT, null=True, blank=True, related_name="services", verbose_name=_("environment")
    )
    model = models.ForeignKey(
        AIModel, models.PROTECT, null=True, blank=True, related_name="services", verbose_name=_("model")
    )
    served_model = models.CharField(
        _("served model name"),
        max_length=200,
        blank=True,
        help_text=_("As the model server calls it; empty: it is asked."),
    )
    path_prefix = models.CharField(
        _("path prefix"),
        max_length=100,
        default="/v1",
        help_text=_("Where the OpenAI paths begin on the model server."),
    )
    max_unavailable = models.PositiveSmallIntegerField(
        _("at most unavailable"),
        null=True,
        blank=True,
        validators=[MinValueValidator(1)],
        help_text=_(
            "A new revision goes out to so many instances at a time, and back when one fails. Empty: all at once."
        ),
    )
    surge = models.BooleanField(
        _("start the new one first"),
        default=True,
        help_text=_(
            "Where so many are unavailable at most: the new instance starts beside the old one, which ends when the "
            "new one is ready. Where no devices or no port are free for both, the old one ends first."
        ),
    )
    wanted = models.CharField(
        _("wanted"), max_length=10, choices=Wanted.choices, default=Wanted.STOPPED, editable=False
    )
    current_revision = models.ForeignKey(
        "Revision", models.SET_NULL, null=True, related_name="+", editable=False, verbose_name=_("revision")
    )
    good_revision = models.ForeignKey("Revision", models.SET_NULL, null=True, related_name="+", editable=False)
    servers: models.ManyToManyField = models.ManyToManyField(
        Server, through="Placement", related_name="services", verbose_name=_("servers")
    )

    objects = ServiceQuerySet.as_manager()

    class Meta:
        verbose_name = _("service")
        verbose_name_plural = _("services")
        ordering = ["name", "pk"]
        permissions = [("deploy_service", "Can deploy, restart and stop services")]
        constraints = [
            models.UniqueConstraint(Lower("name"), name="service_name_unique"),
            models.CheckConstraint(
                condition=Q(max_unavailable=None) | Q(max_unavailable__gte=1), name="service_max_unavailable_range"
            ),
        ]

    def __str__(self) -> str:
        return self.name


class Revision(models.Model):
    """What a deployment runs; immutable. A change of any of it is a new revision.

    ``outcome`` is the verdict on its last deployment: empty while there is none (deployments/trials.py).
    """

    SPEC = ("command", "stop_command", "env", "secret_env", "run_as", "cwd", "probes", "port", "devices", "restart")

    service = models.ForeignKey(Service, models.CASCADE, related_name="revisions", verbose_name=_("service"))
    number = models.PositiveIntegerField(_("number"))
    command = models.TextField(_("command"))
    stop_command = models.TextField(_("stop command"), blank=True)
    env = models.JSONField(_("environment variables"), default=dict, blank=True)
    secret_env = EncryptedTextField(_("secret environment variables"), blank=True, default="")
    run_as = models.CharField(_("account"), max_length=100, blank=True)
    cwd = models.CharField(_("working directory"), max_length=500, blank=True)
    probes = models.JSONField(_("health checks"), default=dict, blank=True)
    restart = models.CharField(_("restart"), max_length=10, choices=RestartPolicy.choices, default=RestartPolicy.NEVER)
    port = models.PositiveIntegerField(
        _("port"), null=True, blank=True, help_text=_("Empty: a free one, when the command asks for {port}.")
    )
    devices = models.PositiveSmallIntegerField(_("devices per instance"), default=0)
    author = models.ForeignKey(settings.AUTH_USER_MODEL, models.SET_NULL, null=True, related_name="+")
    note = models.CharField(_("note"), max_length=500, blank=True)
    created_at = models.DateTimeField(_("created"), default=timezone.now)
    outcome = models.CharField(_("outcome"), max_length=10, choices=Outcome.choices, blank=True)
    outcome_at = models.DateTimeField(null=True)
    outcome_reason = models.CharField(max_length=500, blank=True)

    class Meta:
        verbose_name = _("revision")
        verbose_name_plural = _("revisions")
        ordering = ["-number"]
        constraints = [
            models.UniqueConstraint(fields=["service", "number"], name="revision_number_unique"),
            models.CheckConstraint(
                condition=Q(port=None) | Q(port__gte=1, port__lte=65535), name="revision_port_range"
            ),
        ]

    def __str__(self) -> str:
        return f"r{self.number}"

    @property
    def needs_port(self) -> bool:
        return self.port is not None or "{port}" in self.command


class Placement(models.Model):
    """A service on a server; ``replicas`` 0 means it is being taken away and its instances end first."""

    service = models.ForeignKey(Service, models.CASCADE, related_name="placements")
    server = models.ForeignKey(Server, models.PROTECT, related_name="placements")
    replicas = models.PositiveSmallIntegerField(_("replicas"), default=1, validators=[MaxValueValidator(64)])

    class Meta:
        verbose_name = _("placement")
        verbose_name_plural = _("placements")
        ordering = ["server__name", "pk"]
        constraints = [
            models.UniqueConstraint(fields=["service", "server"], name="placement_unique"),
            models.CheckConstraint(condition=Q(replicas__lte=64), name="placement_replicas_range"),
        ]

    def __str__(self) -> str:
        return f"{self.service} on {self.server}"

    @property
    def known_as(self) -> Service:
        """What people take it for; see ``infini.records``."""
        return self.service


class Instance(models.Model):
    """One copy of a service on one server. ``wanted`` and ``generation`` are ours to set; the rest is observed.

    ``generation`` grows with each thing asked of it: the agent takes none but a higher one, so that a request
    sent twice, or late, starts nothing twice. ``acked_generation`` is the last one the agent has taken,
    ``seen_generation`` the one it last reported. ``restart_streak`` counts restarts without a stable run in between,
    ``ready_since`` is when it was first reported ready without a break since.

    ``replaces`` is the instance beside which this one was started in a rolling update, until it takes its place.
    """

    placement = models.ForeignKey(Placement, models.PROTECT, related_name="instances")
    revision = models.ForeignKey(Revision, models.PROTECT, related_name="instances")
    ordinal = models.PositiveSmallIntegerField(_("number"), default=0)
    key = models.CharField(_("key"), max_length=64, unique=True)
    generation = models.PositiveIntegerField(default=0)
    acked_generation = models.PositiveIntegerField(default=0)
    seen_generation = models.PositiveIntegerField(default=0)
    wanted = models.CharField(_("wanted"), max_length=10, choices=Wanted.choices, default=Wanted.RUNNING)
    replaces = models.OneToOneField("self", models.SET_NULL, null=True, related_name="successor")

    phase = models.CharField(_("state"), max_length=10, choices=Phase.choices, default=Phase.PENDING)
    ready = models.BooleanField(_("ready"), default=False)
    pid = models.PositiveIntegerField(_("PID"), null=True)
    boot_id = models.CharField(max_length=64, blank=True)
    port = models.PositiveIntegerField(_("port"), null=True)
    restarts = models.PositiveIntegerField(_("restarts"), default=0)
    restart_streak = models.PositiveIntegerField(default=0)
    ready_since = models.DateTimeField(null=True)
    exit_code = models.IntegerField(_("exit code"), null=True)
    exit_unseen = models.BooleanField(_("exit unseen"), default=False)
    reason = models.CharField(_("reason"), max_length=500, blank=True)
    started_at = models.DateTimeField(_("started"), null=True)
    observed_at = models.DateTimeField(_("observed"), null=True)

    class Meta:
        verbose_name = _("instance")
        verbose_name_plural = _("instances")
        ordering = ["placement__server__name", "ordinal"]
        constraints = [
            models.UniqueConstraint(fields=["placement", "ordinal"], name="instance_ordinal_unique"),
            models.CheckConstraint(condition=Q(acked_generation__lte=F("generation")), name="instance_ack_not_ahead"),
            models.CheckConstraint(condition=Q(ready=False) | Q(phase=Phase.RUNNING), name="instance_ready_runs"),
            models.CheckConstraint(
                condition=Q(replaces=None) | Q(wanted=Wanted.RUNNING), name="instance_successor_is_wanted"
            ),
        ]

    def __str__(self) -> str:
        return self.key

    @property
    def shown_exit_code(self) -> int | str | None:
        return "unknown" if self.exit_unseen else self.exit_code


class PortClaim(models.Model):
    """A port of a server given to an instance: the constraint makes giving it twice impossible."""

    server = models.ForeignKey(Server, models.CASCADE, related_name="port_claims")
    port = models.PositiveIntegerField(validators=[MinValueValidator(1), MaxValueValidator(65535)])
    instance = models.OneToOneField(Instance, models.CASCADE, related_name="port_claim")

    class Meta:
        verbose_name = _("port claim")
        verbose_name_plural = _("port claims")
        constraints = [models.UniqueConstraint(fields=["server", "port"], name="port_claimed_once")]

    def __str__(self) -> str:
        return f"{self.server}:{self.port}"


class DeviceClaim(models.Model):
    """A slot of a device given to an instance: the constraint makes giving it twice impossible."""

    device = models.ForeignKey(Device, models.CASCADE, related_name="claims")
    slot = models.PositiveSmallIntegerField(default=0)
    instance = models.ForeignKey(Instance, models.CASCADE, related_name="device_claims")

    class Meta:
        verbose_name = _("device claim")
        verbose_name_plural = _("device claims")
        constraints = [models.UniqueConstraint(fields=["device", "slot"], name="device_slot_claimed_once")]

    def __str__(self) -> str:
        return f"{self.device}#{self.slot}"


class Tombstone(models.Model):
    """An instance whose service was deleted by force while its server was silent: ended when the server speaks."""

    server = models.ForeignKey(Server, models.CASCADE, related_name="tombstones")
    key = models.CharField(max_length=64, unique=True)
    generation = models.PositiveIntegerField()
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        verbose_name = _("tombstone")
        verbose_name_plural = _("tombstones")

    def __str__(self) -> str:
        return self.key


class UnknownInstance(models.Model):
    """What an agent reports and nobody here has asked for: shown, and adopted or stopped by a person alone.

    The row goes when the agent no longer reports it, or when it becomes ours. ``described_at`` is when the agent
    was last asked for ``command`` and what is below it.
    """

    server = models.ForeignKey(Server, models.CASCADE, related_name="unknown_instances", verbose_name=_("server"))
    key = models.CharField(_("key"), max_length=64)
    generation = models.PositiveIntegerField(default=0)
    phase = models.CharField(_("state"), max_length=10, choices=Phase.choices)
    ready = models.BooleanField(_("ready"), default=False)
    pid = models.PositiveIntegerField(_("PID"), null=True)
    port = models.PositiveIntegerField(_("port"), null=True)
    reason = models.CharField(_("reason"), max_length=500, blank=True)
    started_at = models.DateTimeField(_("started"), null=True)
    found_at = models.DateTimeField(_("found"), default=timezone.now)
    command = models.TextField(_("command"), blank=True)
    cwd = models.CharField(_("working directory"), max_length=500, blank=True)
    run_as = models.CharField(_("account"), max_length=100, blank=True)
    env_names = models.JSONField(_("environment variables"), default=list)
    described_at = models.DateTimeField(null=True)

    class Meta:
        verbose_name = _("unknown instance")
        verbose_name_plural = _("unknown instances")
        ordering = ["key"]
        constraints = [models.UniqueConstraint(fields=["server", "key"], name="unknown_once_per_server")]

    def __str__(self) -> str:
        return self.key


class Operation(models.Model):
    """Long work on one service, advanced by short steps; any worker may do the next one.

    A step holds ``leased_until``; ``step_due_at`` says when the next is due, ``queued_at`` and ``stepped_at`` when
    one was last queued and begun. At most one is open per service.
    """

    service = models.ForeignKey(Service, models.CASCADE, related_name="operations", verbose_name=_("service"))
    kind = models.CharField(_("kind"), max_length=10, choices=OperationKind.choices)
    state = models.CharField(_("state"), max_length=10, choices=OperationState.choices, default=OperationState.QUEUED)
    by = models.ForeignKey(settings.AUTH_USER_MODEL, models.SET_NULL, null=True, related_name="+", verbose_name=_("by"))
    revision = models.ForeignKey(Revision, models.SET_NULL, null=True, related_name="+", verbose_name=_("revision"))
    force = models.BooleanField(default=False)
    reason = models.CharField(_("reason"), max_length=500, blank=True)
    created_at = models.DateTimeField(_("started"), default=timezone.now)
    deadline_at = models.DateTimeField(_("deadline"))
    finished_at = models.DateTimeField(_("finished"), null=True)
    step_due_at = models.DateTimeField(default=timezone.now)
    queued_at = models.DateTimeField(null=True)
    stepped_at = models.DateTimeField(null=True)
    leased_until = models.DateTimeField(null=True)

    class Meta:
        verbose_name = _("operation")
        verbose_name_plural = _("operations")
        ordering = ["-pk"]
        constraints = [
            models.UniqueConstraint(
                fields=["service"], condition=Q(state__in=OPEN_STATES), name="one_open_operation_per_service"
            )
        ]
        indexes = [models.Index(fields=["state", "step_due_at"], name="operation_due")]

    def __str__(self) -> str:
        return f"{self.get_kind_display()} #{self.pk}"

    @property
    def is_open(self) -> bool:
        return self.state in OPEN_STATES


class OperationResult(models.Model):
    """What one operation did on one instance; names are copied, so it outlives both instance and server.

    ``deferred``: its turn in a rolling update has not come; the instance runs on as it was. ``note`` tells which way
    its turn went. The agent is not asked for anything before ``not_before``, so that requests in flight may end.
    """

    operation = models.ForeignKey(Operation, models.CASCADE, related_name="results")
    instance = models.ForeignKey(Instance, models.SET_NULL, null=True, related_name="results")
    server = models.ForeignKey(Server, models.SET_NULL, null=True, related_name="+")
    server_name = models.CharField(max_length=100)
    generation = models.PositiveIntegerField()
    deferred = models.BooleanField(default=False)
    not_before = models.DateTimeField(null=True)
    note = models.CharField(max_length=500, blank=True)
    state = models.CharField(_("state"), max_length=10, choices=ResultState.choices, default=ResultState.WAITING)
    pid = models.PositiveIntegerField(null=True)
    exit_code = models.IntegerField(null=True)
    exit_unseen = models.BooleanField(default=False)
    reason = models.CharField(_("reason"), max_length=500, blank=True)
    log_tail = models.TextField(blank=True)

    class Meta:
        verbose_name = _("result")
        verbose_name_plural = _("results")
        ordering = ["server_name", "pk"]
        constraints = [models.UniqueConstraint(fields=["operation", "instance"], name="one_result_per_instance")]

    def __str__(self) -> str:
        return f"{self.operation} on {self.server_name}"


class Trial(models.Model):
    """A deployed revision that has still to prove itself; gone with the verdict (deployments/trials.py).

    ``ready_since`` is when all instances were last found ready, without a break since; ``restarts`` how often the
    agents had started them again by then.
    """

    service = models.OneToOneField(Service, models.CASCADE, related_name="trial")
    revision = models.ForeignKey(Revision, models.CASCADE, related_name="+")
    operation = models.ForeignKey(Operation, models.CASCADE, related_name="+")
    began_at = models.DateTimeField(default=timezone.now)
    ready_since = models.DateTimeField(null=True)
    restarts = models.PositiveIntegerField(default=0)

    class Meta:
        verbose_name = _("trial")
        verbose_name_plural = _("trials")

    def __str__(self) -> str:
        return f"{self.service} {self.revision}"
