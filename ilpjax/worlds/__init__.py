"""Planted worlds: synthetic people, so that what the base knows is known."""

from ilpjax.worlds.people import run_world

__all__ = ["run_world"]
