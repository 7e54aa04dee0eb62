"""Immutable values with named fields, without the import cost of dataclasses.

A frozen dataclass does the same, but Python generates and compiles its methods at every start: about half a
millisecond per class, which for all classes of this package is several percent of the time to the first
character.
"""

from __future__ import annotations

from typing import Any, ClassVar, dataclass_transform

from charrnn_runtime.errors import CharRNNError, one_line


class Reconstructible:
    """Base of classes that copies and pickles rebuild from arguments: validated again, without caches."""

    __slots__ = ()

    def _made_of(self) -> dict[str, Any]:
        """The constructor arguments by name."""
        raise NotImplementedError

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (type(self), self._made_of())


@dataclass_transform(frozen_default=True)
class Record(Reconstructible):
    """The base class of immutable values. Annotations in a subclass are its fields, in order, with defaults.

    Two records are equal if their class and all fields are.

    Examples:
        >>> class Point(Record):
        ...     x: int
        ...     y: int = 0
        >>> Point(1), Point(1) == Point(1, y=0), Point(1) == Point(1, 2)
        (Point(x=1, y=0), True, False)
    """

    _fields: ClassVar[tuple[str, ...]] = ()
    _needed: ClassVar[frozenset[str]] = frozenset()

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls._fields += tuple(cls.__annotations__)
        cls._needed = frozenset(name for name in cls._fields if not hasattr(cls, name))

    def __init__(self, *values: Any, **named: Any) -> None:
        """Create a record from positional and named fields.

        Raises:
            TypeError: a field is missing, given twice, or not one of the class.
        """
        held = self.__dict__
        held.update(zip(self._fields, values, strict=False))
        held.update(named)
        twice = len(held) < len(values) + len(named)
        if twice or not (self._needed <= held.keys() <= set(self._fields)):
            raise TypeError(
                f"{type(self).__qualname__} takes each of {', '.join(self._fields)} once, not "
                f"{len(values)} in order and {', '.join(named) or 'none'} by name"
            )
        self.__post_init__()

    def __post_init__(self) -> None:
        """Validate the fields; subclasses may override this."""

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"{type(self).__qualname__} is immutable: {name} cannot be set")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{type(self).__qualname__} is immutable: {name} cannot be deleted")

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={getattr(self, name)!r}" for name in self._fields)
        return f"{type(self).__qualname__}({shown})"

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return self._values() == other._values()

    def __hash__(self) -> int:
        return hash(self._values())

    def _made_of(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self._fields}

    def _values(self) -> tuple[Any, ...]:
        return tuple(getattr(self, name) for name in self._fields)


def _restored(cls: Any, fields: Any) -> Any:
    """Restore an object from a pickle, which is not trusted.

    Raises:
        CharRNNError: the pickle is invalid.
    """
    try:
        if issubclass(cls, Reconstructible):
            return cls(**fields)
        wrong = "it is not one of charrnn's"
    except CharRNNError:
        raise
    except Exception as error:
        wrong = one_line(str(error), most=200)
    raise CharRNNError(f"the pickled {getattr(cls, '__name__', 'object')} is truncated or damaged: {wrong}")
