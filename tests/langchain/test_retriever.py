"""MemOSRetriever: LangChain's own suite, and what it does not ask."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain_tests.integration_tests import RetrieversIntegrationTests
from support import bag_of_words

from langchain_memos import MemOSRetriever
from memos_core import MemOS
from memos_core.errors import InvalidArgument


class TestSuite(RetrieversIntegrationTests):
    """What langchain-tests asks of every retriever."""

    @pytest.fixture(autouse=True)
    def _vault(self, tmp_path: Path) -> Iterator[None]:
        with MemOS.open(tmp_path / "v", user="maya", embedder=bag_of_words, index="exact") as memos:
            memos.put([memos.cube(f"boat number {n}") for n in range(6)])
            self.memos = memos
            yield

    @property
    def retriever_constructor(self) -> type[MemOSRetriever]:
        return MemOSRetriever

    @property
    def retriever_constructor_params(self) -> dict[str, Any]:
        return {"memos": self.memos}

    @property
    def retriever_query_example(self) -> str:
        return "boat"


def test_a_document_says_what_it_is(memos: MemOS) -> None:
    cube = memos.scoped(user="maya", session="monday").write("the boat is in Oslo")
    [found] = MemOSRetriever(memos=memos.scoped(user="maya", session="tuesday"), k=1).invoke("the boat")
    assert (found.id, found.page_content) == (cube.id, "the boat is in Oslo")
    assert found.metadata["type"] == cube.semantic_type
    assert found.metadata["score"] > 0


def test_nobody_elses_memory_is_found(memos: MemOS) -> None:
    memos.scoped(user="maya").write("the boat is in Oslo")
    assert MemOSRetriever(memos=memos.scoped(user="bob")).invoke("the boat") == []


def test_what_cannot_be_is_refused(memos: MemOS) -> None:
    for fields in ({}, {"memos": "a path"}):
        with pytest.raises(InvalidArgument, match="memos must be"):
            MemOSRetriever(**fields)
    for k in (0, "3"):
        with pytest.raises(InvalidArgument, match="k must be"):
            MemOSRetriever(memos=memos, k=k)
    with pytest.raises(InvalidArgument, match="k must be"):
        MemOSRetriever(memos=memos).invoke("boat", k=0)
