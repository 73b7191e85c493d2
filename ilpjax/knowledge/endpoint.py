"""An OpenAI-compatible endpoint: questions in, answers and what they cost out, and a cache a rerun goes on from."""

import hashlib
import json
import os
import re
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ilpjax.errors import InputError

PROMPTS = Path(__file__).parent / "prompts"
CHARACTERS = 6000  # of a text that goes into a prompt; the rest is not sent
ATTEMPTS = 2  # an answer that cannot be read is asked for once more
FAILURES = 3  # requests in a row that stay without an answer end the asking
OVERHEAD = 200  # tokens that a server's chat template may add to a prompt
CHARACTERS_A_TOKEN = 4  # where a server does not say how many tokens there were
WAVE = 8  # requests a thread between two looks at the budgets


@dataclass(frozen=True)
class Ask:
    """One question. `draw` numbers the samples of one prompt: each has an answer of its own in the cache."""

    model: str
    prompt: str
    tokens: int  # longest answer
    temperature: float = 0.0
    draw: int = 0


@dataclass(frozen=True)
class Spent:
    """`money` in the currency of the prices; `estimated`: requests whose tokens were told from characters."""

    requests: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    money: float = 0.0
    estimated: int = 0

    def __add__(self, other: "Spent") -> "Spent":
        return Spent(*(a + b for a, b in zip(asdict(self).values(), asdict(other).values(), strict=True)))

    def __str__(self) -> str:
        guess = f" ({self.estimated} estimated from characters)" if self.estimated else ""
        tokens = f"{self.tokens_in:,} tokens in and {self.tokens_out:,} out{guess}"
        return f"{self.requests:,} requests, {tokens}, cost {self.money:.4g}"


@dataclass(frozen=True)
class Answer:
    text: str
    spent: Spent


class Endpoint:
    """Asks the models at `url` through the official SDK, `concurrency` requests at a time.

    `url`: the endpoint's base, "http://localhost:8000/v1". `key_env`: the environment variable that holds the key; None
    for a server without keys. `cache`: a file of JSON lines, one a reply, keyed by a hash of the question; a killed run
    loses the replies under way, and a rerun asks only for what is not there.

    Budgets hold for the life of this object. `requests`: what may be sent; what the SDK sends again after a 429, a 5xx,
    a time-out or a broken connection (`retries` times, with back-off) counts once. `money`: with `price_in` and
    `price_out` per million tokens; a request is sent only when its longest possible answer can be paid for; one that
    failed is taken to have cost nothing. `spent` is this run's, `former` what the runs before it left in the cache.

    A request that fails for good is left without an answer, and `failure` says why; FAILURES of them in a row end the
    asking. Which questions the budgets reach for does not depend on the timing of the replies.

    Raises `InputError`: a wrong setting, `openai` is not installed, the key is not set, the cache is another kind of
    file or cannot be written, or the endpoint refuses (a 4xx) while nothing was ever answered.
    """

    def __init__(
        self,
        url: str,
        key_env: str | None,
        cache: Path,
        *,
        requests: int,
        money: float | None = None,
        price_in: float | None = None,
        price_out: float | None = None,
        timeout: float = 60.0,
        retries: int = 5,
        concurrency: int = 1,
    ):
        """`timeout` in seconds, of one request."""
        if requests < 1:
            raise InputError(f"requests={requests}: nothing could be asked; 1 or more is right")
        if (price_in is None) != (price_out is None) or (money is not None and price_in is None):
            raise InputError("money: needs price_in and price_out, both, per million tokens")
        if urlsplit(url).scheme not in ("http", "https"):
            raise InputError(f"{url}: no address of an endpoint; http://HOST:PORT/v1 would be right")
        key = "none" if key_env is None else os.environ.get(key_env, "")
        if not key:
            raise InputError(f"{key_env}: the environment variable is not set; set it to the key of {url}")
        self._client = _client(base_url=url, api_key=key, timeout=timeout, max_retries=retries)
        self._requests, self._money = requests, money
        self._price_in, self._price_out = price_in or 0.0, price_out or 0.0
        self._timeout, self._concurrency = timeout, concurrency
        self._cache = _Cache(Path(cache))
        self._lock = threading.Lock()
        self._in_a_row, self._closed = 0, False  # requests that failed
        self._short: str | None = None  # which budget is spent
        self.url = url
        self.failure: str | None = None
        self.former, self.spent = reduce(add, (a.spent for a in self._cache.answers.values()), Spent()), Spent()

    def ask(self, asks: Sequence[Ask], readable: Callable[[str], bool]) -> list[Answer | None]:
        """An answer an ask: the first of ATTEMPTS that is `readable`, else the last; with the cost of all of them.

        None where the budgets or an outage left it open.
        """
        for attempt in range(ATTEMPTS):
            tried = [(ask, self._tries(ask, readable)) for ask in asks]
            due = [ask for ask, tries in tried if len(tries) == attempt and not _settled(tries, readable)]
            self._send({_key(ask, attempt): ask for ask in due})
        found: list[Answer | None] = []
        for tries in (self._tries(ask, readable) for ask in asks):
            whole = len(tries) == ATTEMPTS or _settled(tries, readable)
            found.append(Answer(tries[-1].text, reduce(add, (a.spent for a in tries))) if whole else None)
        return found

    def left(self, done: str) -> str:
        """One line: what failed or is spent, what was `done`, and how to go on."""
        why = self.failure or self._short
        return f"{self.url}: {why}, {done}; run again to go on, {self._cache.path} keeps what was answered"

    def _tries(self, ask: Ask, readable: Callable[[str], bool]) -> list[Answer]:
        """What was answered, up to the first that can be read."""
        tries: list[Answer] = []
        while len(tries) < ATTEMPTS and not _settled(tries, readable):
            answer = self._cache.answers.get(_key(ask, len(tries)))
            if answer is None:
                break
            tries.append(answer)
        return tries

    def _send(self, due: Mapping[str, Ask]) -> None:
        waiting = list(due.items())
        while waiting and not self._closed:
            # The first request goes alone: whether the endpoint refuses must not hang on which of many is first.
            wave = self._affordable(waiting[: WAVE * self._concurrency if self._cache.answers else 1])
            if not wave:
                break
            with ThreadPoolExecutor(self._concurrency) as pool:
                list(pool.map(lambda one: self._one(*one), wave))
            waiting = waiting[len(wave) :]

    def _affordable(self, wave: list[tuple[str, Ask]]) -> list[tuple[str, Ask]]:
        """The head of the wave that both budgets reach for. A token is at least one byte."""
        money = 0.0
        for n, (_, ask) in enumerate(wave):
            money += self._price(len(ask.prompt.encode()) + OVERHEAD, ask.tokens)
            if self.spent.requests + n >= self._requests:
                self._short = f"the budget of {self._requests} requests is spent"
            elif self._money is not None and self.spent.money + money > self._money:
                self._short = f"what is left of the budget of {self._money:.4g} pays for no further request"
            else:
                continue
            return wave[:n]
        return wave

    def _one(self, key: str, ask: Ask) -> None:
        import openai

        if self._closed:
            return
        with self._lock:
            self.spent += Spent(requests=1)
        reply: Any = None
        try:
            reply = self._client.chat.completions.create(
                model=ask.model,
                messages=[{"role": "user", "content": ask.prompt}],
                temperature=ask.temperature,
                max_tokens=ask.tokens,
            )
        except (openai.APIStatusError, openai.APIConnectionError) as error:
            self._fail(ask, error)
            return
        except (openai.APIError, ValueError):
            pass  # status 200 and no JSON in it: as unreadable as any other nonsense
        answer = self._read(ask, reply)
        with self._lock:
            self._in_a_row = 0
            self.spent += replace(answer.spent, requests=0)  # counted when it was sent
            self._cache.add(key, answer)

    def _fail(self, ask: Ask, error: Any) -> None:
        import openai

        if isinstance(error, openai.APIStatusError):
            status, said = error.status_code, " ".join(str(error.message).split())[:200]
            refused = 400 <= status < 500 and status not in (408, 409, 429)
            text = f"{'refused the request for' if refused else f'answered {status} to'} {ask.model}: {said}"
        else:
            late = isinstance(error, openai.APITimeoutError)
            cause = f"no answer within {self._timeout:g} s" if late else error.__cause__ or error
            refused, text = False, f"cannot be reached ({cause}); a running endpoint's base is right"
        with self._lock:
            self._in_a_row += 1
            self._closed = self._closed or self._in_a_row == FAILURES
            self.failure = text
            if refused and not self._cache.answers:
                raise InputError(f"{self.url}: {text}") from error

    def _read(self, ask: Ask, reply: Any) -> Answer:
        try:
            text = reply.choices[0].message.content
        except (AttributeError, IndexError, TypeError):
            text = None
        text = text if isinstance(text, str) else ""
        usage = getattr(reply, "usage", None)
        told = [getattr(usage, name, None) for name in ("prompt_tokens", "completion_tokens")]
        used = [n for n in told if isinstance(n, int) and n >= 0]
        estimated = len(used) < 2
        if estimated:
            used = [-(-len(part) // CHARACTERS_A_TOKEN) for part in (ask.prompt, text)]
        return Answer(text, Spent(1, used[0], used[1], self._price(used[0], used[1]), int(estimated)))

    def _price(self, tokens_in: int, tokens_out: int) -> float:
        return (tokens_in * self._price_in + tokens_out * self._price_out) / 1e6


class _Cache:
    """Answers by key. A line that was torn by a kill is left out, and the next one begins on a line of its own."""

    def __init__(self, path: Path):
        self.path = path
        self.answers: dict[str, Answer] = {}
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
            try:
                key, text = str(entry.pop("key")), str(entry.pop("answer"))
                self.answers[key] = Answer(text, Spent() + Spent(1, **entry))  # the sum fails on what is no number
            except (AttributeError, KeyError, TypeError) as error:
                message = f"{path}, line {number}: no cache of answers; name a new file, or one made by this"
                raise InputError(message) from error

    def add(self, key: str, answer: Answer) -> None:
        self.answers[key] = answer
        entry = {"key": key, "answer": answer.text} | asdict(answer.spent)
        del entry["requests"]  # a line is one
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write("\n" * self._torn + json.dumps(entry) + "\n")
        except OSError as error:
            raise InputError(f"{self.path}: the cache cannot be written: {error.strerror}") from error
        self._torn = False


def prompt(name: str, **parts: str) -> str:
    """The file `prompts/NAME.txt` with each {part} filled in, cut to CHARACTERS; braces in a part are text."""
    template = (PROMPTS / f"{name}.txt").read_text(encoding="utf-8")
    text = re.sub(rf"\{{({'|'.join(parts)})\}}", lambda match: parts[match.group(1)][:CHARACTERS], template)
    return text.encode("utf-8", "replace").decode()  # a lone surrogate cannot be sent


def warn(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _key(ask: Ask, attempt: int) -> str:
    return hashlib.sha256(json.dumps([*asdict(ask).values(), attempt]).encode()).hexdigest()


def _settled(tries: Sequence[Answer], readable: Callable[[str], bool]) -> bool:
    return bool(tries) and readable(tries[-1].text)


def _client(**settings: Any) -> Any:
    try:
        import openai
    except ImportError as error:
        raise InputError("openai is not installed; pip install 'ilpjax[endpoint]'") from error
    return openai.OpenAI(**settings)
