"""One call of MONAI's bundle runner: the only way a stage is started.

Every caller states its run as a `BundleRun`: the `tskd train` pipeline, the benchmark, and the programs that test
reliability and interoperability. It runs in a child process, as `python -m monai.bundle run` on the command line does,
or in this process, which saves ten seconds of imports.
"""

from __future__ import annotations

import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, TextIO

from tskd_monai.bundle.console import copy_output
from tskd_monai.bundle.options import plain_option
from tskd_monai.files.child_process import child_environment

PASSIVE_THREADS = {"OMP_WAIT_POLICY": "PASSIVE"}
"""Without it, OpenMP threads that spin while waiting run thirty times slower once another process needs a core."""

RUNNER = ("-m", "monai.bundle", "run")
COMMANDS_FILE = "commands.txt"


class BundleRunError(RuntimeError):
    """Raised when a bundle's run in a child process failed.

    Args:
        code: exit code; negative: the number of the signal that ended the process.
        reason: the reason in one line; empty if it was printed to the terminal.
    """

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"ended with exit code {code}; {reason or 'the first error above says why.'}")
        self.code, self.reason = code, reason


@dataclass(frozen=True)
class BundleRun:
    """One call of MONAI's bundle runner.

    Attributes:
        bundle: folder of the bundle.
        configs: names of its config files, or absolute paths; later ones override earlier ones.
        overrides: values of config ids and of the runner's own options. A `Path` is always a name; any other value that
            MONAI would evaluate as code is refused.
    """

    bundle: Path
    configs: Sequence[str]
    overrides: Mapping[str, Any] = field(default_factory=dict)

    @property
    def config_files(self) -> list[Path]:
        """Paths of the config files."""
        return config_files(self.bundle, self.configs)

    @property
    def output_dir(self) -> Path:
        """Folder that the run writes to."""
        return Path(self.overrides["output_dir"])

    def command(self, launcher: Sequence[str] = ()) -> list[str]:
        """Returns the command line.

        Args:
            launcher: interpreter arguments that start the runner in several processes, such as
                `-m torch.distributed.run --standalone --nproc_per_node=2`.

        Raises:
            ValueError: if MONAI would evaluate an override.
        """
        files = [str(path) for path in self.config_files]
        options = [f"--{name}={plain_option(name, value)}" for name, value in self.overrides.items()]
        config_file = files[0] if len(files) == 1 else repr(files)
        start = [sys.executable, *launcher, *RUNNER, "--bundle_root", str(self.bundle), "--config_file", config_file]
        return [*start, *options]

    def shell_line(self) -> str:
        """Returns the command line for a shell; the same as given paths, so valid in any folder if they are absolute.

        Raises:
            ValueError: see `command`.
        """
        return shlex.join(["python", *self.command()[1:]])

    def short_line(self) -> str:
        """Returns the beginning of the command line with the config files, for display."""
        configs = " ".join(Path(name).name for name in self.configs)
        return f"python {' '.join(RUNNER)} … {self.bundle.name}/configs/{configs} …"

    def run(
        self,
        log: Path | None = None,
        launcher: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        shown: TextIO | None = None,
        described: Callable[[str], str] = str,
    ) -> None:
        """Runs in a child process and waits until it ends.

        Args:
            log: file for all output; None: messages and progress bars go to standard error.
            launcher: see `command`.
            environment: variables set in addition to those of this process.
            shown: terminal for this project's warnings and the progress bar while the log takes everything.
            described: returns what the terminal shows of a progress bar.

        Raises:
            BundleRunError: if the run fails.
            ValueError: see `command`.
        """
        command = self.command(launcher)
        variables = {**PASSIVE_THREADS, **child_environment(), **(environment or {})}
        if log is None:  # the runner's banner, on standard output, is of no use on a terminal
            code = subprocess.run(command, stdout=subprocess.DEVNULL, check=False, env=variables).returncode
        else:
            log.parent.mkdir(parents=True, exist_ok=True)
            with log.open("wb" if shown is None else "ab") as file:
                code = _run_logged(command, variables, file, shown, described)
        if code:
            raise BundleRunError(code, _reason(code, log))

    def run_here(self, logging_file: Any = None) -> None:
        """Runs in this process.

        Args:
            logging_file: configuration of logging; None: the bundle's; False: this process's, unchanged. An override
                of that name takes precedence.

        Raises:
            ValueError: see `command`.
        """
        import monai.bundle  # takes seconds

        options: dict[str, Any] = {"logging_file": logging_file}
        for name, value in self.overrides.items():
            plain_option(name, value)
            options[name] = str(value) if isinstance(value, Path) else value
        files = [str(path) for path in self.config_files]
        monai.bundle.run(bundle_root=str(self.bundle), config_file=files, **options)


def append_command(folder: Path, line: str, name: str = COMMANDS_FILE) -> None:
    """Appends a command line to a file of a folder, `commands.txt`."""
    with (folder / name).open("a", encoding="utf-8") as file:
        file.write(f"{line}\n")


def _run_logged(
    command: Sequence[str],
    environment: Mapping[str, str],
    log: IO[bytes],
    shown: TextIO | None,
    described: Callable[[str], str],
) -> int:
    """Runs a command into a log, and what a person wants to know onto the terminal; returns the exit code."""
    if shown is None:
        return subprocess.run(command, stdout=log, stderr=log, check=False, env=environment).returncode
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment) as process:
        assert process.stdout is not None
        try:
            copy_output(process.stdout, log, shown, described)
        except KeyboardInterrupt:  # the process has had the signal too: it writes its checkpoint before it ends
            copy_output(process.stdout, log, shown, described)
            process.wait()
            raise
    return process.returncode


def config_files(bundle: Path, names: Sequence[str]) -> list[Path]:
    """Returns the paths of a bundle's config files."""
    return [bundle / "configs" / name for name in names]


def _reason(code: int, log: Path | None) -> str:
    """Returns why a run failed: the signal that ended it, or the last line of its log, which states the error."""
    if code < 0:
        return f"it was ended by {signal.Signals(-code).name}"
    lines = [] if log is None else log.read_text(encoding="utf-8", errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
