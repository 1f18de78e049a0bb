"""Names of attributes and metrics as other tools read them; no other module writes such a name out.

Pinned to the OpenTelemetry semantic conventions 1.44.0, GenAI included (`opentelemetry-semantic-conventions` 0.66b2,
the last before GenAI moved to `open-telemetry/semantic-conventions-genai`); `tests/core/test_spans.py` compares them.
What the conventions lack follows pydantic-ai 2.68 (`operation.cost`, `gen_ai.agent.call.id`, `gen_ai.usage.details.*`)
and the Logfire SDK 5.2 (`logfire.*`), because Logfire's built-in views were made for these two; what nobody has named
stands under `sidestream.`.

Keeps: no key holds a word that the Logfire SDK's scrubber replaces (`session`, `auth`, `secret`, ...), so that data
that passes through it on another way still arrives.

Source: https://opentelemetry.io/docs/specs/semconv/gen-ai/ and the packages named above.
"""

from typing import Final

# The resource: who speaks.
SERVICE_NAME: Final = "service.name"
SERVICE_VERSION: Final = "service.version"
SERVICE_INSTANCE_ID: Final = "service.instance.id"
DEPLOYMENT_ENVIRONMENT_NAME: Final = "deployment.environment.name"
UNKNOWN_SERVICE: Final = "unknown_service"
"""What the conventions ask for where a service gave no name."""

# Any span.
ERROR_TYPE: Final = "error.type"
USER_ID: Final = "user.id"
EXCEPTION_EVENT: Final = "exception"
EXCEPTION_TYPE: Final = "exception.type"
EXCEPTION_MESSAGE: Final = "exception.message"

# Requests and runs.
GEN_AI_OPERATION_NAME: Final = "gen_ai.operation.name"
GEN_AI_PROVIDER_NAME: Final = "gen_ai.provider.name"
GEN_AI_SYSTEM: Final = "gen_ai.system"
"""The older name of the provider; dashboards of 2025 still ask for it."""
GEN_AI_REQUEST_MODEL: Final = "gen_ai.request.model"
GEN_AI_RESPONSE_MODEL: Final = "gen_ai.response.model"
GEN_AI_RESPONSE_FINISH_REASONS: Final = "gen_ai.response.finish_reasons"
GEN_AI_RESPONSE_TIME_TO_FIRST_CHUNK: Final = "gen_ai.response.time_to_first_chunk"
GEN_AI_CONVERSATION_ID: Final = "gen_ai.conversation.id"
"""The session: the one key for it that no scrubber replaces, and the one Logfire's Agents view groups by."""
GEN_AI_AGENT_NAME: Final = "gen_ai.agent.name"
AGENT_NAME: Final = "agent_name"
"""The older name, on runs only: pydantic-ai 2.68 still writes it there, for backends that group runs by it."""
GEN_AI_AGENT_CALL_ID: Final = "gen_ai.agent.call.id"
GEN_AI_TOOL_NAME: Final = "gen_ai.tool.name"
OPERATION_COST: Final = "operation.cost"
"""Dollars of one request; as a metric, their histogram."""

INVOKE_AGENT: Final = "invoke_agent"
EXECUTE_TOOL: Final = "execute_tool"

# Token kinds. Cached, audio and reasoning tokens are parts of input and output.
GEN_AI_USAGE_INPUT_TOKENS: Final = "gen_ai.usage.input_tokens"
GEN_AI_USAGE_OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"
GEN_AI_USAGE_CACHE_READ_INPUT_TOKENS: Final = "gen_ai.usage.cache_read.input_tokens"
GEN_AI_USAGE_CACHE_CREATION_INPUT_TOKENS: Final = "gen_ai.usage.cache_creation.input_tokens"
GEN_AI_USAGE_REASONING_OUTPUT_TOKENS: Final = "gen_ai.usage.reasoning.output_tokens"
GEN_AI_USAGE_CACHE_WRITE_1H_TOKENS: Final = "gen_ai.usage.details.cache_write_1h_tokens"
GEN_AI_USAGE_INPUT_AUDIO_TOKENS: Final = "gen_ai.usage.details.input_audio_tokens"
GEN_AI_USAGE_CACHE_AUDIO_READ_TOKENS: Final = "gen_ai.usage.details.cache_audio_read_tokens"
GEN_AI_USAGE_OUTPUT_AUDIO_TOKENS: Final = "gen_ai.usage.details.output_audio_tokens"

# Metrics, and the attribute that splits the first.
METRIC_TOKEN_USAGE: Final = "gen_ai.client.token.usage"  # noqa: S105 - tokens are what models count
METRIC_OPERATION_DURATION: Final = "gen_ai.client.operation.duration"
METRIC_TIME_TO_FIRST_CHUNK: Final = "gen_ai.client.operation.time_to_first_chunk"
GEN_AI_TOKEN_TYPE: Final = "gen_ai.token.type"  # noqa: S105 - tokens are what models count

# What Logfire's own SDK writes, so that spans look there as if it had sent them.
LOGFIRE_MSG: Final = "logfire.msg"
LOGFIRE_SPAN_TYPE: Final = "logfire.span_type"
LOGFIRE_LEVEL_NUM: Final = "logfire.level_num"
LOGFIRE_TAGS: Final = "logfire.tags"
LOGFIRE_SPAN: Final = "span"
LOGFIRE_LOG: Final = "log"
LEVEL_INFO: Final = 9
LEVEL_NOTICE: Final = 10
LEVEL_ERROR: Final = 17

# Ours.
SIDESTREAM_TENANT: Final = "sidestream.tenant"
SIDESTREAM_STATE: Final = "sidestream.state"
SIDESTREAM_FROM_STATE: Final = "sidestream.from_state"
SIDESTREAM_TO_STATE: Final = "sidestream.to_state"
SIDESTREAM_STATE_DURATION_US: Final = "sidestream.state.duration_us"
SIDESTREAM_VISIT: Final = "sidestream.visit"
SIDESTREAM_STATUS: Final = "sidestream.status"
SIDESTREAM_ATTEMPT: Final = "sidestream.attempt"
SIDESTREAM_SERVICE_TIER: Final = "sidestream.service_tier"
SIDESTREAM_TOOLS: Final = "sidestream.tools"
SIDESTREAM_ERROR_CODE: Final = "sidestream.error.code"
SIDESTREAM_ERROR_MODEL: Final = "sidestream.error.model"
"""Not `gen_ai.request.model`: views that count requests by that key would count the error too."""
SIDESTREAM_ERROR_OPERATION: Final = "sidestream.error.operation"
SIDESTREAM_ORIGIN: Final = "sidestream.origin"
