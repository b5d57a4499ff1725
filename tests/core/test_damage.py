"""A byte that changed behind our back: one clear error of ours that names what is damaged, never a wrong text,
and everything else still there."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from support import bag_of_words, findings, flip

from memos_core import MemOS
from memos_core.errors import MemOSError, NotFound, VaultError

N = 30


def one_sentence(err: MemOSError) -> str:
    message = str(err)
    assert "\n" not in message
    assert "sqlite3." not in message
    return message


def filled(path: Path) -> list[str]:
    """A vault of `N` cubes, cube 5 with an older version; their ids."""
    with MemOS.open(path, user="u", embedder=None) as memos:
        cubes = memos.put(
            [memos.cube({"note": f"data{i:04}"}, text=f"marker{i:04} " + "x" * 300) for i in range(N)]
        )
        memos.update(cubes[5].id, {"note": "anew"}, text="newer0005")
        assert findings(memos) == []
        return [c.id for c in cubes]


def damages(path: Path, content: bytes, mask: int) -> None:
    assert flip(path / "vault.db", content, mask) > 0


# Bit 0 makes another letter, bit 7 what is no UTF-8; a quote that changes ends the JSON that it is in.
@pytest.mark.parametrize("mask", [0x01, 0x80])
@pytest.mark.parametrize("content", [b"marker0003", b'data0003"}'])
def test_a_flipped_bit_in_a_cube_is_noticed(tmp_path: Path, content: bytes, mask: int) -> None:
    ids = filled(tmp_path)
    damages(tmp_path, content, mask)
    with MemOS.open(tmp_path, user="u", embedder=None) as memos:
        with pytest.raises(VaultError, match=ids[3]) as err:
            memos.read(ids[3])
        one_sentence(err.value)
        with pytest.raises(VaultError, match=ids[3]):
            memos.update(ids[3], "from what is damaged nothing is made")
        others = [i for i in ids if i != ids[3]]
        assert [memos.read(i).id for i in others] == others
        assert memos.search("marker0007", k=1)[0].cube.id == ids[7]
        assert memos.write("one more").version == 1
        assert any(ids[3] in finding for finding in findings(memos))


@pytest.mark.parametrize("mask", [0x01, 0x80])
@pytest.mark.parametrize("content", [b"marker0005", b'"text"'])
def test_a_flipped_bit_in_an_old_version_is_noticed(tmp_path: Path, content: bytes, mask: int) -> None:
    ids = filled(tmp_path)
    damages(tmp_path, content, mask)
    with MemOS.open(tmp_path, user="u", embedder=None) as memos:
        with pytest.raises(VaultError, match=ids[5]) as err:
            memos.history(ids[5])
        one_sentence(err.value)
        assert memos.read(ids[5]).text == "newer0005"
        assert len(memos.find()) == N
        assert any(ids[5] in finding for finding in findings(memos))


@pytest.mark.parametrize("change", ["text = 'another text'", "payload = '{}'", "state = 'nonsense'"])
def test_a_row_that_another_program_changed_is_noticed(tmp_path: Path, change: str) -> None:
    ids = filled(tmp_path)
    with sqlite3.connect(tmp_path / "vault.db") as db:
        db.execute(f"UPDATE cubes SET {change} WHERE id = ?", (ids[3],))
    db.close()
    with MemOS.open(tmp_path, user="u", embedder=None) as memos:
        with pytest.raises(VaultError, match=ids[3]) as err:
            memos.read(ids[3])
        one_sentence(err.value)
        assert memos.read(ids[4]).text.startswith("marker0004")
        assert any(ids[3] in finding for finding in findings(memos))


@pytest.mark.parametrize("mask", [0x01, 0x80])
def test_what_is_damaged_can_be_deleted(tmp_path: Path, mask: int) -> None:
    ids = filled(tmp_path)
    damages(tmp_path, b"marker0003", mask)
    with MemOS.open(tmp_path, user="u", embedder=None) as memos:
        assert memos.delete(ids[3]) == [ids[3]]
        with pytest.raises(NotFound):
            memos.read(ids[3])
        assert len(memos.find()) == N - 1
        memos.doctor(repair=True)  # the text index may hold words of the text as it was
        assert findings(memos) == []
        assert [h.cube.id for h in memos.search("marker0003", k=5)] == []
        assert memos.search("marker0007", k=1)[0].cube.id == ids[7]


def outcome(call: Callable[[], object]) -> object:
    """What a call gives, or that it raised an error of ours. Another error fails the test."""
    try:
        return call()
    except MemOSError as err:
        one_sentence(err)
        return MemOSError


def right(what: object, expected: object) -> bool:
    """Whether that was stored: all of a list or, where an index is damaged, a part of it; or an error of ours."""
    if isinstance(what, list) and isinstance(expected, list):
        return all(part in expected for part in what)
    return what in (expected, MemOSError)


def seen(path: Path, ids: list[str]) -> tuple[list[object], bool]:
    """What can be read of a vault, and whether the vault says that something is wrong with it."""
    read: list[object] = []
    try:
        with MemOS.open(path, user="u", embedder=None) as memos:
            read += [outcome(lambda i=i: memos.read(i).text) for i in ids]
            read.append(outcome(lambda: [(c.id, c.text, c.data) for c in memos.find()]))
            read.append(outcome(lambda: [c.text for c in memos.history(ids[5])]))
            wrong = bool(findings(memos))
    except VaultError as err:
        one_sentence(err)
        return read, True
    return read, wrong


@pytest.mark.parametrize("seed", range(4))
def test_a_bit_flipped_anywhere_gives_no_wrong_answer(tmp_path: Path, seed: int) -> None:
    """Where less can be read than was written, `doctor` (or the opening) says so."""
    ids = filled(tmp_path)
    file = tmp_path / "vault.db"
    whole = file.read_bytes()
    truth, wrong = seen(tmp_path, ids)
    assert not wrong
    assert MemOSError not in truth
    lots = random.Random(seed)
    used = [i for i in range(100, len(whole)) if whole[i]]
    for _ in range(15):
        at = lots.choice(used)
        mask = 1 << lots.randrange(8)
        for beside in tmp_path.glob("vault.db-*"):
            beside.unlink()
        file.write_bytes(whole[:at] + bytes([whole[at] ^ mask]) + whole[at + 1 :])
        got, wrong = seen(tmp_path, ids)
        for what, expected in zip(got, truth, strict=False):
            assert right(what, expected), f"byte {at}, bit {mask}"
        assert wrong or got == truth, f"byte {at}, bit {mask}"


def test_a_flipped_byte_in_the_header_loses_nothing(tmp_path: Path) -> None:
    """Some bytes of SQLite's header matter to nobody; any other is one clear error."""
    ids = filled(tmp_path)
    file = tmp_path / "vault.db"
    whole = file.read_bytes()
    truth, _ = seen(tmp_path, ids)
    refused = 0
    for at in range(100):
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        got, wrong = seen(tmp_path, ids)
        refused += not got
        for what, expected in zip(got, truth, strict=False):
            assert right(what, expected), f"byte {at}"
        assert wrong or got == truth, f"byte {at}"
    assert refused > 16  # the magic string at least
    file.write_bytes(whole)
    assert seen(tmp_path, ids) == (truth, False)


def out_of_order(file: Path, table: str) -> None:
    """Flip a bit of the number of a table's last row, so that it is less than those before it (SQLite's file format,
    section 1.6: a leaf lists the places of its cells, a cell is its size, its row number, its content)."""
    with closing(sqlite3.connect(file)) as conn:
        size = conn.execute("PRAGMA page_size").fetchone()[0]
        page = conn.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (table,)).fetchone()[0]
    content = bytearray(file.read_bytes())

    def number(at: int, width: int = 2) -> int:
        return int.from_bytes(content[at : at + width], "big")

    start = (page - 1) * size
    while content[start] == 5:  # an inner page names the last one below it
        start = (number(start + 8, 4) - 1) * size
    assert content[start] == 13
    at = start + number(start + 8 + 2 * (number(start + 3) - 1))
    while content[at] & 0x80:  # the size
        at += 1
    assert 1 < content[at + 1] < 0x80, "a row number of one byte"
    content[at + 1] ^= 1 << (content[at + 1].bit_length() - 1)
    file.write_bytes(content)


def test_rows_that_are_out_of_order_are_noticed_and_come_to_an_end(tmp_path: Path) -> None:
    """A table read page by page, behind the last row of the page before, would otherwise be read for ever."""
    filled(tmp_path)
    out_of_order(tmp_path / "vault.db", "cubes")
    with MemOS.open(tmp_path, user="u", embedder=None) as memos:
        assert any("out of order" in line for line in findings(memos))


def test_a_search_ends_where_vectors_are_out_of_order(tmp_path: Path) -> None:
    with MemOS.open(tmp_path, user="u", embedder=bag_of_words, index="exact") as memos:
        memos.put([memos.cube(f"heron {n}") for n in range(20)])
        assert memos.search("heron")
    out_of_order(tmp_path / "vault.db", "vectors")
    with MemOS.open(tmp_path, user="u", embedder=bag_of_words, index="exact") as memos:
        with pytest.raises(VaultError, match="is damaged"):
            memos.search("heron")
        assert any("out of order" in line for line in findings(memos))
