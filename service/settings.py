"""The `service`, `webhooks` and `engine` sections of the configuration. Docs: docs/configuration.md."""

from ipaddress import ip_address
from pathlib import Path
from typing import ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator
from pydantic_settings import SettingsConfigDict

from adapters.errors import InvalidValue
from adapters.settings import Section


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens there."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def has_nvidia_gpu() -> bool:
    """Whether an NVIDIA device is visible."""
    return Path("/dev/nvidia0").exists()


LoraRank = Literal[1, 8, 16, 32, 64, 128, 256, 320, 512]


def _usual_rank() -> LoraRank:
    """What most would choose: 64 costs memory only, but on a CPU vLLM copies as many ranks for each token."""
    return 64 if has_nvidia_gpu() else 16


class ServiceSettings(Section):
    """The HTTP service."""

    model_config = SettingsConfigDict(env_prefix="GRAFT_SERVICE_", extra="forbid", frozen=True)
    section: ClassVar[str] = "service"

    host: str = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65535)
    #: Whether requests need an API key. Must be on where others than this machine can reach the port.
    auth: bool = False
    #: Names by which requests may call this server; empty: any where keys are on, otherwise this machine's own.
    allowed_hosts: tuple[str, ...] = ()
    #: Let `/metrics` be read without a key, where the network sees to who may scrape.
    open_metrics: bool = False
    #: Largest upload, enforced while it streams in.
    max_upload_bytes: int = Field(512 << 20, gt=0)
    #: Largest file that may be put together from parts, `/v1/uploads`.
    max_assembled_bytes: int = Field(8 << 30, gt=0)
    #: Largest adapter that may be brought here, unpacked.
    max_adapter_bytes: int = Field(1 << 30, gt=0)
    #: Folders that `POST /adapters` may be told to read from, with `source`; none unless named here.
    import_folders: tuple[Path, ...] = ()
    #: Largest JSON body of a completion request.
    max_body_bytes: int = Field(8 << 20, gt=0)
    #: Requests that one engine works on at a time, and how many more may wait for a place.
    max_running: int = Field(256, ge=1)
    max_waiting: int = Field(1024, ge=0)
    #: The same of one adapter, or of a base model by itself. More of it run only while nobody else wants the places.
    max_running_per_adapter: int = Field(64, ge=1)
    max_waiting_per_adapter: int = Field(512, ge=0)
    #: Most different adapters that an engine works on at a time; 0: as many as it batches, `engine.max_loras`.
    max_active_adapters: int = Field(0, ge=0)
    #: Most adapters with metrics of their own; all others are `other`.
    max_adapter_labels: int = Field(50, ge=0)
    #: Most jobs that may wait to be trained; beyond that, 429.
    max_queued_jobs: int = Field(1000, ge=1)
    #: Most choices of one request; vLLM itself would take 16384.
    max_choices: int = Field(16, ge=1)
    #: Most requests to shadows under way at a time; more are dropped.
    max_shadows: int = Field(4, ge=0)
    #: Further bounds of one request; see service/schemas/caps.py.
    max_prompts: int = Field(32, ge=1)
    max_prompt_chars: int = Field(1_000_000, ge=1)
    max_output_tokens: int = Field(32_768, ge=1)
    max_logprobs: int = Field(20, ge=0)
    max_prompt_logprobs: int = Field(5, ge=0)
    #: vLLM itself takes no more than 4 unless its VLLM_MAX_STOP_STRINGS says so.
    max_stops: int = Field(4, ge=0)
    max_stop_chars: int = Field(256, ge=1)
    max_logit_bias: int = Field(300, ge=0)
    #: Of `stop_token_ids`, `allowed_token_ids` and `bad_words`, each.
    max_token_list: int = Field(1024, ge=0)
    #: Of a JSON schema, a regular expression or a grammar.
    max_grammar_bytes: int = Field(32_768, ge=1)
    max_grammar_depth: int = Field(32, ge=1)
    #: Copies that counted repetitions in them make, see service/schemas/grammars.py.
    max_grammar_copies: int = Field(100_000, ge=1)
    max_tools: int = Field(128, ge=0)
    max_tools_bytes: int = Field(131_072, ge=1)
    #: How often the ledger is asked for new versions while it cannot tell of them.
    refresh_seconds: float = Field(0.1, gt=0)
    #: Say only what OpenAI's enum of job states knows: a paused job is `queued` on the wire.
    openai_strict_status: bool = False
    #: A request may wait this long for an engine that is restarting before it gets a 503.
    engine_wait_seconds: float = Field(5.0, ge=0)
    #: An engine that has generated nothing for so long is asked for a token, to see whether it can; 0: never.
    canary_seconds: float = Field(60.0, ge=0)
    #: What is under way at a shutdown is given this long to end.
    drain_seconds: int = Field(10, ge=1)
    #: How long a connection stays open that nobody asks anything on. Who closes first is never surprised by the other:
    #: longer than clients keep theirs (httpx 5 s) and load balancers (nginx and AWS 60 s).
    keep_alive_seconds: int = Field(75, ge=1)
    #: How long the tokenizer process stays when nobody asks it. It starts again in some seconds.
    tokenizer_idle_seconds: float = Field(300.0, gt=0)

    @model_validator(mode="after")
    def _keys_beyond_this_machine(self) -> Self:
        if not self.auth and not is_loopback(self.host):
            raise InvalidValue(
                f"The service is to listen on '{self.host}', where others than this machine can reach it, and keys are "
                "off. Turn them on (GRAFT_SERVICE_AUTH=true, `auth: true` in the section 'service', or "
                "`graft up --auth`) and make the first one with `graft keys create --tenant NAME`; "
                "or listen on 127.0.0.1.",
                param="host",
            )
        return self


class WebhookSettings(Section):
    """Who may be told, and how patiently."""

    model_config = SettingsConfigDict(env_prefix="GRAFT_WEBHOOKS_", extra="forbid", frozen=True)
    section: ClassVar[str] = "webhooks"

    #: Plain http, and addresses of this machine and its network, may be called too: for receivers in the same cluster.
    allow_private: bool = False
    #: How long an endpoint may take to answer.
    timeout_seconds: float = Field(15.0, gt=0)
    #: How often the outbox is looked at while it holds anything, or the ledger tells no news.
    poll_seconds: float = Field(0.5, gt=0)
    #: Most calls under way at a time, one for each endpoint.
    max_at_once: int = Field(32, ge=1)


#: Flags on which service and engine have to agree, with the setting that says it to both, where there is one.
_AGREED = {
    "--additional-config": "",
    "--dtype": "engine.dtype",
    "--lora-modules": "",
    "--max-cpu-loras": "engine.max_cpu_loras",
    "--max-lora-rank": "engine.max_lora_rank",
    "--max-loras": "engine.max_loras",
    "--max-model-len": "engine.max_model_len",
    "--model": "base_models",
    "--served-model-name": "base_models",
    "--uds": "",
}


class EngineSettings(Section):
    """How vLLM is started. Reasons for the defaults: docs/adr/0004-vllm-behind-one-seam.md."""

    model_config = SettingsConfigDict(env_prefix="GRAFT_ENGINE_", extra="forbid", frozen=True)
    section: ClassVar[str] = "engine"

    #: Largest rank of an adapter. Slots are allocated for it whether used or not, so no larger than what is trained.
    max_lora_rank: LoraRank = Field(default_factory=_usual_rank)
    #: Different adapters in one batch.
    max_loras: int = Field(4, ge=1)
    #: Adapters held in host memory; the service keeps at most half of them registered, see service/residency.py.
    max_cpu_loras: int = Field(32, ge=2)
    max_model_len: int = Field(2048, ge=128)
    #: auto: float32 on CPU, the model's own on a GPU.
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    #: GiB of KV cache on CPU; on a GPU vLLM takes what is left.
    cpu_kv_cache_gib: int = Field(1, ge=1)
    #: Threads of an engine on a CPU; 0: one for each core where all memory is alike, otherwise vLLM binds some itself.
    threads: int = Field(0, ge=0)
    #: How vLLM finds tool calls in what the model says; empty turns `tool_choice: auto` off.
    tool_call_parser: str = "hermes"
    #: Further arguments for vLLM's server, as on its command line.
    extra_args: tuple[str, ...] = ()

    @field_validator("extra_args")
    @classmethod
    def _leave_to_settings_what_both_must_know(cls, arguments: tuple[str, ...]) -> tuple[str, ...]:
        for argument in arguments:
            flag = argument.partition("=")[0].replace("_", "-")
            if flag in _AGREED:
                instead = f"use {_AGREED[flag]}" if _AGREED[flag] else "graft says that itself"
                raise ValueError(f"may not have {flag}: {instead}")
        return arguments
