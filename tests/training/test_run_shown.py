"""What a person and a tool see of a run: the screen, the log's files, the plot."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest

from laguna_agent.errors import StorageError, UsageError
from laguna_agent.training.dashboard import Dashboard, duration, sparkline
from laguna_agent.training.plots import drawn, plot_run
from laguna_agent.training.run_log import RunLog, read_lines


def line(step: int, **more: Any) -> dict[str, Any]:
    values = {"step": step, "loss": 4.0 - step / 10, "lr": 1e-3, "gradient_norm": 0.5, "tokens_per_second": 1234.0}
    return values | {"max_vio": 0.3, "dead_experts": 1, "load_entropy": 0.9} | more


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_curves_and_times_as_text() -> None:
    assert sparkline([1, 2, 3, 4, 5, 6, 7, 8]) == "▁▂▃▄▅▆▇█"
    assert sparkline([8.0] * 4 + [1.0] * 4, 2) == "█▁"
    assert len(sparkline(range(1000), 60)) == 60
    assert sparkline([]) == "" and sparkline([float("nan")]) == ""
    assert [duration(seconds) for seconds in (0, 65, 3723)] == ["0:00", "1:05", "1:02:03"]


def test_plain_lines_where_nobody_looks_at_a_terminal() -> None:
    out = io.StringIO()
    board = Dashboard("r", 100, out)
    for step in range(1, 10):
        board.step(line(step))
    board.step(line(10, val_loss=2.5))
    board.notice("step 11 was not applied")
    board.close()
    said = out.getvalue().splitlines()
    # The first, the one with an evaluation, and the notice; the others came too soon after.
    assert len(said) == 3 and "\x1b" not in out.getvalue()
    assert "step 1/100  loss 3.9000  lr 1.00e-03" in said[0] and "MaxVio 0.30  dead 1" in said[0]
    assert "val 2.5000" in said[1] and said[2] == "step 11 was not applied"


def test_a_panel_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "100")
    out = Screen()
    board = Dashboard("r", 100, out, earlier=[line(1), line(2, val_loss=3.5)])
    board.step(line(3))
    board.notice("step 4 was not applied", state="rolled back at step 4")
    board.step(line(4))
    board.close()
    shown = out.getvalue()
    for text in ("r  4/100", "█", "learning rate", "3.5000 (step 2)", "rolled back at step 4", "1 dead", "ETA"):
        assert text in shown


def test_lines_are_whole_or_forgotten(tmp_path: Path) -> None:
    log = RunLog(tmp_path)
    for step in range(1, 6):
        log.step(line(step))
    assert [values["step"] for values in log.keep_until(3)] == [1, 2, 3]
    log.step(line(4, again=True))
    log.close()
    path = tmp_path / "metrics.jsonl"
    with path.open("a") as file:
        file.write('{"step":5,"lo')
    assert [values["step"] for values in read_lines(path)] == [1, 2, 3, 4]
    log = RunLog(tmp_path)
    log.step(line(5))
    log.close()
    assert [values["step"] for values in read_lines(path)] == [1, 2, 3, 4, 5] and read_lines(path)[3]["again"]
    with pytest.raises(StorageError, match="cannot write the run's log"):
        RunLog(tmp_path / "absent")


def test_a_plot_has_all_curves_and_the_same_bytes_each_time(tmp_path: Path) -> None:
    lines = [line(step, **({"val_loss": 3.0} if step % 10 == 0 else {})) for step in range(1, 31)]
    picture = drawn(lines, "svg", "r")
    assert picture == drawn(lines, "svg", "r")
    for text in (b"held out", b"running median", b"expert balance", b"gradient norm", b"MaxVio"):
        assert text in picture
    with pytest.raises(UsageError, match=r"written as \.svg or \.png"):
        plot_run(tmp_path, tmp_path / "run.pdf")
    with pytest.raises(UsageError, match=r"is .* a run"):
        plot_run(tmp_path, tmp_path / "run.svg")
    (tmp_path / "metrics.jsonl").touch()
    with pytest.raises(UsageError, match="has no step yet"):
        plot_run(tmp_path, tmp_path / "run.svg")
