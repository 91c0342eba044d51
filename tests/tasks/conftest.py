"""Settings of every test here: sandboxes that a system may have, and comparisons in the test's own process."""

import pytest

from qstar.tasks.grading import sandbox, symbolic, worker


@pytest.fixture(autouse=True)
def weak_sandbox():
    """Tests of programs run on every system; those of what a strong sandbox holds and refuses configure their own."""
    before = sandbox.configured()
    sandbox.configure(sandbox.SandboxConfig(weak="allow"))
    yield
    sandbox.configure(before)


@pytest.fixture
def compared_here(monkeypatch):
    """Without the worker, whose process takes some twenty times as long. Nothing bounds the time of a comparison."""
    monkeypatch.setattr(
        symbolic, "_worker", lambda seconds: lambda *args: worker.Reply("done", symbolic.compare(*args))
    )
