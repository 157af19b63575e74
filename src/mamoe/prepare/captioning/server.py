"""A server that speaks OpenAI's HTTP: chat completions, files, batches.

Every call is one request; what to do about a failed one is for the caller, who gets told what kind of failure it is.
The key comes from the environment, goes into one header, and is taken out of everything that comes back.
"""

from __future__ import annotations

import email.utils
import json
import os
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from requests.auth import AuthBase

from mamoe.errors import ConfigError, MamoeError
from mamoe.prepare.captioning.answers import Reply
from mamoe.prepare.captioning.choices import OPENAI

_CONNECT = 10.0  # seconds
_MOST_BYTES = 8 << 20  # of an answer; batches' files are read line by line
_LONGEST_WAIT = 600.0  # seconds of Retry-After that are heeded
_LOCAL = ("localhost", "127.0.0.1", "::1")
_WORDS = 300  # letters of a server's message that are shown


class ServerError(MamoeError):
    """The server does not answer; what was done is kept, and the same command goes on later."""

    exit_code = 75


@dataclass(frozen=True, kw_only=True, slots=True)
class Failed:
    """A request that brought nothing and may be sent again."""

    why: str
    wait: float | None = None  # seconds the server asks for
    charged: bool = False  # it may have been answered, and counted, without our knowing


class _Auth(AuthBase):
    """The key in its header; also without a key, so that nothing is taken from a .netrc instead."""

    def __init__(self, key: str | None) -> None:
        self._key = key

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._key is not None:
            request.headers["Authorization"] = f"Bearer {self._key}"
        return request


def key_from(name: str | None, base_url: str) -> str | None:
    """The key in the environment; servers other than OpenAI's may want none.

    Args:
        name: of the variable; None: OPENAI_API_KEY, where it is set.
        base_url: which server it is for.

    Raises:
        ConfigError: there is none, or it is no key. The message never holds it.
    """
    key = os.environ.get(name or "OPENAI_API_KEY", "").strip()
    if not key:
        if name is not None or urlsplit(base_url).hostname == urlsplit(OPENAI).hostname:
            raise ConfigError(
                f"The environment has no {name or 'OPENAI_API_KEY'}: put the key there, or name another variable with "
                "--key-env."
            )
        return None
    if not re.fullmatch(r"[!-~]+", key):
        raise ConfigError(f"What stands in {name or 'OPENAI_API_KEY'} is no key: wanted letters without spaces.")
    return key


class Server:
    """Where to ask.

    Args:
        base_url: for example ``http://localhost:8000/v1``.
        key: see :func:`key_from`.
        timeout: seconds to wait for an answer.

    Raises:
        ConfigError: the address is none, or holds a password.
    """

    def __init__(self, base_url: str, key: str | None, timeout: float) -> None:
        parts = urlsplit(base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(f"--base-url must be an address such as {OPENAI} or http://localhost:8000/v1.")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ConfigError("--base-url holds a user, a password or a query; keys come from the environment alone.")
        self.base_url, self.timeout, self._key = base_url.rstrip("/"), timeout, key
        self.in_the_clear = key is not None and parts.scheme == "http" and parts.hostname not in _LOCAL
        self.limit_key = "max_completion_tokens" if parts.hostname == urlsplit(OPENAI).hostname else "max_tokens"
        self._session = requests.Session()
        self._session.auth = _Auth(key)
        adapter = HTTPAdapter(pool_maxsize=256)
        self._session.mount("http://", adapter)
        self._session.mount("https://", adapter)

    def chat(self, body: Mapping[str, Any]) -> Reply | Failed:
        """Ask once.

        Raises:
            ConfigError: the server wants another key, model or address; to ask again is of no use.
        """
        found = self._json("POST", "/chat/completions", json=body)
        if isinstance(found, Failed):
            return found
        return self.reply_of(found)

    def reply_of(self, found: Any) -> Reply | Failed:
        """What a chat completion says."""
        if isinstance(found, _Refused):
            return Reply(error=found.why)
        try:
            choice = found["choices"][0]
            message = choice["message"]
            text, refusal = message.get("content") or "", message.get("refusal")
            if isinstance(text, list):  # parts, as some servers write them
                text = " ".join(str(part.get("text", "")) for part in text)
            usage = found.get("usage") or {}
            tokens = _counts(usage.get("prompt_tokens"), usage.get("completion_tokens"))
            finish = choice.get("finish_reason")
        except (KeyError, IndexError, TypeError, AttributeError):
            return Failed(why="the answer is no chat completion", charged=True)
        return Reply(
            text=str(text),
            finish=None if finish is None else shown(str(finish)),
            refusal=shown(str(refusal)) if refusal else None,
            tokens=tokens,
        )

    def upload(self, path: Path) -> str | Failed:
        """Send a file of requests; returns its id.

        Raises:
            ConfigError: the server takes no such file.
        """
        with path.open("rb") as file:
            found = self._json("POST", "/files", data={"purpose": "batch"}, files={"file": ("batch.jsonl", file)})
        return _id(found)

    def make_batch(self, file_id: str, mark: str) -> str | Failed:
        """Have the requests of a file answered within a day; returns the batch's id.

        Raises:
            ConfigError: the server makes no such batch.
        """
        body = {
            "input_file_id": file_id,
            "endpoint": "/v1/chat/completions",
            "completion_window": "24h",
            "metadata": {"mamoe": mark},
        }
        return _id(self._json("POST", "/batches", json=body))

    def batch(self, batch_id: str) -> dict[str, Any] | Failed:
        """How far a batch is."""
        found = self._json("GET", f"/batches/{_plain(batch_id)}")
        if isinstance(found, _Refused):
            return {"status": "failed", "why": found.why}
        return found if isinstance(found, Failed | dict) else Failed(why="the answer is no batch")

    def batch_with(self, mark: str) -> str | Failed | None:
        """The id of the batch that was given that mark; None: there is none; "": the server lists no batches."""
        after = ""
        while True:
            found = self._json("GET", "/batches", params={"limit": "100", **({"after": after} if after else {})})
            if isinstance(found, Failed):
                return found
            if isinstance(found, _Refused):
                return ""
            rows = found.get("data") if isinstance(found, dict) else None
            if not isinstance(rows, list):
                return None
            for row in rows:
                if isinstance(row, dict) and (row.get("metadata") or {}).get("mamoe") == mark:
                    return _id(row)
            last = rows[-1].get("id") if rows and isinstance(rows[-1], dict) else None
            if not found.get("has_more") or not isinstance(last, str) or last == after:
                return None
            after = last

    def lines(self, file_id: str) -> Iterator[Any] | Failed:
        """The JSON lines of a file; None for one that is none. The file is fetched whole before the first."""
        found = self._send("GET", f"/files/{_plain(file_id)}/content", most=1 << 31)
        if isinstance(found, Failed | _Refused):
            return Failed(why=found.why)
        return map(self._parsed, found.splitlines())

    def _parsed(self, raw: bytes) -> Any:
        """The JSON, without the key wherever a server repeats it; None where it is none."""
        try:
            return self._without_key(json.loads(raw))
        except (ValueError, RecursionError):
            return None

    def _without_key(self, value: Any) -> Any:
        if isinstance(value, str):
            return value if self._key is None else value.replace(self._key, "[key]")
        if isinstance(value, list):
            return [self._without_key(part) for part in value]
        if isinstance(value, dict):
            return {self._without_key(name): self._without_key(part) for name, part in value.items()}
        return value

    def _json(self, method: str, path: str, **content: Any) -> Any:
        raw = self._send(method, path, **content)
        if isinstance(raw, Failed | _Refused):
            return raw
        found = self._parsed(raw)
        return Failed(why="the answer is no whole JSON", charged=True) if found is None else found

    def _send(self, method: str, path: str, *, most: int = _MOST_BYTES, **content: Any) -> Any:
        """The bytes of a good answer, or what went wrong."""
        try:
            with self._session.request(
                method,
                self.base_url + path,
                timeout=(_CONNECT, self.timeout),
                stream=True,
                allow_redirects=False,
                **content,
            ) as response:
                return self._answer(response, most)
        except requests.exceptions.ConnectTimeout:
            return Failed(why="no connection in time")
        except requests.exceptions.Timeout:
            return Failed(why=f"no answer within {self.timeout:g} s", charged=True)
        except requests.exceptions.ConnectionError as error:
            refused = "refused" in str(error).lower() or "resolve" in str(error).lower()
            return Failed(why="no connection" if refused else "the connection broke", charged=not refused)
        except (requests.exceptions.RequestException, OSError) as error:
            return Failed(why=f"the connection broke ({type(error).__name__})", charged=True)

    def _answer(self, response: requests.Response, most: int) -> Any:
        parts, size, end = [], 0, time.monotonic() + max(self.timeout, _LONGEST_WAIT if most > _MOST_BYTES else 0)
        for part in response.iter_content(1 << 16):
            size += len(part)
            if size > most or time.monotonic() > end:
                return Failed(why="the answer is too long, or too slow", charged=True)
            parts.append(part)
        raw, status = b"".join(parts), response.status_code
        if 200 <= status < 300:
            return raw
        why = f"{status} {self._message(raw)}".strip()
        code = self._error_code(raw)
        if status == 429 and code == "insufficient_quota":
            raise ConfigError(f"{self.base_url} says that nothing is left to pay with: {why}")
        if status in (408, 409, 425, 429) or status >= 500:
            return Failed(why=why, wait=_wait(response.headers.get("Retry-After")))
        nowhere = status == 404 and response.request.method == "POST"
        if status in (401, 403) or 300 <= status < 400 or nowhere or code == "model_not_found":
            raise ConfigError(f"{self.base_url} refuses to serve this: {why}. Look at the key, --model and --base-url.")
        return _Refused(why=why)

    def _message(self, raw: bytes) -> str:
        found = self._parsed(raw)
        error = found.get("error") if isinstance(found, dict) else None
        text = error.get("message") if isinstance(error, dict) else error if isinstance(error, str) else None
        return shown(text if isinstance(text, str) else self._without_key(raw.decode("utf-8", "replace")))

    def _error_code(self, raw: bytes) -> str | None:
        found = self._parsed(raw)
        error = found.get("error") if isinstance(found, dict) else None
        return error.get("code") if isinstance(error, dict) else None


def shown(text: str) -> str:
    """What a server says, fit for a terminal: one line, not too long, nothing that moves the cursor."""
    plain = "".join(letter if letter.isprintable() else " " for letter in text)
    return " ".join(plain.split())[:_WORDS]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Refused:
    """The server will not do that, however often it is asked."""

    why: str


def _counts(read: Any, written: Any) -> tuple[int, int] | None:
    whole = isinstance(read, int) and isinstance(written, int) and read >= 0 and written >= 0
    return (read, written) if whole else None


def _id(found: Any) -> str | Failed:
    if isinstance(found, Failed):
        return found
    if isinstance(found, _Refused):
        raise ConfigError(f"The server takes no such batch: {found.why}")
    value = found.get("id") if isinstance(found, dict) else None
    return value if isinstance(value, str) and value else Failed(why="the answer names no id", charged=True)


def _plain(name: str) -> str:
    """An id as a part of an address: a server does not lead us elsewhere."""
    if not re.fullmatch(r"[\w.-]+", name) or set(name) == {"."}:
        raise ServerError(f"The server named something {name[:60]!r}, which is no id.")
    return name


def _wait(text: str | None) -> float | None:
    """Seconds of a Retry-After, which may be a number or a date."""
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(text).timestamp() - time.time()
        except ValueError:
            return None
    return min(max(seconds, 0.0), _LONGEST_WAIT) if seconds == seconds else None
