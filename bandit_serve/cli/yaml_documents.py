"""Documents in YAML."""

from __future__ import annotations

from typing import Any

import yaml

from bandit_serve.cli.described import once


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """Loader that refuses a key given twice in a mapping."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> Any:
        keys = (key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        once(keys, f", in what begins in line {node.start_mark.line + 1}")
        return super().construct_mapping(node, deep)


def read_yaml(text: str) -> list[Any]:
    """Parses all documents of a text. Raises ValueError, and RecursionError."""
    try:
        # Between two `---` there may be nothing.
        documents = [document for document in yaml.load_all(text, _Loader) if document is not None]
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error
    return documents or [None]
