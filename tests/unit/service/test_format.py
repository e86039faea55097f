from pathlib import Path

from service.engine.format import read_number_format, write_number_format


def test_what_an_engine_said_is_what_is_read(tmp_path: Path) -> None:
    socket = tmp_path / "run" / "engine-base.sock"
    assert read_number_format(socket, otherwise="float32") == "float32"
    write_number_format(socket, "bfloat16")
    assert read_number_format(socket, otherwise="float32") == "bfloat16"
    assert read_number_format(tmp_path / "run" / "engine-other.sock", otherwise="auto") == "auto"
