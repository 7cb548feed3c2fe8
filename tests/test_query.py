"""The language of `inspect --where`: Python's own meaning of operators, nulls, tokens and rows, and hostile text."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from entropyctl.errors import EntropyctlError, InputError, UsageError
from entropyctl.query import numbers_of_tokens, queries, query, select
from entropyctl.query.language import DEEPEST, LONGEST
from entropyctl.query.names import MADE

# Three responses of two, one and no tokens; what is null was not computed.
ROWS = pa.table(
    {
        "step": pa.array([1, 1, 2], pa.int64()),
        "prompt_id": ["a", "a", "b"],
        "sample": pa.array([0, 1, 0], pa.int32()),
        "tokens": pa.array([[5, 6], [7], []], pa.list_(pa.int32())),
        "loss_mask": pa.array([[True, False], [True], []], pa.list_(pa.bool_())),
        "entropies": pa.array([[0.0, 2.5], None, []], pa.list_(pa.float32())),
        "s_star": pa.array([[0.5, -1.0], [0.25], []], pa.list_(pa.float32())),
        "expected_s": pa.array([[0.25, 0.5], [0.25], []], pa.list_(pa.float32())),
        "logprobs": pa.array([[-1.0, 0.0], [-2.0], []], pa.list_(pa.float32())),
        "rollout_logprobs": pa.array([[-1.0, -0.5], [-1.0], []], pa.list_(pa.float32())),
        "advantages": pa.array([[2.0, 2.0], [-1.0], []], pa.list_(pa.float32())),
        "weights": pa.array([[1.0, 0.5], [0.0], []], pa.list_(pa.float32())),
        "reward": pa.array([1.0, 0.1, None], pa.float32()),
        "outcome": ["correct", "wrong", None],
        "greedy": pa.array([False, None, True], pa.bool_()),
        "prompt_tokens": pa.array([[1, 2, 3]] * 3, pa.list_(pa.int32())),
        "a column-name": pa.array([3, 2, 1], pa.int64()),
    }
)


def chosen(text: str, rows: pa.Table = ROWS) -> tuple[list[int], list[int]]:
    """Which rows and which tokens a condition selects."""
    where = query("--where", text)
    where.check(rows.schema, "t", "truth")
    found = select(where, rows, "t")
    return np.flatnonzero(found.rows).tolist(), np.flatnonzero(found.tokens).tolist()


@pytest.mark.parametrize(
    ("text", "rows", "tokens"),
    [
        # Conditions of rows select all their tokens; a null is neither true nor false.
        ("reward > 0", [0, 1], [0, 1, 2]),
        ("reward < 1", [1], [2]),
        ("not reward < 1", [0], [0, 1]),
        ("reward == 0.1", [1], [2]),
        ("0 < reward < 1", [1], [2]),
        ("reward == null", [2], []),
        ("outcome != null and reward != null", [0, 1], [0, 1, 2]),
        ("outcome == 'correct'", [0], [0, 1]),
        ('outcome != "correct"', [1], [2]),
        ("outcome == null", [2], []),
        ("greedy", [2], []),
        ("not greedy", [0], [0, 1]),
        ("greedy == false", [0], [0, 1]),
        ("greedy or reward < 1", [1, 2], [2]),
        ("step == 2", [2], []),
        ("`a column-name` > 1", [0, 1], [0, 1, 2]),
        ("length == 0", [2], []),
        ("true", [0, 1, 2], [0, 1, 2]),
        ("1 > 2", [], []),
        # Those of tokens select tokens, and rows that have one.
        ("entropies > 2", [0], [1]),
        ("not entropies > 2", [0], [0]),
        ("entropies == null", [1], [2]),
        ("loss_mask", [0, 1], [0, 2]),
        ("kept", [0], [0]),
        ("reward > 0.5 and s_star > 0", [0], [0]),
        ("reward < 0.5 or s_star < 0", [0, 1], [1, 2]),
        ("entropies > 2 or outcome == 'wrong'", [0, 1], [1, 2]),
        ("s_star - expected_s < 0", [0], [1]),
        ("abs(s_star - expected_s) > 1", [0], [1]),
        ("centred_s == 0", [1], [2]),
        ("mismatch == 0.5", [0], [1]),
        ("mismatch < 0", [1], [2]),
        ("probability > 0.99", [0], [1]),
        ("position == 1", [0], [1]),
        ("change > 0", [], []),
        ("change < 0", [0], [0]),
        # A division by zero is null.
        ("1 / entropies > 0", [0], [1]),
        ("1 / entropies == null", [0, 1], [0, 2]),
        ("entropies / entropies == null", [0, 1], [0, 2]),
    ],
)
def test_what_a_condition_selects(text: str, rows: list[int], tokens: list[int]) -> None:
    assert chosen(text) == (rows, tokens)


def test_the_quantities_that_are_made_from_columns() -> None:
    def values(text: str) -> list[float | None]:
        data, null = numbers_of_tokens(query("--histogram", text), ROWS, "t")
        return [None if gone else value for value, gone in zip(data.tolist(), null.tolist(), strict=True)]

    assert values("centred_s") == [0.25, -1.5, 0]
    assert values("mismatch") == [0, 0.5, -1]
    assert values("probability") == pytest.approx([np.exp(-1), 1, np.exp(-2)])
    assert values("position") == [0, 1, 0] and values("length") == [2, 2, 1]
    # -w r A (S* - E[S]); the second token is not counted, the third has no weight
    assert values("change") == [-0.5, 0, 0]
    assert values("kept") == [True, False, False]
    assert values("entropies") == [0, 2.5, None] and values("2 * entropies - 1") == [-1, 4, None]
    assert values("reward") == pytest.approx([1, 1, 0.1])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "the end at character 1"),
        ("reward >", "the end at character 9"),
        ("reward = 1", "'=' at character 8 does not fit there; equality is =="),
        ("(reward > 1", "the end at character 12"),
        ("reward > 1)", "')' at character 11"),
        ("reward > 1 reward", "'reward' at character 12"),
        ("abs reward", "'reward' at character 5"),
        ("max(reward) > 1", "'(' at character 4"),
        ("reward > 1 & step > 1", "'&' at character 12"),
        ("__import__('os').system('true')", "'.' at character 17"),
        ("__import__('os') == 1", "'(' at character 11"),
        ("outcome == 'correct", "''' at character 12"),
        ("reward == 1e999", "the number at character 11 is too large"),
        ("1 < not true", "'not' at character 5"),
        ("reward", "is a number, and must be true or false"),
        ("null", "is null, and must be true or false"),
        ("reward and step > 1", "reward is a number, where 'and' takes true or false"),
        ("outcome > 'a'", "outcome is a text and 'a' is a text, where '>' takes numbers"),
        ("outcome == 1", "outcome is a text and 1 is a number, where '==' takes two of one kind"),
        ("1 < reward == true", "where '==' takes two of one kind"),
        ("outcome + 1 > 2", "outcome is a text, where '+' takes a number"),
        ("-greedy > 0", "greedy is true or false, where '-' takes a number"),
        ("abs(outcome) > 0", "outcome is a text, where 'abs' takes a number"),
        ("reward < null", "null is null, where '<' takes numbers"),
        ("not reward", "reward is a number, where 'not' takes true or false"),
        ("(" * (DEEPEST + 1) + "true" + ")" * (DEEPEST + 1), "more than 50 parentheses"),
        ("1" * (LONGEST + 1), "longer than 10000 characters"),
    ],
)
def test_what_does_not_follow_the_grammar_is_said(text: str, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        chosen(text)
    assert words in str(caught.value) and str(caught.value).startswith("--where"), caught.value


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "rewards > 0",
            "t: there is no column 'rewards'; known: step, prompt_id, sample, tokens, loss_mask, entropies",
        ),
        ("nosuch > 0", "made from columns: centred_s, mismatch, probability, change, kept, position, length"),
        ("`change` > 0", "t: there is no column 'change'"),
        ("values > 0", "column 'values' is missing; it is made by `entropyctl score --critic`"),
        ("prompt_tokens == null", "column 'prompt_tokens' is list<int32>; name one of numbers, truths or texts"),
    ],
)
def test_a_column_that_is_not_there_is_named_with_those_that_are(text: str, words: str) -> None:
    with pytest.raises(InputError) as caught:
        chosen(text)
    assert words in str(caught.value), caught.value


def test_a_made_quantity_names_the_columns_that_it_lacks() -> None:
    with pytest.raises(InputError, match=r"'s_star' is missing; it is made by `entropyctl score --policy`"):
        chosen("centred_s > 0", ROWS.drop_columns(["s_star"]))
    rows = ROWS.set_column(ROWS.schema.get_field_index("advantages"), "advantages", ROWS["entropies"])
    with pytest.raises(InputError, match="t: row step 1, prompt a, sample 1: 'advantages' is null"):
        chosen("change > 0", rows)


def test_another_programs_list_counts_for_tokens_where_it_is_as_long() -> None:
    rows = ROWS.append_column("grades", pa.array([[1.0, 2.0], [3.0], []], pa.list_(pa.float64())))
    assert chosen("grades > 1", rows) == ([0, 1], [1, 2])
    rows = ROWS.append_column("grades", pa.array([[1.0, 2.0], [3.0, 4.0], []], pa.list_(pa.float64())))
    with pytest.raises(InputError, match="row step 1, prompt a, sample 1: 'grades' has 2 entries for 1 tokens"):
        chosen("grades > 1", rows)


def test_a_list_of_quantities() -> None:
    found = queries("--histogram", "entropies, abs(centred_s) , `a column-name`")
    assert [one.text for one in found] == ["entropies", "abs(centred_s)", "`a column-name`"]
    assert found[1].columns == ["s_star", "expected_s"] and set(query("", "change").columns) >= {
        "advantages",
        "weights",
    }
    with pytest.raises(UsageError, match="the end at character 11"):
        queries("--histogram", "entropies,")


def test_long_chains_are_no_deep_trees() -> None:
    assert chosen(" and ".join(["reward > 0"] * 600)) == chosen("reward > 0")
    assert chosen("not " * 2001 + "reward > 0.5") == chosen("not reward > 0.5")
    assert chosen("+".join(["1"] * 4000) + " == 4000")[0] == [0, 1, 2]
    assert chosen("- " * 4001 + "1 == -1")[0] == [0, 1, 2]


# Random expressions against Python: its grammar, read by its own parser, and its operators; None stands for null.

NUMBERS = {"x": [0.0, 1.5, -2.0, 3.0, None, 0.5], "y": [1.0, -0.5, None, 0.0, 2.0, 4.0]}
TRUTHS = {"p": [True, False, None, True, False, True]}
NUMERIC: dict[type, Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
ORDER: dict[type, Callable[[Any, Any], bool]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}


def by_python(node: ast.expr, row: dict[str, Any]) -> Any:
    """What Python makes of an expression in one row."""
    match node:
        case ast.Constant():
            return node.value
        case ast.Name():
            return row[node.id]
        case ast.UnaryOp(op=ast.Not()):
            value = by_python(node.operand, row)
            return None if value is None else not value
        case ast.UnaryOp():
            value = by_python(node.operand, row)
            return None if value is None else -value
        case ast.Call():
            value = by_python(node.args[0], row)
            return None if value is None else abs(value)
        case ast.BinOp():
            a, b = by_python(node.left, row), by_python(node.right, row)
            if a is None or b is None or (isinstance(node.op, ast.Div) and b == 0):
                return None
            return NUMERIC[type(node.op)](a, b)
        case ast.Compare():
            values = [by_python(one, row) for one in (node.left, *node.comparators)]
            pairs = zip(node.ops, values, values[1:], strict=False)
            return conjunction([None if a is None or b is None else ORDER[type(op)](a, b) for op, a, b in pairs])
        case ast.BoolOp(op=ast.And()):
            return conjunction([by_python(one, row) for one in node.values])
        case ast.BoolOp():
            values = [by_python(one, row) for one in node.values]
            return True if True in values else None if None in values else False
    raise AssertionError(ast.dump(node))


def conjunction(values: list[bool | None]) -> bool | None:
    return False if False in values else None if None in values else True


def grown(children: st.SearchStrategy[str], operators: list[str]) -> st.SearchStrategy[str]:
    return st.lists(st.tuples(children, st.sampled_from(operators)), min_size=1, max_size=3).flatmap(
        lambda pairs: children.map(lambda last: " ".join(f"{part} {sign}" for part, sign in pairs) + f" {last}")
    )


ATOMS = st.sampled_from(["x", "y"]) | st.integers(0, 4).map(str) | st.sampled_from(["0.5", ".25", "1e-1", "2.", "1E2"])
SUMS = st.recursive(
    ATOMS,
    lambda inner: (
        grown(inner, ["+", "-", "*", "/"])
        | inner.map(lambda part: f"({part})")
        | inner.map(lambda part: f"abs({part})")
        | inner.map(lambda part: f"-{part}")
    ),
    max_leaves=6,
)
CONDITIONS = st.recursive(
    grown(SUMS, ["<", "<=", ">", ">=", "==", "!="]) | st.just("p"),
    lambda inner: (
        grown(inner, ["and", "or"]) | inner.map(lambda part: f"not {part}") | inner.map(lambda part: f"({part})")
    ),
    max_leaves=6,
)


@pytest.mark.parametrize("level", ["row", "token", "mixed"])
@given(text=CONDITIONS)
def test_random_conditions_mean_what_python_means(level: str, text: str) -> None:
    """Of rows, of tokens, and of tokens that are asked together with their rows' numbers."""
    count = len(NUMBERS["x"])
    columns = {
        name: pa.array([None if v is None else [v] for v in values], pa.list_(pa.float64()))
        if level == "token" or (level == "mixed" and name == "x")
        else pa.array(values, pa.float64())
        for name, values in NUMBERS.items()
    }
    rows = pa.table({"tokens": pa.array([[1]] * count, pa.list_(pa.int32())), **columns, "p": TRUTHS["p"]})
    tree = ast.parse(text, mode="eval").body
    expected = [
        by_python(tree, {**{n: v[i] for n, v in NUMBERS.items()}, "p": TRUTHS["p"][i]}) is True for i in range(count)
    ]
    assert chosen(text, rows)[0] == np.flatnonzero(expected).tolist()


@given(st.text(max_size=60) | st.text(alphabet="()abs'`\"<>=!+-*/., \n\x00\u202e1e9xnotandor", max_size=60))
def test_no_text_does_anything_but_select_or_be_refused(text: str) -> None:
    try:
        rows, tokens = chosen(text)
    except EntropyctlError as error:
        assert str(error).startswith(("--where", "t: "))
    else:
        assert set(rows) <= {0, 1, 2} and set(tokens) <= {0, 1, 2}


def test_every_made_quantity_is_told_of_in_the_help(cli: Any) -> None:
    text = cli("inspect", "--help").text
    assert [name for name in MADE if f"  {name} " not in text] == []
