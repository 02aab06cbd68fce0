/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Stands in for libFuzzer: runs a fuzzer once over each file it is given, and then,
 * with --seconds N in front of them, that long over random changes of them. The
 * input of a crash is left in /tmp, as a file to be given again. --seed N repeats a
 * run.
 */
#include "fuzz.h"

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/io.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>

enum { SEED_MAX = 1 << 24, SEEDS_MAX = 256, INPUT_MAX = 1 << 16 };

struct input {
    uint8_t *data;
    size_t size;
};

static struct input seeds[SEEDS_MAX];
static size_t seed_count;
static struct input current;
static char crash_path[200];
static uint64_t random_state;

/* ---- the input at hand, when it crashes ---- */

static void keep_input(int signal_number)
{
    int fd = open(crash_path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

    if (fd >= 0 && write(fd, current.data, current.size) == (ssize_t)current.size) {
        static const char text[] = "the input is kept in ";

        if (write(STDERR_FILENO, text, sizeof(text) - 1) > 0 &&
            write(STDERR_FILENO, crash_path, strlen(crash_path)) > 0)
            (void)!write(STDERR_FILENO, "\n", 1);
    }
    signal(signal_number, SIG_DFL);
    raise(signal_number);
}

static void watch(const char *program)
{
    static const int signals[] = {SIGABRT, SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGALRM};
    const char *slash = strrchr(program, '/');

    snprintf(crash_path, sizeof(crash_path), "/tmp/stasis-%s-%d",
             slash != NULL ? slash + 1 : program, (int)getpid());
    for (size_t i = 0; i < ARRAY_LEN(signals); i++)
        signal(signals[i], keep_input);
}

static void run(const uint8_t *data, size_t size)
{
    enum { HANGS_AFTER_S = 60 };

    /* A copy of exactly its length: a sanitizer sees a read past its end. */
    current.data = malloc(size > 0 ? size : 1);
    MUST(current.data != NULL);
    if (size > 0)
        memcpy(current.data, data, size);
    current.size = size;
    alarm(HANGS_AFTER_S);
    LLVMFuzzerTestOneInput(current.data, size);
    alarm(0);
    free(current.data);
}

/* ---- random changes ---- */

static uint64_t next_random(void)
{
    random_state ^= random_state >> 12;
    random_state ^= random_state << 25;
    random_state ^= random_state >> 27;
    return random_state * UINT64_C(0x2545f4914f6cdd1d);
}

static size_t below(size_t n)
{
    return n == 0 ? 0 : (size_t)(next_random() >> 16) % n;
}

/* Numbers at which parsers go wrong. */
static uint64_t odd_number(void)
{
    static const uint64_t base[] = {0, 1, 16, 64, 4096, 1 << 20, INT32_MAX, UINT32_MAX, INT64_MAX};
    uint64_t n = base[below(ARRAY_LEN(base))];

    return n + below(3) - 1;
}

static void put_number(struct input *in)
{
    uint8_t bytes[8];
    size_t width = (size_t)1 << below(4);

    if (in->size < width)
        return;
    store_le64(bytes, odd_number());
    memcpy(in->data + below(in->size - width + 1), bytes, width);
}

static void cut_out(struct input *in)
{
    size_t from = below(in->size), length = below(in->size - from + 1);

    memmove(in->data + from, in->data + from + length, in->size - from - length);
    in->size -= length;
}

/* A piece of some seed, put in or written over. */
static void paste(struct input *in)
{
    const struct input *other = &seeds[below(seed_count)];
    size_t from = below(other->size), length = below((other->size - from) % 512 + 1);
    size_t to = below(in->size + 1);

    if (in->size + length > INPUT_MAX || length == 0)
        return;
    if (below(2) == 0) {
        memmove(in->data + to + length, in->data + to, in->size - to);
        in->size += length;
    } else if (to + length > in->size) {
        in->size = to + length;
    }
    memcpy(in->data + to, other->data + from, length);
}

static void change(struct input *in)
{
    switch (below(6)) {
    case 0:
    case 1:
        if (in->size > 0)
            in->data[below(in->size)] ^= (uint8_t)(1 << below(8));
        break;
    case 2:
        if (in->size > 0)
            in->data[below(in->size)] = (uint8_t)next_random();
        break;
    case 3:
        put_number(in);
        break;
    case 4:
        cut_out(in);
        break;
    default:
        paste(in);
    }
}

static void run_changed(unsigned seconds)
{
    uint64_t end = clock_monotonic_ns() + seconds * UINT64_C(1000000000), runs = 0;
    struct input in = {.data = malloc(INPUT_MAX)};

    MUST(in.data != NULL);
    printf("--seed %llu\n", (unsigned long long)random_state);
    fflush(stdout);
    while (seed_count > 0 && clock_monotonic_ns() < end) {
        const struct input *seed = &seeds[below(seed_count)];

        in.size = min_u64(seed->size, INPUT_MAX);
        if (in.size > 0)
            memcpy(in.data, seed->data, in.size);
        for (size_t n = 1 + below(6); n > 0; n--)
            change(&in);
        run(in.data, in.size);
        runs++;
    }
    printf("%llu random inputs\n", (unsigned long long)runs);
    free(in.data);
}

/* ---- */

static int load(const char *path)
{
    char *text;
    size_t length;
    int r = io_read_file(AT_FDCWD, path, SEED_MAX, &text, &length);

    if (r == 0 && seed_count == SEEDS_MAX)
        r = -E2BIG;
    if (r < 0) {
        fprintf(stderr, "%s: %s\n", path, strerror(-r));
        return 1;
    }
    seeds[seed_count++] = (struct input){(uint8_t *)text, length};
    printf("%s: %zu bytes\n", path, length);
    fflush(stdout);
    run((uint8_t *)text, length);
    return 0;
}

int main(int argc, char **argv)
{
    int failed = argc < 2;
    unsigned seconds = 0;

    watch(argv[0]);
    random_state = (uint64_t)clock_wall_us() | 1;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--seconds") == 0 && i + 1 < argc)
            seconds = (unsigned)strtoul(argv[++i], NULL, 10);
        else if (strcmp(argv[i], "--seed") == 0 && i + 1 < argc)
            random_state = strtoull(argv[++i], NULL, 10) | 1;
        else
            failed |= load(argv[i]);
    }
    if (failed == 0)
        run_changed(seconds);
    for (size_t i = 0; i < seed_count; i++)
        free(seeds[i].data);
    return failed;
}
