"""The SDKs of OpenAI and Anthropic, used directly: each request in a `model_request`."""
