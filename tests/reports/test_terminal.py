import io

import pytest
from rich.console import Console

from qstar.data import tokenizer as tokenizers
from qstar.reports import terminal
from qstar.thoughts.read import Reading, Step, Thought

LETTERS = tokenizers.characters("ab \n[]\x1b")


def step(token, *thoughts):
    return Step(token, tuple(Thought(ids, weight, base, mixed, ()) for ids, weight, base, mixed in thoughts), ())


READING = Reading(
    first=0,
    steps=(
        step(1, ((2, 0), 0.25, -3.0, -0.5), ((3, 6), -0.5, -3.0, -3.75)),
        step(4, ((), 0.0, -1.0, -1.001), ((), 0.0, -1.0, -1.0)),
        step(3, ((4, 1), 1.0, -0.5, -2.0), ((5, 1), 0.5, -0.5, -1.0)),
    ),
    given=3,
)


def printed(thing, **settings):
    out = Console(file=io.StringIO(), width=100, highlight=False, **settings)
    out.print(thing)
    return [line.rstrip() for line in out.file.getvalue().splitlines()]


def test_a_reading_is_shown_as_text_as_a_table_and_as_a_sum():
    assert printed(terminal.show(READING, LETTERS)) == [
        "Each token: likelier after the thought, less likely, hardly changed, written by the model",
        "",
        "ab[↵",
        "",
        "",
        "   token  thought before it  weight  log p without   with  change",
        "1  b      ␣a                   0.25          -3.00  -0.50   +2.50",
        "          ↵\\x1b               -0.50          -3.00  -3.75   -0.75",
        "2  [      (pauses)             0.00          -1.00  -1.00   +0.00",
        "          (pauses)             0.00          -1.00  -1.00   +0.00",
        "3  ↵      [b                   1.00          -0.50  -2.00   -1.50",
        "          ]b                   0.50          -0.50  -1.00   -0.50",
        "",
        "NLL 1.500 without thoughts, 1.542 with: -0.042 nats a token; 33% of 3 tokens helped",
        "Best thought: ␣a before b (token 1): +2.50 nats",
    ]


def test_on_a_narrow_terminal_every_thought_is_a_line_with_all_of_its_figures():
    out = Console(file=io.StringIO(), width=40, highlight=False, markup=False)
    out.print(terminal.show(READING, LETTERS))
    lines = [line.rstrip() for line in out.file.getvalue().splitlines()]
    begin = lines.index("1 b")
    assert max(map(len, lines)) <= 40
    assert lines[begin : begin + 5] == [
        "1 b",
        "  ␣a, weight 0.25, log p -3.00, with",
        "-0.50, change +2.50",
        "  ↵\\x1b, weight -0.50, log p -3.00, with",
        "-3.75, change -0.75",
    ]
    assert "2 [" in lines and "  (pauses), weight 0.00, log p -1.00," in lines and "3 ↵" in lines


def test_in_a_narrow_output_that_does_not_fold_lines_every_figure_stays():
    out = Console(file=io.StringIO(), width=40, soft_wrap=True, highlight=False, markup=False)
    out.print(terminal.show(READING, LETTERS))
    assert "  ␣a, weight 0.25, log p -3.00, with -0.50, change +2.50" in out.file.getvalue().splitlines()


@pytest.mark.parametrize(
    ("gain", "look"),
    [(2.0, "bold green"), (0.3, "green"), (0.04, "dim"), (-0.04, "dim"), (-0.3, "red"), (-1.0, "bold red")],
)
def test_help_is_green_harm_is_red_and_little_of_either_dim(gain, look):
    assert terminal.style(gain) == look


def test_the_running_text_is_coloured_and_what_was_written_underlined():
    text = terminal.running(READING, ["a", "b", "[", "\n"])
    assert text.plain == "ab[↵\n"
    assert [span.style for span in text.spans] == ["default", "green", "dim", "bold red underline"]


def test_colour_codes_come_from_the_display_and_never_from_a_token():
    lines = "\n".join(printed(terminal.show(READING, LETTERS), force_terminal=True, color_system="standard"))
    assert "\x1b[32m" in lines
    plain = "\n".join(printed(terminal.show(READING, LETTERS)))
    assert "\x1b" not in plain
