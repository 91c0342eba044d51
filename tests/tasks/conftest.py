import pytest

from qstar.tasks import sandbox


@pytest.fixture(autouse=True)
def weak_sandbox():
    """Tests of programs run on every system; those of what a strong sandbox holds and refuses configure their own."""
    before = sandbox.configured()
    sandbox.configure(sandbox.SandboxConfig(weak="allow"))
    yield
    sandbox.configure(before)
