# SPDX-License-Identifier: Apache-2.0
"""save_steps.py DISK: saves of machines with 1 and 8 GiB, 50 MiB written between them.

Prints a line for each: WHO MEMORY PAUSE_MS TOTAL_MS.
"""
import sys
import time

from guests import DIRTY_FROM, Home, Machine, Qemu

DIRTY = 12800  # pages: 50 MiB
STRIDE = 9
RUNS = 30
QEMU_RUNS = 5
LOADED = 100000  # pages of the disk


def write_some(guest, run):
    guest.ask(f"dirty {DIRTY} {STRIDE} {run + 1} {DIRTY_FROM}")


def main(disk):
    with Home() as home:
        machines = [Machine(home, "small", "1G", disk), Machine(home, "large", "8G", disk)]
        qemu = Qemu(home, "1G", disk)
        for who in machines + [qemu]:
            who.guest.load(LOADED)
            who.guest.ask("idle on")
        for machine in machines:
            machine.call("save")
        for run in range(RUNS):
            for machine, memory in zip(machines, ("1G", "8G")):
                write_some(machine.guest, run)
                begin = time.monotonic()
                pause_us = machine.call("save")["pause_us"]
                total = time.monotonic() - begin
                print(f"ours {memory} {pause_us / 1e3:.3f} {total * 1e3:.1f}", flush=True)
            if run < QEMU_RUNS:
                write_some(qemu.guest, run)
                took = qemu.save_stopped() * 1e3
                print(f"qemu 1G {took:.1f} {took:.1f}", flush=True)
        qemu.end()


main(*sys.argv[1:])
