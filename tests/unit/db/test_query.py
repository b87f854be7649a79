from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kronos.datamodel.errors import Failure
from kronos.db.query import MAX_LENGTH, MAX_NESTING, db_string, parse

ROW = {"a": "1", "b": "2", "name__label": "web server", "_ref": "OpaqueRef:1", "empty": ""}


def matches(expression: str, row: dict[str, str] = ROW) -> bool:
    return parse(expression)(row.__getitem__)


@pytest.mark.parametrize(
    "expression",
    [
        "true",
        "(true)",
        "not false",
        'field "a"="1"',
        'field "a" = "1"',
        '\tfield"a"\n="1" ',
        '"1" = field "a"',
        'field "name__label"="web server"',
        'field "_ref"="OpaqueRef:1"',
        'field "empty"=""',
        '"x"="x"',
        'field "a"=field "a"',
        'not field "a"=field "b"',
        "trueandtrue",
        "not(false)",
        "not not true",
    ],
)
def test_true_of_the_row(expression: str) -> None:
    assert matches(expression)


@pytest.mark.parametrize(
    "expression",
    ["false", 'field "a"="2"', 'field "a"=" 1"', 'field "name__label"="WEB SERVER"', 'not field "a"="1"'],
)
def test_false_of_the_row(expression: str) -> None:
    assert not matches(expression)


def test_and_and_or_group_to_the_left_with_the_same_precedence() -> None:
    assert matches("true or true and false") is False
    assert matches("true or (true and false)") is True
    assert matches("false and false or true") is True


def test_not_takes_in_all_that_follows_as_in_xapi() -> None:
    assert matches("not false and false") is True
    assert matches("(not false) and false") is False
    assert matches("true and not true or true") is False
    assert matches("false and not true or true") is False


def test_what_the_left_side_decides_leaves_the_right_unread() -> None:
    assert matches('true or field "missing"="1"')
    assert not matches('false and field "missing"="1"')


def test_an_unknown_field_is_an_invalid_value() -> None:
    with pytest.raises(Failure) as caught:
        matches('field "missing"="1"')

    assert caught.value.description == ["INVALID_VALUE", 'field "missing"="1"', "There is no field 'missing'"]


@pytest.mark.parametrize(
    ("expression", "place"),
    [
        ("", "at the end"),
        ("   ", "at the end"),
        ("true false", "character 6"),
        ("true and", "at the end"),
        ("not", "after not"),
        ("(true", "Missing )"),
        ("true)", "character 5"),
        ("()", "character 2"),
        ("(not)", "character 5"),
        ('"x"', "at the end"),
        ('field "a"', "at the end"),
        ('field a="1"', "character 7"),
        ('field "a"==" 1"', "character 11"),
        ("field 'a'='1'", "character 7"),
        ('field "a"="1', "character 11"),
        ('field "a"!="1"', "character 10"),
        ("TRUE", "character 1"),
        ("true\r", "character 5"),
        ('true = "x"', "character 6"),
        ("true; true", "character 5"),
    ],
)
def test_what_is_not_a_query_is_an_invalid_value_and_says_where(expression: str, place: str) -> None:
    with pytest.raises(Failure) as caught:
        parse(expression)

    code, echoed, text = caught.value.description
    assert (code, echoed) == ("INVALID_VALUE", expression)
    assert place in text


@pytest.mark.parametrize("opener", ["(", "not "])
def test_nesting_has_a_limit(opener: str) -> None:
    closer = ")" if opener == "(" else ""
    assert parse(opener * MAX_NESTING + "true" + closer * MAX_NESTING)(ROW.__getitem__) is True
    with pytest.raises(Failure, match="levels"):
        parse(opener * 100_000 + "true")


def test_the_length_has_a_limit_and_the_answer_does_not_repeat_it_all() -> None:
    with pytest.raises(Failure) as caught:
        parse('"' + "x" * MAX_LENGTH)

    assert len(str(caught.value)) < 300


@pytest.mark.timeout(10)
@pytest.mark.parametrize("filler", [' or field "a"="x"', " and true", " ", '""', "( "])
def test_a_query_as_long_as_allowed_takes_no_more_than_its_length(filler: str) -> None:
    expression = ("true" + filler * MAX_LENGTH)[:MAX_LENGTH]
    try:
        predicate = parse(expression)
    except Failure:
        return
    assert matches(str(predicate)) is True
    assert predicate.equalities() == {}


def test_equalities_are_those_that_every_match_must_have() -> None:
    def hint(expression: str) -> dict[str, str]:
        return parse(expression).equalities()

    assert hint('field "uuid"="u"') == {"uuid": "u"}
    assert hint('"u"=field "uuid" and (field "a"="1" and true)') == {"uuid": "u", "a": "1"}
    assert hint('field "a"="1" or field "b"="2"') == {}
    assert hint('field "a"="1" or field "b"="2" and field "uuid"="u"') == {"uuid": "u"}
    assert hint('field "uuid"="u" and not field "a"="1" and field "b"="2"') == {"uuid": "u"}
    assert hint('not field "uuid"="u"') == {}
    assert hint('field "a"=field "b"') == {}


# Against a model: a query as nested tuples, printed with every parenthesis and evaluated by Python

texts = st.text(st.characters(blacklist_characters='"', blacklist_categories=("Cs",)), max_size=3)
operands = st.one_of(
    st.tuples(st.just("field"), st.sampled_from(["a", "b"])),
    st.tuples(st.just("literal"), st.one_of(st.sampled_from(["1", "2"]), texts)),
)
trees = st.recursive(
    st.one_of(st.booleans(), st.tuples(st.just("="), operands, operands)),
    lambda inner: st.one_of(
        st.tuples(st.just("not"), inner), st.tuples(st.sampled_from(["and", "or"]), inner, inner)
    ),
    max_leaves=12,
)
rows = st.fixed_dictionaries({"a": st.sampled_from(["1", "2", ""]), "b": st.sampled_from(["1", "2"])})


def printed(tree: Any) -> str:
    match tree:
        case bool():
            return "true" if tree else "false"
        case ("field", name):
            return f'field "{name}"'
        case ("literal", text):
            return f'"{text}"'
        case ("not", inner):
            return f"not ({printed(inner)})"
        case (word, left, right):
            join = "=" if word == "=" else f" {word} "
            sides = [printed(side) if word == "=" else f"({printed(side)})" for side in (left, right)]
            return join.join(sides)
    raise AssertionError(tree)


def expected(tree: Any, row: dict[str, str]) -> bool:
    def text(operand: tuple[str, str]) -> str:
        return row[operand[1]] if operand[0] == "field" else operand[1]

    match tree:
        case bool():
            return tree
        case ("not", inner):
            return not expected(inner, row)
        case ("and", left, right):
            return expected(left, row) and expected(right, row)
        case ("or", left, right):
            return expected(left, row) or expected(right, row)
        case ("=", left, right):
            return text(left) == text(right)
    raise AssertionError(tree)


@given(trees, rows)
def test_a_query_means_what_its_parentheses_say(tree: Any, row: dict[str, str]) -> None:
    assert matches(printed(tree), row) is expected(tree, row)


@given(trees, rows)
def test_a_printed_predicate_is_the_same_predicate(tree: Any, row: dict[str, str]) -> None:
    predicate = parse(printed(tree))

    assert parse(str(predicate)).chain == predicate.chain


@given(trees, rows)
def test_a_row_that_matches_has_all_the_equalities(tree: Any, row: dict[str, str]) -> None:
    predicate = parse(printed(tree))

    if predicate(row.__getitem__):
        assert predicate.equalities().items() <= row.items()


words = st.sampled_from(["true", "false", "and", "or", "not", "(", ")"])


def by_grammar(tokens: list[str]) -> bool | None:
    """A naive reader of the grammar, for queries of words alone; None where there is no value."""

    def chain(place: int) -> tuple[bool, int]:
        value, place = term(place)
        while place < len(tokens) and tokens[place] in ("and", "or"):
            right, after = term(place + 1)
            value = (value and right) if tokens[place] == "and" else (value or right)
            place = after
        return value, place

    def term(place: int) -> tuple[bool, int]:
        match tokens[place]:
            case "true" | "false" as word:
                return word == "true", place + 1
            case "not":
                value, place = chain(place + 1)
                return not value, place
            case "(":
                value, place = chain(place + 1)
                if tokens[place] != ")":
                    raise IndexError
                return value, place + 1
        raise IndexError

    try:
        value, place = chain(0)
    except IndexError:
        return None
    return value if place == len(tokens) else None


@given(st.lists(words, max_size=9))
def test_any_row_of_words_is_read_by_the_grammar(tokens: list[str]) -> None:
    try:
        found: bool | None = matches(" ".join(tokens))
    except Failure:
        found = None

    assert found == by_grammar(tokens)


@given(st.one_of(st.text(), st.lists(st.one_of(words, texts, st.just('field "a"="1"'))).map(" ".join)))
def test_nothing_but_a_failure_comes_of_any_text(text: str) -> None:
    try:
        assert isinstance(matches(text), bool)
    except Failure as failure:
        assert failure.code == "INVALID_VALUE"
        assert failure.params[0] == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("OpaqueRef:NULL", "OpaqueRef:NULL"),
        ('it\'s "quoted"', 'it\'s "quoted"'),
        (True, "true"),
        (False, "false"),
        (-3, "-3"),
        (2**40, "1099511627776"),
        (0.0, "0"),
        (1.5, "1.5"),
        (0.1, "0.100000000000000006"),
        (float("inf"), "inf"),
        ((), "()"),
        ({}, "()"),
        (("a", "b"), "('a' 'b')"),
        (["a"], "('a')"),
        ({"k": "v", "k2": "v2"}, "(('k' 'v') ('k2' 'v2'))"),
        ({3: 1.5}, "(('3' '1.5'))"),
        (("it's", 'a "\\"'), r"('it\'s' 'a \"\\\"')"),
        ({"k": ("a", "b")}, r"(('k' '(\'a\' \'b\')'))"),
        ("20240101T00:00:00Z", "20240101T00:00:00Z"),
    ],
)
def test_the_database_form_of_a_value(value: object, text: str) -> None:
    assert db_string(value) == text


def test_a_value_without_a_database_form_is_an_error() -> None:
    reader: Callable[[object], str] = db_string
    with pytest.raises(TypeError):
        reader(None)
