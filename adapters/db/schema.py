"""The tables. Documents (spec, progress, manifest …) are JSON columns; whatever is searched or fenced is a column.

Times are Unix seconds in double precision. Changing a table means adding a migration beside this file;
`tests/integration/ledger/test_migrations.py` compares the two.
"""

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    false,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

files = Table(
    "files",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("filename", Text, nullable=False),
    Column("purpose", String(32), nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("digest", String(64), nullable=False),
    Column("created_at", Double, nullable=False),
    Column("expires_at", Double),
    # What was found in a training file.
    Column("report", JSON(none_as_null=True)),
    Column("tenant", String(64), nullable=False, server_default="default"),
    Index(None, "tenant", "created_at"),
    Index(None, "created_at", "id"),
    Index(None, "expires_at"),
)

uploads = Table(
    "uploads",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("bytes", BigInteger, nullable=False),
    Column("filename", Text, nullable=False),
    Column("mime_type", Text, nullable=False),
    Column("purpose", String(32), nullable=False),
    Column("expires_after", Double),
    Column("status", String(16), nullable=False),
    Column("created_at", Double, nullable=False),
    Column("expires_at", Double, nullable=False),
    # The parts that it was completed with, and what they became.
    Column("part_ids", JSON(none_as_null=True)),
    Column("file_id", String(64)),
    Column("tenant", String(64), nullable=False, server_default="default"),
    Index(None, "expires_at"),
)

upload_parts = Table(
    "upload_parts",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("upload_id", String(64), ForeignKey("uploads.id"), nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("digest", String(64), nullable=False),
    Column("created_at", Double, nullable=False),
    Index(None, "upload_id"),
)

jobs = Table(
    "jobs",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("adapter", String(64), nullable=False),
    Column("base_model", String(128), nullable=False),
    Column("training_file", String(64), nullable=False),
    Column("validation_file", String(64)),
    Column("spec", JSON, nullable=False),
    Column("dataset", JSON, nullable=False),
    Column("metadata", JSON(none_as_null=True)),
    Column("status", String(16), nullable=False),
    Column("phase", String(16), nullable=False),
    Column("progress", JSON, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("started_at", Double),
    Column("finished_at", Double),
    Column("attempt", Integer, nullable=False, default=0),
    Column("worker", String(128)),
    Column("lease_expires_at", Double),
    # How often in a row the job was lost without getting further.
    Column("losses", Integer, nullable=False, default=0),
    # The furthest step that it had reached when it was lost.
    Column("lost_at", Integer, nullable=False, server_default="0"),
    # A retried job waits until then.
    Column("not_before", Double, nullable=False, default=0.0),
    Column("error", JSON(none_as_null=True)),
    Column("fine_tuned_model", String(160)),
    Column("trained_tokens", BigInteger),
    # What is shown of the job's own endpoint; the endpoint itself, with its secret, is a row of webhook_endpoints.
    Column("webhook", JSON(none_as_null=True)),
    # The seq of the newest event; counted here so that numbering needs no table scan and no gaps arise.
    Column("last_event", Integer, nullable=False, default=0),
    Column("integrations", JSON(none_as_null=True)),
    Column("tenant", String(64), nullable=False, server_default="default"),
    Index(None, "tenant", "created_at"),
    Index(None, "adapter"),
    Column("priority", String(8), nullable=False, server_default="normal"),
    # Until when its use of the device is in `device_use`, while it runs; and how long it has run in all.
    Column("charged_at", Double),
    Column("ran_seconds", Double, nullable=False, server_default="0"),
    Index(None, "status", "created_at"),
    Index(None, "created_at", "id"),
    # When was one of them started last?
    Index(None, "base_model", "tenant", "priority", "started_at"),
)

# What tenants have used of the devices lately: seconds that count half after some time, as they stood at `as_of`.
device_use = Table(
    "device_use",
    metadata,
    Column("tenant", String(64), primary_key=True),
    Column("seconds", Double, nullable=False),
    Column("as_of", Double, nullable=False),
)

# Who trains, and how many jobs at a time; a row that is not renewed says nothing any more.
workers = Table(
    "workers",
    metadata,
    Column("id", String(128), primary_key=True),
    Column("base_model", String(128), nullable=False),
    Column("slots", Integer, nullable=False),
    Column("expires_at", Double, nullable=False),
)

job_events = Table(
    "job_events",
    metadata,
    Column("job_id", String(64), ForeignKey("jobs.id"), primary_key=True),
    Column("seq", Integer, primary_key=True),
    Column("kind", String(16), nullable=False),
    Column("level", String(8), nullable=False),
    Column("message", Text, nullable=False),
    Column("data", JSON(none_as_null=True)),
    Column("created_at", Double, nullable=False),
)

adapters = Table(
    "adapters",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("base_model", String(128), nullable=False),
    Column("created_at", Double, nullable=False),
    # Version numbers are never given out twice, also not after a deletion.
    Column("last_number", Integer, nullable=False),
    # The ledger's revision when this adapter last changed; what caches follow.
    Column("revision", BigInteger, nullable=False),
    # Also set from the start where a job has claimed the name and nothing has been published yet; see owners.py.
    Column("deleted_at", Double),
    # Sampling defaults of all its versions.
    Column("sampling", JSON(none_as_null=True)),
    Column("tenant", String(64), nullable=False, server_default="default"),
    Index(None, "revision"),
)

# What others than its owner may do with an adapter; a change here is a change of the adapter, and raises its revision.
adapter_shares = Table(
    "adapter_shares",
    metadata,
    Column("adapter", String(64), ForeignKey("adapters.name"), primary_key=True),
    # Or `*`: everybody.
    Column("tenant", String(64), primary_key=True),
    Column("may_continue", Boolean, nullable=False),
    Column("may_download", Boolean, nullable=False),
    Column("created_at", Double, nullable=False),
    Index(None, "tenant"),
)

# How much a directory of the artifact store holds, by its digest: what versions and checkpoints take of a quota.
weights_sizes = Table(
    "weights_sizes",
    metadata,
    Column("digest", String(64), primary_key=True),
    Column("bytes", BigInteger, nullable=False),
)

versions = Table(
    "versions",
    metadata,
    Column("adapter", String(64), ForeignKey("adapters.name"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("base_model", String(128), nullable=False),
    Column("digest", String(64), nullable=False),
    # Unique: a job publishes exactly one version, whatever dies when.
    Column("job_id", String(64), unique=True),
    Column("rank", Integer, nullable=False),
    Column("manifest", JSON, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("deleted_at", Double),
    Column("purged_at", Double),
)

# What engines were found to compute of files: once for each engine, by digest, for versions and checkpoints alike.
verdicts = Table(
    "verdicts",
    metadata,
    Column("digest", String(64), primary_key=True),
    # Its release, its number format and its base model.
    Column("engine", String(200), primary_key=True),
    Column("outcome", String(16), nullable=False),
    Column("reason", Text, nullable=False),
    Column("created_at", Double, nullable=False),
)

aliases = Table(
    "aliases",
    metadata,
    Column("adapter", String(64), ForeignKey("adapters.name"), primary_key=True),
    Column("alias", String(64), primary_key=True),
    Column("number", Integer, nullable=False),
    # The share of the requests for the bare name.
    Column("weight", Double, nullable=False, server_default="0"),
)

# What was live, oldest first. The newest row that is not undone is live now; undone ones lie above it, and the next
# version that goes live takes their place.
live_history = Table(
    "live_history",
    metadata,
    Column("adapter", String(64), ForeignKey("adapters.name"), primary_key=True),
    Column("seq", Integer, primary_key=True),
    Column("number", Integer, nullable=False),
    Column("undone", Boolean, nullable=False, server_default=false()),
)

checkpoints = Table(
    "checkpoints",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("job_id", String(64), ForeignKey("jobs.id"), nullable=False),
    Column("adapter", String(64), nullable=False),
    Column("base_model", String(128), nullable=False),
    Column("step", Integer, nullable=False),
    # What it answers to.
    Column("name", String(256), nullable=False),
    Column("digest", String(64), nullable=False),
    Column("manifest", JSON, nullable=False),
    Column("created_at", Double, nullable=False),
    # The row goes together with the files, some time later.
    Column("deleted_at", Double),
    UniqueConstraint("job_id", "step"),
    Index(None, "name"),
    Index(None, "digest"),
)

# The keys and digests of these two are those of a tenant, see `tenancy.keyed`.
replies = Table(
    "replies",
    metadata,
    Column("key", String(300), primary_key=True),
    Column("request_digest", String(64), nullable=False),
    Column("status", Integer, nullable=False),
    Column("body", Text, nullable=False),
    Column("location", Text),
    Column("created_at", Double, nullable=False),
)

# Which job a request without a key has made, for clients that send it again by themselves.
sendings = Table(
    "sendings",
    metadata,
    Column("digest", String(64), primary_key=True),
    Column("job_id", String(64), nullable=False),
    # Of the sending that made the job: 0 for the first.
    Column("retries", Integer, nullable=False),
    Column("created_at", Double, nullable=False),
)

# One row. Every change of what can be served raises it, inside the changing transaction.
ledger_revision = Table(
    "ledger_revision",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("value", BigInteger, nullable=False),
)

# Rows stay when an endpoint is deleted: a transaction that is about to tell it of a job must not fail on that.
webhook_endpoints = Table(
    "webhook_endpoints",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("job_id", String(64), ForeignKey("jobs.id")),
    Column("name", Text, nullable=False),
    Column("url", Text, nullable=False),
    Column("event_types", JSON, nullable=False),
    Column("secret", Text, nullable=False),
    Column("old_secret", Text),
    Column("old_secret_until", Double),
    Column("created_at", Double, nullable=False),
    Column("updated_at", Double, nullable=False),
    Column("failing_since", Double),
    Column("disabled_at", Double),
    Column("disabled_reason", Text),
    Column("deleted_at", Double),
    Column("tenant", String(64), nullable=False, server_default="default"),
    Index(None, "job_id"),
)

# The outbox, and afterwards the log of what was sent.
webhook_deliveries = Table(
    "webhook_deliveries",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("endpoint_id", String(64), ForeignKey("webhook_endpoints.id"), nullable=False),
    Column("event_id", String(64), nullable=False),
    Column("event_type", String(64), nullable=False),
    Column("news", JSON, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("status", String(16), nullable=False),
    Column("attempts", Integer, nullable=False, default=0),
    # The fencing number of whoever sends it now.
    Column("claims", Integer, nullable=False, default=0),
    Column("due_at", Double, nullable=False),
    Column("lease_expires_at", Double),
    Column("last_attempt_at", Double),
    Column("last_status", Integer),
    Column("last_error", Text),
    Index(None, "status", "due_at"),
    Index(None, "endpoint_id", "created_at"),
)

# One row: which ledger this is, so that a store of artifacts knows whose it is.
ledgers = Table(
    "ledgers",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("created_at", Double, nullable=False),
)

tenants = Table(
    "tenants",
    metadata,
    Column("id", String(64), primary_key=True),
    # The share of the training queue, beside those of the others.
    Column("created_at", Double, nullable=False),
)

# Revoked and expired keys stay, so that an id that a log names can be looked up.
api_keys = Table(
    "api_keys",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("tenant", String(64), ForeignKey("tenants.id"), nullable=False),
    Column("name", Text, nullable=False),
    Column("digest", String(64), nullable=False, unique=True),
    Column("hint", String(8), nullable=False),
    Column("scopes", JSON, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("expires_at", Double),
    Column("last_used_at", Double),
    Column("revoked_at", Double),
    Index(None, "tenant", "created_at"),
)
