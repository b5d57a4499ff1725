"""How often cubes are read, as the vault keeps it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta

from sqlalchemy import bindparam, select, update

from memos_core.vault import tables as t
from memos_core.vault.database import Database
from memos_core.vault.rows import micros
from memos_core.vault.writer import chunks

_COUNTED = ("reads", "last_read", "frequency")


class BehaviourTable:
    """Counts of reads, in one vault."""

    def __init__(self, db: Database) -> None:
        b, given = t.behaviour.c, db.each("ids")
        self._db = db
        self._alive = select(t.cubes.c.id).join(given, given.c.value == t.cubes.c.id)
        self._add = db.insert(t.behaviour).on_conflict_do_nothing()
        self._stored = (
            select(t.behaviour)
            .join(given, given.c.value == b.cube_id)
            .order_by(b.cube_id)
            .with_for_update(of=t.behaviour)
        )
        self._change = (
            update(t.behaviour)
            .where(b.cube_id == bindparam("of"))
            .values({name: bindparam(f"new_{name}") for name in _COUNTED})
        )

    def add_reads(self, reads: Mapping[str, int], at: datetime, half_life: timedelta) -> None:
        """Count reads of cubes, by id. `frequency` halves every `half_life` before the new reads are added."""
        stamp, half = micros(at), half_life / timedelta(microseconds=1)
        run = self._db.prepared
        with self._db.write(derived=True) as conn:
            for chunk in chunks(sorted(reads)):  # in one order, so that no two processes wait for each other
                given = {"ids": self._db.listed(chunk)}
                alive = sorted(row.id for row in run.execute(conn, self._alive, given))
                fresh = {"reads": 0, "last_read": stamp, "frequency": 0.0}
                run.execute_many(conn, self._add, [{"cube_id": id_, **fresh} for id_ in alive])
                changes = []
                for old in run.execute(conn, self._stored, given):
                    n = reads[old.cube_id]
                    faded = old.frequency * 0.5 ** (max(0, stamp - old.last_read) / half)
                    changes.append(
                        {
                            "of": old.cube_id,
                            "new_reads": old.reads + n,
                            "new_last_read": stamp,
                            "new_frequency": faded + n,
                        }
                    )
                run.execute_many(conn, self._change, changes)
