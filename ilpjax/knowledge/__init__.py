"""The facts of a row as triples: by patterns, or by a language model behind an endpoint."""

from ilpjax.knowledge.endpoint import Endpoint
from ilpjax.knowledge.extractor import EndpointExtractor
from ilpjax.knowledge.patterns import PatternExtractor
from ilpjax.knowledge.triples import Extractor, Triple

__all__ = ["Endpoint", "EndpointExtractor", "Extractor", "PatternExtractor", "Triple"]
