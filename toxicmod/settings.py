"""Settings for all environments, read from environment variables; the defaults are those of `make run`.

`PRODUCTION=1` requires a secret key, host names and a database URL, and turns on TLS-only cookies, JSON logs
and API keys for all API requests.
"""

import logging
from pathlib import Path
from typing import Any

import environ
from corsheaders.defaults import default_headers
from csp.constants import NONE, SELF
from django.core.exceptions import ImproperlyConfigured
from django.utils.crypto import get_random_string
from kombu import Queue

env = environ.Env()

BASE_DIR = Path(__file__).resolve().parent.parent
PRODUCTION = env.bool("PRODUCTION", default=False)
DEBUG = env.bool("DEBUG", default=False)
DATA_DIR = Path(env.str("DATA_DIR", default=str(BASE_DIR / ".data"))).resolve()
DATA_DIR.mkdir(mode=0o700, parents=True, exist_ok=True)


def _local_secret_key() -> str:
    """Return the secret key of `make run`; create it on first use, readable by its owner only."""
    path = DATA_DIR / "secret_key"
    try:
        with path.open("x") as file:
            path.chmod(0o600)
            file.write(get_random_string(64))
    except FileExistsError:
        pass
    return path.read_text()


def _required(name: str) -> str:
    value = env.str(name, default="")
    if not value and PRODUCTION:
        raise ImproperlyConfigured(f"Set {name} in the environment: production does not start without it.")
    return value


SECRET_KEY = _required("SECRET_KEY") or _local_secret_key()
ALLOWED_HOSTS = env.list("ALLOWED_HOSTS", default=[] if PRODUCTION else ["*"])
CSRF_TRUSTED_ORIGINS = env.list("CSRF_TRUSTED_ORIGINS", default=[])

INSTALLED_APPS = [
    "toxicmod.apps.AdminConfig",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "rest_framework",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "axes",
    "django_otp",
    "django_otp.plugins.otp_totp",
    "django_otp.plugins.otp_static",
    "corsheaders",
    "csp",
    "django_plotly_dash.apps.DjangoPlotlyDashConfig",
    "apps.accounts",
    "apps.registry",
    "apps.predictions",
    "apps.webhooks",
    "apps.moderation",
    "apps.mirror",
    "apps.training",
    "apps.monitoring",
    "apps.api",
    "apps.connectors",
    "apps.pages",
    "toxicmod",
]
if (BASE_DIR / "toxicmod" / "benchmarks").is_dir():  # neither the image nor a release contains it
    INSTALLED_APPS.append("toxicmod.benchmarks")

MIDDLEWARE = [
    "apps.monitoring.request_metrics.RequestMetricsMiddleware",
    "corsheaders.middleware.CorsMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "csp.middleware.CSPMiddleware",
    "toxicmod.middleware.TrailingSlashMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "axes.middleware.AxesMiddleware",
    "apps.core.middleware.RejectUnstorableTextMiddleware",
]

ROOT_URLCONF = "toxicmod.urls"
APPEND_SLASH = False
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
                "apps.pages.context_processors.site",
            ]
        },
    }
]

# The time to wait for a response of PostgreSQL, and the time that it may work on a statement (0: no limit).
# The defaults in toxicmod/postgresql are shorter in web processes.
DATABASE_TIMEOUT = env.float("DATABASE_TIMEOUT", default=None)
STATEMENT_TIMEOUT_MS = env.int("STATEMENT_TIMEOUT_MS", default=None)
DATABASES = {
    "default": env.db_url_config(_required("DATABASE_URL") or f"sqlite:///{DATA_DIR / 'toxicmod.sqlite3'}")
}
if DATABASES["default"]["ENGINE"].endswith("sqlite3"):
    # WAL lets readers and a writer work at the same time; FULL makes commits survive a power failure; an
    # immediate transaction waits for the write lock (10 s) instead of failing at its first write.
    # Connections are persistent, because closing the last connection rewrites the file.
    DATABASES["default"]["CONN_MAX_AGE"] = 60
    DATABASES["default"]["OPTIONS"] = {
        "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA temp_store=MEMORY;",
        "transaction_mode": "IMMEDIATE",
        "timeout": 10,
    }
else:
    if DATABASES["default"]["ENGINE"] == "django.db.backends.postgresql":
        DATABASES["default"]["ENGINE"] = "toxicmod.postgresql"
    DATABASES["default"] |= {
        "CONN_MAX_AGE": 60,
        "CONN_HEALTH_CHECKS": True,
        # A connection to a server that has disappeared fails after 5 s instead of 15 minutes: the server must
        # acknowledge sent data in this time, and keepalive probes while a response is awaited.
        "OPTIONS": {
            "connect_timeout": 3,
            "tcp_user_timeout": 5_000,
            "keepalives_idle": 2,
            "keepalives_interval": 1,
        }
        | DATABASES["default"].get("OPTIONS", {}),
    }
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

REDIS_URL = env.str("REDIS_URL", default="")
CACHES = {
    "default": {
        "BACKEND": "django_redis.cache.RedisCache",
        "LOCATION": REDIS_URL,
        # The cached values can be computed again, so pages work while Redis is down.
        "OPTIONS": {"SOCKET_CONNECT_TIMEOUT": 0.2, "SOCKET_TIMEOUT": 0.2, "IGNORE_EXCEPTIONS": True},
    }
    if REDIS_URL
    else {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}
}
CELERY_BROKER_URL = REDIS_URL or "memory://"
CELERY_TASK_ACKS_LATE = True
CELERY_TASK_REJECT_ON_WORKER_LOST = True
CELERY_TASK_IGNORE_RESULT = True
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
CELERY_TASK_TIME_LIMIT = 3600
CELERY_TASK_SOFT_TIME_LIMIT = 3500
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
# A web process must not wait for a broker that is down; scheduled tasks find the pending work in the
# database.
CELERY_BROKER_TRANSPORT_OPTIONS = {
    "socket_connect_timeout": 1,
    "socket_timeout": 5,
    "visibility_timeout": 7200,
}
CELERY_TASK_PUBLISH_RETRY = False
# Workers log in the same format as web processes: JSON in production, with fields that alarms can use.
CELERY_WORKER_HIJACK_ROOT_LOGGER = False
CELERY_WORKER_REDIRECT_STDOUTS_LEVEL = "INFO"  # MLflow prints its progress
CELERY_TASK_DEFAULT_QUEUE = "default"
# A worker without the option -Q serves all queues.
CELERY_TASK_QUEUES = [Queue(name, routing_key=name) for name in ("default", "training", "webhooks")]
# Training takes minutes and MLflow's client 200 MB of memory, so they have a separate queue and worker.
CELERY_TASK_ROUTES = {
    "apps.training.tasks.train_model": {"queue": "training"},
    "apps.training.tasks.build_dataset": {"queue": "training"},
    "apps.training.tasks.measure_gates": {"queue": "training"},
    "apps.training.tasks.retrain_if_due": {"queue": "training"},
    "apps.training.tasks.retrain": {"queue": "training"},
    "apps.registry.tasks.sync_tracking": {"queue": "training"},
    "apps.moderation.tasks.deliver": {"queue": "webhooks"},
    "apps.moderation.tasks.deliver_endpoint": {"queue": "webhooks"},
    "apps.connectors.tasks.send_actions": {"queue": "webhooks"},
    "apps.monitoring.tasks.send_notification": {"queue": "webhooks"},
    "apps.moderation.tasks.queue_for_labeling": {"queue": "training"},
    "apps.monitoring.tasks.refresh_baselines": {"queue": "training"},
    "apps.monitoring.tasks.compare_last_week": {"queue": "training"},
}
# Each task is idempotent: it does what is due according to the database, even with two schedulers.
CELERY_BEAT_SCHEDULE: dict[str, dict[str, Any]] = {
    "recover-runs": {
        "task": "apps.training.tasks.recover_runs",
        "schedule": 15.0,
        "options": {"expires": 15},
    },
    "retrain": {
        "task": "apps.training.tasks.retrain_if_due",
        "schedule": 600.0,
        "options": {"expires": 600},
    },
    "score-shadow": {
        "task": "apps.training.tasks.score_in_shadow",
        "schedule": 30.0,
        "options": {"expires": 30},
    },
    "check-canary": {
        "task": "apps.training.tasks.check_canary",
        "schedule": 10.0,
        "options": {"expires": 10},
    },
    "sync-mlflow": {
        "task": "apps.registry.tasks.sync_tracking",
        "schedule": 300.0,
        "options": {"expires": 300},
    },
    "roll-up": {
        "task": "apps.monitoring.tasks.roll_up",
        "schedule": 300.0,
        "options": {"expires": 300},
    },
    "evaluate-alert-rules": {
        "task": "apps.monitoring.tasks.evaluate_rules",
        "schedule": 120.0,
        "options": {"expires": 120},
    },
    "send-notifications": {
        "task": "apps.monitoring.tasks.send_notifications",
        "schedule": 30.0,
        "options": {"expires": 30},
    },
    "refresh-baselines": {
        "task": "apps.monitoring.tasks.refresh_baselines",
        "schedule": 86_400.0,
        "options": {"expires": 3600},
    },
    "log-queue-age": {
        "task": "apps.moderation.tasks.log_queue_age",
        "schedule": 60.0,
        "options": {"expires": 60},
    },
    "queue-for-labeling": {
        "task": "apps.moderation.tasks.queue_for_labeling",
        "schedule": 900.0,
        "options": {"expires": 900},
    },
    "expire-leases": {"task": "apps.moderation.tasks.expire_leases", "schedule": 30.0},
    "send-webhooks": {"task": "apps.moderation.tasks.deliver_due", "schedule": 5.0},
    "send-platform-actions": {"task": "apps.connectors.tasks.enqueue_due", "schedule": 5.0},
    "flush-mirror": {
        "task": "apps.mirror.tasks.flush",
        "schedule": 5.0,
        "options": {"expires": 5},
    },
    "sync-mirror-triggers": {
        "task": "apps.mirror.tasks.sync_triggers",
        "schedule": 60.0,
        "options": {"expires": 60},
    },
    "resume-bulk-jobs": {"task": "apps.moderation.tasks.resume_bulk_jobs", "schedule": 60.0},
}

AUTH_USER_MODEL = "accounts.User"
AUTHENTICATION_BACKENDS = [
    "axes.backends.AxesStandaloneBackend",
    "django.contrib.auth.backends.ModelBackend",
]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in ("UserAttributeSimilarityValidator", "MinimumLengthValidator", "CommonPasswordValidator")
]
LOGIN_URL = "admin:login"
OTP_TOTP_ISSUER = "toxicmod"
AXES_FAILURE_LIMIT = 10
AXES_COOLOFF_TIME = 0.25  # hours
# Failures lock a user name for one address, so that an attacker can't lock out a user.
AXES_LOCKOUT_PARAMETERS = [["username", "ip_address"]]
AXES_CLIENT_IP_CALLABLE = "apps.accounts.limits.client_address"
AXES_RESET_ON_SUCCESS = True
AXES_ENABLE_ADMIN = False
AXES_VERBOSE = False
AXES_LOCKOUT_CALLABLE = "apps.pages.errors.sign_in_locked"

ANONYMOUS_API = env.bool("ANONYMOUS_API", default=not PRODUCTION)
ANONYMOUS_RATE_PER_MINUTE = env.int("ANONYMOUS_RATE_PER_MINUTE", default=600)
TRUSTED_PROXIES = env.int("TRUSTED_PROXIES", default=0)  # number of proxies that append to X-Forwarded-For
LABELS_PER_DAY = env.int("LABELS_PER_DAY", default=50)
TRAIN_AFTER_LABELS = env.int("TRAIN_AFTER_LABELS", default=500)
TRAIN_AFTER_DAYS = env.int("TRAIN_AFTER_DAYS", default=0)
SHADOW_SHARE = env.float("SHADOW_SHARE", default=0.2)
# What the encoder reads: auto (what reading may change), always or never; and a folder with another encoder.
ENCODER = env.str("ENCODER", default="auto")
ENCODER_DIR = env.str("ENCODER_DIR", default="")
MLFLOW_TRACKING_URI = env.str("MLFLOW_TRACKING_URI", default=f"sqlite:///{DATA_DIR / 'mlflow.sqlite3'}")
MLFLOW_ARTIFACTS = env.str("MLFLOW_ARTIFACTS", default=str(DATA_DIR / "mlflow-artifacts"))

# The AWS libraries read region, endpoint and credentials from the environment or the role of the host.
DYNAMODB_TABLE = env.str("DYNAMODB_TABLE", default="")  # empty: no mirror
DYNAMODB_TTL_DAYS = env.int("DYNAMODB_TTL_DAYS", default=365)
ROLL_UP_FROM = env.str("ROLL_UP_FROM", default="database")  # or "dynamodb"
S3_BUCKET = env.str("S3_BUCKET", default="")  # for shared data sets and exports; empty: none

# The site's URL for authors, in the links of webhooks.
PUBLIC_URL = env.str("PUBLIC_URL", default="").rstrip("/")
METRICS_TOKEN = env.str("METRICS_TOKEN", default="")  # for Prometheus; empty: no /metrics
vars().update(env.email_url("EMAIL_URL", default="consolemail://"))  # for alerts
EMAIL_TIMEOUT = 10
DEFAULT_FROM_EMAIL = SERVER_EMAIL = env.str("EMAIL_FROM", default="toxicmod@localhost")
WEBHOOK_ALLOW_PRIVATE = env.bool("WEBHOOK_ALLOW_PRIVATE", default=False)  # allow private addresses

# The origins that may use the Perspective-compatible API in browsers; by default all, as in
# Perspective. This is safe because the API uses API keys, not cookies.
CORS_ALLOWED_ORIGINS = env.list("CORS_ALLOWED_ORIGINS", default=[])
CORS_ALLOW_ALL_ORIGINS = not CORS_ALLOWED_ORIGINS
CORS_URLS_REGEX = r"^/(v1alpha1/|batch$|discovery/|\$discovery/)"
CORS_ALLOW_HEADERS = [
    *default_headers,
    "x-clientdetails",
    "x-goog-api-client",
    "x-goog-api-key",
    "x-javascript-user-agent",
    "x-referer",
]
CORS_EXPOSE_HEADERS = ["X-Model-Version", "X-Unsupported-Attributes"]
CORS_PREFLIGHT_MAX_AGE = 3600

MAX_COMMENT_BYTES = 20_480
MAX_BATCH = 1_000
MAX_EXPLAINED = 10  # comments per request; an explanation can have 2 MB
MAX_BODY_BYTES = 8 * 1024 * 1024  # of a request to an API
WEB_THREADS = env.int("WEB_THREADS", 16)  # per web process, for requests that are not scored in batches
DATA_UPLOAD_MAX_MEMORY_SIZE = 1024 * 1024  # of a form

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": ["apps.api.authentication.APIKeyAuthentication"],
    "DEFAULT_PERMISSION_CLASSES": ["apps.api.permissions.HasScope"],
    "DEFAULT_THROTTLE_CLASSES": ["apps.api.throttling.ClientRateThrottle"],
    "DEFAULT_PARSER_CLASSES": ["apps.api.parsers.StrictJSONParser"],
    "DEFAULT_RENDERER_CLASSES": ["apps.api.renderers.JSONRenderer"],
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "EXCEPTION_HANDLER": "apps.api.problems.exception_handler",
    "UNAUTHENTICATED_USER": None,
}
SPECTACULAR_SETTINGS = {
    "TITLE": "toxicmod",
    "DESCRIPTION": (
        "Scores comments for six kinds of toxicity and stores each result.\n\n"
        "A comment can be toxic in two senses. `labels` and `is_toxic` compare its probabilities with the "
        "thresholds of the model: use them to sort, count and compare comments. The `outcome` of "
        "`/api/v1/moderate` compares them with the thresholds of your policy: use it to publish, hold or "
        "remove a comment."
    ),
    "VERSION": "1",
    "SCHEMA_PATH_PREFIX": "/(api/)?v1",
    "SERVE_INCLUDE_SCHEMA": False,
    "SERVE_PUBLIC": True,
    "SERVE_PERMISSIONS": ["rest_framework.permissions.AllowAny"],
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "REDOC_DIST": "SIDECAR",
    "ENUM_NAME_OVERRIDES": {
        "QueueItemStatus": "apps.moderation.models.QueueItem.Status",
        "AppealStatus": "apps.moderation.models.Appeal.Status",
        "DecisionAction": "apps.moderation.models.Decision.Action",
    },
}

STATIC_URL = "/static/"
STATIC_ROOT = BASE_DIR / "staticfiles"
STATICFILES_DIRS = [BASE_DIR / "static"]
STATICFILES_FINDERS = [
    "django.contrib.staticfiles.finders.FileSystemFinder",
    "django.contrib.staticfiles.finders.AppDirectoriesFinder",
    "django_plotly_dash.finders.DashComponentFinder",
]
# The loader is a dotted path, because apps can't be imported before the settings are loaded.
PLOTLY_DASH = {
    "view_decorator": "apps.monitoring.permissions.dashboard_required",
    "stateless_loader": "apps.monitoring.dashboard.app.find_app",
    "serve_locally": True,
}
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "whitenoise.storage.CompressedManifestStaticFilesStorage"},
}
LANGUAGE_CODE = "en"
USE_I18N = False
USE_TZ = True
FORMAT_MODULE_PATH = ["toxicmod.formats"]
TIME_ZONE = "UTC"

SECURE_CONTENT_TYPE_NOSNIFF = True
SECURE_REFERRER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"
# No inline code, no other origins, no frames; views that need more use the decorator `csp_update`.
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": [SELF],
        "object-src": [NONE],
        "base-uri": [NONE],
        "form-action": [SELF],
        "frame-ancestors": [NONE],
    }
}
SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = "Lax"
CSRF_COOKIE_SAMESITE = "Lax"
CSRF_FAILURE_VIEW = "apps.pages.errors.csrf_failure"
if PRODUCTION:
    SECURE_SSL_REDIRECT = env.bool("SECURE_SSL_REDIRECT", default=True)
    SECURE_REDIRECT_EXEMPT = [r"^health$", r"^ready$"]
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if TRUSTED_PROXIES else None
    SECURE_HSTS_SECONDS = 31_536_000
    SECURE_HSTS_INCLUDE_SUBDOMAINS = True
    SECURE_HSTS_PRELOAD = True
    SESSION_COOKIE_SECURE = True
    CSRF_COOKIE_SECURE = True


def _without_traceback(record: logging.LogRecord) -> bool:
    """Remove the traceback from what Django logs for each rejected request, which the client caused.

    `django.security` logs such requests as errors, for example an unknown look-up in the URL of a list.
    """
    is_rejected = record.name == "django.request" and record.levelno < logging.ERROR
    if is_rejected or record.name.startswith("django.security."):
        record.exc_info = record.exc_text = None
    return True


def _is_no_requeued_message(record: logging.LogRecord) -> bool:
    """Reject Kombu's warning that a stopping worker returned a message to its queue, where it belongs."""
    return not str(record.msg).startswith("Requeuing undeliverable message")


LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "filters": {
        "without_traceback": {"()": lambda: _without_traceback},
        "no_requeued_message": {"()": lambda: _is_no_requeued_message},
    },
    "formatters": {
        "console": {"format": "{asctime} {levelname} {name}: {message}", "style": "{"},
        "json": {
            "()": "pythonjsonlogger.json.JsonFormatter",
            "format": "%(asctime)s %(levelname)s %(name)s %(message)s",
        },
    },
    "handlers": {
        "console": {
            "class": "logging.StreamHandler",
            "formatter": "json" if PRODUCTION else "console",
            "filters": ["without_traceback", "no_requeued_message"],
        }
    },
    "root": {"handlers": ["console"], "level": env.str("LOG_LEVEL", default="INFO")},
    "loggers": {name: {"level": "WARNING"} for name in ("mlflow", "alembic", "matplotlib", "botocore")},
}
