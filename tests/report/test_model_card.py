"""The card as text: what it is told stands in it, and nothing that it is told becomes more than text."""

import pytest
import yaml

from gorp.report.model_card import CardFacts, render_card


def facts(**values):
    return CardFacts(**{"form": "model", "kind": "causal", "base": "org/base", "base_on_hub": "org/base", **values})


def front_matter(card):
    return yaml.safe_load(card.split("---\n")[1])


def test_it_says_what_was_learnt_kept_and_set(record):
    card = render_card(record, facts(place="me/model", notes=["A note."]))
    data = front_matter(card)
    assert data["base_model"] == "org/base"
    assert [result["dataset"]["name"] for result in data["model-index"][0]["results"]] == record.tasks
    assert data["model-index"][0]["results"][0]["metrics"][0]["value"] == 78.0
    for part in (
        "- A note.",
        f"AP {record.summary()['AP']:.1f}",
        "BWT",
        "of the room for protected directions is still free",
        "leak 1.0e",
    ):
        assert part in card, part
    assert 'AutoModelForCausalLM.from_pretrained("me/model")' in card
    assert "seed: 0" in card and "torch 2.13" in card


def test_of_an_adapter_it_says_where_a_base_is_that_is_not_on_the_hub(record):
    here = {"form": "adapter", "place": "here"}
    assert "put the folder" not in render_card(record, facts(**here))
    card = render_card(record, facts(**here, base="desk", base_on_hub=None))
    assert "`desk` is no id on the hub: where it stands below, and in `adapter_config.json`, put the folder" in card
    assert "source_of" not in card
    card = render_card(record, facts(**here, base="t5-tiny", base_on_hub=None, base_is_known=True))
    assert '`gorp.backbones.source_of("t5-tiny")` tells' in card


def test_a_leak_is_told_and_not_praised(make_record):
    card = render_card(make_record(leak=1e-3), facts(place="here"))
    assert "changed on protected directions by more than rounding explains; worst" in card
    assert "No layer changed" not in card


def test_of_a_run_that_was_scored_by_nothing_it_has_no_results(make_record):
    record = make_record(tasks=1)
    record.stages[0].scores = [None]
    assert "model-index" not in front_matter(render_card(record, facts(place="here")))


@pytest.mark.parametrize("form", ["model", "adapter"])
@pytest.mark.parametrize("kind", ["seq2seq", "causal", "encoder"])
def test_names_from_data_stay_text(make_record, form, kind):
    evil = ["![x](http://e.vil)", "a\n---\nlicense: mit", "<script>", 'b", exec("c'] * (kind != "x")
    record = make_record(tasks=evil, name="# | [n](m)\n## own heading")
    record.config["training"] = {"lr": 0.001, "full_rank_lr": 0.01}
    told = facts(form=form, kind=kind, place='d", exec("e', labels=evil, task=evil[2], attach={"rank": 2})
    card = render_card(record, told)
    front, text = card.split("---\n", 2)[1:]
    assert "license" not in yaml.safe_load(front)
    assert "\n## own heading" not in text and "\n---\n" not in text
    assert "![x](" not in text.replace("\\[", "").split("## How to load it")[0].replace("!\\[", "")
    assert "<script>" not in text.split("```python")[0]
    blocks = [part.split("```")[0] for part in text.split("```python\n")[1:]]
    assert len(blocks) == 2
    assert 'exec("' not in compile_names("".join(blocks))


def compile_names(code):
    """The names that code calls; raises SyntaxError where it is none."""
    return " ".join(f'{name}("' for name in compile(code, "card", "exec").co_names)
