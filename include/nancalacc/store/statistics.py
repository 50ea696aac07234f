"""How large the tables are."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, func, select

from nancalacc.store.tables import metadata


@dataclass(frozen=True, slots=True)
class TableSize:
    """Rows of a table, and its bytes on disk with indexes and everything."""

    name: str
    rows: int
    size: int


def table_sizes(connection: Connection) -> tuple[TableSize, ...]:
    """Every table of ours, the largest first; the rows are counted, not estimated."""
    sizes = []
    for table in metadata.sorted_tables:
        rows, size = connection.execute(
            select(
                select(func.count()).select_from(table).scalar_subquery(),
                func.pg_total_relation_size(table.name),
            )
        ).one()
        sizes.append(TableSize(table.name, rows=rows, size=size))
    return tuple(sorted(sizes, key=lambda each: (-each.size, each.name)))
