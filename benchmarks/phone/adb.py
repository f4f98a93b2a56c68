"""A phone at the other end of adb: commands, files, and errors in one line. It knows of no model and no benchmark.

Source: https://android.googlesource.com/platform/packages/modules/adb/+/refs/heads/main/docs/user/adb.1.md
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from mimo_mobile import files
from mimo_mobile.errors import MimoMobileError
from mimo_mobile.progress import Progress, ProgressCallback, ignore

INTERVAL_S = 2.0
"""The time between two looks at how much of a file has arrived."""

QUICK_S = 60.0
"""How long a short command may take before the phone counts as gone."""

ADVICE = {
    "unauthorized": "unlock it, and allow USB debugging in the dialog that it shows",
    "offline": "unplug it and plug it in again, or type `adb reconnect`",
    "no permissions": "this user may not open the USB device: install Debian's android-sdk-platform-tools-common,"
    " or see Android's page on udev rules",
}


class PhoneError(MimoMobileError):
    """A phone cannot be reached, or cannot do what is asked of it."""


@dataclass(frozen=True, slots=True)
class Phone:
    """One phone; ``adb`` is the program, ``serial`` names the phone."""

    adb: str
    serial: str

    def command(self, *words: str) -> list[str]:
        """The words of an adb command to this phone."""
        return [self.adb, "-s", self.serial, *words]

    def shell(self, script: str, timeout_s: float | None = QUICK_S) -> str:
        """What ``script`` prints when the phone's sh runs it.

        Raises:
            PhoneError: It fails or takes too long.
        """
        return _said(self.command("shell", script), timeout_s)

    def lines(self, script: str) -> Iterator[str]:
        """The same, line by line while it runs. Closing the iterator ends the connection.

        Raises:
            PhoneError: It fails.
        """
        with tempfile.TemporaryFile("w+", errors="replace") as errors:
            process = subprocess.Popen(
                self.command("shell", script),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                errors="replace",
            )
            assert process.stdout is not None
            try:
                for line in process.stdout:
                    yield line.rstrip("\r\n")
                code = process.wait()
            finally:
                process.kill()
                process.stdout.close()
                process.wait()
            if code:
                errors.seek(0)
                raise PhoneError(_failed(self.command("shell", script), code, errors.read()))

    def push(self, local: Path, remote: str, progress: ProgressCallback = ignore) -> None:
        """Copy a file to the phone; progress is asked of the phone, since adb tells it to terminals only.

        Raises:
            PhoneError: It fails.
        """
        total, command = local.stat().st_size, self.command("push", str(local), remote)
        progress(Progress(f"push {local.name}", 0, total))
        with tempfile.TemporaryFile("w+", errors="replace") as said:
            process = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT, text=True)
            try:
                while process.poll() is None:
                    with suppress(subprocess.TimeoutExpired):
                        process.wait(INTERVAL_S)
                        break
                    with suppress(PhoneError):
                        progress(Progress(f"push {local.name}", min(self.size_bytes(remote) or 0, total), total))
            finally:
                process.kill()
                process.wait()
            said.seek(0)
            if process.returncode:
                raise PhoneError(_failed(command, process.returncode, said.read()))
        progress(Progress(f"push {local.name}", total, total))

    def size_bytes(self, remote: str) -> int | None:
        """Size of a file on the phone; None when there is none."""
        answer = self.shell(f"stat -c %s {shlex.quote(remote)} 2>/dev/null || echo none").strip()
        return int(answer) if answer.isdecimal() else None


@dataclass(frozen=True, slots=True)
class Sent:
    """A file that the phone is to hold; made by ``to_send``."""

    local: Path
    remote: str
    size_bytes: int
    sha256: str

    @property
    def test(self) -> str:
        """A script that prints a line, in which the file's checksum comes first if the phone holds it."""
        name = shlex.quote(self.remote)
        return f'[ "$(stat -c %s {name} 2>/dev/null)" = {self.size_bytes} ] && sha256sum {name} || echo none'


def lacking(phone: Phone, wanted: Sequence[Sent]) -> list[Sent]:
    """Those files that the phone does not hold: same size, then same checksum, which takes ten seconds for 4 GB.

    Raises:
        PhoneError: It gives no answer.
    """
    said = phone.shell("; ".join(each.test for each in wanted), timeout_s=None).splitlines()
    if len(said) != len(wanted):
        raise PhoneError(f"{phone.serial}: {len(said)} checksums found, {len(wanted)} expected; try again")
    return [each for each, line in zip(wanted, said, strict=True) if line.partition(" ")[0] != each.sha256]


def to_send(local: Path, remote: str, progress: ProgressCallback = ignore) -> Sent:
    """A local file as one that the phone is to hold as ``remote``."""
    return Sent(local, remote, local.stat().st_size, files.sha256(local, progress))


def connect(adb: str, serial: str | None) -> Phone:
    """The phone that is plugged in, or the one named ``serial``.

    Raises:
        PhoneError: There is no adb, no such phone, more than one, or it does not let us in; says what to do.
    """
    if shutil.which(adb) is None:
        raise PhoneError(
            f"{adb} not found; install Android's platform tools (Debian: sudo apt install adb) or give --adb PATH"
        )
    states = _devices(_said([adb, "devices"], QUICK_S))
    if serial is None:
        if len(states) > 1:
            raise PhoneError(f"{len(states)} devices ({', '.join(states)}); choose one by --serial")
        if not states:
            raise PhoneError(
                "no device; plug the phone in and allow USB debugging (Settings, Developer options),"
                " or type `adb connect ADDRESS`"
            )
        (serial,) = states
    if serial not in states:
        raise PhoneError(f"no device {serial}; adb sees {', '.join(states) or 'none'}")
    state = states[serial]
    if state != "device":
        advice = next((text for start, text in ADVICE.items() if state.startswith(start)), "start Android on it")
        raise PhoneError(f"{serial} is {state}; {advice}")
    return Phone(adb, serial)


def _devices(listed: str) -> dict[str, str]:
    """Serial → state, from what `adb devices` prints: a heading, then a tab between the two."""
    pairs = (line.split("\t", 1) for line in listed.splitlines() if "\t" in line)
    return {serial: state.strip() for serial, state in pairs}


def _said(command: list[str], timeout_s: float | None) -> str:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=timeout_s, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired as error:
        raise PhoneError(f"no answer in {timeout_s:.0f} s: {_short(command)}; is the phone awake?") from error
    if done.returncode:
        raise PhoneError(_failed(command, done.returncode, done.stderr or done.stdout))
    return done.stdout


def _failed(command: list[str], code: int, said: str) -> str:
    return f"{_short(command)} failed ({code}): {' / '.join(said.strip().splitlines()[-3:]) or 'no message'}"


def _short(command: list[str]) -> str:
    text = " ".join([Path(command[0]).name, *command[1:]])
    return text if len(text) <= 120 else f"{text[:117]}…"
