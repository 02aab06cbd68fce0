/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The machine's serial line: what the guest prints goes to console.log; whoever
 * watches follows that file, so a slow reader loses nothing and holds up nobody.
 * The file's length is all that was ever printed; its oldest part is punched out
 * when it grows beyond CONSOLE_KEEP_BYTES.
 */
#ifndef STASIS_VMM_PROCESS_CONSOLE_H
#define STASIS_VMM_PROCESS_CONSOLE_H

#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define CONSOLE_KEEP_BYTES (64u << 20)

struct console;

/* Opens (appends to) the log in the machine's directory. wake is called, from any
 * thread, when console_flush() should be. */
int console_open(const char *machine_dir, void (*wake)(void *context), void *context,
                 struct console **out, struct error *err);
void console_close(struct console *console);

/* Takes what the guest printed. Any thread; never waits for a reader. */
void console_output(struct console *console, const uint8_t *bytes, size_t length);

/* Writes what came into the log. Event loop thread. */
void console_flush(struct console *console);

/* Bytes ever put into the log. Any thread. */
uint64_t console_length(struct console *console);

/* Reads from the log at *offset, or where its kept part begins if that is later,
 * and moves *offset behind what was read: bytes read, 0 at its end, negative
 * errno. Any thread. */
ssize_t console_read(struct console *console, uint64_t *offset, void *buf, size_t length);

#endif
