"""The durable truth: cubes, versions, audit and what is derived from them, in one database."""

from memos_core.vault.audit import Actor, AuditRecord, LogQuery
from memos_core.vault.connect import locate
from memos_core.vault.database import Location
from memos_core.vault.filter import CubeFilter, Right
from memos_core.vault.plans import Plan
from memos_core.vault.rows import CubeDamaged
from memos_core.vault.tables import SCHEMA_VERSION
from memos_core.vault.vault import Order, Vault
from memos_core.vault.writer import Writer

__all__ = [
    "SCHEMA_VERSION",
    "Actor",
    "AuditRecord",
    "CubeDamaged",
    "CubeFilter",
    "LogQuery",
    "Location",
    "Order",
    "Plan",
    "Right",
    "Vault",
    "Writer",
    "locate",
]
