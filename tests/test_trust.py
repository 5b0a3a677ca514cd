"""Trust: what of a workspace asks for power, by which content it is known, and what can never be trusted."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from laguna_agent import trust as room
from laguna_agent.directories import state_directory
from laguna_agent.errors import UsageError
from laguna_agent.trust import CONFIG, INSTRUCTIONS, LARGEST, SERVERS, TOOLS, Asking, Trust, look, revoke, trust
from laguna_agent.trust_lines import notices, shown, state_of
from laguna_agent.visible import visible


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def used(cwd: Path) -> dict[str, str]:
    """The texts that are in force."""
    ground = look(cwd)
    return {each.name: each.text for each in ground.asking if each.trusted}


def test_nothing_is_trusted_until_a_person_says_so(workspace: Path) -> None:
    write(workspace / INSTRUCTIONS, "one")
    write(workspace / CONFIG, "seed = 1")
    write(workspace / SERVERS, "{}")
    assert [each.kind for each in look(workspace).waiting] == [CONFIG, SERVERS, INSTRUCTIONS]
    assert used(workspace) == {}
    trust(look(workspace))
    assert used(workspace) == {INSTRUCTIONS: "one", CONFIG: "seed = 1", SERVERS: "{}"}
    assert look(workspace).text(INSTRUCTIONS) == "one"


def test_another_text_is_inert_until_it_is_trusted_too(workspace: Path) -> None:
    file = write(workspace / INSTRUCTIONS, "one\n")
    trust(look(workspace))
    file.write_text("two\n")
    (asking,) = look(workspace).asking
    assert not asking.trusted
    assert asking.before == "one\n"
    assert shown(asking)[1:] == ["--- trusted", "+++ now", "@@ -1 +1 @@", "-one", "+two"]
    file.write_text("one\n")
    assert used(workspace) == {INSTRUCTIONS: "one\n"}


def test_the_text_that_was_shown_is_trusted_and_not_what_lies_there_by_now(workspace: Path) -> None:
    file = write(workspace / INSTRUCTIONS, "seen")
    ground = look(workspace)
    file.write_text("unseen")
    trust(ground)
    assert used(workspace) == {}
    file.write_text("seen")
    assert used(workspace) == {INSTRUCTIONS: "seen"}


def test_revoking(workspace: Path) -> None:
    write(workspace / INSTRUCTIONS, "one")
    trust(look(workspace))
    assert revoke(workspace) == [INSTRUCTIONS]
    assert used(workspace) == {}
    assert revoke(workspace) == []


def test_trust_holds_for_one_real_directory(workspace: Path, tmp_path: Path) -> None:
    write(workspace / INSTRUCTIONS, "one")
    trust(look(workspace))
    other = tmp_path / "other"
    write(other / INSTRUCTIONS, "one")
    assert used(other) == {}
    (tmp_path / "link").symlink_to(workspace)
    assert used(tmp_path / "link") == {INSTRUCTIONS: "one"}


def test_the_nearest_file_up_to_the_git_root_counts_and_is_trusted_by_its_place(
    workspace: Path, tmp_path: Path
) -> None:
    write(tmp_path / INSTRUCTIONS, "outside")
    deep = workspace / "a" / "b"
    deep.mkdir(parents=True)
    assert look(deep).asking == ()
    (workspace / ".git").mkdir()
    write(workspace / INSTRUCTIONS, "top")
    trust(look(deep))
    assert used(deep) == used(workspace) == {INSTRUCTIONS: "top"}
    # The same words elsewhere were not trusted.
    write(deep / INSTRUCTIONS, "top")
    assert used(deep) == {}
    assert [each.name for each in look(deep).waiting] == ["a/b/AGENTS.md"]


def test_the_record_is_the_persons_alone(workspace: Path) -> None:
    write(workspace / INSTRUCTIONS, "one")
    before = os.umask(0)
    try:
        trust(look(workspace))
    finally:
        os.umask(before)
    file = room.record_file(look(workspace).root)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700


@pytest.mark.parametrize("damage", [b"", b"{", b"\xff", b'{"root": "/elsewhere", "pinned": {}}', b"[]"])
def test_a_damaged_record_trusts_nothing_and_can_be_made_anew(workspace: Path, damage: bytes) -> None:
    write(workspace / INSTRUCTIONS, "one")
    trust(look(workspace))
    room.record_file(look(workspace).root).write_bytes(damage)
    assert used(workspace) == {}
    trust(look(workspace))
    assert used(workspace) == {INSTRUCTIONS: "one"}


def test_a_record_of_another_workspace_or_with_a_wrong_hash_trusts_nothing(workspace: Path, tmp_path: Path) -> None:
    write(workspace / INSTRUCTIONS, "one")
    trust(look(workspace))
    file = room.record_file(look(workspace).root)
    whole = file.read_text()
    file.write_text(whole.replace('"text":"one"', '"text":"two"'))
    assert used(workspace) == {}
    other = tmp_path / "other"
    write(other / INSTRUCTIONS, "one")
    room.record_file(look(other).root).write_text(whole)
    assert used(other) == {}


# -- what can never be trusted ---------------------------------------------------------------------------------------


def never(cwd: Path, kind: str, words: str) -> None:
    """It is inert, says why, and a person's yes changes nothing, nor does one for a run."""
    found = look(cwd).find(kind)
    assert found is not None
    assert words in found.problem
    assert words in notices([found])[0]
    assert look(cwd).waiting == ()
    trust(look(cwd))
    assert used(cwd) == {}
    granted = look(cwd).granted()
    assert granted.text(kind) is None
    assert Trust(cwd, granted).look().text(kind) is None


def test_links_are_never_followed(workspace: Path, tmp_path: Path) -> None:
    write(tmp_path / "secret", "key")
    (workspace / INSTRUCTIONS).symlink_to(tmp_path / "secret")
    never(workspace, INSTRUCTIONS, "symbolic link")
    assert "key" not in str(look(workspace))


def test_nor_are_links_on_the_way(workspace: Path, tmp_path: Path) -> None:
    write(tmp_path / "elsewhere" / "config.toml", "seed = 1")
    (workspace / ".laguna").symlink_to(tmp_path / "elsewhere")
    never(workspace, CONFIG, "symbolic link")


def test_a_link_to_nowhere_is_told_too(workspace: Path) -> None:
    (workspace / SERVERS).symlink_to("nowhere")
    never(workspace, SERVERS, "symbolic link")


def test_a_fifo_is_not_waited_for(workspace: Path) -> None:
    os.mkfifo(workspace / INSTRUCTIONS)
    never(workspace, INSTRUCTIONS, "no regular file")


def test_a_directory(workspace: Path) -> None:
    (workspace / INSTRUCTIONS).mkdir()
    # A sandbox keeps names from being taken with empty directories.
    assert look(workspace).asking == ()
    (workspace / INSTRUCTIONS / "more").touch()
    never(workspace, INSTRUCTIONS, "no regular file")


def test_a_file_where_a_directory_is_expected_is_nothing(workspace: Path) -> None:
    write(workspace / ".laguna", "")
    assert look(workspace).asking == ()


def test_a_file_that_nobody_has_read(workspace: Path) -> None:
    write(workspace / INSTRUCTIONS, "x" * LARGEST)
    assert look(workspace).waiting != ()
    write(workspace / INSTRUCTIONS, "x" * (LARGEST + 1))
    never(workspace, INSTRUCTIONS, "larger than 256 KiB")


def test_a_sparse_file_is_not_read_whole(workspace: Path) -> None:
    with (workspace / INSTRUCTIONS).open("wb") as file:
        file.truncate(1 << 40)
    never(workspace, INSTRUCTIONS, "larger than 256 KiB")


def test_a_file_that_is_no_text(workspace: Path) -> None:
    (workspace / INSTRUCTIONS).write_bytes(b"ok \xff")
    never(workspace, INSTRUCTIONS, "not UTF-8 text (byte 3)")


def test_nothing_is_trusted_where_the_workspace_holds_the_trust(tmp_path: Path) -> None:
    write(tmp_path / INSTRUCTIONS, "one")
    trust(look(tmp_path))
    never(tmp_path, INSTRUCTIONS, "own state lies inside the workspace")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_a_file_that_cannot_be_read(workspace: Path) -> None:
    write(workspace / INSTRUCTIONS, "x").chmod(0)
    never(workspace, INSTRUCTIONS, "cannot be read")


def test_what_was_hashed_is_what_is_used_while_somebody_swaps_it(workspace: Path) -> None:
    """Whatever wins the race, a text is trusted exactly if it is the trusted one."""
    file, other, spare = workspace / INSTRUCTIONS, workspace / "other", workspace / "spare"
    write(file, "good " * 1_000)
    trust(look(workspace))
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            for text in ("evil " * 1_000, "good " * 1_000):
                write(spare, text).rename(file)
                if not other.is_symlink():
                    other.symlink_to(file)
                other.rename(file)

    swapping = threading.Thread(target=swap)
    swapping.start()
    try:
        for _ in range(300):
            ground = look(workspace)
            assert ground.text(INSTRUCTIONS) in (None, "good " * 1_000)
    finally:
        stop.set()
        swapping.join()


# -- a session's trust -----------------------------------------------------------------------------------------------


def test_a_run_is_granted_what_lies_there_and_nothing_is_kept(workspace: Path) -> None:
    file = write(workspace / INSTRUCTIONS, "one")
    granted = Trust(workspace, look(workspace).granted())
    assert granted.look().text(INSTRUCTIONS) == "one"
    assert used(workspace) == {}
    file.write_text("the agent's own")
    assert granted.look().text(INSTRUCTIONS) is None


def test_yes_is_for_what_was_shown(workspace: Path) -> None:
    file = write(workspace / INSTRUCTIONS, "one")
    session = Trust(workspace)
    assert session.accept()[1] is False
    file.write_text("swapped after it was shown")
    assert session.accept()[1] is False
    assert used(workspace) == {}
    assert session.accept()[1] is True
    assert used(workspace) == {INSTRUCTIONS: "swapped after it was shown"}


def test_each_text_is_told_of_once(workspace: Path) -> None:
    session = Trust(workspace)
    assert session.news(session.look()) == []
    file = write(workspace / INSTRUCTIONS, "one")
    assert [each.name for each in session.news(session.look())] == [INSTRUCTIONS]
    assert session.news(session.look()) == []
    file.write_text("two")
    assert len(session.news(session.look())) == 1


def test_the_tools_of_a_server_are_pinned_at_first_sight(workspace: Path) -> None:
    write(workspace / SERVERS, "{}")
    trust(look(workspace))
    session = Trust(workspace)
    assert session.accept_tools("s", "[add]")
    assert not session.accept_tools("s", "[add, steal]")
    (asking,) = look(workspace).waiting
    assert (asking.name, asking.before, asking.text) == (TOOLS + "s", "[add]", "[add, steal]")
    assert "not what the server offered when it was trusted" in notices([asking])[0]
    # The first list is still the one that counts, and ends the waiting.
    assert session.accept_tools("s", "[add]")
    assert look(workspace).waiting == ()
    assert not session.accept_tools("s", "[add, steal]")
    trust(look(workspace))
    assert session.accept_tools("s", "[add, steal]")
    assert not session.accept_tools("s", "[add]")


def test_other_servers_begin_with_no_tools_trusted(workspace: Path) -> None:
    write(workspace / SERVERS, "{}")
    trust(look(workspace))
    assert Trust(workspace).accept_tools("s", "[add]")
    write(workspace / SERVERS, '{"other": 1}')
    trust(look(workspace))
    assert Trust(workspace).accept_tools("s", "[steal]")


def test_a_granted_run_pins_for_itself_alone(workspace: Path) -> None:
    write(workspace / SERVERS, "{}")
    granted = Trust(workspace, look(workspace).granted())
    assert granted.accept_tools("s", "[add]")
    assert not granted.accept_tools("s", "[steal]")
    assert look(workspace).find(TOOLS) is None


def test_revoking_is_not_undone_by_a_session_that_goes_on(workspace: Path) -> None:
    write(workspace / SERVERS, "{}")
    trust(look(workspace))
    session = Trust(workspace)
    session.look()
    revoke(workspace)
    session.accept_tools("s", "[add]")
    assert SERVERS not in used(workspace)


def test_a_state_directory_that_cannot_be_written(workspace: Path) -> None:
    state_directory().mkdir(parents=True, exist_ok=True)
    (state_directory() / "trust").write_text("")
    write(workspace / INSTRUCTIONS, "one")
    with pytest.raises(UsageError, match="cannot be kept in"):
        trust(look(workspace))


# -- what is shown ---------------------------------------------------------------------------------------------------


@given(st.text(), st.none() | st.text())
def test_nothing_that_is_shown_is_obeyed_or_unseen(text: str, before: str | None) -> None:
    for line in shown(Asking(INSTRUCTIONS, INSTRUCTIONS, text, before=before)):
        assert visible(line) == line
        assert "\n" not in line


def test_hidden_orders_are_seen(workspace: Path) -> None:
    hidden = "do " + "".join(chr(0xE0000 + ord(each)) for each in "rm") + "\u202e\x1b]52;c;\x07\u200b\u3164"
    write(workspace / INSTRUCTIONS, f"plain — ünïcode ✓ 你好\n{hidden}\n")
    (asking,) = look(workspace).waiting
    assert shown(asking)[1:] == [
        "  plain — ünïcode ✓ 你好",
        "  do \\u{E0072}\\u{E006D}\\u{202E}\\u{1B}]52;c;\\u{7}\\u{200B}\\u{3164}",
    ]


def test_a_change_of_line_ends_alone_is_a_change(workspace: Path) -> None:
    file = write(workspace / INSTRUCTIONS, "one")
    trust(look(workspace))
    file.write_bytes(b"one\r\n")
    (asking,) = look(workspace).waiting
    assert state_of(asking) == "changed since it was trusted"
    assert shown(asking)[1:] == ["  only the ends of its lines have changed"]
