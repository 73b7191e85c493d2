"""The facts of a row as triples: by patterns, or by a language model behind an endpoint."""

from ilpjax.knowledge.endpoint import EndpointExtractor
from ilpjax.knowledge.patterns import PatternExtractor
from ilpjax.knowledge.triples import Extractor, Triple

__all__ = ["EndpointExtractor", "Extractor", "PatternExtractor", "Triple"]
