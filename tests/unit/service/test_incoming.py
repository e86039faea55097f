from pathlib import Path

from service.incoming import incoming_folder


def test_a_service_that_starts_leaves_alone_what_another_is_reading(tmp_path: Path) -> None:
    with incoming_folder(tmp_path / "incoming") as first:
        (first / "upload").write_text("half of it")
        with incoming_folder(tmp_path / "incoming") as second:
            assert second != first
            assert (first / "upload").read_text() == "half of it"
        assert (first / "upload").is_file()
    assert list((tmp_path / "incoming").iterdir()) == []


def test_what_killed_services_have_left_is_removed(tmp_path: Path) -> None:
    left = tmp_path / "incoming" / "of-the-dead"
    left.mkdir(parents=True)
    (left / "upload").write_text("half of it")
    (tmp_path / "incoming" / "a-file").write_text("x")
    with incoming_folder(tmp_path / "incoming") as mine:
        assert list((tmp_path / "incoming").iterdir()) == [mine]
