import csv
import io
import math

import pytest

from gorp.compare.page import comparison_plots, render_page, write_files
from gorp.compare.tables import entries, stream_grid, summary_grid, task_grid
from gorp.report.run_plots import write_pngs
from gorp.report.tables import to_csv, to_latex
from gorp.report.words import MINUS, NOT_MEASURED


def test_the_best_comes_first_and_pairs_share_stream_and_seed(results):
    joint, gorp, plain = entries(results, "gorp")
    assert [joint.name, gorp.name, plain.name] == ["joint", "gorp", "<plain>"]
    assert plain.less_the_other("AP").difference.value == -19
    assert plain.less_the_other("BWT").difference.value == pytest.approx(-41)
    assert joint.less_the_other("AP").p_value is None and joint.less_the_other("BWT") is None
    assert gorp.pairs == ()
    assert gorp.just_learnt == pytest.approx(70.5) and gorp.kept == pytest.approx(81)
    assert joint.just_learnt is None


def test_streams_of_a_seed_count_once(results):
    again = {f"{key}x": run.model_copy(update={"stream": "two/2"}) for key, run in results.items()}
    for once, twice in zip(entries(results, "gorp"), entries({**results, **again}, "gorp"), strict=True):
        assert twice.figure("AP") == once.figure("AP")
        assert twice.less_the_other("AP") == once.less_the_other("AP")
        assert len(twice.runs) == 2 * len(once.runs) and twice.seeds == once.seeds


def test_the_summary_says_it_in_text(results):
    grid = summary_grid(results, "gorp", "mine")
    row = dict(zip(grid.header, grid.rows[2], strict=True))
    assert row["method"] == "<plain>" and row["runs"] == "3"
    assert row["AP"] == "51.5 ± 1.2" and row["AP less gorp's"] == f"{MINUS}19.0 ± 0.0 (p 0.25)"
    assert row["train s"] == "12" and row["peak MB"] == "502"
    assert dict(zip(grid.header, grid.rows[0], strict=True))["notes"] == "old rows"


def test_costs_are_of_the_device_that_most_cells_ran_on(results):
    for key in ("gorp/two-1/1", "joint/two-1/0"):
        results[key] = results[key].model_copy(update={"environment": {"device": "a GPU"}})
    grid = summary_grid(results, "gorp")
    rows = {row[0]: dict(zip(grid.header, row, strict=True)) for row in grid.rows}
    assert [rows[name]["train s, cpu"] for name in ("gorp", "<plain>", "joint")] == ["12", "12", NOT_MEASURED]
    assert [rows[name]["peak MB, cpu"] for name in ("gorp", "<plain>", "joint")] == ["502", "502", NOT_MEASURED]
    costs = next(plot for plot in comparison_plots(results, "gorp") if plot.heading == "Cost against AP")
    assert [name for name, *_ in costs.points] == ["gorp", "<plain>"]


def test_unseen_tasks_have_a_column_where_they_were_measured(results):
    assert "unseen" not in summary_grid(results, "gorp").header
    results["gorp/two-1/0"].summary["unseen"] = 33.0
    grid = summary_grid({"gorp/two-1/0": results["gorp/two-1/0"]}, "gorp")
    assert dict(zip(grid.header, grid.rows[0], strict=True))["unseen"] == "33.0"


def test_a_cell_with_fewer_streams_than_others_says_so(results):
    assert "streams" not in summary_grid(results, "gorp").header
    more = {
        f"gorp/two-2/{seed}": results["gorp/two-1/0"].model_copy(update={"stream": "two/2", "seed": seed})
        for seed in (0, 1)
    }
    grid = summary_grid({**results, **more}, "gorp")
    rows = {row[0]: dict(zip(grid.header, row, strict=True)) for row in grid.rows}
    assert [rows[name]["streams"] for name in ("gorp", "<plain>", "joint")] == ["2", "1", "1"]
    assert [rows[name]["notes"] for name in ("gorp", "<plain>", "joint")] == ["uneven seeds", "", "old rows"]


def test_a_cell_whose_runs_had_other_settings_says_so(results):
    faster = results["gorp/two-1/1"].model_copy(update={"config": {"method": "gorp", "training": {"lr": 0.1}}})
    grid = summary_grid({**results, "gorp/two-1/1": faster}, "gorp")
    notes = {row[0]: dict(zip(grid.header, row, strict=True))["notes"] for row in grid.rows}
    assert notes == {"gorp": "mixed settings", "<plain>": "", "joint": "old rows"}


def test_differences_from_a_cell_that_is_not_there_have_no_column(results):
    header = summary_grid(results, "nobody").header
    assert "AP" in header and not any("less" in name for name in header)


def test_a_leak_that_is_no_number_is_told(results):
    for seed, leak in enumerate((0.1, math.nan, 0.2)):
        key = f"gorp/two-1/{seed}"
        results[key] = results[key].model_copy(update={"worst_leak_over_bound": leak})
    grid = summary_grid(results, "gorp")
    assert [dict(zip(grid.header, row, strict=True))["leak"] for row in grid.rows][1] == "nan"


def test_tasks_and_streams(results):
    assert task_grid(results, "gorp").rows[1] == ("gorp", "81 (81)", "60 (60)")
    assert task_grid(results, "gorp").rows[0] == ("joint", "85", "71")
    assert stream_grid(results, "gorp").header == ("method", "two/1")


def test_a_grid_as_csv_and_latex(results):
    grid = summary_grid(results, "gorp", "100% & more")
    rows = list(csv.reader(io.StringIO(to_csv(grid))))
    assert tuple(rows[0]) == grid.header and len(rows) == 4
    text = to_latex(task_grid(results, "gorp", "100% & more"))
    assert r"\caption{100\% \& more}" in text and r"old\_task" in text and r"\begin{tabular}{lrr}" in text
    assert r"$\pm$" in to_latex(grid) and "±" not in to_latex(grid)


def test_the_page_shows_every_figure_and_escapes_names(results, tmp_path):
    page = render_page(results, "mine", "which one?", "gorp")
    assert "<plain>" not in page and "&lt;plain&gt;" in page
    for text in ("AP against BWT", "Stability against plasticity", "Cost against AP", "training.lr=0.1: 60.0, taken"):
        assert text in page
    assert page.count('<svg class="plot"') == 3 + 2
    write_files(results, "mine", "", "gorp", tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {"comparison.html", "tables.md", "tables.tex", "summary.csv"}
    pictures = write_pngs(comparison_plots(results, "gorp"), tmp_path / "png")
    assert [path.name for path in pictures][::4] == ["01-ap-against-bwt.png", "05-score-of-new-after-each-stage.png"]
    with pytest.raises(ValueError, match="at least one finished cell"):
        render_page({}, "mine", "", "gorp")
