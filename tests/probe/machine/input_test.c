/* SPDX-License-Identifier: Apache-2.0 */
/* What a user may give that cannot be: each is refused with words that say what is wrong
 * and what to do, before anything is left behind. And a kernel that does nothing. */
#include "harness.h"

#include "kernel_fixture.h"

#include "base/cleanup.h"
#include "base/io.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/wait.h>

static void assert_nothing_left(struct site *site)
{
    json_t *list = stasis_json(site, "ls --json");

    assert_int_equal(json_array_size(list), 0);
    json_decref(list);
}

/* The whole error output. */
static void refused(struct site *site, int code, const char *message, const char *hint)
{
    _cleanup_free_ char *wanted = io_format("stasis: %s\nhint: %s\n", message, hint);

    assert_int_equal(site->code, code);
    assert_string_equal(site->err, wanted);
    assert_nothing_left(site);
}

/* ---- sizes ---- */

static void memory_out_of_range_is_refused(void **state)
{
    static const char least[] = "the least is 4.0 MiB; a size without a unit is in bytes, so "
                                "write 512M, not 512";
    static const char form[] = "a size is a number with K, M, G or T behind it, like 512M";
    static const struct {
        const char *size, *message, *hint;
    } cases[] = {
        {"0", "--memory 0 is out of range", least},
        {"4095K", "--memory 4095K is out of range", least},
        {"9T", "--memory 9T is out of range", "the most is 1.0 TiB"},
        {"-8M", "--memory cannot be '-8M'", form},
        {"8M1", "--memory cannot be '8M1'", form},
        {"99999999999999999999G", "--memory cannot be '99999999999999999999G'", form},
    };
    struct site *site = *state;

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        stasis(site, "run -d --name m --kernel %s --memory %s", PROBE_ELF, cases[i].size);
        refused(site, STATUS_USAGE, cases[i].message, cases[i].hint);
    }
}

static void cpus_out_of_range_are_refused(void **state)
{
    static const struct {
        const char *count, *message, *hint;
    } cases[] = {
        {"0", "--cpus 0 is out of range", "the range is 1 to 16"},
        {"17", "--cpus 17 is out of range", "the range is 1 to 16"},
        {"4294967297", "--cpus 4294967297 is out of range", "the range is 1 to 16"},
        {"-1", "--cpus cannot be '-1'", "it must be a whole number"},
        {"1.5", "--cpus cannot be '1.5'", "it must be a whole number"},
    };
    struct site *site = *state;

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        stasis(site, "run -d --name m --kernel %s --memory 8M --cpus %s", PROBE_ELF,
               cases[i].count);
        refused(site, STATUS_USAGE, cases[i].message, cases[i].hint);
    }
}

static char *make_file(struct site *site, const char *name, off_t size)
{
    char *path = site_path(site, name);
    _cleanup_close_ int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);

    assert_int_equal(ftruncate(fd, size), 0);
    return path;
}

static void an_initrd_larger_than_memory_is_refused(void **state)
{
    struct site *site = *state;
    _cleanup_free_ char *initrd = make_file(site, "initrd", 20 << 20);

    stasis(site, "run -d --name m --kernel %s --memory 8M --initrd %s", PROBE_ELF, initrd);
    refused(site, STATUS_FAILED, "the initrd is larger than the machine's memory",
            "give it more with --memory");
}

static void an_initrd_that_leaves_no_room_is_refused(void **state)
{
    struct site *site = *state;
    _cleanup_free_ char *initrd = make_file(site, "initrd", (8 << 20) - 4096);

    stasis(site, "run -d --name m --kernel %s --memory 8M --initrd %s", PROBE_ELF, initrd);
    refused(site, STATUS_USAGE,
            "the initrd of 7 MiB does not fit into 8 MiB of memory beside the kernel",
            "give the machine more memory, or a smaller initrd");
}

/* ---- what others have ---- */

/* A listening socket of ours; its port. */
static int take_port(uint16_t *port_out)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof(address);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    assert_true(fd >= 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&address, length), 0);
    assert_int_equal(listen(fd, 1), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&address, &length), 0);
    *port_out = ntohs(address.sin_port);
    return fd;
}

static void a_port_that_is_taken_is_told(void **state)
{
    struct site *site = *state;
    uint16_t port;
    _cleanup_close_ int fd = take_port(&port);
    assert_true(fd >= 0);
    _cleanup_free_ char *message =
        io_format("cannot forward 127.0.0.1:%u:80/tcp: port %u is taken", port, port);
    _cleanup_free_ char *hint =
        io_format("choose another port, or see who has it: ss -lnp 'sport = :%u'", port);

    stasis(site, "run -d --name m --kernel %s --memory 8M -p %u:80", PROBE_ELF, port);
    refused(site, STATUS_BUSY, message, hint);
}

static void a_port_of_another_machine_is_told(void **state)
{
    struct site *site = *state;
    uint16_t port;

    close(take_port(&port));
    stasis_ok(site, "run -d --name one --kernel %s --memory 8M -p %u:80", PROBE_ELF, port);
    stasis_fails(site, STATUS_BUSY, "is taken",
                 "run -d --name two --kernel %s --memory 8M -p %u:80", PROBE_ELF, port);
    stasis_fails(site, STATUS_NOT_FOUND, "two", "resume two");
    stasis_ok(site, "kill one");
    stasis_ok(site, "run -d --name two --kernel %s --memory 8M -p %u:80", PROBE_ELF, port);
}

/* A machine's disk is a copy of the file it came from: nobody holds that. */
static void one_file_is_the_disk_of_two_machines(void **state)
{
    struct site *site = *state;
    _cleanup_free_ char *disk = site_disk(site, "disk", 31);
    static const char *const names[] = {"one", "two"};

    for (unsigned i = 0; i < 2; i++) {
        struct guest guest;

        stasis_ok(site,
                  "run -d --paused --name %s --kernel %s --memory 8M --disk %s "
                  "--cmdline virtio=0xd0000000,4096,16",
                  names[i], PROBE_ELF, disk);
        guest_attach(&guest, site, names[i], 1);
        stasis_ok(site, "resume %s", names[i]);
        guest_wait_banner(&guest);
        ask_ok(&guest, "idle on");
        assert_int_equal(ask_number(&guest, "sum", 16, "blk sum 0 64"),
                         expected_disk_sum(0, 64, 31));
        ask_ok(&guest, "blk write 0 64 %u", 40 + i);
        guest_detach(&guest);
    }
    for (unsigned i = 0; i < 2; i++) {
        struct guest guest;

        guest_attach(&guest, site, names[i], 1);
        assert_int_equal(ask_number(&guest, "sum", 16, "blk sum 0 64"),
                         expected_disk_sum(0, 64, 40 + i));
        guest_detach(&guest);
    }
}

/* ---- a kernel that hangs ---- */

/* cli; jmp to itself: it listens to nothing, not even to interrupts. */
static char *hanging_kernel(struct site *site)
{
    static const uint8_t code[] = {0xfa, 0xeb, 0xfe};
    _cleanup_free_ struct kernel_file *file = calloc(1, sizeof(*file));
    char *path = site_path(site, "hangs");

    assert_non_null(file);
    elf64_make(file, 0x100000);
    elf_segment(file, 0x100000, 64, 64);
    memcpy(file->bytes + elf64_phdr(file, 0)->p_offset, code, sizeof(code));
    assert_int_equal(io_write_file(AT_FDCWD, path, file->bytes, file->length, 0600), 0);
    return path;
}

static void a_kernel_that_hangs_can_be_dealt_with(void **state)
{
    struct site *site = *state;
    _cleanup_free_ char *kernel = hanging_kernel(site);

    stasis_ok(site, "run -d --name m --kernel %s --memory 8M", kernel);
    stasis_ok(site, "ls");
    stasis_ok(site, "pause m");
    stasis_ok(site, "resume m");
    stasis_ok(site, "save m@one");
    stasis_ok(site, "clone m@one c");
    stasis_ok(site, "restore m@one --discard");
    stasis_fails(site, STATUS_FAILED, "does not listen", "stop m");
    assert_non_null(strstr(site->err, "stasis kill m"));
    stasis_fails(site, STATUS_FAILED, "still running", "wait m --timeout 50ms");
    stasis_ok(site, "kill m");
    stasis_ok(site, "kill c");
    assert_int_equal(machine_pid(site, "m"), 0);
}

/* Whoever waits at its console is let go when it is killed. */
static void who_watches_it_is_let_go(void **state)
{
    struct site *site = *state;
    _cleanup_free_ char *kernel = hanging_kernel(site);

    pid_t run = stasis_begin(site, "run --rm --name m --kernel %s --memory 8M", kernel);
    const uint64_t deadline = now_ms() + DEADLINE_MS;
    while (stasis(site, "pause m") != 0 && now_ms() < deadline)
        usleep(1000);
    stasis_ok(site, "kill m");
    int status;
    assert_int_equal(waitpid(run, &status, 0), run);
    assert_true(WIFEXITED(status));
    assert_int_equal(machine_pid(site, "m"), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        MACHINE_TEST(memory_out_of_range_is_refused),
        MACHINE_TEST(cpus_out_of_range_are_refused),
        MACHINE_TEST(an_initrd_larger_than_memory_is_refused),
        MACHINE_TEST(an_initrd_that_leaves_no_room_is_refused),
        MACHINE_TEST(a_port_that_is_taken_is_told),
        MACHINE_TEST(a_port_of_another_machine_is_told),
        MACHINE_TEST(one_file_is_the_disk_of_two_machines),
        MACHINE_TEST(a_kernel_that_hangs_can_be_dealt_with),
        MACHINE_TEST(who_watches_it_is_let_go),
    };

    return HARNESS_RUN(tests);
}
