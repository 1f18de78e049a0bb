"""What the clients count: the sum of the entries they were told of, under the names that reports use."""

from typing import TypedDict

from examples.deckster.journal import Entry, RequestEntry


class ModelTotals(TypedDict):
    """What one model did."""

    requests: int
    input_tokens: int
    output_tokens: int


class AgentTotals(TypedDict):
    """What one agent did."""

    runs: int
    errors: int


class ClientLedger(TypedDict):
    """The clients' independent count: what every handler must have committed, to the event."""

    sessions: int
    turns: dict[str, int]
    requests: int
    input_tokens: int
    output_tokens: int
    by_model: dict[str, ModelTotals]
    requests_by_status: dict[str, int]
    runs: int
    run_errors: int
    by_agent: dict[str, AgentTotals]
    runs_by_status: dict[str, int]
    tools: int
    by_tool: dict[str, int]
    transitions: int
    by_transition: dict[str, int]
    errors: int
    by_error: dict[str, int]


def empty_ledger() -> ClientLedger:
    """Return a ledger in which nothing has happened yet."""
    return {
        "sessions": 0,
        "turns": {},
        "requests": 0,
        "input_tokens": 0,
        "output_tokens": 0,
        "by_model": {},
        "requests_by_status": {},
        "runs": 0,
        "run_errors": 0,
        "by_agent": {},
        "runs_by_status": {},
        "tools": 0,
        "by_tool": {},
        "transitions": 0,
        "by_transition": {},
        "errors": 0,
        "by_error": {},
    }


def count(counts: dict[str, int], name: str) -> None:
    """Add one to what is counted under a name."""
    counts[name] = counts.get(name, 0) + 1


def add(ledger: ClientLedger, entry: Entry) -> None:
    """Add what one entry tells to the ledger."""
    match entry["kind"]:
        case "request":
            _add_request(ledger, entry)
        case "run":
            is_error = entry["status"] == "error"
            ledger["runs"] += 1
            ledger["run_errors"] += is_error
            count(ledger["runs_by_status"], entry["status"])
            agent = ledger["by_agent"].setdefault(entry["agent"], {"runs": 0, "errors": 0})
            agent["runs"] += 1
            agent["errors"] += is_error
        case "tool":
            ledger["tools"] += 1
            count(ledger["by_tool"], entry["tool"])
        case "transition":
            ledger["transitions"] += 1
            count(ledger["by_transition"], f"{entry['from_state']} → {entry['to_state']}")
        case "error":
            ledger["errors"] += 1
            count(ledger["by_error"], entry["error"])


def _add_request(ledger: ClientLedger, entry: RequestEntry) -> None:
    nothing: ModelTotals = {"requests": 0, "input_tokens": 0, "output_tokens": 0}
    model = ledger["by_model"].setdefault(entry["model"], nothing)
    ledger["requests"] += 1
    model["requests"] += 1
    ledger["input_tokens"] += entry["input_tokens"]
    model["input_tokens"] += entry["input_tokens"]
    ledger["output_tokens"] += entry["output_tokens"]
    model["output_tokens"] += entry["output_tokens"]
    count(ledger["requests_by_status"], entry["status"])
