"""Readers of fresh features, models in service, and how a model comes to serve."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from serving.recommender import Recommender

__all__ = ["Recommender"]


def __getattr__(name: str) -> Any:
    """Import the recommender when somebody asks for it: it brings Feast's client and more."""
    if name == "Recommender":
        from serving.recommender import Recommender

        return Recommender
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
