"""The condition that a column's value is among the rows of a query, as each database looks it up."""

from __future__ import annotations

from typing import Any, Self

from sqlalchemy import Boolean, ColumnElement, Select
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.visitors import InternalTraversal


class Among(ColumnElement[bool]):
    """A column's value is among the rows of a query: `IN` on SQLite. PostgreSQL would go through the whole table for
    an `IN` beside an `OR`; of an array, made once, each value is looked up in the index."""

    type = Boolean()
    inherit_cache = True
    _traverse_internals = [  # noqa: RUF012 - as SQLAlchemy declares it
        ("column", InternalTraversal.dp_clauseelement),
        ("query", InternalTraversal.dp_clauseelement),
    ]

    def __init__(self, column: ColumnElement[Any], query: Select[Any]) -> None:
        self.column, self.query = column, query

    def self_group(self, against: Any = None) -> Self:
        """A condition as it is: not to be compared with 1 where there are no booleans."""
        return self


@compiles(Among)
def _in(element: Among, compiler: SQLCompiler, **how: Any) -> str:
    return compiler.process(element.column.in_(element.query), **how)


@compiles(Among, "postgresql")
def _any(element: Among, compiler: SQLCompiler, **how: Any) -> str:
    query = compiler.process(element.query.scalar_subquery(), **how)
    return f"{compiler.process(element.column, **how)} = ANY (ARRAY{query})"
