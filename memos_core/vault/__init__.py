"""The durable truth: cubes, versions, audit and what is derived from them, in one database."""

from memos_core.vault.audit import Actor, AuditRecord
from memos_core.vault.connect import Location, locate
from memos_core.vault.plans import Plan
from memos_core.vault.rows import CubeFilter
from memos_core.vault.tables import SCHEMA_VERSION
from memos_core.vault.vault import Order, Vault

__all__ = [
    "SCHEMA_VERSION",
    "Actor",
    "AuditRecord",
    "CubeFilter",
    "Location",
    "Order",
    "Plan",
    "Vault",
    "locate",
]
