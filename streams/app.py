"""`faust -A streams.app worker -l info` finds the app here; it is built from the settings when it is asked for."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from streams.faust_app import FeatureApp

    app: FeatureApp


def __getattr__(name: str) -> Any:
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from config.settings import load_settings
    from streams.worker import build_app

    globals()["app"] = built = build_app(load_settings())
    return built
