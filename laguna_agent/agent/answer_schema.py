"""The final answer as JSON that fits a schema (`run --output-schema`)."""

from __future__ import annotations

import json
import re
from typing import Any

from laguna_agent.errors import UsageError


class AnswerSchema:
    """A JSON Schema (any draft that it names; 2020-12 where it names none) that the last answer must satisfy."""

    def __init__(self, schema: dict[str, Any]) -> None:
        """Raises UsageError where the schema itself is wrong."""
        from jsonschema import SchemaError
        from jsonschema.validators import validator_for

        validator = validator_for(schema)
        try:
            validator.check_schema(schema)
        except SchemaError as error:
            raise UsageError(f"the output schema is not a JSON Schema: {error.message}") from error
        self.schema = schema
        self._validator = validator(schema)

    def objection(self, answer: str) -> str | None:
        """What is wrong with an answer, as a message to the model; None where it fits."""
        try:
            value = json.loads(bare_json(answer))
        except ValueError as error:
            return f"Give your final answer as JSON and nothing else ({error}). Schema: {json.dumps(self.schema)}"
        wrong = next(iter(self._validator.iter_errors(value)), None)
        if wrong is None:
            return None
        return (
            f"Your answer does not fit the schema at {wrong.json_path}: {wrong.message}. Give the corrected JSON only."
        )


def bare_json(answer: str) -> str:
    """The answer without the code fence that models like to put around JSON."""
    fenced = re.fullmatch(r"\s*```(?:json)?\s*\n(.*?)\n\s*```\s*", answer, re.DOTALL)
    return fenced[1] if fenced else answer
