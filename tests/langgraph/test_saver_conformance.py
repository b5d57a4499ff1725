"""LangGraph's own conformance suite, driven through the async methods and through the sync ones."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from langgraph.checkpoint.conformance import checkpointer_test, validate

from langgraph.checkpoint.memos import AsyncMemOSSaver, MemOSSaver


class SyncDriven(MemOSSaver):
    """Its async methods are the sync ones, called in place, so that the suite tests those."""

    async def aget_tuple(self, *args: Any) -> Any:
        return self.get_tuple(*args)

    async def alist(self, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        for found in self.list(*args, **kwargs):
            yield found

    async def aput(self, *args: Any) -> Any:
        return self.put(*args)

    async def aput_writes(self, *args: Any, **kwargs: Any) -> None:
        self.put_writes(*args, **kwargs)

    async def adelete_thread(self, *args: Any) -> None:
        self.delete_thread(*args)

    async def adelete_for_runs(self, *args: Any) -> None:
        self.delete_for_runs(*args)

    async def acopy_thread(self, *args: Any) -> None:
        self.copy_thread(*args)

    async def aprune(self, *args: Any, **kwargs: Any) -> None:
        self.prune(*args, **kwargs)


@pytest.fixture(params=["file", ":memory:", "postgres"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "postgres":
        return str(request.getfixturevalue("postgres_url"))
    return str(tmp_path / "vault") if request.param == "file" else ":memory:"


@pytest.mark.parametrize("encryption", [False, b"0123456789abcdef"], ids=["plain", "encrypted"])
@pytest.mark.parametrize("kind", ["async", "sync"])
async def test_every_capability_conforms(kind: str, where: str, encryption: bytes | bool) -> None:
    async def factory() -> AsyncIterator[Any]:
        if kind == "async":
            async with AsyncMemOSSaver.from_conn_string(where, encryption=encryption) as saver:
                yield saver
        else:
            with SyncDriven.from_conn_string(where, encryption=encryption) as saver:
                yield saver

    report = await validate(checkpointer_test(name=f"MemOSSaver {kind} {where}")(factory))
    assert {name: result.failures for name, result in report.results.items() if result.failures} == {}
    assert all(result.detected and result.passed for result in report.results.values())
    assert report.conformance_level() == "FULL"
