"""Settings whose value is a name of a registry, or a reference to a user's own function."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from arnas.runtime.references import FORM, is_reference

REFERENCE_PATTERN = r"^[A-Za-z_][\w.]*:[A-Za-z_][\w.]*$"


@dataclass(frozen=True)
class Registered:
    """Annotation of a setting: ``Annotated[str, Registered(LOSSES)]``."""

    names: Iterable[str]

    def check(self, name: str) -> str:
        """Return a name that is allowed; pydantic reports any other."""
        if name not in self.names and not is_reference(name):
            allowed = ", ".join(self.names)
            raise PydanticCustomError(
                "registered",
                "allowed are {allowed}, or a function of your own as {form}",
                {"allowed": allowed, "form": FORM},
            )
        return name

    def json_schema(self) -> dict[str, Any]:
        """Return the JSON schema of such a name."""
        reference = {"type": "string", "pattern": REFERENCE_PATTERN}
        return {"anyOf": [{"enum": list(self.names), "type": "string"}, reference]}

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        """Check the name after it was read as text."""
        return core_schema.no_info_after_validator_function(self.check, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """Return `json_schema`."""
        return self.json_schema()
