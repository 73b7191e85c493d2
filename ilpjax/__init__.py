"""Which rows of a fine-tuning file did the model not learn, why, and what cures each?"""

from typing import TYPE_CHECKING, Any

from ilpjax.errors import InputError

if TYPE_CHECKING:
    from ilpjax.pipeline import Study, study

__all__ = ["InputError", "Study", "study"]


def __getattr__(name: str) -> Any:
    # Importing ilpjax must not start JAX: the command line sets it up first, and --help should answer at once.
    if name in ("Study", "study"):
        from ilpjax import pipeline

        return getattr(pipeline, name)
    raise AttributeError(f"module 'ilpjax' has no attribute {name!r}")
