"""Requests to an inference server: many at once, each bounded in time, size and retries whatever the server does."""

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import httpx2

from lit_narrative.errors import UserError
from lit_narrative.rl.rewards.http import (
    FIRST_PAUSE,
    RETRIED,
    BadAnswerError,
    BusyError,
    exchange,
    http_client,
    request_headers,
    run_in_thread,
)
from lit_narrative.rl.served.settings import PREFIX, ServedSettings

Found = TypeVar("Found")
THREAD = "served"
"""The name of a thread that waits for a server."""
LONGEST_PAUSE = 30.0
"""Seconds between two attempts at most: a server that starts anew takes minutes."""
MAX_BYTES = 32_000_000
"""Of one answer; a completion of 32,000 tokens takes about 3 MB."""


class Call(NamedTuple):
    """One request: a POST of ``body`` as JSON, or a GET without one."""

    path: str
    body: Mapping[str, Any] | None = None


Read = Callable[[int, Any], Found]
"""Reads an answer, by its status and its content (JSON; a text where it is none).

It raises `BusyError` for one that is to be asked again, `BadAnswerError` for one that would be the same again, and any
other error to end all requests by it.
"""


class Client:
    """Asks one server.

    Args:
        settings: which one, and the bounds.
    """

    def __init__(self, settings: ServedSettings) -> None:
        self.settings = settings

    def ask(self, calls: Sequence[Call], read: Read[Found]) -> list[Found]:
        """The answers to all calls, in order; the first that fails for good ends the others.

        Raises:
            UserError: the server cannot be reached, is silent, or answers what cannot be used.
        """
        return run_in_thread(self.ask_all(calls, read), THREAD)

    async def ask_all(self, calls: Sequence[Call], read: Read[Found]) -> list[Found]:
        """As `ask`, within an event loop."""
        most = self.settings.connections
        slots = asyncio.Semaphore(most)
        async with http_client(request_headers(PREFIX, self.settings.key_env), most) as http:
            tasks = [asyncio.create_task(self._ask(http, slots, call, read)) for call in calls]
            try:
                return await asyncio.gather(*tasks)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _ask(self, http: httpx2.AsyncClient, slots: asyncio.Semaphore, call: Call, read: Read[Found]) -> Found:
        settings, cause = self.settings, ""
        async with slots:
            for attempt in range(settings.retries + 1):
                await asyncio.sleep(min(FIRST_PAUSE * 2 ** (attempt - 1), LONGEST_PAUSE) if attempt else 0)
                try:
                    async with asyncio.timeout(settings.timeout):
                        return await self._attempt(http, call, read)
                except TimeoutError:
                    cause = f"no answer within model.served.timeout={settings.timeout:g} s"
                except (httpx2.TransportError, BusyError) as error:
                    cause = str(error) or type(error).__name__
                except BadAnswerError as error:
                    raise UserError(f"model.served: {settings.where}, {call.path}: {error}") from error
        raise UserError(
            f"model.served: {settings.where}, {call.path}: {cause} (attempts: {settings.retries + 1}); see that the "
            "server runs, and what it logs"
        )

    async def _attempt(self, http: httpx2.AsyncClient, call: Call, read: Read[Found]) -> Found:
        # ASCII, as by default: what is sent are numbers and names.
        body = None if call.body is None else json.dumps(call.body).encode()
        url = self.settings.url.rstrip("/") + call.path
        status, content = await exchange(http, "GET" if body is None else "POST", url, body, MAX_BYTES)
        if status in RETRIED:
            raise BusyError(f"the server answered with status {status} ({excerpt(content)})")
        return read(status, _parsed(content))


def excerpt(answer: Any) -> str:
    """The beginning of an answer, on one line, for a message."""
    if isinstance(answer, bytes):
        answer = answer[:1000].decode(errors="replace")
    return " ".join(str(answer).split())[:200]


def _parsed(content: bytes) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return content.decode(errors="replace")
