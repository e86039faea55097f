from pathlib import Path

from adapters.durable import clear_aside


def test_what_was_being_written_when_its_writer_was_killed_is_cleared_away(tmp_path: Path) -> None:
    target, other = tmp_path / "model", tmp_path / ".model.lock"
    other.write_text("somebody's")
    left = tmp_path / f".model.{'0' * 31}a"
    (left / "deep").mkdir(parents=True)
    clear_aside(target)
    assert not left.exists()
    assert other.read_text() == "somebody's"
