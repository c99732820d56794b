"""``lit-narrative doctor``: what of this machine and this environment stands in the way of a run."""

import json
import os
import platform
import shutil
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement

from lit_narrative.errors import UserError
from lit_narrative.redaction import redact_text
from lit_narrative.report.format import one_line

OURS = "lit-narrative"
HUB = "https://huggingface.co"
LEAST_FREE = 5
"""GiB of a disk below which it is a problem: an environment with PyTorch takes two, a small model one."""
BUSY = 1.5
"""Processes that want to run, a core, above which a machine is busy."""
TRAPS = {
    "lightning": "2.6.2 and 2.6.3 were malicious releases: where one of them was installed, change the keys kept there",
    "transformer-lens": "sae-lens 6 does not work with release 4",
    "filelock": "earlier releases empty the file that a link in a lock's place names",
    "jinja2": "earlier releases have a sandbox escape",
    "numpy": "what else is installed here is built for release 2",
}
"""What is behind a bound of ours that people have met."""

Kind = Literal["ok", "note", "problem"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found of one thing.

    Attributes:
        kind: ``ok``, ``note`` (a run works, perhaps slowly or not with everything), or ``problem``.
        what: that was looked at.
        message: what it is; of a problem, what to do as well.
    """

    kind: Kind
    what: str
    message: str


def doctor(folder: str = ".", timeout: float = 5.0, format: Literal["text", "json"] = "text") -> None:
    """Look for what stands in the way of a run: versions and known traps, devices, threads, disk, the hub.

    Args:
        folder: where runs are to be written.
        timeout: seconds to wait for the hub, above 0 and at most 60.
        format: text to read, or one JSON list with an object a finding: kind, what, message.

    Raises:
        SystemExit: with code 1, behind all findings, where one is a problem.
    """
    if not 0 < timeout <= 60:
        raise UserError(f"--timeout is {timeout:g}; it must be above 0 and at most 60 seconds")
    found = []
    for look in (packages, cores, devices, lambda: disks(Path(folder)), lambda: hub(timeout)):
        for finding in look():
            found.append(finding)
            if format == "text":  # one by one, since some take seconds
                print(f"{finding.kind:<8} {finding.what:<16} {one_line(redact_text(finding.message))}", flush=True)
    problems = sum(finding.kind == "problem" for finding in found)
    if format == "json":
        print(json.dumps([asdict(finding) for finding in found], indent=2))
    else:
        print(f"{problems} {'problem' if problems == 1 else 'problems'}" if problems else "nothing stands in the way")
    if problems:
        raise SystemExit(1)


def packages() -> Iterator[Finding]:
    """Python, this package, and each library that it asks for in another release than is installed."""
    yield Finding("ok", "python", f"{platform.python_version()}, {platform.platform()}, {sys.executable}")
    try:
        asked = [Requirement(line) for line in requires(OURS) or ()]
    except PackageNotFoundError:
        yield Finding("note", OURS, "a checkout without its metadata, so versions are not checked; `pip install -e .`")
        return
    yield Finding("ok", OURS, f"{version(OURS)} in {Path(__file__).parents[2]}")
    extras: dict[str, bool] = {}
    for one in asked:
        extra = next((name for name in _EXTRAS if one.marker and not _holds(one, "") and _holds(one, name)), None)
        if extra:
            extras[extra] = extras.get(extra, True) and _installed(one.name) is not None
        elif _holds(one, ""):
            yield from _required(one)
    for name, there in extras.items():
        if not there:
            yield Finding("note", f"extra {name}", f'not installed: {_EXTRAS[name]}; pip install "{OURS}[{name}]"')


_EXTRAS = {
    "completion": "command lines completed in a shell",
    "retrieval": "passages by meaning (`enrich`, `data.passages`)",
    "tensorboard": "`TensorBoardLogger`",
}
"""Extras for users -> what they are for."""


def _holds(one: Requirement, extra: str) -> bool:
    return one.marker is None or one.marker.evaluate({"extra": extra})


def _required(one: Requirement) -> Iterator[Finding]:
    there = _installed(one.name)
    remedy = f"""pip install "{one.name}{one.specifier}\""""
    why = f" ({TRAPS[one.name]})" if one.name in TRAPS else ""
    if there is None:
        yield Finding("problem", one.name, f"not installed; {remedy}")
    elif not one.specifier.contains(there, prereleases=True):
        yield Finding("problem", one.name, f"{there} is installed, and {one.specifier} is needed{why}; {remedy}")
    elif one.name in _SHOWN:
        yield Finding("ok", one.name, there)


_SHOWN = ("torch", "lightning", "transformers", "peft", "transformer-lens", "sae-lens", "wandb")


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


# --- the machine ------------------------------------------------------------------------------------------------------


def cores() -> Iterator[Finding]:
    """Cores, threads, other work, and the instructions that decide how fast a CPU multiplies."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    allowed = _quota()
    share = f", of which this container may use {allowed:g}" if allowed and allowed < count else ""
    yield Finding("ok", "cores", f"{count}{share}")
    given = os.environ.get("OMP_NUM_THREADS") or os.environ.get("MKL_NUM_THREADS")
    if given is None:
        yield Finding("ok", "threads", "measured before each run (OMP_NUM_THREADS is not set)")
    elif given.isdecimal() and int(given) > (allowed or count):
        yield Finding(
            "problem", "threads", f"OMP_NUM_THREADS is {given}, more than there are cores: they wait for each other; "
            f"lower it to {max(1, int(allowed or count))}, or unset it"
        )  # fmt: skip
    else:
        yield Finding("ok", "threads", f"{given} (OMP_NUM_THREADS)")
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if load > BUSY * count:
        yield Finding("note", "load", f"{load:.1f} processes want {count} cores: runs are slow, and times mean little")
    if memory := _memory():
        kind: Kind = "ok" if memory[1] >= 2 else "note"
        yield Finding(kind, "memory", f"{memory[1]:.1f} of {memory[0]:.1f} GiB are free")


def _quota() -> float | None:
    """Cores that a control group allows; None where it sets no bound."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        return None


def _memory() -> tuple[float, float] | None:
    """GiB in all, and free, of the machine; None where it does not say (not Linux)."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    sizes = {line.split(":")[0]: int(line.split()[1]) / 2**20 for line in lines if line.endswith("kB")}
    return sizes["MemTotal"], sizes["MemAvailable"]


def devices() -> Iterator[Finding]:
    """GPUs, and what the CPU can do."""
    try:
        import torch
    except (ImportError, OSError) as error:
        yield Finding("problem", "torch", f"cannot be imported: {error}; install it again")
        return
    capability = torch.backends.cpu.get_cpu_capability()
    amx = "with AMX" if "amx_tile" in _cpu_flags() else "no AMX"
    slow = "" if "AVX512" in capability or platform.machine() != "x86_64" else "; figures of the docs are with AVX-512"
    yield Finding("note" if slow else "ok", "instructions", f"{capability}, {amx}{slow}")
    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(number)
            yield Finding("ok", f"gpu {number}", f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB")
    elif torch.backends.mps.is_available():
        yield Finding("ok", "gpu", "Apple's, as the device mps")
    elif Path("/dev/nvidia0").exists():
        build = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "for the CPU alone"
        yield Finding(
            "problem", "gpu", f"there is one, and this PyTorch ({build}) cannot use it: compare `nvidia-smi` and "
            "https://pytorch.org/get-started"
        )  # fmt: skip
    else:
        yield Finding("note", "gpu", "none: everything runs on the CPU, the shipped recipes in minutes")


def _cpu_flags() -> set[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return set()
    return set(next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), ()))


def disks(folder: Path) -> Iterator[Finding]:
    """Room where runs are written, and where the hub's models are kept."""
    home = Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser()
    for what, path in {"runs": folder, "models": home}.items():
        there = next((one for one in (path.absolute(), *path.absolute().parents) if one.is_dir()), Path("/"))
        free = shutil.disk_usage(there).free / 2**30
        if not os.access(there, os.W_OK):
            yield Finding(
                "problem", f"disk of {what}", f"{there} cannot be written to; change its owner, or {_OTHER[what]}"
            )
        elif free < LEAST_FREE:
            yield Finding(
                "problem", f"disk of {what}", f"{free:.1f} GiB are free in {there}; make room, or {_OTHER[what]}"
            )
        else:
            yield Finding("ok", f"disk of {what}", f"{free:.0f} GiB are free in {there}")


_OTHER = {"runs": "name another folder by --trainer.default_root_dir", "models": "name another by HF_HOME"}


# --- the hub ----------------------------------------------------------------------------------------------------------


def hub(timeout: float) -> Iterator[Finding]:
    """Whether the hub answers within ``timeout`` seconds."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}:
        yield Finding("note", "hub", "HF_HUB_OFFLINE is set: models come from folders and from what is kept already")
        return
    where = os.environ.get("HF_ENDPOINT", HUB).rstrip("/")
    answer = within(timeout, lambda: _ask(where, timeout))
    if answer is None:
        yield Finding("ok", "hub", f"{where} answers")
    else:
        yield Finding(
            "note", "hub", f"{where} does not answer ({answer}): name models by folder, or a mirror by HF_ENDPOINT"
        )


def within(timeout: float, ask: Callable[[], str | None]) -> str | None:
    """The answer of ``ask``, or that it took longer: a name that does not resolve heeds no timeout of a socket."""
    answers: list[str | None] = []
    thread = threading.Thread(target=lambda: answers.append(ask()), daemon=True)
    thread.start()
    thread.join(timeout)
    return answers[0] if answers else f"nothing for {timeout:g} s"


def _ask(where: str, timeout: float) -> str | None:
    """Why a server does not answer as it should; None where it does."""
    try:
        request = urllib.request.Request(where, method="HEAD")
        with urllib.request.urlopen(request, timeout=timeout):
            return None
    except urllib.error.HTTPError as error:  # of a proxy, or of a mirror that wants a key
        return f"status {error.code}"
    except (OSError, ValueError) as error:
        return str(getattr(error, "reason", error))
