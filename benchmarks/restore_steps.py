# SPDX-License-Identifier: Apache-2.0
"""restore_steps.py DISK: puts a machine of 1 GiB back, 1 MiB written before.

Prints a line for each time: MACHINE_MS CLIENT_MS.
"""
import sys
import time

from guests import DIRTY_FROM, Home, Machine

DIRTY = 256  # pages: 1 MiB
STRIDE = 9
RUNS = 100
LOADED = 100000  # pages of the disk


def main(disk):
    with Home() as home:
        machine = Machine(home, "web", "1G", disk)
        machine.guest.load(LOADED)
        machine.guest.ask("idle on")
        saved = machine.call("save")["id"]
        for run in range(RUNS):
            machine.guest.ask(f"dirty {DIRTY} {STRIDE} {run + 1} {DIRTY_FROM}")
            begin = time.monotonic()
            took = machine.call("restore", checkpoint=saved)["restore_us"]
            print(f"{took / 1e3:.3f} {(time.monotonic() - begin) * 1e3:.3f}", flush=True)


main(*sys.argv[1:])
