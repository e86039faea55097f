import subprocess
import sys
import threading
import time

from service.drain import is_leaving, leave, outlast, present


def test_a_service_that_starts_is_there_to_stay(tmp_path):
    leave(tmp_path, 0)
    assert is_leaving(tmp_path)
    with present(tmp_path):
        assert not is_leaving(tmp_path)


def test_an_engine_that_is_stopped_alone_does_not_wait(tmp_path):
    with present(tmp_path):
        outlast(tmp_path, notice=0.2)


def test_an_engine_lives_on_until_the_service_beside_it_has_gone(tmp_path):
    outlasted = threading.Event()

    def engine():
        outlast(tmp_path, notice=5)
        outlasted.set()

    with present(tmp_path):
        thread = threading.Thread(target=engine)
        thread.start()
        leave(tmp_path, 0)
        assert not outlasted.wait(0.5)
    assert outlasted.wait(5)
    thread.join()


def test_a_service_that_was_killed_is_gone_too(tmp_path):
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom service.drain import present\n"
        "with present(Path(sys.argv[1])):\n print('there', flush=True)\n time.sleep(60)"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as service:
        assert service.stdout is not None
        service.stdout.readline()
        leave(tmp_path, 0)
        service.kill()
    began = time.monotonic()
    outlast(tmp_path, notice=5)
    assert time.monotonic() - began < 5
