"""Small LangChain programs, each run with LangChain's own memory and then with only the import and the constructor
changed. What they show to their user must be the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pytest
from langchain.agents import create_agent
from langchain_classic.agents import AgentExecutor
from langchain_classic.chains import ConversationChain, LLMChain
from langchain_classic.memory import (
    CombinedMemory,
    ConversationBufferMemory,
    ConversationBufferWindowMemory,
    VectorStoreRetrieverMemory,
)
from langchain_core.agents import AgentAction, AgentFinish
from langchain_core.caches import InMemoryCache
from langchain_core.chat_history import InMemoryChatMessageHistory
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder, PromptTemplate
from langchain_core.runnables import RunnableLambda, RunnablePassthrough
from langchain_core.runnables.history import RunnableWithMessageHistory
from langchain_core.tools import create_retriever_tool, tool
from langchain_core.vectorstores import InMemoryVectorStore
from pydantic import Field
from support import bag_of_words

from langchain_memos import (
    MemOSCache,
    MemOSChatMessageHistory,
    MemOSEmbeddings,
    MemOSMemory,
    MemOSVectorStore,
)
from memos_core import MemOS

pytestmark = [
    pytest.mark.filterwarnings("ignore::langchain_core._api.LangChainDeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Importing:DeprecationWarning"),
]


class Words(Embeddings):
    """The vectors of a bag of words."""

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return bag_of_words(texts)

    def embed_query(self, text: str) -> list[float]:
        return bag_of_words([text])[0]


class Model(BaseChatModel):
    """Says what it was told: the whole prompt comes back, so that what memory put there is seen."""

    asked: list[str] = Field(default_factory=list)

    @property
    def _llm_type(self) -> str:
        return "told"

    def bind_tools(self, tools: Sequence[Any], **kwargs: Any) -> Any:
        return self

    def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
        self.asked.append(str(messages[-1].text))
        told = " | ".join(f"{m.type}: {m.text}" for m in messages)
        answer = f"{len(self.asked)}" if len(told) > 600 else f"<{len(messages)} {len(told)}>"
        return ChatResult(generations=[ChatGeneration(message=AIMessage(answer, id=f"r{len(self.asked)}"))])


# -- the programs --------------------------------------------------------------------------------------------


def conversation(memory: Any) -> Any:
    chain = ConversationChain(llm=Model(), memory=memory)
    answers = [chain.predict(input=text) for text in ("Hello", "How are you?", "And now?")]
    return answers, memory.load_memory_variables({}), memory.buffer


async def async_conversation(memory: Any) -> Any:
    chain = ConversationChain(llm=Model(), memory=memory)
    answers = [(await chain.ainvoke({"input": text}))["response"] for text in ("Hello", "And now?")]
    await memory.aclear()
    return answers, await memory.aload_memory_variables({})


def messages_in_a_chat_prompt(memory: Any) -> Any:
    prompt = ChatPromptTemplate(
        [("system", "Speak {language}."), MessagesPlaceholder("chat_history"), ("human", "{question}")]
    )
    model = Model()
    chain = LLMChain(llm=model, prompt=prompt, memory=memory)
    texts = [chain.invoke({"question": q, "language": "Latin"})["text"] for q in ("Hello", "And now?")]
    return texts, memory.buffer_as_str, [m.type for m in memory.buffer_as_messages]


def a_window(memory: Any) -> Any:
    chain = ConversationChain(llm=Model(), memory=memory)
    for n in range(5):
        chain.predict(input=f"Question {n}")
    return memory.load_memory_variables({})


def an_agent_with_its_steps(memory: Any) -> Any:
    @tool
    def look(what: str) -> str:
        """Look."""
        return f"saw {what}"

    def plan(inputs: dict[str, Any]) -> AgentAction | AgentFinish:
        if inputs["intermediate_steps"]:
            return AgentFinish({"output": f"After {inputs['chat_history']!r}: a cat."}, "")
        return AgentAction("look", "cat", "")

    agent = AgentExecutor(
        agent=RunnableLambda(plan), tools=[look], memory=memory, return_intermediate_steps=True
    )
    results = [agent.invoke({"input": question}) for question in ("What?", "And now?")]
    return [(r["output"], r["chat_history"], [s[1] for s in r["intermediate_steps"]]) for r in results]


def facts_found_by_meaning(memory: Any) -> Any:
    memory.save_context({"input": "My boat is called Petrel."}, {"output": "Fine."})
    memory.save_context({"input": "I play the cello."}, {"output": "Good."})
    shown = memory.load_memory_variables({"prompt": "What is my boat called?"})["history"]
    return "My boat is called Petrel." in shown, "cello" in shown


def two_memories_in_one_prompt(memory: Any) -> Any:
    both = CombinedMemory(memories=[ConversationBufferMemory(memory_key="talk", input_key="input"), memory])
    prompt = PromptTemplate.from_template("{history}\n{talk}\n{input}")
    chain = ConversationChain(llm=Model(), memory=both, prompt=prompt)
    return [chain.predict(input=text) for text in ("Hello", "And now?")]


def history_by_session(history: Any) -> Any:
    prompt = ChatPromptTemplate([("system", "Be brief."), MessagesPlaceholder("past"), ("human", "{input}")])
    made: dict[str, Any] = {}

    def of(session_id: str) -> Any:
        return made.setdefault(session_id, history(session_id))

    chain = RunnableWithMessageHistory(
        prompt | Model(), of, input_messages_key="input", history_messages_key="past"
    )
    one, two = ({"configurable": {"session_id": name}} for name in ("one", "two"))
    answers = [chain.invoke({"input": text}, one).text for text in ("Hello", "And now?")]  # type: ignore[arg-type]
    answers.append(chain.invoke({"input": "Hi"}, two).text)  # type: ignore[arg-type]
    return answers, [m.content for m in of("one").messages], [m.content for m in of("two").messages]


def history_by_hand(history: Any) -> Any:
    kept = history("by hand")
    kept.add_user_message("Hello")
    kept.add_ai_message("Hi")
    kept.add_messages([HumanMessage("How?", id="1"), AIMessage("Well.", id="2")])
    before = (kept.messages, str(kept))
    kept.clear()
    return before, kept.messages


DOCUMENTS = [
    Document(id="a", page_content="the boat is in Oslo", metadata={"source": "log"}),
    Document(id="b", page_content="the car is in Bergen", metadata={"source": "log"}),
    Document(id="c", page_content="cats sleep all day", metadata={"source": "book"}),
]


def documents(store: Any) -> Any:
    ids = store.add_documents(DOCUMENTS)
    found = store.similarity_search("where is the boat", k=1)
    chosen = store.similarity_search("where is the boat", filter=lambda d: d.metadata["source"] == "book")
    store.delete(["a"])
    return ids, found, chosen, store.get_by_ids(["a", "b"])


def questions_over_documents(store: Any) -> Any:
    store.add_documents(DOCUMENTS)
    prompt = ChatPromptTemplate.from_template("{context}\n\n{question}")
    chain = (
        {"context": store.as_retriever(search_kwargs={"k": 1}), "question": RunnablePassthrough()}
        | prompt
        | RunnableLambda(lambda value: value.to_string().splitlines()[0].partition("page_content=")[2][:21])
        | StrOutputParser()
    )
    return chain.batch(["where is the boat", "do cats sleep"])


async def a_retriever_as_a_tool(store: Any) -> Any:
    await store.aadd_documents(DOCUMENTS)
    find = create_retriever_tool(store.as_retriever(search_kwargs={"k": 1}), "find", "Finds.")
    agent = create_agent(Model(), [find])
    state = await agent.ainvoke({"messages": [HumanMessage("Hello")]})
    return await find.ainvoke({"query": "where is the boat"}), state["messages"][-1].text


def replies_given_again(cache: Any) -> Any:
    model = Model(cache=cache)
    texts = [model.invoke(text).text for text in ("Hello", "Hello", "Bye")]
    asked = list(model.asked)
    cache.clear()
    model.invoke("Hello")
    return texts, asked, model.asked


def distances(embeddings: Any) -> Any:
    near, far = embeddings.embed_documents(["a red boat", "green tea"])
    asked = embeddings.embed_query("red boat")

    def dot(one: list[float], two: list[float]) -> float:
        return sum(x * y for x, y in zip(one, two, strict=True))

    return dot(asked, near) > dot(asked, far), len(near)


# -- what is swapped -----------------------------------------------------------------------------------------


class Swap(NamedTuple):
    """A program, and what it is given before and after."""

    program: Callable[[Any], Any]
    before: Callable[[], Any]
    after: Callable[[MemOS], Any]


_CHAT: dict[str, Any] = {"memory_key": "chat_history", "input_key": "question", "return_messages": True}
_AGENT: dict[str, Any] = {"memory_key": "chat_history", "output_key": "output"}

SWAPS = [
    Swap(conversation, ConversationBufferMemory, lambda memos: MemOSMemory(memos=memos)),
    Swap(async_conversation, ConversationBufferMemory, lambda memos: MemOSMemory(memos=memos)),
    Swap(
        messages_in_a_chat_prompt,
        lambda: ConversationBufferMemory(**_CHAT),
        lambda memos: MemOSMemory(memos=memos, **_CHAT),
    ),
    Swap(
        a_window,
        lambda: ConversationBufferWindowMemory(k=2),  # turns
        lambda memos: MemOSMemory(memos=memos, max_messages=4),
    ),
    Swap(
        an_agent_with_its_steps,
        lambda: ConversationBufferMemory(**_AGENT),
        lambda memos: MemOSMemory(memos=memos, **_AGENT),
    ),
    Swap(
        facts_found_by_meaning,
        lambda: VectorStoreRetrieverMemory(
            retriever=InMemoryVectorStore(Words()).as_retriever(search_kwargs={"k": 1})
        ),
        lambda memos: MemOSMemory(memos=memos, k=1, max_messages=0),
    ),
    Swap(
        two_memories_in_one_prompt,
        lambda: ConversationBufferMemory(input_key="input"),
        lambda memos: MemOSMemory(memos=memos, input_key="input"),
    ),
    Swap(
        history_by_session,
        lambda: lambda session_id: InMemoryChatMessageHistory(),
        lambda memos: lambda session_id: MemOSChatMessageHistory(session_id, memos=memos),
    ),
    Swap(
        history_by_hand,
        lambda: lambda session_id: InMemoryChatMessageHistory(),
        lambda memos: lambda session_id: MemOSChatMessageHistory(session_id, memos=memos),
    ),
    Swap(documents, lambda: InMemoryVectorStore(Words()), MemOSVectorStore),
    Swap(questions_over_documents, lambda: InMemoryVectorStore(Words()), MemOSVectorStore),
    Swap(a_retriever_as_a_tool, lambda: InMemoryVectorStore(Words()), MemOSVectorStore),
    Swap(replies_given_again, InMemoryCache, MemOSCache),
    Swap(distances, Words, MemOSEmbeddings),
]


@pytest.mark.parametrize("swap", SWAPS, ids=lambda swap: swap.program.__name__)
async def test_a_program_does_the_same_after_the_swap(memos: MemOS, swap: Swap) -> None:
    results = []
    for given in (swap.before(), swap.after(memos.scoped(user="maya"))):
        result = swap.program(given)
        results.append(await result if hasattr(result, "__await__") else result)
    before, after = results
    assert after == before


def test_what_the_swap_is_for(memos: MemOS) -> None:
    """Another conversation of the same user knows what was said, which no memory of LangChain's does."""
    first, second, other = (MemOSMemory(memos=memos, user=user) for user in ("maya", "maya", "bob"))
    ConversationChain(llm=Model(), memory=first).predict(input="My boat is called Petrel.")
    question = {"input": "What is my boat called?"}
    assert "Petrel" in str(second.load_memory_variables(question))
    assert "Petrel" not in str(other.load_memory_variables(question))
