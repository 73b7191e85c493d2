"""Triples from a language model behind an endpoint."""

import json
import re
from collections.abc import Sequence

from ilpjax.errors import InputError
from ilpjax.knowledge.endpoint import Ask, Endpoint, prompt, warn
from ilpjax.knowledge.triples import Triple
from ilpjax.rows import Row

ANSWER_TOKENS = 2048
FENCED = re.compile(r"\A\s*```(?:json)?\s*\n(.*?)\n?\s*```\s*\Z", re.DOTALL)


class EndpointExtractor:
    """Asks `model` for each row's triples, at temperature 0.

    An answer that is not a JSON list of lists of three non-empty strings is asked for once more; then the row gets no
    triples, and a line on stderr says how many rows that were. When the endpoint's budget is spent, the rows not
    asked get no triples and a line says how many. Raises `InputError` when a request failed; the endpoint's cache
    keeps what was answered.
    """

    def __init__(self, endpoint: Endpoint, model: str):
        self._endpoint, self._model = endpoint, model

    def __call__(self, rows: Sequence[Row]) -> list[list[Triple]]:
        asks = [
            Ask(self._model, prompt("triples", prompt=row.prompt, response=row.response), ANSWER_TOKENS) for row in rows
        ]
        answers = self._endpoint.ask(asks, lambda text: parse(text) is not None)
        if self._endpoint.failure:
            raise InputError(f"{self._endpoint.url}: {self._endpoint.failure}")
        found = [parse(answer.text) if answer else None for answer in answers]
        unasked = answers.count(None)
        if unparsed := found.count(None) - unasked:
            warn(f"{self._model}: {unparsed} of {len(rows)} rows got no triples: the answer was no list of triples")
        if unasked:
            warn(self._endpoint.left(f"{unasked} of {len(rows)} rows were not asked"))
        return [triples or [] for triples in found]


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
