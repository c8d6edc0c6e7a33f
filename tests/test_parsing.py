import json

import pytest
import yaml

from gorp.parsing import MOST_NESTED, parse_json, parse_yaml

BOMB = "a: &a [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{inner}'] * 10)}]\n" for inner, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize("parse", [parse_json, parse_yaml])
def test_plain_values_come_through(parse):
    text = '{"a": [1, 2.5, true, null, "\\u00e9 \\n"], "b": {"c": []}}'
    assert parse(text) == {"a": [1, 2.5, True, None, "é \n"], "b": {"c": []}}
    assert parse("[" * MOST_NESTED + "]" * MOST_NESTED) is not None


def test_a_pair_of_surrogates_is_a_character():
    assert parse_json('"\\ud83d\\ude00"') == "\N{GRINNING FACE}"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[" * 100_000, "nested deeper than 100"),
        ("[" * 101 + "]" * 101, "nested deeper than 100"),
        ("[1" + "0" * 5000 + "]", "digits"),
        ('{"a": {"b": ["\\ud800"]}}', "key 'a.b.0': half of a surrogate pair"),
        ('{"\\udfff": 1}', "half of a surrogate pair"),
        ('{"\\ud800": {"b": "\\ud800"}}', "half of a surrogate pair"),
    ],
)
@pytest.mark.parametrize("parse", [parse_json, parse_yaml])
def test_what_could_not_be_walked_through_or_written_is_refused(parse, text, said):
    with pytest.raises((json.JSONDecodeError, yaml.YAMLError), match=said):
        parse(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (BOMB, "more than 100000 values"),
        ("a: &a [*a]", "nested deeper than 100"),
        ("a: 2020-13-45", "month must be in 1..12"),
        ("a: {b: 2020-01-02}", "key 'a.b': date; put it in quotes"),
        ("a: !!set {b}", "key 'a': set"),
        ("a: !!binary aGk=", "key 'a': bytes"),
        ("a: !!timestamp x", "NoneType"),
        ("a: !!bool x", "x"),
        ("a: !!python/object/apply:os.system [exit]", "could not determine a constructor"),
    ],
)
def test_yaml_holds_plain_values_alone(text, said):
    with pytest.raises(yaml.YAMLError, match=said):
        parse_yaml(text)
