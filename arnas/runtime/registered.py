"""Settings whose value is a name of a registry, or a reference to a user's own function."""

from __future__ import annotations

import re
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
    form: str = ""
    """What messages say of the names that `pattern` allows."""
    pattern: str = ""
    """Regular expression of further names."""

    def check(self, name: str) -> str:
        """Return a name that is allowed; pydantic reports any other."""
        further = bool(self.pattern) and re.fullmatch(self.pattern, name) is not None
        if name not in self.names and not further and not is_reference(name):
            allowed = ", ".join([*self.names, *filter(None, [self.form])])
            raise PydanticCustomError(
                "registered",
                "allowed are {allowed}, or a function of your own as {form}",
                {"allowed": allowed, "form": FORM},
            )
        return name

    def json_schema(self) -> dict[str, Any]:
        """Return the JSON schema of such a name."""
        patterns = [*filter(None, [self.pattern]), REFERENCE_PATTERN]
        forms = [{"type": "string", "pattern": pattern} for pattern in patterns]
        return {"anyOf": [{"enum": list(self.names), "type": "string"}, *forms]}

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
