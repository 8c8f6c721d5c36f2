"""All settings. The environment is read here and nowhere else; README lists the variables."""

import socket
from pathlib import Path
from urllib.parse import urlsplit

from django.utils.translation import gettext_lazy as _

from infini import databases, secrets
from infini.env import env_bool, env_float, env_int, env_list, env_str, env_word
from infini.unfold_settings import UNFOLD  # noqa: F401  (the admin's look; read by unfold)

BASE_DIR = Path(__file__).resolve().parent.parent
VERSION = "0.1.0"

# Where and what
DATA_DIR = Path(env_str("INFINI_DATA_DIR", str(BASE_DIR / "var"))).expanduser().absolute()
HOST = env_str("INFINI_HOST", "127.0.0.1")
PORT = env_int("INFINI_PORT", 8000, least=1, most=65535)
AGENT_PORT = env_int("INFINI_AGENT_PORT", 8888, least=1, most=65535)
ADMIN_PASSWORD = env_str("INFINI_ADMIN_PASSWORD")
PUBLIC_URL = env_str("INFINI_PUBLIC_URL")  # how a browser reaches us through a reverse proxy
TRUST_PROXY = env_bool("INFINI_TRUST_PROXY")
DEBUG = env_bool("INFINI_DEBUG")

UPLOADS_DIR = DATA_DIR / "uploads"
LOGS_DIR = DATA_DIR / "logs"
AGENT_STATE_DIR = DATA_DIR / "agent"
SECRETS_DIR = DATA_DIR / "secrets"

# Secrets. The first field key encrypts; all of them decrypt, so a new first line rotates.
SECRET_KEY = secrets.read_or_create(SECRETS_DIR / "signing-key", secrets.make_signing_key)
FIELD_KEYS = secrets.read_or_create(SECRETS_DIR / "field-keys", secrets.make_field_key).split()

# Fleet
MONITOR_INTERVAL_SECONDS = env_float("INFINI_MONITOR_INTERVAL_SECONDS", 5.0, least=0.2)
AGENT_TIMEOUT_SECONDS = env_float("INFINI_AGENT_TIMEOUT_SECONDS", 30.0, least=0.5)
CHECK_TIMEOUT_SECONDS = env_float("INFINI_CHECK_TIMEOUT_SECONDS", 5.0, least=0.5)
CHECK_PING = env_bool("INFINI_CHECK_PING", True)  # off where something answers echoes in the servers' place
DEPLOY_DEADLINE_SECONDS = env_int("INFINI_DEPLOY_DEADLINE_SECONDS", 3600, least=5)
STABLE_SECONDS = env_float("INFINI_STABLE_SECONDS", 30.0, least=0)  # ready so long without a break: a good revision
# How long an instance that a rolling update ends gets no new requests before. The gateway remembers for 0.9 s.
DRAIN_SECONDS = env_float("INFINI_DRAIN_SECONDS", 5.0, least=0)
# Where agents are installed on servers, below another directory than / for tests, and which Python runs them there.
AGENT_ROOT = env_str("INFINI_AGENT_ROOT", "/")
SERVER_PYTHON = env_str("INFINI_SERVER_PYTHON")
# Automatic action pauses when at least this share of the fleet falls silent within minutes.
BRAKE_SHARE = env_float("INFINI_BRAKE_SHARE", 0.3, least=0.01)
SAMPLES_KEEP_DAYS = env_int("INFINI_SAMPLES_KEEP_DAYS", 7, least=1, most=365)
PORT_RANGE_FIRST = env_int("INFINI_PORT_RANGE_FIRST", 10001, least=1024, most=65535)
PORT_RANGE_LAST = env_int("INFINI_PORT_RANGE_LAST", 10100, least=PORT_RANGE_FIRST, most=65535)

# SSH. A connection is shared by all that use the same server and account, and closed when nothing used it for a while.
SSH_IDLE_SECONDS = env_float("INFINI_SSH_IDLE_SECONDS", 300.0, least=1.0)
SSH_KEEPALIVE_SECONDS = env_int("INFINI_SSH_KEEPALIVE_SECONDS", 15, least=1)
SSH_ACCEPT_NEW_HOST_KEYS = env_bool("INFINI_SSH_ACCEPT_NEW_HOST_KEYS")  # pin a server's first key without asking

# Limits of what comes in, in bytes
UPLOAD_MAX_BYTES = env_int("INFINI_UPLOAD_MAX_BYTES", 5 * 1024 * 1024, least=1024)
REQUEST_MAX_BYTES = env_int("INFINI_REQUEST_MAX_BYTES", 32 * 1024 * 1024, least=1024)
DATA_UPLOAD_MAX_MEMORY_SIZE = REQUEST_MAX_BYTES

# Runs of commands: what is kept of each server's output, and how long and how many of a task's runs
RUN_OUTPUT_MAX_BYTES = env_int("INFINI_RUN_OUTPUT_MAX_BYTES", 128 * 1024, least=4096, most=16 * 1024 * 1024)
RUN_KEEP_DAYS = env_int("INFINI_RUN_KEEP_DAYS", 90, least=1)
RUN_KEEP_COUNT = env_int("INFINI_RUN_KEEP_COUNT", 500, least=1)

# Gateway, in seconds and bytes
UPSTREAM_CONNECT_TIMEOUT_SECONDS = env_float("INFINI_UPSTREAM_CONNECT_TIMEOUT_SECONDS", 5.0, least=0.1)
UPSTREAM_FIRST_BYTE_TIMEOUT_SECONDS = env_float("INFINI_UPSTREAM_FIRST_BYTE_TIMEOUT_SECONDS", 300.0, least=0.1)
UPSTREAM_IDLE_TIMEOUT_SECONDS = env_float("INFINI_UPSTREAM_IDLE_TIMEOUT_SECONDS", 120.0, least=0.1)
UPSTREAM_TOTAL_TIMEOUT_SECONDS = env_float("INFINI_UPSTREAM_TOTAL_TIMEOUT_SECONDS", 7200.0, least=0.1)
STREAM_MAX_BYTES = env_int("INFINI_STREAM_MAX_BYTES", 64 * 1024 * 1024, least=1024)

# 0: the web process is the only gateway. Else `make up` starts one of its own there, under uvicorn.
GATEWAY_PORT = env_int("INFINI_GATEWAY_PORT", 0, least=0, most=65535)
USAGE_DAYS = env_int("INFINI_USAGE_DAYS", 90, least=1)  # single requests; the sums of days stay
REDIS_URL = env_str("REDIS_URL")  # limits hold across processes with it, within each without
# Terminals: recordings of always, never, or as each server says; sizes in bytes, ages in seconds and days
TERMINAL_GRACE_SECONDS = env_int("INFINI_TERMINAL_GRACE_SECONDS", 600, least=1)
TERMINAL_IDLE_SECONDS = env_int("INFINI_TERMINAL_IDLE_SECONDS", 3600, least=2)
TERMINAL_RECORD = env_word("INFINI_TERMINAL_RECORD", ("always", "never", "per-server"))
RECORDINGS_DIR = DATA_DIR / "recordings"
RECORDING_MAX_BYTES = env_int("INFINI_RECORDING_MAX_BYTES", 256 * 1024 * 1024, least=1024)
RECORDING_KEEP_DAYS = env_int("INFINI_RECORDING_KEEP_DAYS", 90, least=1)
FILE_MAX_BYTES = env_int("INFINI_FILE_MAX_BYTES", 4 * 1024**3, least=1024)

# Alerts by e-mail; without a host there are none. With `none` a password would travel in the clear.
_smtp_tls = env_word("INFINI_SMTP_TLS", ("starttls", "tls", "none"))
EMAIL_HOST = env_str("INFINI_SMTP_HOST")
EMAIL_PORT = env_int("INFINI_SMTP_PORT", {"starttls": 587, "tls": 465, "none": 25}[_smtp_tls], least=1, most=65535)
EMAIL_HOST_USER = env_str("INFINI_SMTP_USER")
EMAIL_HOST_PASSWORD = env_str("INFINI_SMTP_PASSWORD")
EMAIL_USE_TLS, EMAIL_USE_SSL = _smtp_tls == "starttls", _smtp_tls == "tls"
DEFAULT_FROM_EMAIL = env_str("INFINI_SMTP_FROM", f"infini@{socket.gethostname()}")

# Who may reach us
_own_names = {"localhost", "127.0.0.1", "[::1]"}
if HOST in ("0.0.0.0", "::"):
    _own_names |= {socket.gethostname(), socket.getfqdn()}
else:
    _own_names.add(HOST)
if PUBLIC_URL:
    _own_names.add(urlsplit(PUBLIC_URL).hostname or "")
ALLOWED_HOSTS = sorted(_own_names - {""}) + env_list("INFINI_ALLOWED_HOSTS")
CSRF_TRUSTED_ORIGINS = [PUBLIC_URL.rstrip("/")] if PUBLIC_URL else []
if TRUST_PROXY:
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
    USE_X_FORWARDED_HOST = True
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = PUBLIC_URL.startswith("https://")
# Cookies do not tell ports apart: two sites on one host would log each other out under one name.
SESSION_COOKIE_NAME = f"infini_session_{PORT}"
CSRF_COOKIE_NAME = f"infini_csrf_{PORT}"
SECURE_CONTENT_TYPE_NOSNIFF = True
X_FRAME_OPTIONS = "SAMEORIGIN"
SECURE_REFERRER_POLICY = "same-origin"

INSTALLED_APPS = [
    "infini.apps.InfiniConfig",
    "unfold",
    "unfold.contrib.filters",
    "django.contrib.admin.apps.SimpleAdminConfig",  # its pages are found by infini/urls.py: only the web needs them
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "rest_framework",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "django_q",
    "inventory.apps.InventoryConfig",
    "deployments.apps.DeploymentsConfig",
    "chat.apps.ChatConfig",
    "scheduler.apps.SchedulerConfig",
]

# No GZipMiddleware: it makes each chunk of a stream its own gzip member and browsers read only the first.
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.locale.LocaleMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "infini.middleware.PersonMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "infini.middleware.ContentSecurityMiddleware",
]
CSRF_FAILURE_VIEW = "infini.views.csrf_failure"

ROOT_URLCONF = "infini.urls"
ASGI_APPLICATION = "infini.asgi.application"
AUTH_USER_MODEL = "infini.User"
LOGIN_URL = "admin:login"
LOGIN_REDIRECT_URL = "admin:index"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 8}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
            "builtins": ["infini.templatetags.language"],
        },
    }
]

# No ATOMIC_REQUESTS: reads inside atomic() would queue behind writers.
DATABASE_URL = env_str("DATABASE_URL")
DATABASES = {
    "default": databases.postgresql(DATABASE_URL) if DATABASE_URL else databases.sqlite(DATA_DIR / "infini.sqlite3")
}

# Steps are short, claimed by a lease and may run twice; see deployments/steps.py. queue_limit equals the workers,
# because the broker's lock starts when a task is fetched, not when it runs.
Q_CLUSTER = {
    "name": "steps",
    "orm": "default",
    "workers": 2,
    "queue_limit": 2,
    "poll": 0.2,
    "timeout": 120,
    "retry": 600,
    "max_attempts": 1,
    "ack_failures": True,
    "save_limit": 200,
    "catch_up": False,
    "scheduler": False,
    "guard_cycle": 1,
    "label": "Queue",
    # Work of minutes and hours, see infini/clusters.py. The timeout exceeds the longest run there may be, and `retry`
    # exceeds everything: a message fetched again would start the work twice.
    "ALT_CLUSTERS": {
        "runs": {
            "workers": 4,
            "queue_limit": 4,
            "timeout": 26 * 3600,
            "retry": 7 * 24 * 3600,
            "max_attempts": 1,
            "recycle": 10_000,
        }
    },
}

# What `manage.py up` does before it starts the programs: the first once per version, the second each time.
FIRST_START_STEPS = ["inventory.reference.load_reference_cards", "scheduler.library.load_examples"]
START_STEPS = ["inventory.local.ensure_local_server"]
# What `manage.py down` writes down before it stops this machine's instances.
DOWN_STEPS = ["deployments.lifecycle.stop_local_instances"]
# Whether a program stands still; asked by the supervisor.
STALL_CHECKS = {
    "worker": "deployments.stalls.worker_stalled",
    "runs": "infini.clusters.runs_stalled",
    "monitor": "deployments.stalls.monitor_stalled",
}

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": ["infini.access.KeyAuthentication", "infini.access.SessionOrNothing"],
    "DEFAULT_PERMISSION_CLASSES": ["infini.access.RolePermission"],
    "DEFAULT_RENDERER_CLASSES": ["infini.api.JSONRenderer", "rest_framework.renderers.BrowsableAPIRenderer"],
    "DEFAULT_PARSER_CLASSES": [
        "infini.api.JSONParser",
        "rest_framework.parsers.FormParser",
        "rest_framework.parsers.MultiPartParser",
    ],
    "DEFAULT_FILTER_BACKENDS": ["infini.access.VisibleRows"],
    "DEFAULT_PAGINATION_CLASS": "infini.api.PlainPagination",
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "EXCEPTION_HANDLER": "infini.api_errors.error_response",
    "COERCE_DECIMAL_TO_STRING": False,
    "UNAUTHENTICATED_USER": "django.contrib.auth.models.AnonymousUser",
}
SPECTACULAR_SETTINGS = {
    "TITLE": "Infini",
    "DESCRIPTION": "Run AI model services on your own servers.",
    "VERSION": VERSION,
    "SERVE_INCLUDE_SCHEMA": False,
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "SERVE_PERMISSIONS": ["infini.access.RolePermission"],
    "ENUM_NAME_OVERRIDES": {
        "AlertKind": "infini.models.AlertKind",
        "AlertTargetKind": "infini.models.TargetKind",
        "KeyState": "infini.keys.STATES",
    },
    "PREPROCESSING_HOOKS": ["infini.schema.without_last_slash"],
    "POSTPROCESSING_HOOKS": [
        "drf_spectacular.hooks.postprocess_schema_enums",
        "infini.schema.with_completions",
    ],
}

LANGUAGE_CODE = "en"
LANGUAGES = [("en", "English"), ("zh-hans", "简体中文")]
# The second one: what the admin's theme, which has no Chinese, says.
LOCALE_PATHS = [BASE_DIR / "locale", BASE_DIR / "locale" / "unfold"]
TIME_ZONE = "UTC"
USE_TZ = True

STATIC_URL = "/static/"
STATICFILES_DIRS = [BASE_DIR / "static"]
# Static files are served from where they lie: no collecting step between a clone and a page.
WHITENOISE_USE_FINDERS = True
WHITENOISE_AUTOREFRESH = False

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"()": "infini.logs.LineFormatter"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"handlers": ["console"], "level": env_str("INFINI_LOG_LEVEL", "INFO").upper()},
    "loggers": {
        "django.server": {"level": "WARNING"},
        # It logs traces of what we turn into a sentence.
        "paramiko": {"level": "CRITICAL"},
        # One line per queued and done step says nothing that the operations' own lines do not.
        "django-q": {"level": "WARNING"},
        "daphne.server": {"level": "WARNING"},
        "django.channels.server": {"level": "WARNING"},
    },
}

SITE_TITLE = _("Infini")
