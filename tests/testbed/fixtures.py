"""The real services as fixtures, started once for all tests that ask for them."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest

from tests.testbed.agent import Agent
from tests.testbed.judge import Judge
from tests.testbed.monasca import Monasca

__all__ = ["agent", "judge", "monasca", "new_agent", "new_monasca", "say"]


@pytest.fixture(scope="session")
def say(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Prints a line at once, though pytest keeps what tests print."""
    capture = request.config.pluginmanager.getplugin("capturemanager")

    def tell(line: str) -> None:
        if capture is None:
            print(line, flush=True)  # noqa: T201 - the only way to be heard
            return
        with capture.global_and_fixture_disabled():
            print(f"\n{line}", flush=True)  # noqa: T201 - the only way to be heard

    return tell


@pytest.fixture(scope="session")
def _session_agent(tmp_path_factory: pytest.TempPathFactory, say: Callable[[str], None]) -> Iterator[Agent]:
    with Agent(tmp_path_factory.mktemp("agent"), say=say) as running:
        yield running


@pytest.fixture
def agent(_session_agent: Agent, request: pytest.FixtureRequest) -> Iterator[Agent]:
    """A real monasca-agent that flushes every second; shared, so tell runs apart by their names."""
    yield _session_agent
    _show_if_failed(_session_agent, request)


@pytest.fixture
def new_agent(tmp_path: Path, say: Callable[[str], None], request: pytest.FixtureRequest) -> Iterator[Agent]:
    """A real monasca-agent of the test's own, to be killed and started again."""
    with Agent(tmp_path / "agent", say=say) as running:
        yield running
        _show_if_failed(running, request)


@pytest.fixture(scope="session")
def judge(say: Callable[[str], None]) -> Iterator[Judge]:
    """The agent's own parser."""
    with Judge(say) as sitting:
        yield sitting


@pytest.fixture(scope="session")
def _session_monasca(tmp_path_factory: pytest.TempPathFactory, say: Callable[[str], None]) -> Iterator[Monasca]:
    with Monasca(tmp_path_factory.mktemp("monasca"), say=say) as running:
        yield running


@pytest.fixture
def monasca(
    _session_monasca: Monasca, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Monasca]:
    """A whole real Monasca, named by OS_CLOUD; shared, so tell runs apart by their ids, and leave all parts running."""
    _use(_session_monasca, monkeypatch)
    yield _session_monasca
    _session_monasca.faults.clear()
    _show_if_failed(_session_monasca, request)


@pytest.fixture
def new_monasca(
    tmp_path: Path, say: Callable[[str], None], request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Monasca]:
    """A whole real Monasca of the test's own, whose parts may be killed; without an agent."""
    with Monasca(tmp_path / "monasca", agent=False, say=say) as running:
        _use(running, monkeypatch)
        yield running
        _show_if_failed(running, request)


def _use(running: Monasca, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("OS_")]:
        monkeypatch.delenv(name)
    for name, text in running.environ().items():
        monkeypatch.setenv(name, text)


OUTCOME = pytest.StashKey[pytest.TestReport]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Note how a test went, for the fixtures that show a service's log when it failed."""
    report = yield
    if report.when == "call":
        item.stash[OUTCOME] = report
    return report


def _show_if_failed(service: Agent | Monasca, request: pytest.FixtureRequest) -> None:
    report = request.node.stash.get(OUTCOME, None)
    if report is not None and report.failed:
        print(service.last_words())  # noqa: T201 - pytest shows it with the failure
