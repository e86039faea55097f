import io
import tarfile
import tempfile
from pathlib import Path

from hypothesis import given, settings, strategies as st

from service.tar import tar_stream

FILES = st.dictionaries(
    st.from_regex(r"[a-z_]{1,20}\.(json|safetensors)", fullmatch=True),
    st.binary(max_size=2000),
    max_size=5,
)


@settings(deadline=None)
@given(FILES)
def test_any_directory_comes_out_of_the_tar_as_it_went_in(files: dict[str, bytes]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for name, content in files.items():
            (Path(folder) / name).write_bytes(content)
        stream = b"".join(tar_stream(Path(folder), "bot-1"))
    with tarfile.open(fileobj=io.BytesIO(stream)) as tar:
        found = {member.name: tar.extractfile(member).read() for member in tar.getmembers()}
    assert found == {f"bot-1/{name}": content for name, content in files.items()}
