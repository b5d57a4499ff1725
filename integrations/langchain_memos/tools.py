"""Tools by which a model searches, saves, corrects and forgets the memories of the user it talks to."""

from __future__ import annotations

from typing import Any

from memos_core.cube import NOT_MEMORIES, MemCube
from memos_core.errors import AccessDenied, InvalidArgument, NotFound, missing_extra
from memos_core.memos import MemOS, given
from memos_core.settle import rewritten

try:
    from langchain_core.tools import BaseTool, ToolException
except ImportError:
    raise missing_extra("langchain-core", "langchain") from None

from pydantic import BaseModel, ConfigDict, Field

from langchain_memos.scopes import ids_of_run, outside

_SHOWN = 8  # characters at the end of an id, by which a model names a memory


class _Query(BaseModel):
    query: str = Field(description="What to look for, in words.")
    limit: int = Field(5, ge=1, le=20, description="How many memories at most.")


class _Text(BaseModel):
    text: str = Field(description="What to remember, as one self-contained sentence.")


class _Correction(BaseModel):
    memory_id: str = Field(
        description="The id in brackets in front of the memory, as search_memory shows it."
    )
    text: str = Field(description="What the memory is to say from now on.")


class _Which(BaseModel):
    memory_id: str = Field(
        description="The id in brackets in front of the memory, as search_memory shows it."
    )


class MemoryTool(BaseTool):
    """What the tools of `memory_tools` have in common (interface: `langchain_core.tools.BaseTool`).

    Whose memory: `user_id` of the runtime's context, else of the config's `configurable`, within the scope of `memos`;
    what is saved belongs to the session `thread_id`. A call whose arguments name another user, tenant, agent or
    session, or a memory that is not this user's, is refused and noted in the user's audit log. The model is told so;
    the run goes on.

    Args:
        memos: an open `MemOS`, or a narrower view of one.

    Raises:
        AccessDenied (in a run): the context or config names another user than `memos`. VaultError.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    memos: MemOS = Field(exclude=True, repr=False)
    handle_tool_error: bool = True
    handle_validation_error: bool = True

    def _parse_input(self, tool_input: str | dict[str, Any], tool_call_id: str | None) -> Any:
        """See `BaseTool._parse_input`, which would drop arguments that the schema does not have."""
        if isinstance(tool_input, dict):
            view = self._view()
            name = outside(tool_input, view.scope)
            if name is not None:
                raise self._refused(view, f"{name} names memory outside {view.scope}")
        return super()._parse_input(tool_input, tool_call_id)

    def _view(self) -> MemOS:
        """The memory of the run's session."""
        ids = ids_of_run()
        view = self.memos.scoped(user=ids.get("user_id"), session=ids.get("thread_id"), adapter="langchain")
        return view.in_session()

    def _whole_view(self) -> MemOS:
        """The memory of the user whose run this is, of all sessions; of nobody's run, that of its session."""
        ids = ids_of_run()
        view = self.memos.scoped(user=ids.get("user_id"), adapter="langchain")
        return view if view.scope.user is not None else self._view()

    def _refused(self, view: MemOS, why: str, cube_id: str = "") -> ToolException:
        view.note_refusal(f"{self.name}: {why}", cube_id)
        return ToolException(f"Refused: {why}.")

    def _found(self, view: MemOS, memory_id: str) -> MemCube:
        """The memory that a model names by the end of its id.

        Raises:
            ToolException: it names none of this user's, or more than one.
        """
        wanted = memory_id.strip().strip("[]")
        ids = view.ids_ending(wanted) if len(wanted) >= _SHOWN else []
        if len(ids) > 1:
            raise ToolException(f"{wanted!r} is the end of several ids; pass more of it.")
        try:
            cube = view.read(ids[0] if ids else wanted or "-")
        except (NotFound, InvalidArgument):
            raise self._refused(view, f"there is no memory {wanted[:40]!r} of this user") from None
        if cube.semantic_type in NOT_MEMORIES or cube.payload.kind != "plaintext":
            raise self._refused(view, "this is no memory that a tool may change", cube.id)
        return cube


def _line(cube: MemCube) -> str:
    return f"[{cube.id[-_SHOWN:]}] {' '.join(cube.text.split())}"


class SearchMemory(MemoryTool):
    """Finds memories by meaning and by words."""

    name: str = "search_memory"
    description: str = (
        "Search what is remembered about the user. Returns a memory a line, its id in brackets."
    )
    args_schema: type[BaseModel] = _Query

    def _run(self, query: str, limit: int = 5) -> str:
        hits = self._view().recall(query, k=limit)
        return "\n".join(_line(hit.cube) for hit in hits) or "Nothing is remembered about that."


class SaveMemory(MemoryTool):
    """Stores a memory."""

    name: str = "save_memory"
    description: str = "Remember something about the user for later conversations."
    args_schema: type[BaseModel] = _Text

    def _run(self, text: str) -> str:
        try:
            return f"Saved {_line(self._view().write(text, origin='tool'))}"
        except InvalidArgument as err:
            raise ToolException(str(err)) from None


class UpdateMemory(MemoryTool):
    """Makes the next version of a memory."""

    name: str = "update_memory"
    description: str = "Correct a memory that is no longer right. Search first, to know its id."
    args_schema: type[BaseModel] = _Correction

    def _run(self, memory_id: str, text: str) -> str:
        view = self._whole_view()
        cube = self._found(view, memory_id)
        try:
            return f"Updated {_line(view.update(cube.id, text, **rewritten(cube, text)))}"
        except InvalidArgument as err:
            raise ToolException(str(err)) from None
        except AccessDenied as err:  # it is another user's, who lets this one read it
            raise self._refused(view, str(err), cube.id) from None


class ForgetMemory(MemoryTool):
    """Deletes a memory for good."""

    name: str = "forget_memory"
    description: str = "Forget a memory for good. Search first, to know its id."
    args_schema: type[BaseModel] = _Which

    def _run(self, memory_id: str) -> str:
        view = self._whole_view()
        cube = self._found(view, memory_id)
        if not view.delete(cube.id):
            raise self._refused(view, "this memory is another user's, who only lets it be read", cube.id)
        return f"Forgotten {_line(cube)}"


def memory_tools(memos: MemOS, *, agent: str | None = None) -> list[BaseTool]:
    """Tools to search, save, update and forget memories, for any agent that calls tools.

        create_agent(model, [*memory_tools(memos), *mine]).invoke(question, {"configurable": {"user_id": "maya"}})

    Args:
        memos: an open `MemOS`, or a narrower view of one. agent: part of the scope.

    Raises:
        InvalidArgument: `memos` is no MemOS. AccessDenied: it belongs to another agent.
    """
    view = given(memos).scoped(agent=agent, adapter="langchain")
    return [tool(memos=view) for tool in (SearchMemory, SaveMemory, UpdateMemory, ForgetMemory)]
