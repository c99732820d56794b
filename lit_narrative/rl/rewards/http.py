"""A reward that a server gives, bounded in time, size, connections and retries whatever the server does."""

import asyncio
import json
import math
import os
import re
import ssl
from collections.abc import Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Any, Generic, NoReturn, TypeVar

import httpx2
from jsonschema import Draft202012Validator

from lit_narrative.errors import UserError, check_least
from lit_narrative.rl.rewards.base import LARGEST, Answer, Lost, TimedOut
from lit_narrative.views import Rollout

Found = TypeVar("Found")
RETRIED = {408, 429, 500, 502, 503, 504}
"""Status codes after which the same question may be asked again, as after a connection that failed."""
FIRST_PAUSE = 0.5
"""Seconds before the second attempt; each further pause is twice as long."""


class NoAnswer(Lost):
    """The reason why a server's answer is of no use; it says nothing of any one text."""


class BadAnswerError(Exception):
    """An answer that would be the same another time."""


class BusyError(Exception):
    """An answer that may be another one later."""


@dataclass(frozen=True)
class HTTPReward:
    """The scores that a server gives completions, in a few requests a rollout batch.

    In a configuration: ``lit_narrative.rl.rewards.http:HTTPReward(url='https://judge.org/score')``. A request is a POST
    of ``{"completions": [{"prompt": …, "text": …, "finished": …}, …]}``; the answer is ``{"scores": [0.5, null, …]}``,
    a number or null for each in their order. It should do no harm to ask twice. No redirect is followed.

    Args:
        url: http or https, without user info.
        name: what logs call it.
        key_env: environment variable with a key, sent as ``Authorization: Bearer …``; the key itself is never stored.
        columns: of the prompt that are sent too, such as ``reference``; a completion whose prompt lacks one has null.
        batch_size: completions of a request at most.
        timeout: seconds for the whole call, all requests and retries.
        max_bytes: of one answer.
        retries: of a request that failed and may be sent again, after pauses of 0.5, 1, 2 … s.
        connections: requests at the same time.

    Raises:
        UserError: a setting is out of range, the URL is not one, or the environment variable is not set.
    """

    url: str
    name: str = "http"
    key_env: str | None = None
    columns: Sequence[str] = ()
    batch_size: int = 64
    timeout: float = 30.0
    max_bytes: int = 1_000_000
    retries: int = 3
    connections: int = 4

    def __post_init__(self) -> None:
        for name, least in (("batch_size", 1), ("max_bytes", 1), ("retries", 0), ("connections", 1)):
            check_least(f"HTTPReward: {name}", getattr(self, name), least)
        if not (math.isfinite(self.timeout) and self.timeout > 0):
            raise UserError(f"HTTPReward: timeout is {self.timeout}; it must be a number of seconds above 0")
        check_url("HTTPReward: ", self.url)
        self._headers()

    def __call__(self, rollouts: Sequence[Rollout]) -> list[Answer]:
        """Scores, in order; why there is none where the server fails."""
        rows = [rollouts[start : start + self.batch_size] for start in range(0, len(rollouts), self.batch_size)]
        questions = [(self._question(part), len(part)) for part in rows]
        return run_in_thread(self._ask_all(questions), "http-reward")

    def _headers(self) -> dict[str, str]:
        return request_headers("HTTPReward: ", self.key_env)

    def _question(self, rollouts: Sequence[Rollout]) -> bytes:
        rows = [
            {**r.prompt_columns, "text": r.text, "finished": r.finished}
            | {name: r.columns.get(name) for name in self.columns}
            for r in rollouts
        ]
        try:
            # ASCII, as by default: lone surrogates in a text have no UTF-8, but an escape.
            return json.dumps({"completions": rows}).encode()
        except (TypeError, ValueError) as error:
            raise UserError(f"HTTPReward: columns={list(self.columns)}: one is no plain data ({error})") from error

    async def _ask_all(self, questions: Sequence[tuple[bytes, int]]) -> list[Answer]:
        deadline = asyncio.get_running_loop().time() + self.timeout
        slots = asyncio.Semaphore(self.connections)
        async with http_client(self._headers(), self.connections) as client:
            asked = (self._ask(client, slots, deadline, body, count) for body, count in questions)
            return [answer for part in await asyncio.gather(*asked) for answer in part]

    async def _ask(
        self, client: httpx2.AsyncClient, slots: asyncio.Semaphore, deadline: float, body: bytes, count: int
    ) -> list[Answer]:
        """The answers to one question, whatever happens."""
        cause: object = "it did not begin"
        try:
            async with asyncio.timeout_at(deadline), slots:
                for attempt in range(self.retries + 1):
                    await asyncio.sleep(FIRST_PAUSE * 2 ** (attempt - 1) if attempt else 0)
                    cause = "the server was silent or slow"
                    try:
                        return [*self._read(await self._post(client, body), count)]
                    except (httpx2.TransportError, BusyError) as error:
                        cause = str(error) or type(error).__name__
        except TimeoutError:
            return [TimedOut(f"no answer within {self.timeout:g} s: {cause}")] * count
        except BadAnswerError as error:
            return [NoAnswer(str(error))] * count
        return [NoAnswer(f"{cause} (attempts: {self.retries + 1})")] * count

    def _read(self, answer: bytes, count: int) -> Sequence[Any]:
        return read_scores(answer, count)

    async def _post(self, client: httpx2.AsyncClient, body: bytes) -> bytes:
        status, answer = await exchange(client, "POST", self.url, body, self.max_bytes)
        if status in RETRIED:
            raise BusyError(f"the server answered with status {status}")
        if status != 200:
            raise BadAnswerError(f"the server answered with status {status}")
        return answer


def http_client(headers: Mapping[str, str], connections: int) -> httpx2.AsyncClient:
    """A client without time limits of its own, for requests that are bounded by what asks them."""
    limits = httpx2.Limits(max_connections=connections)
    return httpx2.AsyncClient(headers=headers, limits=limits, timeout=None, verify=_certificates())


@cache
def _certificates() -> ssl.SSLContext:
    """Read once: that takes 60 ms, as long as all else in a batch of requests."""
    return httpx2.create_ssl_context()


async def exchange(
    client: httpx2.AsyncClient, method: str, url: str, body: bytes | None, max_bytes: int
) -> tuple[int, bytes]:
    """Status and content of the answer to one request; the content is read up to a bound.

    Raises:
        BadAnswerError: the server redirects, or its answer is longer than ``max_bytes``.
    """
    async with client.stream(method, url, content=body) as reply:
        status, answer = reply.status_code, bytearray()
        if 300 <= status < 400:
            where = reply.headers.get("Location", "nowhere")
            raise BadAnswerError(f"the server redirects to '{where}', which is not followed; give the final URL")
        async for chunk in reply.aiter_raw():
            answer += chunk
            if len(answer) > max_bytes:
                raise BadAnswerError(f"the server's answer is longer than max_bytes={max_bytes}")
    return status, bytes(answer)


def check_url(prefix: str, url: str) -> None:
    """Check the URL of a server that a person gave.

    Args:
        prefix: what stands before the setting's name ``url``, such as ``HTTPReward: ``.
        url: http or https, without user info.

    Raises:
        UserError: it is not one.
    """
    try:
        parts = httpx2.URL(url)
    except httpx2.InvalidURL as error:
        raise UserError(f"{prefix}url='{url}' is not a URL ({error})") from error
    if parts.scheme not in ("http", "https") or not parts.host:
        raise UserError(f"{prefix}url='{url}' must begin with http:// or https:// and name a host")
    if parts.userinfo:
        raise UserError(f"{prefix}url='{url}' has user info; give a key by the environment, as key_env")


def request_headers(prefix: str, key_env: str | None) -> dict[str, str]:
    """Headers of a request of JSON, with the key that an environment variable holds.

    Raises:
        UserError: there is no such variable, or it holds no key.
    """
    # `identity`: a few kB of gzip may hold 1 GB, and the bound is on what arrives.
    headers = {"Content-Type": "application/json", "Accept": "application/json", "Accept-Encoding": "identity"}
    if key_env is None:
        return headers
    if not re.fullmatch(r"[A-Z_][A-Z0-9_]*", key_env):  # not shown: it may be the key itself
        raise UserError(f"{prefix}key_env must be the name of an environment variable, such as JUDGE_KEY")
    key = os.environ.get(key_env, "").strip()
    # Checked here: the error of the HTTP library would show the header.
    if not (key and key.isascii() and key.isprintable()):
        raise UserError(f"{prefix}the environment variable {key_env} is not set to a key")
    return {**headers, "Authorization": f"Bearer {key}"}


def read_scores(answer: bytes, count: int) -> list[float | None]:
    """Read ``{"scores": [...]}``, with a finite number or null for each of ``count`` completions.

    Raises:
        BadAnswerError: it is something else.
    """
    try:
        content = json.loads(answer, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise BadAnswerError(f"the server's answer is not JSON ({error})") from error
    if wrong := next(Draft202012Validator(_schema(count)).iter_errors(content), None):
        needed = f'{{"scores": […]}} with a number or null for each of {count} completions'
        raise BadAnswerError(f"the server's answer must be {needed}; {wrong.json_path}: {wrong.message}")
    return [None if score is None else float(score) for score in content["scores"]]


def _schema(count: int) -> dict[str, Any]:
    # The number of items first: the validator stops at the first fault, before it looks at a million of them.
    score = {"type": ["number", "null"], "minimum": -LARGEST, "maximum": LARGEST}
    scores = {"type": "array", "minItems": count, "maxItems": count, "items": score}
    return {"type": "object", "required": ["scores"], "properties": {"scores": scores}}


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"it holds {constant}")


def run_in_thread(asking: Coroutine[Any, Any, Found], name: str) -> Found:
    """Run a coroutine in an event loop and a thread of its own; a caller that is interrupted ends it.

    Args:
        asking: the coroutine.
        name: of the thread.
    """
    return InThread(asking, name).result()


class InThread(Generic[Found]):
    """A coroutine that runs in an event loop and a thread of its own, from now until it ends or is cancelled.

    Args:
        asking: the coroutine.
        name: of the thread.
    """

    def __init__(self, asking: Coroutine[Any, Any, Found], name: str) -> None:
        # In the caller's thread an event loop may be running already, as in a notebook.
        self._loop = asyncio.new_event_loop()
        self._task = self._loop.create_task(asking)
        self._pool = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._found = self._pool.submit(_finish, self._loop, self._task)

    def result(self) -> Found:
        """Wait for what it returns or raises; a caller that is interrupted ends it."""
        try:
            return self._found.result()
        finally:
            self.cancel()

    def cancel(self) -> None:
        """End it where it still runs, and wait for its end."""
        with suppress(RuntimeError):  # it has ended, and its loop is closed
            self._loop.call_soon_threadsafe(self._task.cancel)
        self._pool.shutdown()


def _finish(loop: asyncio.AbstractEventLoop, task: "asyncio.Task[Found]") -> Found:
    try:
        return loop.run_until_complete(task)
    finally:
        # Not `asyncio.run`, which would wait for the thread of a name look-up, minutes if no name server answers.
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()
