"""How long work takes for a token, learned from what it took."""

from __future__ import annotations

_WEIGHT = 0.3  # of the latest against all before
_HOPE = 0.9  # what is taken to have changed with every time it was not tried


class Pace:
    """Seconds for a token of one kind of work; unknown until it was done once. May be used from many threads: a lost
    update does no harm."""

    def __init__(self) -> None:
        self.token_s: float | None = None

    def took(self, tokens: int, seconds: float) -> None:
        """So many tokens took so long."""
        new = seconds / tokens
        self.token_s = new if self.token_s is None else (1 - _WEIGHT) * self.token_s + _WEIGHT * new

    def pays(self, tokens: int, saves_s: float) -> bool:
        """Whether the work on so many tokens takes less than it saves. What lost is tried again after a while."""
        if self.token_s is None or self.token_s * tokens <= saves_s:
            return True
        self.token_s *= _HOPE
        return False
