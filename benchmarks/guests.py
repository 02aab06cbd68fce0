# SPDX-License-Identifier: Apache-2.0
"""Machines with the probe guest on this host's KVM: ours, and QEMU's microvm.

Both get the RAM of a stock Debian guest, read from a disk, so that what is saved is
what people save. Times are of the monotonic clock, in seconds.
"""
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time

PAGE = 4096
FIRST = 1024  # the page from which on the guest's memory is filled
DIRTY_FROM = 2048
CHUNK = 1024  # pages the guest reads from its disk at once


def fail(message):
    sys.exit(message)


class Guest:
    """The probe guest behind a byte stream: one line of reply to each command."""

    def __init__(self, write, read_line):
        self.write, self.read_line = write, read_line

    def wait_ready(self):
        while not self.read_line().startswith(b"stasis-probe"):
            pass

    def ask(self, command):
        self.write(command.encode() + b"\n")
        while True:
            line = self.read_line()
            if not line:
                fail("the guest ended at: " + command)
            if line.startswith(b"ok"):
                return dict(word.split("=", 1) for word in line.decode().split()[1:])
            if line.startswith(b"error"):
                fail(command + ": " + line.decode().strip())

    def load(self, pages):
        """Fills memory with the disk's pages."""
        for at in range(0, pages, CHUNK):
            self.ask(f"blk read {at * 8} {min(CHUNK, pages - at) * 8} {FIRST + at}")


class Home:
    """A home of ours, removed at the end with all its machines."""

    def __init__(self):
        self.stasis_path = os.environ["STASIS"]
        self.kernel = os.path.join(os.environ["STASIS_BUILD"], "guest/probe/probe.elf")
        self.dir = tempfile.mkdtemp(prefix="bench.", dir=os.environ["STASIS_BUILD"])
        self.runtime = tempfile.mkdtemp(prefix="stasis-bench.")  # short: sockets' paths are
        self.env = dict(os.environ, STASIS_HOME=self.dir, XDG_RUNTIME_DIR=self.runtime)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        names = subprocess.run([self.stasis_path, "ls", "-q"], env=self.env, text=True,
                               capture_output=True, check=False).stdout.split()
        for name in names:
            subprocess.run([self.stasis_path, "kill", name], env=self.env, check=False,
                           capture_output=True)
        shutil.rmtree(self.dir)
        shutil.rmtree(self.runtime)

    def stasis(self, *words):
        """Runs a command; its output."""
        done = subprocess.run([self.stasis_path, *words], env=self.env, text=True,
                              capture_output=True, check=False)
        if done.returncode != 0:
            fail("stasis " + " ".join(words) + ": " + done.stderr.strip())
        return done.stdout

    def json(self, *words):
        return json.loads(self.stasis(*words, "--json"))


class Machine:
    """One of ours: through its control socket, which costs less than a command."""

    def __init__(self, home, name, memory, disk):
        self.home, self.name = home, name
        home.stasis("run", "--kernel", home.kernel, "--memory", memory, "--disk", disk,
                    "--net", "none", "--name", name, "--cmdline", "virtio=0xd0000000,4096,16", "-d",
                    "--paused")
        self.socket_path = self.find_socket()
        self.control, self.replies = self.connect()
        self.guest = self.open_console()
        self.call("resume")
        self.guest.wait_ready()

    def find_socket(self):
        for directory, _, files in os.walk(self.home.runtime):
            if self.name + ".sock" in files:
                return os.path.join(directory, self.name + ".sock")
        return fail("there is no socket of " + self.name)

    def connect(self):
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(self.socket_path)
        return connection, connection.makefile("rb")

    def open_console(self):
        connection, lines = self.connect()
        connection.sendall(b'{"verb": "console", "args": {"replay": true}}\n')
        if not json.loads(lines.readline())["ok"]:
            fail("no console of " + self.name)
        return Guest(connection.sendall, lines.readline)

    def call(self, verb, **args):
        self.control.sendall(json.dumps({"verb": verb, "args": args}).encode() + b"\n")
        reply = json.loads(self.replies.readline())
        if not reply["ok"]:
            fail(verb + ": " + reply["message"])
        return reply["result"]


class Qemu:
    """QEMU's microvm with the same guest."""

    def __init__(self, home, memory, disk):
        self.dir = home.dir
        here, there = socket.socketpair()
        self.process = subprocess.Popen(
            ["qemu-system-x86_64", "-M", "microvm,accel=kvm", "-cpu", "host,-arch-capabilities",
             "-m", memory, "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none",
             "-global", "virtio-mmio.force-legacy=false",
             "-drive", f"file={disk},format=raw,if=none,id=d,readonly=on",
             "-device", "virtio-blk-device,drive=d", "-serial", "stdio",
             "-chardev", f"socket,id=qmp,fd={there.fileno()}", "-mon", "chardev=qmp,mode=control",
             "-kernel", home.kernel, "-append", "virtio=0xfeb00000,512,24"],
            pass_fds=[there.fileno()], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL)
        there.close()
        self.qmp, self.replies = here, here.makefile("rb")
        self.replies.readline()  # the greeting
        self.call("qmp_capabilities")
        self.guest = Guest(self.type, self.process.stdout.readline)
        self.guest.wait_ready()

    def type(self, text):
        self.process.stdin.write(text)
        self.process.stdin.flush()

    def call(self, command, **args):
        self.qmp.sendall(json.dumps({"execute": command, "arguments": args}).encode() + b"\n")
        while True:
            reply = json.loads(self.replies.readline())
            if "error" in reply:
                fail(command + ": " + reply["error"]["desc"])
            if "return" in reply:
                return reply["return"]

    def save_stopped(self):
        """Saves all to a file, the guest stopped: for how long it was."""
        path = os.path.join(self.dir, "qemu.state")
        begin = time.monotonic()
        self.call("stop")
        self.call("migrate", uri=f"exec:cat >{path}")
        while self.call("query-migrate").get("status") not in ("completed", "failed"):
            time.sleep(0.002)
        self.call("cont")
        took = time.monotonic() - begin
        os.unlink(path)
        return took

    def end(self):
        self.process.kill()
        self.process.wait()
