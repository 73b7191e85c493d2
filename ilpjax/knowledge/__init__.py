"""The facts of a row as triples, and which of two answers is right: by patterns and counts, or by language models."""

from ilpjax.knowledge.endpoint import Endpoint
from ilpjax.knowledge.extractor import EndpointExtractor
from ilpjax.knowledge.judge import Dispute, EndpointJudge, Judge, OfflineJudge, Ruling, make_judge
from ilpjax.knowledge.patterns import PatternExtractor
from ilpjax.knowledge.triples import Extractor, Triple

__all__ = [
    "Dispute",
    "Endpoint",
    "EndpointExtractor",
    "EndpointJudge",
    "Extractor",
    "Judge",
    "OfflineJudge",
    "PatternExtractor",
    "Ruling",
    "Triple",
    "make_judge",
]
