"""Which checkpoints of a thread must stay so that its latest ones can be rebuilt. Pure rules, no I/O."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from memos_core.vault.checkpoints import Bone, Lane


def needed(bones: Sequence[Bone], delta_channels: Callable[[Bone], set[str]]) -> set[tuple[Lane, str]]:
    """The latest checkpoint of each namespace, and for each delta channel without a value in it its ancestors
    up to the nearest one that has a value: the channel is rebuilt from that and the writes in between.

    Args:
        bones: all checkpoints of a thread, highest id first.
        delta_channels: the delta channels that have been written up to a checkpoint.

    Returns:
        Each as its lane and its id.
    """
    by_id = {(bone.lane, bone.id): bone for bone in bones}
    heads: dict[Lane, Bone] = {}
    for bone in bones:
        heads.setdefault(bone.lane, bone)
    keep: set[tuple[Lane, str]] = set()
    for lane, head in heads.items():
        at: Bone | None = head
        without_value = delta_channels(head)
        while at is not None and (lane, at.id) not in keep:
            keep.add((lane, at.id))
            without_value -= at.channels
            at = by_id.get((lane, at.parent_id)) if without_value and at.parent_id else None
    return keep
