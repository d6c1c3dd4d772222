"""Templates of ``mpcheckpoint map``: parts of paths, lists on the command line, columns of tables."""

from __future__ import annotations

import csv
import io
import itertools
import json
import os
from pathlib import Path
from typing import Any, Protocol

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mpcheckpoint import Checkpoint
from mpcheckpoint._cli import main
from mpcheckpoint._cli.maps.items import NO_FILES, BadItemError, ItemReader, json_input
from mpcheckpoint._cli.maps.lists import Combinations, split_lists
from mpcheckpoint._cli.maps.quoted_lines import QuotedLines
from mpcheckpoint._cli.maps.tables import TableInputs
from mpcheckpoint._cli.maps.template import JsonItem, MissingFieldError, Shape, Template
from mpcheckpoint._work.inputs import Input
from support.shell import Ended


class RunMap(Protocol):
    """What runs ``map`` within this process."""

    def __call__(self, *arguments: str, items: bytes | str | None = None, key: str = "k") -> Ended: ...


@pytest.fixture
def run_map(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> RunMap:
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, items: bytes | str | None = None, key: str = "k") -> Ended:
        source = []
        if items is not None:
            Path("items").write_bytes(items.encode() if isinstance(items, str) else items)
            source = ["-a", "items"]
        code = main(["map", "--store", "store", "--key", key, "-j", "1", *source, *arguments])
        printed = capfd.readouterr()
        assert "Traceback" not in printed.err
        return Ended(code, printed.out, printed.err)

    return run


def words(*texts: str) -> tuple[bytes, ...]:
    return tuple(text.encode() for text in texts)


# --- parts of paths ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "parts"),
    [
        ("a/b.tar.gz", ["a/b.tar", "b.tar.gz", "a", "b.tar"]),
        ("b", ["b", "b", ".", "b"]),
        ("/a.b", ["/a", "a.b", "/", "a"]),
        ("a.d/b", ["a.d/b", "b", "a.d", "b"]),
        ("a/b/", ["a/b/", "", "a", ""]),
        ("/", ["/", "", "/", ""]),
        (".profile", ["", ".profile", ".", ""]),
        ("a//b.c", ["a//b", "b.c", "a", "b"]),
        ("a.", ["a.", "a.", ".", "a."]),
        ("", ["", "", ".", ""]),
        ("é/ü.x y", ["é/ü", "ü.x y", "é", "ü"]),
    ],
)
def test_parts_of_a_path_are_those_of_gnu_parallel(path: str, parts: list[str]) -> None:
    plain = Template(words("{.}", "{/}", "{//}", "{/.}"))
    named = Template(words("{p.}", "{p/}", "{p//}", "{p/.}"), is_json=True)
    listed = Template(words("{1.}", "{1/}", "{1//}", "{1/.}"), shape=Shape.LISTS)
    item = path.encode()

    assert plain.argv(item) == list(words(*parts))
    assert named.argv(JsonItem(b"", b"", {b"p": item})) == list(words(*parts))
    assert listed.argv(JsonItem(b"", b"", None, None, (item,))) == list(words(*parts))


@pytest.mark.parametrize(
    ("word", "filled"),
    [
        ("{}", "a/b.c"),
        ("x{/}y{.}", "xb.cya/b"),
        ("{{.}}", "{.}"),
        ("{{#}}{{//}}{}", "{#}{//}a/b.c"),
        ("{{}}", "{a/b.c}"),
        ("{1}{x}{ }{/x}{.a}{###}", "{1}{x}{ }{/x}{.a}{###}"),
        ("$1 { } ${}", "$1 { } $a/b.c"),
        ("{#}", "7"),
    ],
)
def test_word_of_a_plain_command_has_only_places_it_is_known_to_have(word: str, filled: str) -> None:
    item = JsonItem(b"a/b.c", b"a/b.c", None, number=7)

    assert Template(words("e", word, "{}")).argv(item)[1] == filled.encode()


def test_item_goes_to_the_end_only_if_there_is_no_place() -> None:
    assert Template(words("e", "{/}")).argv(b"a/b") == [b"e", b"b"]
    assert Template(words("e", "{{.}}")).argv(b"a/b") == [b"e", b"{.}", b"a/b"]


def test_field_that_is_called_like_a_part_comes_first() -> None:
    template = Template(words("{.}", "{a.}", "{#}", "{1}", "{{a}}"), is_json=True)
    fields = {b".": b"dot", b"a.": b"a-dot", b"#": b"hash", b"1": b"one"}

    assert template.argv(JsonItem(b"x.y", b"x.y", fields, None, (b"col",), 5)) == [
        *words("dot", "a-dot", "hash", "one", "{a}")
    ]
    assert template.argv(JsonItem(b"x.y", b"x.y", {b"a": b"b.c"}, None, (b"col",), 5)) == [
        *words("x", "b", "5", "col", "{a}")
    ]


ODD_NAMES = [
    "First Name",
    " a",
    "x; y",
    "Price (EUR)",
    "a,b",
    "Size {cm}",
    "}{",
    "a\nb",
    "Größe in m",
    "print $1",
    "$",
]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_name_in_braces_is_replaced_whatever_characters_it_has(name: str) -> None:
    fields = dict.fromkeys((each.encode() for each in ODD_NAMES), b"other") | {name.encode(): b"d/v.x"}
    template = Template(words("e", f"-{{{name}}}-{{{name}}}", f"{{{name}/.}}"), is_json=True)

    assert template.argv(JsonItem(b"row", b"row", fields)) == list(words("e", "-d/v.x-d/v.x", "v"))
    assert Template(words(f"{{{name}}}"), is_json=True).is_command()


def test_doubled_braces_around_a_name_with_blanks_write_single_ones() -> None:
    template = Template(
        words("e", "{{First Name}}", "{{Frist Name}}", "{{Size {cm}}}", "{{ x; }}"), is_json=True
    )
    fields = {b"First Name": b"Ada", b"Size {cm}": b"1"}

    assert template.argv(JsonItem(b"row", b"row", fields)) == [
        *words("e", "{First Name}", "{Frist Name}", "{Size {cm}}", "{{ x; }}", "row")
    ]


@pytest.mark.parametrize(
    "place",
    [
        "Frist Name",
        "First name",
        "First  Name",
        "First Name.tx",
        "FirstName",
        "First Name 2",
        "Frist Name/.",
        "É a",
    ],
)
def test_name_that_no_column_has_is_refused_with_its_blanks(place: str) -> None:
    template = Template(words("e", f"hello {{{place}}}", "{id}"), is_json=True)

    with pytest.raises(MissingFieldError, match="no field") as raised:
        template.argv(JsonItem(b"row", b"row", {b"First Name": b"Ada", b"id": b"1"}))
    assert f"{{{place}}} (to write braces, double them)" in str(raised.value)


@pytest.mark.parametrize(
    "script",
    [
        "{ echo a; }",
        "{ echo a\n}",
        "f() { rm x; }; f",
        "${ date; }",
        "{print $1}",
        "{print NF}",
        "{ print }",
        "/x/ {exit 1}",
        "{n += 1}",
        '{"name": "a b"}',
        '{"a": {"b": 1, "c": [2]}}',
        "{x: 1, y: 2}",
        "{a, b}",
        "{{ name }}",
        "{{ a.b | c }}",
        "x { y",
        "x } y",
        "{ }",
    ],
)
def test_script_in_a_command_with_fields_keeps_its_braces(script: str) -> None:
    item = JsonItem(b"row", b"row", {b"id": b"1", b"a": b"2"})

    assert Template(words("sh", "-c", script), is_json=True).argv(item) == list(
        words("sh", "-c", script, "row")
    )
    assert Template(words("e", f"{script} {{id}}"), is_json=True).argv(item) == list(
        words("e", f"{script} 1")
    )


def test_number_is_that_of_the_item_in_its_source_whatever_was_done_before(run_map: RunMap) -> None:
    assert run_map("-k", "--", "echo", "{#}", items="a\n\nb\n").out == "1\n2\n"
    Path("store").rename("old")
    assert run_map("--", "echo", "{#}", items="a\n").code == 0
    assert run_map("-k", "--", "echo", "{#}", items="a\nb\nc\n").out == "1\n2\n3\n"


# --- lists -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "command", "lists"),
    [
        ("e x", "e x", None),
        ("e ::: a b", "e", ["a b"]),
        ("e {1} ::: a b ::: c", "e {1}", ["a b", "c"]),
        ("e :::", "e", [""]),
        ("e ::: ::: a", "e", ["", "a"]),
        ("e x:::y ::: :::: a".replace("::::", "::-"), "e x:::y", ["::- a"]),
    ],
)
def test_lists_begin_after_the_command(line: str, command: str, lists: list[str] | None) -> None:
    found_command, found = split_lists(tuple(line.split()))

    assert " ".join(found_command) == command
    expected = None if lists is None else [list(words(*each.split())) for each in lists]
    assert found == expected


@example([[b"a b", b"a"], [b"c", b"b c"]])
@given(st.lists(st.lists(st.binary(max_size=4), max_size=4), min_size=1, max_size=4))
def test_combinations_are_all_there_are_each_with_a_key_of_its_own(lists: list[list[bytes]]) -> None:
    items = list(Combinations(lists))
    columns = [each.item.columns for each in items]

    assert columns == list(itertools.product(*lists))
    assert len(items) == Combinations(lists).total()
    assert len({each.object_key for each in items}) == len(set(columns))
    assert [each.item.number for each in items] == list(range(1, len(items) + 1))


def test_combination_is_the_same_item_as_the_line_of_json_that_a_dry_run_prints(run_map: RunMap) -> None:
    command = ("--", "echo", "{1}-{2}", "{}")
    assert run_map("-k", *command, ":::", "a b", "c", ":::", "1", "2").out.splitlines() == [
        *["a b-1 a b 1", "a b-2 a b 2", "c-1 c 1", "c-2 c 2"]
    ]
    dry = run_map("--dry-run", *command, ":::", "a b", "d", ":::", "2")
    assert dry.out == '["d","2"]\n'
    assert "2 items: 0 run now" in run_map("--jsonl", *command, items='["a b", "1"]\n["c", "2"]\n').err


def test_value_of_one_list_is_the_same_item_as_a_line(run_map: RunMap) -> None:
    assert run_map("--", "echo", items="a\nb\n").code == 0
    assert (
        "3 items: 1 run now (1 ok, 0 failed), 2 done already"
        in run_map("--", "echo", ":::", "a", "b", "c").err
    )


def test_bytes_that_are_no_utf_8_are_handed_on(run_map: RunMap, tmp_path: Path) -> None:
    odd = os.fsdecode(b"\xff")
    assert run_map("--", "sh", "-c", 'printf %s "$1" > out', "sh", "{2}{1}", ":::", odd, ":::", "x").code == 0

    assert Path("out").read_bytes() == b"x\xff"
    (outcome,) = Checkpoint(tmp_path / "store", read_only=True).log("k").results()
    assert outcome.item == ["\\xff", "x"]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (
            ["--", "echo", "{3}", ":::", "a", ":::", "b"],
            "there is no list '3' for {3} (to write braces, double them)",
        ),
        (["--", "echo", "{0}", ":::", "a"], "there is 1 after :::. Nothing was run"),
        (["--", ":::", "a"], "there is no command before :::; nothing was run"),
        (["--", "echo", "::::", "a"], ":::: is not known here: a file of items is given by --items"),
        (["--", "echo", ":::", "a", ":::+", "b"], ":::+ is not known here: lists are combined, not linked"),
        (
            ["--jsonl", "--", "echo", ":::", "a"],
            "the items stand after :::, so no others are read; nothing was run",
        ),
        (["--changed-files", "--", "e", ":::", "a", ":::", "b"], "not combinations; nothing was run"),
    ],
)
def test_lists_that_cannot_be_are_one_line_and_run_nothing(
    arguments: list[str], complaint: str, run_map: RunMap
) -> None:
    ended = run_map(*arguments)

    assert (ended.code, ended.err.count("\n")) == (2, 1)
    assert complaint in ended.err
    assert not Path("store").exists()


def test_first_value_of_a_json_array_is_1() -> None:
    template = Template(words("{1}", "{2}"), is_json=True)

    entry = json_input(template, None, 0, b'["a", {"b": 1}]')
    assert template.argv(entry.item) == list(words("a", '{"b":1}'))
    with pytest.raises(BadItemError, match=r"has no field '2' for \{2\}"):
        json_input(template, None, 0, b'["a"]')
    with pytest.raises(MissingFieldError):
        template.argv(JsonItem(b"x", b"x", None))


# --- tables ------------------------------------------------------------------------------------------------

TABLE = 'id,path,note\r\n1,a/b.c,"hello, ""you""\r\nthere"\r\n\r\n2,é,\r\n'


def test_row_of_a_table_fills_the_names_and_numbers_of_its_columns(run_map: RunMap, tmp_path: Path) -> None:
    printing = ("--", "printf", "%s|", "{id}", "{path.}", "{2/}", "{note}", "{#}", "{3}")
    ended = run_map("-k", "--csv", "--item-key", "id", *printing, items=b"\xef\xbb\xbf" + TABLE.encode())

    assert ended.out == '1|a/b|b.c|hello, "you"\r\nthere|1|hello, "you"\r\nthere|2|é|é||2||'
    outcomes = list(Checkpoint(tmp_path / "store", read_only=True).log("k").results())
    assert [each.object_key for each in outcomes] == ["1", "2"]
    assert outcomes[1].item == {"id": "2", "path": "é", "note": ""}


@pytest.mark.parametrize(
    ("option", "items"),
    [
        ("--csv", "First Name,id\nAda,1\n"),
        ("--tsv", "First Name\tid\nAda\t1\n"),
        ("--jsonl", '{"First Name": "Ada", "id": 1}\n'),
    ],
)
def test_column_with_a_blank_in_its_name_is_filled_and_a_mistyped_one_refused(
    option: str, items: str, run_map: RunMap
) -> None:
    line = (option, "--item-key", "id", "--print", "--", "echo")
    assert run_map(*line, "hello {First Name}", items=items).out == "hello Ada\n"

    for key, mistyped in enumerate(("hello {Frist Name}", "hello {FirstName}", "{Frist Name}")):
        ended = run_map(*line, mistyped, items=items, key=str(key))
        assert (ended.code, ended.out) == (2, "")
        assert "has no field 'F" in ended.err
        assert "nothing was run" in ended.err


def test_column_named_like_another_place_comes_before_it(run_map: RunMap) -> None:
    ended = run_map("-k", "--csv", "--", "echo", "{1}|{2}|{3}|{#}|{.}|{id.}", items="id,1,#,.\na.b,c,d,e\n")

    assert ended.out == "c|c|d|d|e|a\n"


@pytest.mark.parametrize(
    ("option", "items", "line"),
    [
        ("--csv", 'id,v\n1,"a\nb"\n\n2,c\n1,d\n', "line 6 of items, 1,d"),
        ("--tsv", "id\tv\n1\ta\n\n1\td\n", "line 4 of items, 1 d"),
        ("--jsonl", '{"id":1,"v":2}\n\n{"id":1,"v":3}\n', 'line 3 of items, {"id":1,"v":3}'),
    ],
)
def test_item_key_that_comes_with_another_row_is_named_by_its_line(
    option: str, items: str, line: str, run_map: RunMap
) -> None:
    ended = run_map(option, "--item-key", "id", "--", "echo", "{v}", items=items)

    assert ended.code == 2
    assert f"the object key '1' came with another input than before: {line}. It was not run" in ended.err


def test_row_without_a_key_of_its_own_is_its_key_as_json(run_map: RunMap, tmp_path: Path) -> None:
    assert run_map("--csv", "--", "true", "{}", items="b,a\n1,2\n1,2\n1,3\n").code == 0

    keys = [each.object_key for each in Checkpoint(tmp_path / "store", read_only=True).log("k").results()]
    assert sorted(keys) == ['{"a":"2","b":"1"}', '{"a":"3","b":"1"}']
    dry = run_map("--dry-run", "--csv", "--", "true", "{}", items="b,a\n1,2\n1,4\n")
    assert dry.out == "b,a\n1,4\n"  # a table again


def test_tabs_separate_and_quotes_are_no_more_than_quotes(run_map: RunMap) -> None:
    ended = run_map("-k", "--tsv", "--", "echo", "{size}", "{1}", items='name\tsize\n"a,b\t5"\r\n')

    assert ended.out == '5" "a,b\n'


def test_row_of_empty_fields_is_an_item_and_a_blank_line_is_none(run_map: RunMap) -> None:
    lines = ["-k", "--", "echo", "<{a}|{b}>"]

    assert run_map("--tsv", *lines, items="a\tb\r\n\t\r\n\r\n  \n1\t\n").out == "<|>\n<1|>\n"
    assert run_map("--key", "other", "--csv", *lines, items="a,b\n,\n\n1,\n").out == "<|>\n<1|>\n"


@pytest.mark.parametrize(
    ("option", "items", "complaint", "done"),
    [
        ("--csv", "id,path\n1,a\n2\n3,c\n", "line 3 of items has 1 column, unlike the first, which names 2", 1),
        ("--csv", 'id,path\n1,"a\n\nb"\n2,b,c\n', "line 5 of items has 3 columns, unlike", 1),
        ("--csv", 'id,path\n1,a\n2,"b\n\nc', "in items, line 3 opens a quote that never closes", 1),
        ("--csv", 'id,path\n1,a\n2,"b"x\n', "line 3 of items is no CSV: ',' expected after '\"'", 1),
        ("--csv", "name\n1\n", "line 1 of items has no field 'id' for {id} (to write braces, double them); its", 0),
        ("--csv", "name,path\n1,a\n", "its columns are name, path; nothing was run", 0),
        ("--csv", "id,a,a\n1,a\n", "line 1 of items names the column 'a' twice; nothing was run", 0),
        ("--tsv", "id\tpath\n1\ta\n2\n", "line 3 of items has 1 column, unlike the first, which names 2", 1),
        ("--csv", "id,path\r1,a\r2,b\r", "line 1 of items has a carriage return without a newline; if all", 0),
        ("--tsv", "id\tpath\r1\ta\r2\tb\r", "line 1 of items has a carriage return without a newline; if", 0),
        ("--csv", "id,path\n1,a\n2,b\r3,c\n", "line 3 of items has a carriage return without a newline; if all", 1),
        ("--csv", "id," + "x" * 2_000_000, "is longer than 1048576 bytes", 0),
        ("--csv", 'id,n\n1,"' + "x\n" * 600_000, "in items, line 2 opens a quote that does not close within 104", 0),
    ],
)  # fmt: skip
def test_row_that_is_none_is_named_and_those_before_it_are_done(
    option: str, items: str, complaint: str, done: int, run_map: RunMap
) -> None:
    ended = run_map(option, "--", "sh", "-c", 'echo "$1" >> ran', "sh", "{id}", items=items)

    assert ended.code == 2
    assert complaint in ended.err
    ran = Path("ran").read_text().splitlines() if done else []
    assert ran == ["1"][:done]
    assert ("nothing was run" in ended.err) == (done == 0)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--csv", "--jsonl"], "--jsonl and --csv exclude each other"),
        (["--csv", "--tsv"], "--csv and --tsv exclude each other"),
        (["--csv", "--null"], "--null and --csv exclude each other: rows are lines"),
        (["--item-key", "id"], "or a column, which takes --csv or --tsv; nothing was run"),
        (
            ["--csv", "--item-key", "key"],
            "has no column 'key', which --item-key names; it has id, path; nothing",
        ),
        (["--csv", "--changed-files"], "line 1 of items names no file; --file-field says which column does"),
        (
            ["--csv", "--changed-files", "--file-field", "file"],
            "has no column 'file', which --file-field names",
        ),
    ],
)
def test_table_that_cannot_be_is_one_line_and_runs_nothing(
    arguments: list[str], complaint: str, run_map: RunMap
) -> None:
    ended = run_map(*arguments, "--", "touch", "ran", items="id,path\n1,a\n")

    assert (ended.code, ended.err.count("\n")) == (2, 1)
    assert complaint in ended.err
    assert not Path("ran").exists()


def test_column_names_the_file_of_a_row(run_map: RunMap) -> None:
    line = ("--csv", "--changed-files", "--file-field", "path", "--item-key", "id", "--", "true", "{id}")
    Path("a").write_text("1")
    assert "1 run now" in run_map(*line, items="id,path\n1,a\n").err
    Path("a").write_text("22")
    assert "1 run now" in run_map(*line, items="id,path\n1,a\n").err
    assert "0 run now" in run_map(*line, items="id,path\n1,a\n").err


def test_name_without_fields_says_what_would_give_it_some(run_map: RunMap) -> None:
    assert "{path} is passed as it stands; with --jsonl" in run_map("--", "echo", "{path}", items="a\n").err


def test_name_with_a_blank_and_without_fields_says_what_would_give_it_some(run_map: RunMap) -> None:
    assert (
        "{First Name} is passed as it stands; with --jsonl"
        in run_map("--", "echo", "{First Name}", items="a\n").err
    )
    assert "as it stands" not in run_map("--", "echo", "{print NF}", "{ a; }", items="a\n", key="other").err


def test_quote_inside_of_a_field_is_no_more_than_a_quote(run_map: RunMap) -> None:
    ended = run_map("-k", "--csv", "--", "echo", "{n}", items='id,n\n1,5" disk\n2,x\n')

    assert ended.out == '5" disk\nx\n'


CELL = st.text(st.sampled_from('ab",\n\r é\t'), max_size=6)


@given(
    st.lists(st.lists(CELL, min_size=2, max_size=2), min_size=1, max_size=6), st.sampled_from(["\n", "\r\n"])
)
def test_rows_are_those_of_pythons_csv_wherever_lines_end(rows: list[list[str]], end: str) -> None:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator=end, quoting=csv.QUOTE_ALL).writerows([["x", "y"], *rows])
    read = read_table(text.getvalue().encode())

    assert [json.loads(each.object_key) for each in read] == [{"x": x, "y": y} for x, y in rows]


def read_table(data: bytes) -> list[Input]:
    reading, writing = os.pipe()
    os.write(writing, data)
    os.close(writing)
    try:
        template = Template(words("e"), shape=Shape.FIELDS)
        inputs = TableInputs(template, None, NO_FILES, is_csv=True)
        reader = ItemReader(
            reading, is_null_separated=False, to_input=inputs, has_header=True, quoted=QuotedLines()
        )
        found: list[Any] = list(reader)
        assert reader.problem is None, reader.problem
        assert reader.total() == len(found)
        return found
    finally:
        os.close(reading)
