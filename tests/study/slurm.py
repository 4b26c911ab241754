"""SLURM on this machine alone, from Debian's packages, unpacked and not installed: one node, on loopback.

Its accounting data base is not run, so that submitit's question to `sacct` is answered from the controller's memory.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shutil
import signal
import socket
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

PACKAGES = (
    *("slurmctld", "slurmd", "slurm-client", "slurm-wlm-basic-plugins"),
    *("munge", "libmunge2", "libhwloc15", "liblua5.1-0"),
)
SACCT = """#!/usr/bin/env python3
import re, subprocess, sys
print("JobID|State|NodeList")
for job in [sys.argv[i + 1] for i, word in enumerate(sys.argv) if word == "-j"]:
    told = subprocess.run(["scontrol", "show", "job", "-o", job], capture_output=True, text=True).stdout
    for line in filter(None, told.splitlines()):
        f = dict(re.findall(r"(\\w+)=(\\S*)", line))
        name = f["ArrayJobId"] + "_" + f["ArrayTaskId"] if "ArrayTaskId" in f else f["JobId"]
        if re.search(r"_.*[-,%]", name):
            name = re.sub(r"_(.*)", r"_[\\1]", name)
        print(name, f["JobState"], f.get("NodeList", ""), sep="|")
"""


class NotHereError(Exception):
    """SLURM cannot be had on this machine; why."""


class Slurm:
    """A running SLURM of one node.

    Args:
        folder: for everything that it needs.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._root = folder / "root"
        self._lib = self._root / "usr/lib/x86_64-linux-gnu"
        self._conf = folder / "slurm.conf"
        self.env = {
            "SLURM_CONF": str(self._conf),
            "LD_LIBRARY_PATH": f"{self._lib}:{self._lib / 'slurm-wlm'}",
            "PATH": f"{folder / 'bin'}:{self._root / 'usr/bin'}:{os.environ['PATH']}",
        }
        self._environ = os.environ | self.env  # other tests change theirs meanwhile

    def unpack(self) -> None:
        """Raises NotHereError if the packages cannot be had."""
        if platform.machine() != "x86_64" or not shutil.which("apt-get") or not shutil.which("dpkg"):
            raise NotHereError("needs Debian's package tools on x86-64")
        debs = self.folder / "debs"
        debs.mkdir(parents=True)
        try:
            done = subprocess.run(
                ["apt-get", "download", *PACKAGES], cwd=debs, capture_output=True, text=True, timeout=60, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise NotHereError("Debian's packages of SLURM cannot be downloaded in a minute") from error
        if done.returncode:
            raise NotHereError(
                f"Debian's packages of SLURM cannot be downloaded: {done.stderr.strip().splitlines()[-1:]}"
            )
        for deb in debs.glob("*.deb"):
            subprocess.run(["dpkg", "-x", str(deb), str(self._root)], check=True)

    def configure(self) -> None:
        host, user = socket.gethostname().split(".")[0], Path.home().owner()
        if not socket.gethostbyname(host).startswith("127."):
            raise NotHereError("the name of this machine is not that of its loopback interface")
        controller, node = _free_ports(2)
        for name in ("state", "spool", "bin"):
            (self.folder / name).mkdir(exist_ok=True)
        self._conf.write_text(
            f"""ClusterName=one
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/none
CredType=cred/none
PluginDir={self._lib}/slurm-wlm
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SwitchType=switch/none
LaunchParameters=disable_send_gids
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
ReturnToService=2
SlurmdTimeout=20
SlurmctldTimeout=10
KillWait=5
MinJobAge=86400
MessageTimeout=10
SchedulerParameters=sched_interval=2,bf_interval=5
JobRequeue=1
StateSaveLocation={self.folder}/state
SlurmdSpoolDir={self.folder}/spool
SlurmctldPidFile={self.folder}/slurmctld.pid
SlurmdPidFile={self.folder}/slurmd.pid
SlurmctldLogFile={self.folder}/slurmctld.log
SlurmdLogFile={self.folder}/slurmd.log
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={node} CPUs=1 RealMemory=4000 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
        )
        sacct = self.folder / "bin" / "sacct"
        sacct.write_text(SACCT)
        sacct.chmod(sacct.stat().st_mode | stat.S_IXUSR)

    def start(self) -> None:
        self._daemon("slurmctld-wlm")
        self.start_node()
        deadline = time.monotonic() + 30
        while self.ask("sinfo", "-h", "-o", "%T").strip() != "idle":
            if time.monotonic() > deadline:
                raise NotHereError(f"its node does not come up; see {self.folder}/slurmd.log")
            time.sleep(0.2)

    def start_node(self, rebooted: bool = False) -> None:
        (self.folder / "spool").mkdir(exist_ok=True)
        stepd = str(self._root / "usr/sbin/slurmstepd-wlm")
        self._daemon("slurmd-wlm", "-N", "n1", "-d", stepd, *(["-b"] if rebooted else []))

    def crash_node(self) -> None:
        """The daemon and all that it started are gone at once, with what it had on its disk."""
        daemon = int((self.folder / "slurmd.pid").read_text())
        for pid in [daemon, *self._of_steps()]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        shutil.rmtree(self.folder / "spool")

    def _of_steps(self) -> list[int]:
        """Every process that works for a job: those below a step's, which carry its number in their environment."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                command = (entry / "cmdline").read_bytes()
                ours = str(self.folder).encode() in (entry / "environ").read_bytes()
                if b"slurmstepd" in command or (ours and b"SLURM_JOB_ID=" in (entry / "environ").read_bytes()):
                    found.append(int(entry.name))
        return found

    def ask(self, *words: str) -> str:
        done = subprocess.run(words, env=self._environ, capture_output=True, text=True, timeout=20, check=False)
        return done.stdout

    def stop(self) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired, OSError):
            self.ask("scancel", "-f", "--user", Path.home().owner())
        for name in ("slurmd", "slurmctld"):
            with contextlib.suppress(OSError, ValueError):
                os.kill(int((self.folder / f"{name}.pid").read_text()), signal.SIGKILL)
        for pid in self._of_steps():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _daemon(self, name: str, *words: str) -> None:
        with (self.folder / f"{name}.out").open("ab") as out:
            subprocess.run(
                [str(self._root / "usr/sbin" / name), "-f", str(self._conf), *words],
                env=self._environ,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                timeout=30,
                check=True,
            )


@contextlib.contextmanager
def slurm(folder: Path) -> Iterator[Slurm]:
    """Raises NotHereError where there can be none."""
    cluster = Slurm(folder)
    cluster.unpack()
    cluster.configure()
    try:
        try:
            cluster.start()
        except (OSError, subprocess.SubprocessError) as error:
            raise NotHereError(f"its daemons do not start: {error}") from error
        yield cluster
    finally:
        cluster.stop()


def jobs_of(told: str) -> list[str]:
    """The numbers of the jobs in what squeue told."""
    return re.findall(r"^\s*(\d+_\d+|\d+)\s", told, re.MULTILINE)


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]
