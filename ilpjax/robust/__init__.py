"""Is "unlearned" a fact about the model or about the test? The same rows under many protocols."""

from ilpjax.robust.design import COLUMNS, FACTORS, Pass, Protocol, design, own_protocol, pass_of

__all__ = ["COLUMNS", "FACTORS", "Pass", "Protocol", "design", "own_protocol", "pass_of"]
