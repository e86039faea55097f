"""Writes requirements/cpu.txt and gpu.txt anew from pyproject.toml: pinned, hashed, and without any index address.

A version must be a week old before it is taken: most poisoned releases are found and withdrawn sooner than that.
What the lock already holds is kept where it still fits; delete the file first to move everything forward.
"""

from tools import install

OVERRIDES = {
    "cpu": ["overrides.txt", "overrides-cpu.txt"],
    "gpu": ["overrides.txt"],
}
#: torch's CPU build is in torch-cpu.txt: the index that this is locked against does not know it.
APART = {"cpu": ["--no-emit-package", "torch"], "gpu": []}
LEFT_OUT = "sys_platform == 'never'"


def main() -> None:
    settings = install.pip_settings()
    # An extra index seldom tells when a file was published, and a week's age could not be asked of it.
    settings.pop("extra-index-url", None)
    environment = install.uv_environment(settings)
    for flavour, overrides in OVERRIDES.items():
        target = install.REQUIREMENTS / f"{flavour}.txt"
        command = [str(install.VENV / "bin" / "uv"), "pip", "compile", "--quiet", "pyproject.toml"]
        extras = [
            "--extra",
            "train",
            "--extra",
            "postgres",
            "--extra",
            "traces",
            "--extra",
            flavour,
        ]
        command += [*extras, "--group", "dev", *APART[flavour]]
        command += [part for name in overrides for part in ("--override", f"requirements/{name}")]
        command += ["--universal", "--python-version", "3.11", "--generate-hashes", "--no-header"]
        command += ["--exclude-newer", "7 days", "--output-file", str(target)]
        install.run(command, environment, f"locking the {flavour} flavour")
        target.write_text(without_left_outs(target.read_text()))


def without_left_outs(lock: str) -> str:
    """The lock without the entries that no machine installs; an override leaves them in with an impossible marker."""
    kept: list[str] = []
    keeping = True
    for line in lock.splitlines(keepends=True):
        if not line.startswith((" ", "#")):
            keeping = LEFT_OUT not in line
        if keeping:
            kept.append(line)
    return "".join(kept)


if __name__ == "__main__":
    main()
