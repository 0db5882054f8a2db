"""A script is split, numbered and refused as PostgreSQL's own grammar would, wherever its bytes and characters differ."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from comporta.errors import ScriptError
from comporta.postgres.script import Script, Statement

HERE = Path("change.sql")


def parse(text: str) -> Script:
    return Script.parse(text.encode(), HERE)


def only(text: str) -> Statement:
    [statement] = parse(text).statements
    return statement


def refusal(content: str | bytes) -> str:
    with pytest.raises(ScriptError) as caught:
        Script.parse(content if isinstance(content, bytes) else content.encode(), HERE)
    return str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("do $$ begin perform 1; perform 2; end $$", id="dollar-body"),
        pytest.param("do $corpo$ begin execute $$select 1; select 2$$; end $corpo$", id="nested-dollar-bodies"),
        pytest.param("do $são$ begin perform 'ção;'; end $são$", id="non-ascii-dollar-tag"),
        pytest.param("select 'a;b', 'c--d', 'it''s; so', E'\\';'", id="strings"),
        pytest.param('select 1 as "a;b--c"', id="quoted-name"),
        pytest.param("select 1 -- one; two\n, 2", id="line-comment-inside"),
        pytest.param("select 1 /* one; /* two; */ three; */, 2", id="nested-comment-inside"),
        pytest.param("create function f() returns int begin atomic select 1; select 2; end", id="sql-body"),
        pytest.param("create rule r as on insert to t do also (select 1; select 2)", id="rule-with-two-actions"),
    ],
)
def test_a_semicolon_inside_a_statement_does_not_end_it(text: str) -> None:
    assert [each.sql for each in parse(f"select 0;\n{text};\nselect 9;").statements] == ["select 0", text, "select 9"]


def test_empty_statements_and_a_missing_last_semicolon_are_no_statements_of_their_own() -> None:
    assert [each.sql for each in parse(";;select 1;;\n;select 2").statements] == ["select 1", "select 2"]


@pytest.mark.parametrize(
    "before",
    [
        pytest.param("\n\n", id="blank-lines"),
        pytest.param("-- Purpose: nothing.\n\n", id="line-comment"),
        pytest.param("/* one\ntwo */\n", id="block-comment"),
        pytest.param("/* one\n/* two\n*/ three; */\n", id="nested-comment"),
        pytest.param("-- são\n/* /* ção */ é */\n", id="non-ascii-comments"),
        pytest.param("\r\n\r\n", id="windows-line-ends"),
        pytest.param("select 'são\npaulo';\n", id="non-ascii-statement-of-two-lines"),
    ],
)
@pytest.mark.parametrize(
    "statement",
    ["select 1", "insert into t values (1)", "with x as (select 1) delete from t", "(values (1))", "begin"],
    ids=["select", "insert", "with", "parenthesis", "begin"],
)
def test_a_statement_starts_on_the_line_of_its_first_word(before: str, statement: str) -> None:
    last = parse(f"{before}   {statement};\n").statements[-1]
    assert (last.sql, last.line) == (statement, before.count("\n") + 1)


def test_statements_are_numbered_from_one_in_the_order_of_the_file() -> None:
    assert [each.number for each in parse("select 1; select 2; select 3").statements] == [1, 2, 3]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("create index concurrently i on t (a)", True),
        ("create index i on t (a)", False),
        ("drop index concurrently i", True),
        ("drop index i", False),
        ("reindex index concurrently i", True),
        ("reindex (concurrently) table t", True),
        ("reindex table t", False),
        ("reindex schema s", True),
        ("vacuum t", True),
        ("analyze t", False),
        ("cluster", True),
        ("cluster t using i", False),
        ("alter table t detach partition p concurrently", True),
        ("alter table t detach partition p", False),
        ("alter table t add column c int", False),
        ("create database d", True),
        ("drop database d", True),
        ("alter database d set tablespace s", True),
        ("alter database d set work_mem to '1MB'", False),
        ("alter system set work_mem to '1MB'", True),
        ("discard all", True),
        ("discard plans", False),
        ("call p()", True),
        ("do $$ begin commit; end $$", True),
        ("refresh materialized view concurrently v", False),
        ("select 1", False),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_statements_that_may_not_run_in_a_transaction_block_are_known(text: str, expected: bool) -> None:
    assert only(text).needs_autocommit is expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("begin", "begin"),
        ("start transaction read only", "begin"),
        ("commit", "commit"),
        ("end", "commit"),
        ("rollback", "rollback"),
        ("abort", "rollback"),
        ("savepoint s", None),
        ("rollback to savepoint s", None),
        ("select 1", None),
    ],
    ids=lambda value: value or "nothing",
)
def test_a_statement_that_opens_or_ends_a_transaction_is_told(text: str, expected: str | None) -> None:
    assert only(text).transaction_control == expected


def test_a_headline_is_the_first_line_and_at_most_100_characters() -> None:
    assert only("select 1,\n  2").headline == "select 1,"
    assert only("select '" + "x" * 200 + "'").headline == "select '" + "x" * 89 + "..."


@pytest.mark.parametrize(
    ("text", "place", "what"),
    [
        pytest.param("select 1;\nselec 2;", "change.sql:2:1:", 'at or near "selec"', id="first-word"),
        pytest.param("select 1;\nselect frm\n  frm x y;", "change.sql:3:7:", 'at or near "x"', id="within-a-line"),
        pytest.param("-- são são\nselect frm from;", "change.sql:2:16:", 'at or near ";"', id="after-non-ascii"),
        pytest.param("select 'çãé' a b c;", "change.sql:1:16:", 'at or near "b"', id="behind-non-ascii"),
        pytest.param("-- çãéçãéçãé\nselec 1;", "change.sql:2:1:", 'at or near "selec"', id="line-after-non-ascii"),
        pytest.param("select 1;\nselect são são são;", "change.sql:2:16:", 'at or near "são"', id="non-ascii-word"),
        pytest.param("select 1;\nselect (", "change.sql:2:9:", "at end of input", id="end-of-file"),
        pytest.param("select 1;\n\nselect 'ab", "change.sql:3:8:", "unterminated quoted string", id="open-string"),
        pytest.param("select 1;\ndo $$ begin", "change.sql:2:4:", "unterminated dollar-quoted", id="open-body"),
        pytest.param("select 1; /* open", "change.sql:1:11:", "unterminated /* comment", id="open-comment"),
    ],
)
def test_a_syntax_error_names_file_line_and_column(text: str, place: str, what: str) -> None:
    message = refusal(text)
    assert message.startswith(place)
    assert what in message
    assert "Nothing of this script ran" in message


@given(st.text(st.sampled_from("aé€🌍 \n"), max_size=40))
def test_the_place_of_a_syntax_error_is_counted_in_characters(comment: str) -> None:
    """Whatever the bytes before it weigh: ``)`` stands where the message says."""
    text = f"/*{comment}*/ select 1 )"
    line, column = (int(part) for part in refusal(text).split(":")[1:3])
    assert text.split("\n")[line - 1][column - 1] == ")"


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("\\set ON_ERROR_STOP on\nselect 1;", "change.sql:1:1: \\set "),
        ("select 1;\n\\i other.sql\n", "change.sql:2:1: \\i "),
        ("-- são\nselect 1 \\gexec", "change.sql:2:10: \\gexec "),
    ],
    ids=["set", "include", "in-the-middle-of-a-line"],
)
def test_a_psql_meta_command_is_refused_by_name(text: str, place: str) -> None:
    message = refusal(text)
    assert message.startswith(f"{place}is a psql meta-command")
    assert "plain SQL" in message


def test_a_backslash_at_the_start_of_a_line_of_a_string_is_no_meta_command() -> None:
    assert only("select E'one\n\\ttwo';").sql == "select E'one\n\\ttwo'"


@pytest.mark.parametrize("text", ["", "\n \n", "-- nothing yet\n", "/* nothing */", ";"], ids=repr)
def test_a_script_without_a_statement_is_refused(text: str) -> None:
    assert refusal(text).startswith("change.sql: holds no statement")


def test_a_file_that_is_not_utf_8_is_refused_with_the_place_of_the_byte() -> None:
    assert "change.sql: is not UTF-8 (byte 9)" in refusal("select 'são'".encode("latin-1"))


def test_a_nul_character_is_refused_since_the_parser_would_leave_out_what_follows() -> None:
    assert refusal("select 1;\nselect 2;\0 drop table t;").startswith("change.sql:2: holds a NUL character")


def test_a_byte_order_mark_is_skipped_as_psql_does() -> None:
    script = Script.parse(b"\xef\xbb\xbfselect 1;", HERE)
    assert [(each.sql, each.line) for each in script.statements] == [("select 1", 1)]


def test_the_digest_is_over_the_exact_bytes(tmp_path: Path) -> None:
    """Line ends, comments and a byte order mark change it, although the statements are the same."""
    contents = [b"select 1;", b"select 1;\n", b"select 1;\r\n", b"\xef\xbb\xbfselect 1;", b"select 1; -- x"]
    digests = []
    for content in contents:
        file = tmp_path / "change.sql"
        file.write_bytes(content)
        digests.append(Script.read(file).sha256)
    assert digests == [hashlib.sha256(content).hexdigest() for content in contents]
    assert len(set(digests)) == len(contents)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ScriptError, match=r"absent\.sql: cannot be read \(No such file"):
        Script.read(tmp_path / "absent.sql")


STATEMENTS = st.sampled_from(
    [
        "select 'são; paulo'",
        "do $$ begin perform 1; end $$",
        "/* é /* ; */ */ insert into t values (1)",
        "-- ção;\nbegin",
        "create index concurrently i on t (a)",
        'update "t;" set a = $x$;$x$',
        "select 1 -- end; é",
        "",
    ]
)
GAPS = st.sampled_from(["", " ", "\n", "\r\n", " -- ; é\n", "/* ; 🌍 /* */ */"])


@settings(max_examples=60)
@given(st.lists(st.tuples(STATEMENTS, GAPS), min_size=1, max_size=8))
def test_statements_joined_again_are_the_same_statements(parts: list[tuple[str, str]]) -> None:
    """Nothing is lost, joined or cut, and each statement stands where its line says."""
    text = "select 0;" + "".join(f"{gap}{statement}\n;" for statement, gap in parts)
    first = parse(text)
    again = parse(";\n".join(f"{each.sql}\n" for each in first.statements))
    assert [each.sql.strip() for each in again.statements] == [each.sql.strip() for each in first.statements]
    assert len(first.statements) == 1 + sum(1 for statement, _ in parts if statement)
    lines = text.split("\n")
    assert all(each.headline.strip() in lines[each.line - 1] for each in first.statements)


def test_every_script_of_the_project_can_be_read(project: Path) -> None:
    files = sorted((project / "sql").rglob("*.sql"))
    of_pgbench = project / "sql" / "capacity" / "load"  # they have meta-commands, and their own reader
    assert files
    for file in files:
        if file.parent == of_pgbench:
            continue
        assert Script.read(file).statements
