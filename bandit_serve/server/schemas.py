"""Schemas of the bodies that routes take and answer with, made from the types that validate them.

msgspec gives the schema of each field, `rules.py` adds rules over several. Readers of OpenAPI support less than all of
JSON Schema, so some schemas are then rewritten in an equivalent and more common form.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterable
from typing import Any

import msgspec

from bandit_serve.base.names import TEXT_END
from bandit_serve.server.problems import Problem
from bandit_serve.server.route import BatchAnswer
from bandit_serve.server.rules import BEYOND, FORMS, NAMES, RULES, STAND_INS, Form

Schema = dict[str, Any]

PLACE = "#/components/schemas/"
RENAMED = {kind.__name__: name for kind, name in NAMES.items()}


class Schemas:
    """Schemas of types. `components` has those of structs, by their names in `/openapi.json`."""

    def __init__(self, kinds: Iterable[Any]) -> None:
        kinds = list(kinds)
        types = dict.fromkeys(
            [Problem, *STAND_INS, *(kind.one if isinstance(kind, BatchAnswer) else kind for kind in kinds)]
        )
        schemas, components = msgspec.json.schema_components(types, ref_template=PLACE + "{name}")
        self.components: dict[str, Schema] = {
            RENAMED.get(name, name): _in_plain_words(each) for name, each in components.items()
        }
        self._by_kind: dict[Any, Schema] = {
            kind: _in_plain_words(each) for kind, each in zip(types, schemas, strict=True)
        }
        for kind, rule in RULES.items():
            if component_name(kind) in self.components:
                component = self.components[component_name(kind)]
                properties = component["properties"] | rule.get("properties", {})
                component.update(rule, properties=properties)
        for kind, words in BEYOND.items():
            if component_name(kind) in self.components:
                component = self.components[component_name(kind)]
                component["description"] = f"{component.get('description', '')}\n\n{words}".strip()
        for kind, forms in FORMS.items():
            if component_name(kind) in self.components:
                self._split(component_name(kind), forms)
        for kind in kinds:
            if isinstance(kind, BatchAnswer):
                self._by_kind[kind] = self._batch(kind.one)

    def of(self, kind: Any) -> Schema:
        """Schema of one of the types given to the constructor."""
        return self._by_kind[kind]

    def _batch(self, one: type) -> Schema:
        name = f"{one.__name__}Batch"
        entry = {"oneOf": [self._by_kind[one], self._by_kind[Problem]]}
        self.components[name] = {
            "title": name,
            "type": "object",
            "description": "In the order of the requests; one that was refused has a problem in its place.",
            "properties": {"responses": {"type": "array", "items": entry}},
            "required": ["responses"],
        }
        return {"$ref": PLACE + name}

    def _split(self, name: str, forms: tuple[Form, ...]) -> None:
        """Replaces a component by a `oneOf` over its forms, each a component of its own."""
        whole = self.components[name]
        for form in forms:
            self.components[form.name] = _form(whole, form)
        self.components[name] = {
            "title": name,
            "description": whole.get("description", ""),
            "oneOf": [{"$ref": PLACE + form.name} for form in forms],
        }
        mapping = {form.kind: PLACE + form.name for form in forms if form.kind is not None}
        if mapping:
            self.components[name]["discriminator"] = {"propertyName": "kind", "mapping": mapping}


def component_name(kind: type) -> str:
    """Name of a type's component."""
    return NAMES.get(kind, kind.__name__)


def _form(whole: Schema, form: Form) -> Schema:
    """Component of a form: `whole` with the form's required fields, and without those that it lacks."""
    properties = {**whole["properties"], **_in_plain_words(dict(form.only))}
    for name in form.needs:
        properties[name] = _not_null(properties[name])
    for name in form.without:
        del properties[name]
    required = [name for name in properties if name in form.needs or name in whole.get("required", ())]
    schema = {
        **whole,
        "title": form.name,
        "description": form.description,
        "properties": properties,
        "required": required,
    }
    return _with_ignored(schema, form.ignored) if form.ignored else schema


def _with_ignored(schema: Schema, ignored: Collection[str]) -> Schema:
    """Allows the `ignored` fields as null, and otherwise no more fields than before.

    It does not list them as properties, as generated clients have no use for them.
    """
    rest = {word: value for word, value in schema.items() if word != "additionalProperties"}
    return {
        **rest,
        "propertyNames": {"type": "string", "enum": [*schema["properties"], *ignored]},
        "dependentSchemas": {name: {"properties": {name: {"enum": [None]}}} for name in ignored},
    }


def _not_null(schema: Schema) -> Schema:
    """Schema of a field without its alternative null."""
    if "anyOf" not in schema:
        return schema
    others = [other for other in schema["anyOf"] if other != {"type": "null"}]
    rest = {key: value for key, value in schema.items() if key != "anyOf"}
    return rest | (others[0] if len(others) == 1 else {"anyOf": others})


def _in_plain_words(node: Any) -> Any:
    """Rewrites a schema without keywords that readers of OpenAPI often do not support.

    These are `items: false`, `enum` without a type, and patterns that only Python reads: `$` in JSON Schema is the end
    of the text, and in Python also the place before a last newline. A default goes into the description, as generators
    of clients make a field with a default a required one.
    """
    if isinstance(node, list):
        return [_in_plain_words(each) for each in node]
    if not isinstance(node, dict):
        return node
    schema = {key: value if key == "default" else _in_plain_words(value) for key, value in node.items()}
    if isinstance(schema.get("$ref"), str):
        name = schema["$ref"].removeprefix(PLACE)
        schema["$ref"] = PLACE + RENAMED.get(name, name)
    if schema.get("items") is False:
        each, *others = schema.pop("prefixItems")
        assert all(other == each for other in others), "a tuple of several types has no schema here"
        schema["items"] = each
    if isinstance(schema.get("description"), str):
        schema["description"] = inspect.cleandoc(schema["description"])
    if isinstance(schema.get("pattern"), str):
        schema["pattern"] = schema["pattern"].replace(TEXT_END, "$")
    if isinstance(schema.get("enum"), list) and all(isinstance(each, str) for each in schema["enum"]):
        schema["type"] = "string"
    if schema.get("format") == "binary":
        schema.pop("contentEncoding", None)
    if schema.get("required") == []:
        del schema["required"]
    if "default" in schema and not isinstance(schema["default"], dict):
        _say_default(schema)
    return schema


def _say_default(schema: Schema) -> None:
    default = schema.pop("default")
    if default is not None and default != []:
        words = f"default: {msgspec.json.encode(default).decode()}"
        schema["description"] = f"{schema['description']} ({words})" if "description" in schema else words
