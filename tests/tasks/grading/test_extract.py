"""What counts as the answer in a text, by literal example."""

from decimal import Decimal

import pytest

from qstar.tasks.grading import extract


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (" 42", "42"),
        (" 42.", "42"),
        (" 42.\n\nQ: 7", "42"),
        (" $18.", "18"),
        (" 1,234", "1234"),
        (" 1,234,567.", "1234567"),
        (" $1,234.50.", "1234.5"),
        (" 12.5%", "12.5"),
        (" 3.14.15", "3.14"),
        (" .5", "0.5"),
        ("-.5", "-0.5"),
        (" is -3", "-3"),
        (" \N{MINUS SIGN}3", "-3"),
        (" -$3", "-3"),
        (" $-3", "-3"),
        (" (-3)", "-3"),
        (" =-3", "-3"),
        (" - 3", "3"),  # a dash: the sign stands directly before its number
        (" 10-3 = 7", "10"),
        (" x-3", "3"),
        (" (x)-3", "3"),
        ("covid-19", "19"),
        (" --3", "-3"),
        (" 1,2,3", "1"),
        (" 1,2345", "1"),
        (" 1234,567", "1234"),
        (" 12,345,67", "12345"),
        (" 1, 000", "1"),
        (" 1/2", "1"),
        (" 5kg of 7", "5"),
        (" the 3rd", "3"),
        (" 0042", "42"),
        (" 1.", "1"),
        (" v1.2", "1.2"),
        (" ...7", "7"),
        (" x.5", "5"),
        (" 72.00", "72"),
        ("-100000000000000000000000000000000001", "-100000000000000000000000000000000001"),
    ],
)
def test_the_first_number_of_a_text(text, value):
    assert extract.number(text) == Decimal(value)


@pytest.mark.parametrize("text", ["", " twelve", " -", ".", ",", "$", "-$.", "٣", "²"])
def test_a_text_without_digits_has_no_number(text):
    assert extract.number(text) is None


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("72.00", "72"),
        ("100", "100"),
        ("1E+3", "1000"),
        ("0.50", "0.5"),
        ("-0", "0"),
        ("-3.10", "-3.1"),
        ("0.000", "0"),
        ("-1" * 1 + "0" * 40 + ".50", "-1" + "0" * 40 + ".5"),
    ],
)
def test_equal_numbers_have_one_spelling(value, text):
    assert extract.plain(Decimal(value)) == text


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        (" C", "C"),
        (" C.", "C"),
        (" (C) bank", "C"),
        (" (c) bank", "C"),
        (" **D**", "D"),
        ("B: park", "B"),
        (" the bank (E)", "E"),
        (" BANK, so D", "D"),
        (" A's, not B", "B"),
        (" D'oh, C", "C"),
        (" F or G, then E", "E"),
        (" A bank", "A"),
        (" a bank", None),
        (" (f)", None),
        (" ABCDE", None),
        ("", None),
    ],
)
def test_the_first_letter_that_stands_alone(text, letter):
    assert extract.letter(text, "ABCDE") == letter
