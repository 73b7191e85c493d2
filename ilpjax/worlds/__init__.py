"""Planted worlds: synthetic people, so that what the base knows is known, and why a row is not learned."""

from ilpjax.worlds.world import run_world

__all__ = ["run_world"]
