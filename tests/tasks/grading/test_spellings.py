"""Right answers are read in every spelling that has one meaning, wrong ones in none; what is refused is listed."""

import pytest
import spellings

PLAIN = [spelled for spelled in spellings.table() if spelled.kind != "symbolic"]
SYMBOLIC = [spelled for spelled in spellings.table() if spelled.kind == "symbolic"]


def verdicts(spelled, texts, strict=False):
    return [text for text in texts if spellings.correct(spelled, text, strict)]


def check(spelled):
    refused = [text for text, _ in spelled.refused]
    assert verdicts(spelled, [*spelled.right, *refused]) == list(spelled.right)
    assert verdicts(spelled, spelled.wrong) == []
    assert verdicts(spelled, spelled.wrong, strict=True) == []


@pytest.mark.parametrize("spelled", PLAIN, ids=lambda spelled: f"{spelled.kind}-{spelled.gold}")
def test_right_spellings_are_read_and_wrong_answers_are_not(spelled):
    check(spelled)


@pytest.mark.parametrize("spelled", SYMBOLIC, ids=lambda spelled: spelled.gold)
@pytest.mark.usefixtures("compared_here")
def test_expressions_are_read_in_all_their_spellings(spelled):
    check(spelled)


def test_the_list_is_long():
    assert sum(len(spelled.right) for spelled in spellings.table()) >= 500
    assert sum(len(spelled.wrong) for spelled in spellings.table()) >= 300


def test_strict_reads_the_plainest_spellings_only():
    few = {"numeric": ["72", "72%"], "exact": ["Lima", "LIMA"], "choice": ["C", "(c)"]}
    for spelled in PLAIN:
        if spelled.gold in ("72", "Lima") or (spelled.gold == "C" and not spelled.options):
            read = verdicts(spelled, spelled.right, strict=True)
            assert set(few[spelled.kind]) <= set(read)
            assert len(read) < len(spelled.right) / 3
