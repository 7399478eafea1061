"""The named types of an Avro schema, and parts of it that stand by themselves."""

from typing import Any, Final

INNER: Final = {"array": "items", "map": "values"}


class Definitions:
    """The named types of a schema, for parts of it that are taken out of it."""

    def __init__(self, schema: Any) -> None:
        self._named: dict[str, Any] = {}
        self._known: set[str] = set()
        self._collect(schema)

    def complete(self, schema: Any) -> Any:
        """Return a part in which each named type is defined where these parts name it first."""
        if isinstance(schema, list):
            return [self.complete(branch) for branch in schema]
        if isinstance(schema, str):
            is_first = schema in self._named and schema not in self._known
            return self.complete(self._named[schema]) if is_first else schema
        if "name" in schema:
            self._known.add(schema["name"])
        if "fields" in schema:
            fields = [{"name": part["name"], "type": self.complete(part["type"])} for part in schema["fields"]]
            return {**schema, "fields": fields}
        inner = INNER.get(schema["type"])
        return {**schema, inner: self.complete(schema[inner])} if inner else schema

    def _collect(self, schema: Any) -> None:
        if isinstance(schema, list):
            for branch in schema:
                self._collect(branch)
        elif not isinstance(schema, str):
            if "name" in schema:
                self._named[schema["name"]] = schema
            for part in schema.get("fields", ()):
                self._collect(part["type"])
            if inner := INNER.get(schema["type"]):
                self._collect(schema[inner])
