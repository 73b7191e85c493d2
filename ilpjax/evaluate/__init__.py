"""How often the causes are right, on worlds where they are known."""

from ilpjax.evaluate.demo import run_demo
from ilpjax.evaluate.jobs import run_world

__all__ = ["run_demo", "run_world"]
