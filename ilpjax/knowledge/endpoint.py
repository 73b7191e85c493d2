"""Triples from a language model behind an OpenAI-compatible endpoint."""

import hashlib
import json
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ilpjax.errors import InputError
from ilpjax.knowledge.triples import Triple
from ilpjax.rows import Row

PROMPT = (Path(__file__).parent / "prompts" / "triples.txt").read_text(encoding="utf-8")
CHARACTERS = 6000  # of a prompt and of a response; the rest is not sent
ATTEMPTS = 2  # an answer that cannot be read is asked for once more
ANSWER_TOKENS = 2048
FENCED = re.compile(r"\A\s*```(?:json)?\s*\n(.*?)\n?\s*```\s*\Z", re.DOTALL)


class EndpointExtractor:
    """Asks `model` at `url` for each row's triples, at temperature 0, one request at a time.

    `url`: the endpoint's base, "http://localhost:8000/v1". `api_key_env`: the environment variable that holds the key;
    None for a server without keys. `cache`: a file of JSON lines, one answer a line, keyed by a hash of model and
    prompt; a killed run loses the answer under way and a rerun asks only for what is not there. `budget_requests`:
    requests this extractor may send in its life; what the SDK sends again after a 429, a 5xx, a time-out or a broken
    connection (`retries` times, with back-off) counts once. When it is spent, the rows not asked get no triples and a
    line on stderr says how many. An answer that is not a JSON list of lists of three non-empty strings is asked for
    once more; then the row gets no triples, and a line says how many rows that were.

    Raises `InputError`: `openai` is not installed, the key is not set, the budget is under 1, the cache is another kind
    of file, the endpoint cannot be reached or refuses the request.
    """

    def __init__(
        self,
        url: str,
        model: str,
        api_key_env: str | None,
        budget_requests: int,
        cache: Path,
        *,
        timeout: float = 60.0,
        retries: int = 5,
    ):
        """`timeout` in seconds, of one request."""
        if budget_requests < 1:
            raise InputError(f"budget_requests={budget_requests}: nothing could be asked; 1 or more is right")
        key = "none" if api_key_env is None else os.environ.get(api_key_env, "")
        if not key:
            raise InputError(f"{api_key_env}: the environment variable is not set; set it to the key of {url}")
        self._client = _client(base_url=url, api_key=key, timeout=timeout, max_retries=retries)
        self._url, self._model, self._budget, self._asked = url, model, budget_requests, 0
        self._cache = _Cache(Path(cache))

    def __call__(self, rows: Sequence[Row]) -> list[list[Triple]]:
        found: list[list[Triple]] = []
        unparsed = unasked = 0
        for row in rows:
            answer = self._answer(_fill(row))
            triples = parse(answer) if answer is not None else None
            unasked += answer is None
            unparsed += answer is not None and triples is None
            found.append(triples or [])
        if unparsed:
            _warn(f"{self._model}: {unparsed} of {len(rows)} rows got no triples: the answer was no list of triples")
        if unasked:
            _warn(
                f"{self._url}: the budget of {self._budget} requests is spent, {unasked} of {len(rows)} rows were not"
                f" asked; run again to go on, {self._cache.path} keeps what was answered"
            )
        return found

    def _answer(self, prompt: str) -> str | None:
        """The model's text, from the cache where it is there; None when the budget does not reach for it."""
        key = hashlib.sha256(f"{self._model}\n{prompt}".encode(errors="surrogatepass")).hexdigest()
        if key in self._cache.answers:
            return self._cache.answers[key]
        answer = None
        for _ in range(ATTEMPTS):
            if self._asked >= self._budget:
                break
            self._asked += 1
            answer = self._ask(prompt)
            if parse(answer) is not None:
                break
        if answer is not None:
            self._cache.add(key, answer)
        return answer

    def _ask(self, prompt: str) -> str:
        import openai

        try:
            reply: Any = self._client.chat.completions.create(
                model=self._model,
                messages=[{"role": "user", "content": prompt}],
                temperature=0,
                max_tokens=ANSWER_TOKENS,
            )
            return reply.choices[0].message.content or ""
        except openai.APIStatusError as error:
            said = " ".join(str(error.message).split())[:200]
            raise InputError(f"{self._url}: refused the request for {self._model}: {said}") from error
        except openai.APIConnectionError as error:
            raise InputError(f"{self._url}: cannot be reached ({error}); a running endpoint's base is right") from error
        except (openai.APIError, ValueError, AttributeError, IndexError, TypeError):
            return ""  # status 200 and no chat completion in it: as unreadable as any other nonsense


def parse(answer: str) -> list[Triple] | None:
    """The triples of an answer, plain or in one ``` fence; None unless all of it is in the form asked for."""
    if fenced := FENCED.match(answer):
        answer = fenced.group(1)
    try:
        items = json.loads(answer)
    except (ValueError, RecursionError):
        return None
    if not isinstance(items, list):
        return None
    triples = []
    for item in items:
        if not isinstance(item, list) or len(item) != 3:
            return None
        if not all(isinstance(part, str) and part.strip() for part in item):
            return None
        triples.append(Triple(item[0].strip(), item[1].strip(), item[2].strip(), "endpoint"))
    return list(dict.fromkeys(triples))


class _Cache:
    """Answers by key. A line that was torn by a kill is left out, and the next one begins on a line of its own."""

    def __init__(self, path: Path):
        self.path = path
        self.answers: dict[str, str] = {}
        self._torn = False
        try:
            data = path.read_bytes() if path.exists() else b""
        except OSError as error:
            raise InputError(f"{path}: cannot be read as a cache of answers: {error.strerror}") from error
        self._torn = bool(data) and not data.endswith(b"\n")
        for number, line in enumerate(data.split(b"\n"), 1):
            try:
                entry = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if not (isinstance(entry, dict) and entry.keys() == {"key", "answer"}):
                raise InputError(f"{path}, line {number}: no cache of answers; name a new file, or one made by this")
            self.answers[str(entry["key"])] = str(entry["answer"])

    def add(self, key: str, answer: str) -> None:
        self.answers[key] = answer
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write("\n" * self._torn + json.dumps({"key": key, "answer": answer}) + "\n")
        except OSError as error:
            raise InputError(f"{self.path}: the cache cannot be written: {error.strerror}") from error
        self._torn = False


def _fill(row: Row) -> str:
    parts = {"prompt": row.prompt[:CHARACTERS], "response": row.response[:CHARACTERS]}
    return re.sub(r"\{(prompt|response)\}", lambda match: parts[match.group(1)], PROMPT)


def _client(**settings: Any) -> Any:
    try:
        import openai
    except ImportError as error:
        raise InputError("openai is not installed; pip install 'ilpjax[endpoint]'") from error
    return openai.OpenAI(**settings)


def _warn(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
