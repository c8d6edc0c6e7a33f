import json
import math
from concurrent.futures import ThreadPoolExecutor

import pytest

from gorp.compare.results import keep, read_results
from gorp.errors import InputError


def test_results_come_back_as_they_were_kept(results, tmp_path):
    file = tmp_path / "deep" / "all.json"
    keep(file, results)
    assert read_results(file) == results
    assert read_results(tmp_path / "none.json") == {}


def test_a_digest_of_conditions_is_of_an_earlier_version_and_tells_nothing(results, tmp_path):
    file = tmp_path / "all.json"
    keep(file, results)
    content = json.loads(file.read_text())
    key = next(key for key, cell in content.items() if cell["tuning"])
    content[key]["tuning"]["conditions"] = "1c0828dd53fae7d7"
    file.write_text(json.dumps(content))
    assert read_results(file)[key].tuning.conditions is None


def test_processes_that_keep_at_once_lose_nothing(results, tmp_path):
    file = tmp_path / "all.json"
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda item: keep(file, dict([item])), results.items()))
    assert read_results(file) == results


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tasks": ["old_task"]}, r"key 'gorp/two-1/0': matrix and zero_shot must have .* 1 tasks"),
        ({"tasks": [], "matrix": [], "zero_shot": []}, r"must have .* 0 tasks"),
        ({"zero_shot": [1.0]}, r"must have .* 2 tasks"),
        ({"tasks": ["new", "old_task"]}, r" and gorp/two-1/0 are both of stream 'two/1', with other tasks"),
    ],
)
def test_results_that_could_not_be_tabulated_are_refused(results, tmp_path, change, message):
    file = tmp_path / "all.json"
    keep(file, results)
    content = json.loads(file.read_text())
    content["gorp/two-1/0"].update(change)
    file.write_text(json.dumps(content))
    with pytest.raises(InputError, match=rf"all\.json: .*{message}"):
        read_results(file)


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", r"all\.json:1: not valid JSON"), ('{"gorp/a/0": {"cell": "gorp"}}', r"all\.json: key 'gorp/a/0\.method'")],
)
def test_a_damaged_file_is_named_and_not_overwritten(results, tmp_path, text, message):
    file = tmp_path / "all.json"
    file.write_text(text)
    with pytest.raises(InputError, match=message):
        keep(file, results)
    assert file.read_text() == text


def test_other_tasks_under_a_streams_name_leave_the_file_as_it_is(results, tmp_path):
    file = tmp_path / "all.json"
    keep(file, results)
    before, changes = file.read_bytes(), {"cell": "other", "tasks": ["new", "old_task"]}
    other = results["gorp/two-1/0"].model_copy(update=changes)
    with pytest.raises(InputError, match=r"both of stream 'two/1', with other tasks"):
        keep(file, {"other/two-1/0": other})
    assert file.read_bytes() == before


def test_two_results_of_one_run_are_refused(results, tmp_path):
    keep(tmp_path / "all.json", results)
    with pytest.raises(InputError, match=r"gorp/two-1/0 and gorp/elsewhere/0 are both of cell 'gorp' on one stream"):
        keep(tmp_path / "all.json", {"gorp/elsewhere/0": results["gorp/two-1/0"]})


def test_a_leak_that_is_no_number_is_the_worst(results, tmp_path):
    one = results["gorp/two-1/0"].model_copy(update={"worst_leak_over_bound": math.nan})
    keep(tmp_path / "all.json", {"gorp/two-1/0": one})
    assert math.isnan(read_results(tmp_path / "all.json")["gorp/two-1/0"].worst_leak_over_bound)
