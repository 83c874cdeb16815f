"""Several hosts on one machine: network namespaces joined by a bridge, each of which can be cut off and healed.

A program that calls `go_apart` first has a network, a process table and /run and /dev/shm of its own. With its end, by
`kill -9` too, the kernel ends every process that it started and takes back every namespace, address and file in /run;
two such programs never see each other. It needs Linux, root, `ip` of iproute2 and `unshare` of util-linux.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).parents[2]
HOME = Path("/run/fipray")  # where the program keeps its files; every light host sees it
LOWERED = {  # so that a host that says nothing is declared dead within some 8 s, not after a minute
    **{f"RAY_health_check_{name}_ms": "1000" for name in ("initial_delay", "period", "timeout")},
    "RAY_health_check_failure_threshold": "5",
    "RAY_grpc_client_keepalive_time_ms": "3000",
    "RAY_grpc_client_keepalive_timeout_ms": "3000",
}
# Trees that a real host has to itself; everything else it sees as the machine has it, but read-only.
_PRIVATE = ("/run", "/tmp", "/root", "/home", "/var/tmp", "/dev/shm")
_APART = "FIPRAY_BENCHMARK_APART"
_SSHD = """Port 22
HostKey /run/host_key
AuthorizedKeysFile /run/key.pub
PidFile none
StrictModes no
UsePAM no
PermitUserEnvironment yes
"""


def go_apart(*programs: str) -> None:
    """Restart this program in namespaces of its own.

    Ends it with status 2 and a message if that is impossible or one of `programs` is not installed.
    """
    if _APART in os.environ:
        for folder in ("/run", "/dev/shm"):
            subprocess.run(["mount", "-t", "tmpfs", "tmpfs", folder], check=True)
        HOME.mkdir()
        return
    if os.geteuid() != 0:
        _refuse("this benchmark makes hosts out of network namespaces, which only root may: run it as root")
    packages = {"ip": "iproute2", "unshare": "util-linux", "sshd": "openssh-server", "ssh": "openssh-client"}
    for program in ("ip", "unshare", *programs):
        if shutil.which(program) is None:
            _refuse(f"{program} is not installed: it is in the package {packages.get(program, program)}")
    apart = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
    tried = subprocess.run([*apart, "true"], capture_output=True, text=True)
    if tried.returncode:
        _refuse(f"this machine lets nobody make namespaces ({tried.stderr.strip()}): run it on one that does")
    os.environ[_APART] = "1"
    sys.stdout.flush()
    os.execvp("unshare", [*apart, sys.executable, *sys.orig_argv[1:]])


def _refuse(sentence: str) -> NoReturn:
    print(sentence, file=sys.stderr)
    sys.exit(2)


@dataclass(frozen=True)
class Host:
    """A network namespace with an address of its own on the bridge."""

    name: str
    address: str

    def run(self, *command: str) -> list[str]:
        """Return the command line that runs `command` on the host, with the machine's disks and processes."""
        return [
            *("ip", "netns", "exec", self.name, "unshare", "--uts"),
            *("sh", "-c", 'hostname "$0" && exec "$@"', self.name, *command),
        ]


class Bridge:
    """Joins hosts. Its own address, on which this program can serve them, is `Bridge.address`."""

    address = "10.77.0.1"

    def __init__(self, names: Sequence[str]) -> None:
        self.hosts = tuple(Host(name, f"10.77.0.{10 + number}") for number, name in enumerate(names))
        _ip("link set lo up", "link add br0 type bridge", f"addr add {self.address}/24 dev br0", "link set br0 up")
        for host in self.hosts:
            _ip(
                f"netns add {host.name}",
                f"link add {host.name} type veth peer name eth0 netns {host.name}",
                f"link set {host.name} master br0 up",
                f"-n {host.name} addr add {host.address}/24 dev eth0",
                f"-n {host.name} link set eth0 up",
                f"-n {host.name} link set lo up",
                f"-n {host.name} route add default via {self.address}",  # a host finds its own address by it
            )

    def cut(self, host: Host) -> None:
        """From now on packets from and to the host are lost, and nobody is told."""
        _ip(f"link set {host.name} nomaster")

    def heal(self, host: Host) -> None:
        _ip(f"link set {host.name} master br0")


def _ip(*commands: str) -> None:
    for command in commands:
        subprocess.run(["ip", *command.split()], check=True)


@dataclass(frozen=True)
class Process:
    """A process on a host, and what it says."""

    popen: subprocess.Popen[bytes]
    log: Path

    @classmethod
    def start(cls, command: Sequence[str], log: Path, environment: Mapping[str, str]) -> Process:
        with open(log, "wb") as stream:
            popen = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, cwd=ROOT, env=dict(environment)
            )
        return cls(popen, log)

    @property
    def said(self) -> str:
        return self.log.read_text(errors="replace")

    @property
    def has_ended(self) -> bool:
        return self.popen.poll() is not None

    def wait_until_it_says(self, text: str, patience_seconds: float = 120) -> None:
        """Wait for a text in the output. Raises RuntimeError with the output if the process ends without it."""
        deadline = time.monotonic() + patience_seconds
        while text not in self.said:
            if self.has_ended or time.monotonic() > deadline:
                raise RuntimeError(f"{self.log.stem} never said {text!r}, but:\n{self.said[-4000:]}")
            time.sleep(0.1)


def start_machine(host: Host, environment: Mapping[str, str], shared: Sequence[Path] = ()) -> Process:
    """Start sshd on the host as the first process of a machine of its own.

    The machine has its own processes, names, /root, /tmp and the like; the rest of the machine below is read-only, and
    `shared` is
    writable.

    environment: of those who log in. `ssh(host, ...)` logs in as root.
    """
    key, host_key = HOME / "key", HOME / "host_key"
    for file in (key, host_key):
        if not file.exists():
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(file)], check=True)
    (HOME / "sshd_config").write_text(_SSHD)
    (HOME / "environment").write_text("".join(f"{name}={value}\n" for name, value in environment.items()))
    files = [host_key, key, HOME / "key.pub", HOME / "sshd_config", HOME / "environment"]
    kept = [
        *(file.resolve() for file in (Path(sys.prefix), Path(sys.base_prefix), ROOT)),
        *(s.resolve() for s in shared),
    ]
    script = ["set -e", f"hostname {host.name}", "mount -t tmpfs tmpfs /mnt", "mkdir /mnt/files"]
    script += [f"cp -p {file} /mnt/files/" for file in files]
    for number, folder in enumerate(kept):
        script += [f"mkdir /mnt/{number}", f"mount --bind {shlex.quote(str(folder))} /mnt/{number}"]
    script += [f"mount -t tmpfs tmpfs {folder}" for folder in _PRIVATE] + ["chmod 1777 /tmp /var/tmp /dev/shm"]
    script += ["cp -p /mnt/files/* /run/", "mkdir /run/sshd ~root/.ssh", "mv /run/environment ~root/.ssh/"]
    script += ["mount -o remount,bind,ro /"]
    for number, folder in enumerate(kept):
        where, mode = shlex.quote(str(folder)), "rw" if folder in kept[3:] else "ro"
        script += [f"[ -d {where} ] || mkdir -p {where}", f"mount --bind /mnt/{number} {where}"]
        script += [f"mount -o remount,bind,{mode} {where}"]
    script += ["umount -l /mnt", f"exec {shutil.which('sshd')} -D -e -f /run/sshd_config"]
    apart = ["unshare", "--mount", "--pid", "--fork", "--uts", "--ipc", "--kill-child", "--mount-proc"]
    command = ["ip", "netns", "exec", host.name, *apart, "sh", "-c", "\n".join(script)]
    started = Process.start(command, HOME / f"{host.name}.log", os.environ)
    started.wait_until_it_says("Server listening")
    return started


def ssh(host: Host, command: str) -> list[str]:
    """Return the command line that logs in as root and runs `command`."""
    options = ["StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR"]
    return [
        "ssh",
        *(part for option in options for part in ("-o", option)),
        "-i",
        str(HOME / "key"),
        host.address,
        command,
    ]
