/* SPDX-License-Identifier: Apache-2.0 */
/* A full file system: what does not fit is told, and nothing else is lost. The
 * home lies on a small tmpfs; without the right to mount one, this is skipped. */
#include "harness.h"

#include "base/clock.h"
#include "base/io.h"
#include "vmm/control/client.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <sqlite3.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/statvfs.h>
#include <unistd.h>

enum { MEMORY_MIB = 16, HOME_MIB = 64 };

static void write_text(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);

    if (fd >= 0) {
        (void)!write(fd, text, strlen(text));
        close(fd);
    }
}

/* Who may not mount may in a user namespace of his own, on most hosts. */
static bool become_root_of_a_namespace(void)
{
    char map[64];
    uid_t uid = geteuid();
    gid_t gid = getegid();

    if (unshare(CLONE_NEWUSER | CLONE_NEWNS) < 0)
        return false;
    snprintf(map, sizeof(map), "0 %u 1", uid);
    write_text("/proc/self/uid_map", map);
    write_text("/proc/self/setgroups", "deny");
    snprintf(map, sizeof(map), "0 %u 1", gid);
    write_text("/proc/self/gid_map", map);
    return true;
}

static bool mount_tmpfs(const char *dir)
{
    char options[32];

    snprintf(options, sizeof(options), "size=%dm", HOME_MIB);
    return mount("tmpfs", dir, "tmpfs", 0, options) == 0;
}

static bool mount_small(const char *dir)
{
    return mount_tmpfs(dir) || (become_root_of_a_namespace() && mount_tmpfs(dir));
}

/* Takes all but so many bytes of the home's file system. */
static void leave_free(struct site *site, const char *ballast, uint64_t bytes)
{
    struct statvfs fs;

    assert_int_equal(statvfs(site->root, &fs), 0);
    uint64_t available = (uint64_t)fs.f_bavail * fs.f_bsize;
    assert_true(available > bytes);
    int fd = open(ballast, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(posix_fallocate(fd, 0, (off_t)(available - bytes)), 0);
    close(fd);
}

/* A machine in such a home; its disks begin empty, so that a save is its RAM. */
static char *small_home(struct guest *guest, struct site *site)
{
    if (!mount_small(site->root)) {
        print_message("skip: cannot mount a tmpfs: %s\n", strerror(errno));
        skip();
    }
    guest_boot(guest, site, "m", MEMORY_MIB, 1);
    return io_format("%s/ballast", site->root);
}

/* The end of the test takes the mount away. */
static void done(struct site *site, struct guest *guest, char *ballast)
{
    guest_detach(guest);
    free(ballast);
    stasis_ok(site, "verify");
}

static void a_save_that_does_not_fit_loses_nothing(void **state)
{
    struct site *site = *state;
    struct guest guest;
    char *ballast = small_home(&guest, site);

    guest_fill(&guest, 1);
    struct look one = guest_look(&guest);
    stasis_ok(site, "save m@one");
    guest_fill(&guest, 2);
    ask_ok(&guest, "blk write 0 64 5");
    struct look two = guest_look(&guest);
    leave_free(site, ballast, 3 << 20);
    for (unsigned i = 0; i < 3; i++) {
        stasis_fails(site, STATUS_FAILED, "No space left", "save m@two");
        assert_non_null(strstr(site->err, "stasis:"));
        struct look now = guest_look(&guest);
        assert_same_look(&two, &now);
    }
    ask_ok(&guest, "dirty 10 7 77");
    two = guest_look(&guest);
    assert_int_equal(unlink(ballast), 0);

    /* What the failed saves had taken note of is in the next one. */
    stasis_ok(site, "save m@two");
    struct look now = guest_look(&guest);
    assert_same_look(&two, &now);
    stasis_ok(site, "clone m@two c");
    now = look_at(site, "c", 1);
    assert_same_look(&two, &now);
    stasis_ok(site, "restore m@one --discard");
    now = guest_look(&guest);
    assert_same_look(&one, &now);
    done(site, &guest, ballast);
}

static void save_and_stop_that_does_not_fit_goes_on(void **state)
{
    struct site *site = *state;
    struct guest guest;
    char *ballast = small_home(&guest, site);

    guest_fill(&guest, 2);
    struct look before = guest_look(&guest);
    leave_free(site, ballast, 3 << 20);
    stasis_fails(site, STATUS_FAILED, "No space left", "save m --stop");
    struct look now = guest_look(&guest);
    assert_same_look(&before, &now);
    stasis_fails(site, STATUS_FAILED, "No space left", "clone m c");
    stasis_fails(site, STATUS_FAILED, "No space left", "restore m");
    now = guest_look(&guest);
    assert_same_look(&before, &now);
    assert_int_equal(unlink(ballast), 0);
    stasis_ok(site, "save m@end --stop");
    guest_detach(&guest);
    stasis_ok(site, "restore m@end");
    now = look_at(site, "m", 1);
    assert_same_look(&before, &now);
    done(site, &guest, ballast);
}

/* Keeps all writers from the store: saves wait. */
static sqlite3 *lock_store(struct site *site)
{
    char *path = io_format("%s/catalogue.db", site->home.store);
    sqlite3 *db = NULL;

    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    sqlite3_busy_timeout(db, 60000);
    assert_int_equal(sqlite3_exec(db, "BEGIN IMMEDIATE", NULL, NULL, NULL), SQLITE_OK);
    free(path);
    return db;
}

static void wait_until_it_is_saving(struct site *site)
{
    char *path = home_machine_socket(&site->home, "m");
    bool saving = false;

    while (!saving) {
        struct error err = ERROR_INIT;
        json_t *status = NULL;
        assert_int_equal(control_request(path, "status", NULL, &status, &err), 0);
        saving = json_is_true(json_object_get(status, "saving"));
        json_decref(status);
    }
    free(path);
}

/* The guest does not run meanwhile, so its time does not, either. */
static void time_stands_still_for_a_save_and_stop_that_fails(void **state)
{
    struct site *site = *state;
    struct guest guest;
    char *ballast = small_home(&guest, site);

    if (strncmp(ask(&guest, "kvmclock"), "ok", 2) != 0)
        skip();
    guest_fill(&guest, 2);
    leave_free(site, ballast, 3 << 20);
    const uint64_t guest_from = ask_number(&guest, "ns", 10, "kvmclock");
    const uint64_t from = clock_monotonic_ns();
    sqlite3 *db = lock_store(site);
    pid_t saving = stasis_begin(site, "save m --stop");
    wait_until_it_is_saving(site);
    const uint64_t held_from = clock_monotonic_ns();
    usleep(1500000);
    const uint64_t held_ns = clock_monotonic_ns() - held_from;
    sqlite3_close(db);
    assert_int_equal(stasis_end(site, saving), STATUS_FAILED);
    const uint64_t moved_ns = ask_number(&guest, "ns", 10, "kvmclock") - guest_from;
    const uint64_t passed_ns = clock_monotonic_ns() - from;
    assert_true(moved_ns <= passed_ns - held_ns + passed_ns / 1000);
    assert_int_equal(unlink(ballast), 0);
    done(site, &guest, ballast);
}

/* The guest gets an I/O error for what its overlay cannot hold, and goes on. */
static void a_disk_that_cannot_grow_says_so_to_the_guest(void **state)
{
    struct site *site = *state;
    struct guest guest;
    char *ballast = small_home(&guest, site);

    ask_ok(&guest, "blk write 0 8 5");
    ask_ok(&guest, "blk flush");
    leave_free(site, ballast, 512 << 10);
    assert_string_equal(ask(&guest, "blk write 1024 4096 6"),
                        "error the disk reports an I/O error");
    assert_int_equal(ask_number(&guest, "sum", 16, "blk sum 0 8"), expected_disk_sum(0, 8, 5));
    assert_int_equal(unlink(ballast), 0);
    ask_ok(&guest, "blk write 1024 4096 6");
    ask_ok(&guest, "blk flush");
    assert_int_equal(ask_number(&guest, "sum", 16, "blk sum 1024 4096"),
                     expected_disk_sum(1024, 4096, 6));
    stasis_ok(site, "save m@one");
    stasis_ok(site, "clone m@one c");
    guest_detach(&guest);
    guest_attach(&guest, site, "c", 1);
    assert_int_equal(ask_number(&guest, "sum", 16, "blk sum 1024 4096"),
                     expected_disk_sum(1024, 4096, 6));
    done(site, &guest, ballast);
}

static void output_that_does_not_fit_does_not_stop_the_guest(void **state)
{
    struct site *site = *state;
    struct guest guest;
    char *ballast = small_home(&guest, site);

    leave_free(site, ballast, 0);
    for (unsigned i = 0; i < 200; i++)
        guest_type(&guest, "info\n"); /* more than the log's last page takes */
    assert_int_equal(unlink(ballast), 0);
    while (strcmp(ask(&guest, "count get"), "ok count=0 running=0") != 0)
        continue;
    done(site, &guest, ballast);
}

static void an_import_that_does_not_fit_leaves_nothing(void **state)
{
    struct site *site = *state;
    struct guest guest;
    char *ballast = small_home(&guest, site);
    char *disk = site_disk(site, "big.raw", 99);

    leave_free(site, ballast, 1 << 20);
    stasis_fails(site, STATUS_FAILED, "No space left", "import big:1 --kernel %s --disk %s",
                 PROBE_ELF, disk);
    json_t *images = stasis_json(site, "images --json");
    assert_int_equal(json_array_size(images), 0);
    json_decref(images);
    ask_ok(&guest, "ping");
    assert_int_equal(unlink(ballast), 0);
    stasis_ok(site, "import big:1 --kernel %s --disk %s", PROBE_ELF, disk);
    stasis_ok(site, "verify");
    free(disk);
    done(site, &guest, ballast);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        MACHINE_TEST(a_save_that_does_not_fit_loses_nothing),
        MACHINE_TEST(save_and_stop_that_does_not_fit_goes_on),
        MACHINE_TEST(time_stands_still_for_a_save_and_stop_that_fails),
        MACHINE_TEST(a_disk_that_cannot_grow_says_so_to_the_guest),
        MACHINE_TEST(output_that_does_not_fit_does_not_stop_the_guest),
        MACHINE_TEST(an_import_that_does_not_fit_leaves_nothing),
    };

    return HARNESS_RUN(tests);
}
