"""A griffe extension for the API reference, which reads docstrings without importing the packages."""

from __future__ import annotations

from typing import Any

import griffe


class Docstrings(griffe.Extension):
    """Add what the reference should show but griffe does not find by itself."""

    def on_class_members(self, *, cls: griffe.Class, **_: Any) -> None:
        """Add the arguments of records, and the descriptions of typed dictionaries' keys."""
        if "Record" in map(str, cls.bases) and "__init__" not in cls.members:
            cls.set_member("__init__", _init_of(cls))
        if "total" in cls.keywords:  # a typed dictionary
            described = _described_attributes(cls)
            for name, attribute in cls.attributes.items():
                if name in described:
                    attribute.docstring = griffe.Docstring(described[name], parent=attribute)


def _init_of(cls: griffe.Class) -> griffe.Function:
    """The ``__init__`` of a record: its fields, in order."""
    fields = [
        griffe.Parameter(
            attribute.name,
            annotation=attribute.annotation,
            kind=griffe.ParameterKind.positional_or_keyword,
            default=attribute.value,
        )
        for attribute in cls.members.values()  # those of its own: records do not inherit fields
        if isinstance(attribute, griffe.Attribute) and attribute.annotation is not None
    ]
    itself = griffe.Parameter("self", kind=griffe.ParameterKind.positional_or_keyword)
    return griffe.Function("__init__", parameters=griffe.Parameters(itself, *fields), returns="None")


def _described_attributes(cls: griffe.Class) -> dict[str, str]:
    """The description of each attribute in a class's section "Attributes"."""
    if cls.docstring is None:
        return {}
    sections = griffe.parse_google(cls.docstring, warnings=False)
    return {
        item.name: item.description
        for section in sections
        if isinstance(section, griffe.DocstringSectionAttributes)
        for item in section.value
    }
