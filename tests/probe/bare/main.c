/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bare KERNEL [MEMORY_MIB [CMDLINE]]: runs the probe guest; lines on standard
 * input go to its serial port, one after each reply, what it prints to standard
 * output. Ends when the guest powers off or nothing is left to say.
 */
#include "tests/probe/bare/bare.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static double now_ms(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec * 1e3 + (double)ts.tv_nsec / 1e6;
}

static int report(const struct bare *bare, enum bare_stop stop)
{
    switch (stop) {
    case BARE_OFF:
    case BARE_RESET:
        return 0;
    case BARE_KICKED:
        fprintf(stderr, "bare: the guest does not answer\n");
        return 1;
    default:
        fprintf(stderr, "bare: %s\n", bare->why);
        return 1;
    }
}

static enum bare_stop talk(struct bare *bare)
{
    char line[1024], command[512];
    double start = now_ms();
    enum bare_stop stop;

    while ((stop = bare_run_to_line(bare, line, sizeof(line), 30)) == BARE_LINE) {
        printf("%s\n", line);
        fprintf(stderr, "  %.2f ms\n", now_ms() - start);
        fflush(stdout);
        if (strncmp(line, "tick", 4) == 0)
            continue;
        if (fgets(command, sizeof(command), stdin) == NULL)
            return BARE_OFF;
        bare_type(bare, command, strlen(command));
        start = now_ms();
    }
    return stop;
}

int main(int argc, char **argv)
{
    uint64_t mib = argc > 2 ? strtoull(argv[2], NULL, 0) : 512;
    static struct bare bare;
    int rc;

    if (argc < 2 || mib < 4) {
        fprintf(stderr, "usage: bare KERNEL [MEMORY_MIB [CMDLINE]]\n");
        return 2;
    }
    rc = bare_open(&bare, mib << 20);
    if (rc == 0)
        rc = bare_load(&bare, argv[1], argc > 3 ? argv[3] : "");
    rc = rc != 0 ? report(&bare, BARE_FAILED) : report(&bare, talk(&bare));
    bare_close(&bare);
    return rc;
}
