"""A search tree to look at: all that was proposed for one question, as a frame, as text and as nested lists to open.

A node is a step. `visits` counts the solutions that end at the node or below it, `right` how many of them are right;
where the scorer `oracle` was asked, `scores["oracle"]` says whether the right answer can still be reached. Of the
leaves of one node that say the same, the list shows one, with their number.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from qstar.reports import html, searches
from qstar.reports.arrow import Frame
from qstar.reports.html import escaped, number

COLUMNS = ("problem", "question", "gold", "written", "answer", "correct", "generated_tokens", "place")
"""Columns of the store that a tree is made of."""
LEGEND = (
    "A line is a step; beneath it are the steps that follow it. After it: the score of each scorer, the value that it "
    "was ranked by where that is another number, and visits, the solutions that go through it. The bar is the share of "
    "these that is right."
)
OPEN = 3  # levels that are unfolded at first, besides the way to the chosen solution


@dataclass(frozen=True)
class TreeNode:
    """A step that was proposed, or the prompt."""

    node: int
    parent: int  # -1: the prompt
    depth: int
    text: str
    tokens: int
    scores: Mapping[str, float]  # by scorers that were asked
    value: float | None  # that the search ranked it by
    visits: int  # solutions that end here or below
    right: int  # of these, that are right
    final: bool  # a solution ends here
    answer: str  # of such a solution
    correct: bool
    chosen: bool  # the search's answer
    rollout: bool  # it estimates the value of another node


@dataclass(frozen=True, repr=False)
class SearchTree:
    """The tree of one question; `nodes` from the prompt downwards, each after its parent."""

    problem: str
    question: str
    gold: str
    nodes: Sequence[TreeNode]
    rows: Sequence[dict]  # of the store

    @classmethod
    def of(cls, rows: Sequence[dict]) -> "SearchTree":
        """From the rows of one question, in the order of their nodes (`data/rationales.py`)."""
        first = rows[0]
        return cls(first["problem"], first["question"], first["gold"], tuple(_nodes(rows)), tuple(rows))

    @property
    def chosen(self) -> TreeNode | None:
        return next((node for node in self.nodes if node.chosen), None)

    def children(self, node: int) -> list[TreeNode]:
        return [child for child in self.nodes if child.parent == node]

    def frame(self) -> Frame:
        """A row for every node; each scorer is a column `score_NAME`."""
        return Frame.of(
            {name: value for name, value in vars(node).items() if name != "scores"}
            | {f"score_{name}": score for name, score in node.scores.items()}
            for node in self.nodes
        )

    def summary(self) -> dict[str, object]:
        """One row for a table of questions."""
        root, chosen = self.nodes[0], self.chosen
        return {
            "problem": self.problem,
            "question": self.question,
            "gold": self.gold,
            "answer": chosen.answer if chosen else "",
            "correct": bool(chosen and chosen.correct),
            "candidates": len(self.nodes) - 1,
            "solutions": root.visits,
            "right": root.right,
            "tokens": sum(node.tokens for node in self.nodes),
        }

    def text(self) -> str:
        """The steps below one another, as `qstar-solve tables=RUN tree=PROBLEM` prints them."""
        return searches.tree(self.rows)

    def __repr__(self) -> str:
        facts = self.summary()
        ending = f"chosen {facts['answer'] or 'nothing'}, {'right' if facts['correct'] else 'wrong'}"
        counts = f"{facts['candidates']} candidates, {facts['solutions']} solutions of which {facts['right']} are right"
        return f"SearchTree({self.problem!r}: {counts}; {ending})"

    def _repr_html_(self) -> str:
        legend = f'<div class="soft">{LEGEND}</div>'
        return html.fragment(f"<style>{STYLE}</style>{self.html(opened=True)}{legend}")

    def html(self, opened: bool = False) -> str:
        """Nested lists to open and close, without the style of a page (`STYLE`)."""
        facts = self.summary()
        verdict = '<b class="up">right</b>' if facts["correct"] else '<b class="down">wrong</b>'
        head = (
            f"<b>{escaped(self.problem)}</b> <code>{html.cell(self.question)}</code> "
            f'<span class="soft">gold</span> <code>{html.cell(self.gold)}</code> <span class="soft">chosen</span> '
            f"<code>{html.cell(facts['answer']) or 'nothing'}</code> {verdict} "
            f'<span class="soft">{facts["candidates"]} candidates, {facts["right"]} of {facts["solutions"]} '
            f"solutions right, {facts['tokens']} tokens</span>"
        )
        shown = "".join(self._list())
        return f'<details class="whole tree"{" open" if opened else ""}><summary>{head}</summary>{shown}</details>'

    def _list(self) -> Iterator[str]:
        by_parent: dict[int, list[TreeNode]] = {}
        for node in self.nodes:
            by_parent.setdefault(node.parent, []).append(node)
        on_the_way = self._way()
        waiting: list[TreeNode | str] = list(reversed(by_parent.get(self.nodes[0].node, [])))
        # Leaves of one parent that say the same, of which one is shown.
        alike = Counter(_said(node) for node in self.nodes if node.node not in by_parent)
        while waiting:
            at = waiting.pop()
            if isinstance(at, str):
                yield at
                continue
            node = at
            if node.node in by_parent:
                opened = " open" if node.depth < OPEN or node.node in on_the_way else ""
                yield f"<details{opened}><summary>{_line(node)}</summary>"
                waiting.append("</details>")
                waiting += reversed(by_parent[node.node])
            elif times := alike.pop(_said(node), 0):
                yield f'<div class="leaf">{_line(node, times)}</div>'

    def _way(self) -> set[int]:
        """The nodes from the prompt to the chosen solution."""
        parents, node = {node.node: node.parent for node in self.nodes}, self.chosen
        way, at = set(), node.node if node else -1
        while at >= 0:
            way.add(at)
            at = parents[at]
        return way


STYLE = """
.qstar .tree summary, .qstar .tree .leaf { padding: 1px 0; }
.qstar .tree .leaf { margin-left: 28px; }
.qstar .tree .step { white-space: pre-wrap; overflow-wrap: anywhere; }
.qstar .tree .marks { display: inline-block; margin-left: 10px; opacity: .75; font-size: 12px;
  font-variant-numeric: tabular-nums; }
.qstar .tree .chosen { outline: 2px solid #2f6fde; outline-offset: 2px; border-radius: 3px; }
.qstar .tree meter { width: 44px; height: 9px; vertical-align: -1px; margin-left: 8px; }
"""


def _said(node: TreeNode) -> tuple:
    return (node.parent, node.text, node.final, node.answer, node.correct, node.chosen)


def _line(node: TreeNode, times: int = 1) -> str:
    marks = searches.ranked(node.scores, node.value, number)
    marks += [] if node.final else [f"visits {node.visits}"]
    marks += ["1 token" if node.tokens == 1 else f"{node.tokens} tokens", *(["rollout"] if node.rollout else [])]
    share = ""
    if node.visits and not node.final:
        title = f"{node.right} of {node.visits} solutions below are right"
        share = f'<meter value="{node.right / node.visits:.3f}" title="{title}"></meter>'
    ending = ""
    if node.final:
        tone, verdict = ("up", "right") if node.correct else ("down", "wrong")
        ending = f' <b class="{tone}">{escaped(node.answer) or "no answer"} {verdict}</b>'
    chosen = ' <b class="soft">chosen</b>' if node.chosen else ""
    chosen += f' <span class="soft">{times} times</span>' if times > 1 else ""
    look = "step chosen" if node.chosen else "step"
    return (
        f'<code class="{look}">{html.cell(node.text) or "(nothing)"}</code>{ending}{chosen}{share}'
        f'<span class="marks">{escaped(" · ".join(marks))}</span>'
    )


def _nodes(rows: Sequence[dict]) -> Iterator[TreeNode]:
    places = {row["place"]["node"]: row for row in rows}
    visits, right = dict.fromkeys(places, 0), dict.fromkeys(places, 0)
    for row in rows:
        at = row["place"]["node"] if row["place"]["final"] else -1
        while at >= 0:
            visits[at] += 1
            right[at] += row["correct"]
            at = places[at]["place"]["parent"]
    depths: dict[int, int] = {-1: -1}
    for row in rows:
        place = row["place"]
        depths[place["node"]] = depths[place["parent"]] + 1
        yield TreeNode(
            node=place["node"],
            parent=place["parent"],
            depth=depths[place["node"]],
            text=row["written"],
            tokens=row["generated_tokens"],
            scores=dict(place["scores"]),
            value=place["value"],
            visits=visits[place["node"]],
            right=right[place["node"]],
            final=place["final"],
            answer=row["answer"],
            correct=bool(row["correct"]),
            chosen=place["chosen"],
            rollout=place["rollout"],
        )
