import io
import math

import pytest
import rich.console

from qstar.reports import tables

PAGE = "one\n<!-- table x -->\nold\n<!-- end -->\ntwo\n<!-- table y z -->\n<!-- end -->\n"


def test_a_table_is_written_in_markdown_and_read_again():
    text = tables.markdown(("arm", "n"), [("a", 1), ("b c", "")])
    assert text == "| arm | n |\n| --- | --- |\n| a | 1 |\n| b c |  |\n"
    assert tables.cells(text) == [["a", "1"], ["b c", ""]]


def test_a_section_without_rows_is_empty():
    assert tables.section("T", ["a"], []) == ""
    assert tables.section("T", ["a"], [[1]]) == "## T\n\n| a |\n| --- |\n| 1 |\n"


def test_figures_are_written_with_their_intervals():
    assert tables.interval(0.8124, 0.78, 0.841) == "0.812 [0.780, 0.841]"
    assert tables.interval(0.5, math.nan, math.nan) == "0.500"
    assert tables.interval(0.5, -0.1, 1, "+.1f") == "+0.5 [-0.1, +1.0]"
    assert tables.share({"share": 0.5, "low": 0.25, "high": 0.75, "n": 8}) == "0.500 [0.250, 0.750] of 8"
    line = {"accuracy": 0.5, "accuracy_low": 0.25, "accuracy_high": 0.75}
    assert (tables.figure(line, "accuracy"), tables.figure(line, "nll")) == ("0.500 [0.250, 0.750]", "")
    # Wilson's interval of 1 of 4, from his formula with z = 1.96.
    assert tables.counted_share([True, False, False, False]) == "1/4 = 0.250 [0.046, 0.699]"
    assert tables.fraction({"right": 3, "sampled": 8}, "right", "sampled") == "3/8"
    assert tables.fraction({"right": 3}, "right", "sampled") == ""


def test_means_over_runs_have_the_interval_of_their_kind():
    runs = {(0, 0): 0.8, (0, 1): 0.9}
    assert tables.over_runs(runs) == "0.850 ± 0.635"  # 12.706 x 0.0707 / sqrt(2)
    assert tables.over_runs(runs, "+") == "+0.850 ± 0.635"
    assert tables.over_runs({}) == ""
    # 0.025^(1 / (150 (1.960 / 4.303)^2)), of three runs of 50 questions that were all right.
    assert tables.shares_over_runs({(0, seed): {"share": 1.0, "n": 50} for seed in range(3)}) == "1.000 [0.888, 1.000]"
    assert tables.shares_over_runs({(0, 0): {"share": 0.5}}) == "0.500"


def test_shares_that_all_runs_have_at_a_bound_have_an_interval_there():
    def of(*shares):
        lines = [{"seed": seed, "right": share, "asked": 500 - seed} for seed, share in enumerate(shares)]
        return tables.share_mean(lines, "right", lambda line: line["asked"])

    # Clopper and Pearson's of (1.960 / 4.303)^2 x 3 x 498 = 310 questions: 0.025^(1 / 310) = 0.988.
    assert (of(1.0, 1.0, 1.0), of(0, 0.0, 0)) == ("1.000 [0.988, 1.000]", "0.000 [0.000, 0.012]")
    # Away from the bounds, and where runs differ, Student's.
    assert (of(0.5, 0.5), of(0.0, 1.0), of(0.8, 0.9)) == ("0.500 ± 0.000", "0.500 ± 6.353", "0.850 ± 0.635")
    # One run has no interval over runs; a run without the share does not count: 1 - 0.025^(1 / 23.7) of two of 499.
    assert (of(1.0), of(1.0, math.nan), of()) == ("1.000", "1.000", "")
    assert of(0.0, 0.0, math.nan) == "0.000 [0.000, 0.144]"


def test_means_and_gains_of_records_are_over_their_runs():
    lines = [{"seed": 0, "share": 0.8, "other": 0.5}, {"seed": 1, "share": 0.9, "other": math.nan}, {"seed": 2}]
    assert tables.mean(lines, "share") == "0.850 ± 0.635"  # 12.706 x 0.0707 / sqrt(2)
    assert tables.mean(lines, "other", form=".1f") == "0.5"
    assert tables.mean(lines, "neither") == ""
    assert tables.mean([{"base": 1, "seed": 0, "share": 0.2}, {"base": 0, "seed": 0, "share": 0.4}], "share", "+") == (
        "+0.300 ± 1.271"  # 12.706 x 0.1414 / sqrt(2)
    )
    others = [{"seed": 0, "share": 0.6}, {"seed": 3, "share": 0.1}]
    assert tables.gain(lines[:2], "share", others) == "+0.200"  # of the only seed that both have
    assert tables.gain(others[:1], "share", lines[:1], "other") == "+0.100"


def test_what_varied_is_listed_by_kind():
    groups = {"a": [(0, 0), (0, 1)], "b": [(0, 0), (1, 0)], "c": [(0, 3), (0, 4)]}
    assert tables.varied(groups) == "- 2 seeds of one base: a, c\n- 2 bases, 1 seed of each: b\n"


def test_numbers_and_ranges_have_one_form():
    assert tables.median_and_spread([3.0, 1.0, 2.0]) == ("2.0", "1.0 to 3.0")
    assert (tables.tokens(1234567), tables.flops(1234.0)) == ("1,234,567", "1.23e+03")


def test_a_page_is_filled_in_its_file(tmp_path):
    file = tmp_path / "page.md"
    file.write_text(PAGE, encoding="utf-8")
    tables.fill(file, {"x": "new\n"})
    assert file.read_text(encoding="utf-8") == PAGE.replace("old", "new")
    with pytest.raises(ValueError, match="table w"):
        tables.fill(file, {"w": ""})
    assert file.read_text(encoding="utf-8") == PAGE.replace("old", "new")


def test_a_text_goes_into_its_place_and_the_rest_of_the_page_stays():
    assert tables.places(PAGE) == ["x", "y z"]
    assert (tables.placed(PAGE, "x"), tables.placed(PAGE, "none")) == ("old\n", "")
    filled = tables.filled(PAGE, {"x": "new \\1\n"})
    assert filled == "one\n<!-- table x -->\nnew \\1\n<!-- end -->\ntwo\n<!-- table y z -->\n<!-- end -->\n"
    assert tables.filled(filled, {"x": "new \\1\n"}) == filled
    with pytest.raises(ValueError, match="<!-- table w -->"):
        tables.filled(PAGE, {"w": ""})


def test_a_file_is_rewritten_on_request_alone_and_never_by_less(tmp_path):
    file = tmp_path / "folder" / "table.md"
    held = lambda text: {line: 1 for line in text.splitlines()}  # noqa: E731
    tables.rewrite(file, "a\nb\n", held, False)
    tables.rewrite(file, "a\nb\n", held, False)
    for text, replace in (("a\nb\nc\n", False), ("a\n", True)):
        with pytest.raises(ValueError, match=str(file)):
            tables.rewrite(file, text, held, replace)
        assert file.read_text() == "a\nb\n"
    tables.rewrite(file, "a\nb\nc\n", held, True)
    assert file.read_text() == "a\nb\nc\n"


def test_a_table_that_is_too_wide_is_several_that_begin_with_its_first_column():
    rows = [["0", "1.25", "0.500 [0.250, 0.750]", "a" * 40], ["1", "2", "0.750 [0.500, 1.000]", "b"]]
    names = ["run", "optim", "cups greedy accuracy", "place"]
    blocks = tables.fitting(names, rows, 40)
    assert [[column.header for column in table.columns] for table in blocks] == [
        ["run", "optim", "cups greedy accuracy"], ["run", "place"]
    ]  # fmt: skip
    console = rich.console.Console(width=40, file=io.StringIO())
    for table in blocks:
        console.print(table)
    lines = console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= 40
    assert "│ 0   │  1.25 │ 0.500 [0.250, 0.750] │" in lines and f"│ 0   │ {'a' * 13}…{'a' * 14} │" in lines
    (whole,) = tables.fitting(names, rows, 200)
    assert len(whole.columns) == 4


def test_names_are_as_short_as_they_can_be_told_apart():
    names = ["run", "optim.lr", "control.optim.lr", "method.thought_len", "lr"]
    assert tables.short_names(names) == ["run", "optim.lr", "control.optim.lr", "thought_len", "lr"]
    assert tables.short_names([]) == []


def test_a_table_is_divided_where_a_terminal_is_too_narrow_and_no_cell_is_cut():
    names = ["strategy", *(f"figure {i}" for i in range(6))]
    rows = [("majority", *(f"0.38{i} [0.311, 0.454]" for i in range(6)))]
    whole = tables.screen(names, rows, text=1)
    whole.caption = "intervals in brackets"

    def shown(width):
        out = rich.console.Console(file=io.StringIO(), width=width, force_terminal=False)
        out.print(tables.Fitted(whole))
        return out.file.getvalue()

    for width, parts in ((200, 1), (80, 3)):
        text = shown(width)
        assert max(map(len, text.splitlines())) <= width and text.count("┏") == text.count("majority") == parts
        assert all(cell in text for cell in rows[0]) and "…" not in text
        assert "intervals in brackets" in text and text.count("strategy") == parts
