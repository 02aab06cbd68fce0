/* SPDX-License-Identifier: Apache-2.0 */
/* Push and pull against registries that are down, slow to trust, broken or evil. */
#include "registry/registry.h"

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/io.h"
#include "store/catalogue.h"
#include "tests/unit/registry/fake_registry.h"
#include "tests/unit/store-stream/sample.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <cmocka.h>

struct fixture {
    char *dir;
    struct store *from;
    struct store *to;
    struct fake *fake;
    char *ref; /* 127.0.0.1:PORT/a/b:v1 */
    struct digest id;
};

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));

    unsetenv("REGISTRY_AUTH_FILE");
    unsetenv("XDG_RUNTIME_DIR");
    unsetenv("DOCKER_CONFIG");
    f->dir = sample_dir_new();
    setenv("HOME", f->dir, 1);
    setenv("TMPDIR", f->dir, 1);
    f->from = sample_store_open(f->dir, "from");
    f->to = sample_store_open(f->dir, "to");
    f->id = sample_checkpoint(f->from, 1);
    f->fake = fake_start();
    f->ref = io_format("%s/a/b:v1", fake_host(f->fake));
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    store_close(f->from);
    store_close(f->to);
    fake_stop(f->fake);
    sample_dir_free(f->dir);
    free(f->ref);
    free(f);
    return 0;
}

static int try_push(struct fixture *f, struct registry_result *result, struct error *err)
{
    return registry_push(f->from, &f->id, f->ref, NULL, result, err);
}

static int try_pull(struct fixture *f, struct registry_result *result, struct error *err)
{
    return registry_pull(f->to, f->ref, NULL, NULL, NULL, result, err);
}

static struct registry_result push(struct fixture *f)
{
    struct registry_result result;
    struct error err = ERROR_INIT;

    if (try_push(f, &result, &err) < 0)
        fail_msg("%s", err.message);
    return result;
}

static struct registry_result pull(struct fixture *f)
{
    struct registry_result result;
    struct error err = ERROR_INIT;

    if (try_pull(f, &result, &err) < 0)
        fail_msg("%s", err.message);
    sample_assert_same(f->from, &f->id, f->to, &result.checkpoint);
    return result;
}

static void assert_pull_fails(struct fixture *f, int expected, enum error_status status,
                              const char *says)
{
    struct registry_result result;
    struct error err = ERROR_INIT;

    int r = try_pull(f, &result, &err);
    if (r != expected || err.status != status || strstr(err.message, says) == NULL)
        fail_msg("%d, status %d: %s", r, err.status, err.message);
    assert_true(sample_store_is_empty(f->to));
}

static void assert_push_fails(struct fixture *f, int expected, const char *says)
{
    struct registry_result result;
    struct error err = ERROR_INIT;

    int r = try_push(f, &result, &err);
    if (r != expected || strstr(err.message, says) == NULL)
        fail_msg("%d, status %d: %s", r, err.status, err.message);
    for (const char *p = err.message; *p != '\0'; p++)
        assert_in_range((unsigned char)*p, ' ', '~'); /* nothing of a terminal's language */
    _cleanup_free_ char *manifest = fake_manifest(f->fake, "v1");
    assert_null(manifest);
}

static void set_faults(struct fixture *f, struct fake_faults faults)
{
    fake_set_faults(f->fake, &faults);
}

/* ---- the good case ---- */

static void what_was_pushed_is_pulled(void **state)
{
    struct fixture *f = *state;
    struct digest id;

    struct registry_result pushed = push(f);
    struct registry_result pulled = pull(f);
    assert_true(digest_equal(&pushed.checkpoint, &f->id));
    assert_true(digest_equal(&pushed.manifest, &pulled.manifest));
    assert_int_equal(pushed.total_bytes, pulled.total_bytes);
    assert_int_equal(pushed.transferred_bytes, pushed.total_bytes);
    assert_int_equal(pulled.transferred_bytes, pulled.total_bytes);
    /* the image is named after where it came from */
    _cleanup_free_ char *name = io_format("%s/a/b", fake_host(f->fake));
    assert_int_equal(catalogue_image_get(f->to, name, "v1", &id, NULL), 0);
    assert_true(digest_equal(&id, &pulled.checkpoint));
}

static void a_second_push_sends_nothing(void **state)
{
    struct fixture *f = *state;

    struct registry_result first = push(f);
    struct fake_counts before = fake_get_counts(f->fake);
    struct registry_result second = push(f);
    struct fake_counts after = fake_get_counts(f->fake);
    assert_int_equal(second.transferred_bytes, 0);
    assert_int_equal(after.blob_puts, before.blob_puts);
    assert_int_equal(second.total_bytes, first.total_bytes);
    assert_true(digest_equal(&first.manifest, &second.manifest));
}

static void a_pulled_checkpoint_is_pushed_as_the_same_blobs(void **state)
{
    struct fixture *f = *state;
    struct registry_result again;

    push(f);
    struct registry_result pulled = pull(f);
#ifndef STASIS_KEY_BITS
    assert_int_equal(registry_push(f->to, &pulled.checkpoint, f->ref, NULL, &again, NULL), 0);
    assert_int_equal(again.transferred_bytes, 0);
    assert_true(digest_equal(&again.manifest, &pulled.manifest));
#else
    (void)again;
    (void)pulled;
#endif
}

static void a_pull_may_choose_the_name(void **state)
{
    struct fixture *f = *state;
    struct registry_result result;
    struct digest id;

    push(f);
    assert_int_equal(registry_pull(f->to, f->ref, "web", "7", NULL, &result, NULL), 0);
    assert_int_equal(catalogue_image_get(f->to, "web", "7", &id, NULL), 0);
    assert_true(digest_equal(&id, &result.checkpoint));
}

static void a_pull_by_digest_takes_that_manifest(void **state)
{
    struct fixture *f = *state;
    struct registry_result result;
    char hex[DIGEST_HEX_SIZE];

    struct registry_result pushed = push(f);
    _cleanup_free_ char *manifest = fake_manifest(f->fake, "v1");
    _cleanup_free_ char *by_digest = io_format("sha256:%s", digest_hex(&pushed.manifest, hex));
    _cleanup_free_ char *ref = io_format("%s/a/b@%s", fake_host(f->fake), by_digest);
    fake_set_manifest(f->fake, by_digest, manifest);
    assert_int_equal(registry_pull(f->to, ref, NULL, NULL, NULL, &result, NULL), 0);
    fake_set_manifest(f->fake, by_digest, "{\"schemaVersion\":2}");
    assert_int_equal(registry_pull(f->to, ref, NULL, NULL, NULL, &result, NULL), -EBADMSG);
}

static void a_push_to_a_digest_is_a_usage_error(void **state)
{
    struct fixture *f = *state;
    struct registry_result result;
    struct error err = ERROR_INIT;
    char hex[DIGEST_HEX_SIZE];

    _cleanup_free_ char *ref =
        io_format("%s/a/b@sha256:%s", fake_host(f->fake), digest_hex(&f->id, hex));
    assert_int_equal(registry_push(f->from, &f->id, ref, NULL, &result, &err), -EINVAL);
    assert_int_equal(err.status, STATUS_USAGE);
}

/* ---- what is down or missing ---- */

static void a_registry_that_is_down_is_named_at_once(void **state)
{
    struct fixture *f = *state;
    struct registry_result result;
    struct error err = ERROR_INIT;

    /* port 1 of loopback: nobody listens there */
    assert_int_equal(registry_pull(f->to, "127.0.0.1:1/a:b", NULL, NULL, NULL, &result, &err),
                     -ECONNREFUSED);
    assert_non_null(strstr(err.message, "127.0.0.1:1/a:b"));
    assert_string_not_equal(err.hint, "");
    assert_int_equal(registry_push(f->from, &f->id, "127.0.0.1:1/a:b", NULL, &result, &err),
                     -ECONNREFUSED);
}

static void a_tag_that_is_not_there_is_not_found(void **state)
{
    assert_pull_fails(*state, -ENOENT, STATUS_NOT_FOUND, "manifest unknown");
}

static void a_missing_blob_is_not_found(void **state)
{
    struct fixture *f = *state;
    struct fixture empty = *f;

    push(f);
    _cleanup_free_ char *manifest = fake_manifest(f->fake, "v1");
    empty.fake = fake_start();
    empty.ref = io_format("%s/a/b:v1", fake_host(empty.fake));
    fake_set_manifest(empty.fake, "v1", manifest);
    assert_pull_fails(&empty, -ENOENT, STATUS_NOT_FOUND, "blob");
    free(empty.ref);
    fake_stop(empty.fake);
}

static void a_server_that_is_no_registry_is_refused(void **state)
{
    struct fixture *f = *state;

    set_faults(f, (struct fake_faults){.status_only = "418 Teapot"});
    assert_pull_fails(f, -EPROTO, STATUS_FAILED, "418");
    assert_push_fails(f, -EPROTO, "418");
    set_faults(f, (struct fake_faults){.status_only = "200 OK"});
    assert_pull_fails(f, -EBADMSG, STATUS_CORRUPT, "OCI manifest");
}

static void a_container_image_is_refused(void **state)
{
    struct fixture *f = *state;

    fake_set_manifest(f->fake, "v1",
                      "{\"schemaVersion\":2,\"config\":{\"mediaType\":"
                      "\"application/vnd.oci.image.config.v1+json\"},\"layers\":[]}");
    assert_pull_fails(f, -EINVAL, STATUS_FAILED, "not a Stasis machine");
}

/* ---- what passes ---- */

static void a_registry_that_is_busy_for_a_moment_is_waited_for(void **state)
{
    struct fixture *f = *state;

    set_faults(f, (struct fake_faults){.unavailable = 2});
    push(f);
    set_faults(f, (struct fake_faults){.unavailable = 2});
    pull(f);
}

static void an_upload_that_breaks_off_is_done_again(void **state)
{
    struct fixture *f = *state;

    set_faults(f, (struct fake_faults){.drop_uploads = 2});
    struct registry_result pushed = push(f);
    assert_int_equal(pushed.transferred_bytes, pushed.total_bytes);
    pull(f);
}

static void a_download_that_breaks_off_goes_on_where_it_was(void **state)
{
    struct fixture *f = *state;

    push(f);
    set_faults(f, (struct fake_faults){.drop_downloads = 3});
    pull(f);
    assert_true(fake_get_counts(f->fake).ranges >= 3);
}

static void a_download_begins_anew_where_there_are_no_ranges(void **state)
{
    struct fixture *f = *state;

    push(f);
    set_faults(f, (struct fake_faults){.drop_downloads = 2, .no_ranges = true});
    pull(f);
    assert_int_equal(fake_get_counts(f->fake).ranges, 0);
}

/* ---- lies ---- */

static void wrong_bytes_are_refused(void **state)
{
    struct fixture *f = *state;

    push(f);
    set_faults(f, (struct fake_faults){.wrong_bytes = true});
    assert_pull_fails(f, -EBADMSG, STATUS_CORRUPT, "SHA-256");
}

static void blobs_of_another_length_are_refused(void **state)
{
    struct fixture *f = *state;

    push(f);
    set_faults(f, (struct fake_faults){.long_blobs = true});
    assert_pull_fails(f, -EBADMSG, STATUS_CORRUPT, "bytes for a blob");
    set_faults(f, (struct fake_faults){.short_blobs = true});
    assert_pull_fails(f, -EBADMSG, STATUS_CORRUPT, "bytes for a blob");
}

static void a_range_that_was_not_asked_for_is_refused(void **state)
{
    struct fixture *f = *state;

    push(f);
    set_faults(f, (struct fake_faults){.drop_downloads = 1, .wrong_range = true});
    assert_pull_fails(f, -EPROTO, STATUS_FAILED, "range");
}

static void a_manifest_that_is_not_what_the_registry_says_is_refused(void **state)
{
    struct fixture *f = *state;

    push(f);
    set_faults(f, (struct fake_faults){
                      .content_digest = "sha256:"
                                        "0000000000000000000000000000000000000000000000000000000000"
                                        "000000"});
    assert_pull_fails(f, -EBADMSG, STATUS_CORRUPT, "SHA-256");
}

/* Replaces the first occurrence and offers the result as the tag. */
static void forge_manifest(struct fixture *f, const char *what, const char *by)
{
    _cleanup_free_ char *text = fake_manifest(f->fake, "v1");
    char *at = strstr(text, what);

    assert_non_null(at);
    _cleanup_free_ char *forged =
        io_format("%.*s%s%s", (int)(at - text), text, by, at + strlen(what));
    fake_set_manifest(f->fake, "v1", forged);
}

static void a_manifest_with_paths_for_digests_is_refused(void **state)
{
    struct fixture *f = *state;

    push(f);
    forge_manifest(f, "\"digest\":\"sha256:", "\"digest\":\"sha256:../../");
    assert_pull_fails(f, -EBADMSG, STATUS_CORRUPT, "digest");
}

static void a_manifest_with_absurd_sizes_is_refused_before_anything_is_fetched(void **state)
{
    struct fixture *f = *state;

    push(f);
    unsigned before = fake_get_counts(f->fake).blob_gets;
    forge_manifest(f, "\"size\":", "\"size\":9999");
    assert_pull_fails(f, -EBADMSG, STATUS_CORRUPT, "at most");
    assert_int_equal(fake_get_counts(f->fake).blob_gets, before);
}

/* Every layer is there and right: only one is another's. */
static void layers_of_another_image_are_refused(void **state)
{
    static const char *const keys[] = {"nodes-0000", "packs.list", "pages-0000", "state.bin"};
    struct fixture *f = *state;

    push(f);
    _cleanup_free_ char *first = fake_manifest(f->fake, "v1");
    f->id = sample_checkpoint(f->from, 2);
    push(f);
    _cleanup_free_ char *second = fake_manifest(f->fake, "v1");
    for (size_t i = 0; i < ARRAY_LEN(keys); i++) {
        /* "...title":"KEY..."},"digest":"sha256:HEX","mediaType":"...","size":N} */
        const char *mine = strstr(strstr(first, keys[i]), "\"digest\"");
        const char *theirs = strstr(strstr(second, keys[i]), "\"digest\"");
        _cleanup_free_ char *forged =
            io_format("%.*s%.*s%s", (int)(mine - first), first, (int)strcspn(theirs, "}"), theirs,
                      mine + strcspn(mine, "}"));
        fake_set_manifest(f->fake, "v1", forged);
        assert_pull_fails(f, -EBADMSG, STATUS_CORRUPT, "");
    }
}

static void an_image_without_a_layer_is_refused(void **state)
{
    static const char *const types[] = {"stasis.nodes.v1", "stasis.index.v1", "stasis.state.v1",
                                        "stasis.pack.v1"};
    struct fixture *f = *state;

    push(f);
    _cleanup_free_ char *text = fake_manifest(f->fake, "v1");
    for (size_t i = 0; i < ARRAY_LEN(types); i++) {
        fake_set_manifest(f->fake, "v1", text);
        forge_manifest(f, types[i], "stasis.other");
        assert_pull_fails(f, -EBADMSG, STATUS_CORRUPT, "");
    }
}

static void an_upload_without_an_address_is_an_error(void **state)
{
    struct fixture *f = *state;

    set_faults(f, (struct fake_faults){.no_upload_location = true});
    assert_push_fails(f, -EPROTO, "upload");
}

/* ---- pushes that stop ---- */

static void a_registry_that_is_full_gets_no_tag(void **state)
{
    struct fixture *f = *state;

    set_faults(f, (struct fake_faults){.full_after = 2});
    assert_push_fails(f, -EPROTO, "full");
}

static int stop_uploads(const char *what, uint64_t done, uint64_t total, void *context)
{
    (void)context;
    assert_true(total == 0 || done <= total);
    return strcmp(what, "uploading") == 0 && done > 0;
}

static int stop_downloads(const char *what, uint64_t done, uint64_t total, void *context)
{
    (void)context;
    assert_true(total == 0 || done <= total);
    return strcmp(what, "downloading") == 0 && done > 0;
}

static void a_push_the_user_stops_leaves_no_tag(void **state)
{
    struct fixture *f = *state;
    const struct registry_options options = {.progress = stop_uploads};
    struct registry_result result;
    struct error err = ERROR_INIT;

    assert_int_equal(registry_push(f->from, &f->id, f->ref, &options, &result, &err), -ECANCELED);
    assert_int_equal(err.status, STATUS_INTERRUPTED);
    _cleanup_free_ char *manifest = fake_manifest(f->fake, "v1");
    assert_null(manifest);
}

static void a_pull_the_user_stops_leaves_nothing(void **state)
{
    struct fixture *f = *state;
    const struct registry_options options = {.progress = stop_downloads};
    struct registry_result result;
    struct error err = ERROR_INIT;

    push(f);
    assert_int_equal(registry_pull(f->to, f->ref, NULL, NULL, &options, &result, &err), -ECANCELED);
    assert_int_equal(err.status, STATUS_INTERRUPTED);
    assert_true(sample_store_is_empty(f->to));
}

struct last_progress {
    uint64_t done;
    uint64_t total;
};

static int note_progress(const char *what, uint64_t done, uint64_t total, void *context)
{
    struct last_progress *last = context;

    if (strcmp(what, "downloading") == 0)
        *last = (struct last_progress){done, total};
    return 0;
}

static void progress_ends_at_the_total(void **state)
{
    struct fixture *f = *state;
    struct last_progress last = {0};
    const struct registry_options options = {.progress = note_progress, .context = &last};
    struct registry_result result;

    push(f);
    assert_int_equal(registry_pull(f->to, f->ref, NULL, NULL, &options, &result, NULL), 0);
    assert_int_equal(last.done, result.total_bytes);
    assert_int_equal(last.total, result.total_bytes);
}

/* ---- logging in ---- */

static void write_credentials(struct fixture *f, const char *basic)
{
    _cleanup_free_ char *path = io_format("%s/auth.json", f->dir);
    _cleanup_free_ char *text =
        io_format("{\"auths\":{\"%s\":{\"auth\":\"%s\"}}}", fake_host(f->fake), basic);

    assert_int_equal(io_write_file(AT_FDCWD, path, text, strlen(text), 0600), 0);
    setenv("REGISTRY_AUTH_FILE", path, 1);
}

static void basic_credentials_are_sent_when_asked_for(void **state)
{
    struct fixture *f = *state;

    write_credentials(f, "dXNlcjpwdw==");
    push(f);
    assert_int_equal(fake_get_counts(f->fake).authorizations, 0);
    set_faults(f, (struct fake_faults){.basic = "dXNlcjpwdw=="});
    push(f);
    pull(f);
}

static void wrong_or_missing_credentials_say_how_to_log_in(void **state)
{
    struct fixture *f = *state;
    struct registry_result result;
    struct error err = ERROR_INIT;

    set_faults(f, (struct fake_faults){.basic = "dXNlcjpwdw=="});
    assert_int_equal(try_push(f, &result, &err), -EACCES);
    assert_non_null(strstr(err.message, "there are none"));
    assert_non_null(strstr(err.hint, "login"));
    write_credentials(f, "d3Jvbmc6cHc=");
    assert_int_equal(try_push(f, &result, &err), -EACCES);
    assert_non_null(strstr(err.hint, "login"));
}

static void a_bearer_token_is_fetched_where_one_is_wanted(void **state)
{
    struct fixture *f = *state;

    set_faults(f, (struct fake_faults){.token = "t0ken"});
    push(f);
    assert_int_equal(fake_get_counts(f->fake).tokens, 1); /* and kept */
    pull(f);
}

static void the_token_server_gets_the_credentials(void **state)
{
    struct fixture *f = *state;
    struct registry_result result;
    struct error err = ERROR_INIT;

    set_faults(f, (struct fake_faults){.token = "t0ken", .token_basic = "dXNlcjpwdw=="});
    assert_int_equal(try_push(f, &result, &err), -EACCES);
    write_credentials(f, "dXNlcjpwdw==");
    push(f);
}

static void a_token_that_expires_is_renewed(void **state)
{
    struct fixture *f = *state;

    set_faults(f, (struct fake_faults){.token = "t0ken", .expire_after = 7});
    push(f);
    assert_int_equal(fake_get_counts(f->fake).tokens, 2);
}

static void a_redirect_is_followed_without_our_credentials(void **state)
{
    struct fixture *f = *state;

    push(f);
    struct fake *other = fake_start(); /* another port is another origin */
    _cleanup_free_ char *target = io_format("http://localhost:%u", fake_port(other));
    fake_copy_blobs(f->fake, other);
    write_credentials(f, "dXNlcjpwdw==");
    set_faults(f, (struct fake_faults){.basic = "dXNlcjpwdw==", .redirect_blobs = target});
    pull(f);
    assert_true(fake_get_counts(f->fake).authorizations > 0);
    assert_true(fake_get_counts(other).blob_gets > 0);
    assert_int_equal(fake_get_counts(other).authorizations, 0);
    fake_stop(other);
}

/* ---- this host's troubles ---- */

static void a_full_disk_is_an_error_that_says_so(void **state)
{
    struct fixture *f = *state;
    struct rlimit before, small = {.rlim_cur = 131072} /* room for the catalogue's log */;
    struct registry_result result;
    struct error err = ERROR_INIT;

    push(f);
    signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &before);
    small.rlim_max = before.rlim_max;
    setrlimit(RLIMIT_FSIZE, &small);
    int r = try_pull(f, &result, &err);
    setrlimit(RLIMIT_FSIZE, &before);
    assert_int_equal(r, -EFBIG);
    assert_non_null(strstr(err.message, "cannot write"));
    assert_true(sample_store_is_empty(f->to));
}

static void a_temporary_directory_that_is_missing_is_named(void **state)
{
    struct fixture *f = *state;
    struct registry_result result;
    struct error err = ERROR_INIT;

    setenv("TMPDIR", "/nonexistent/dir", 1);
    assert_int_equal(try_push(f, &result, &err), -ENOENT);
    assert_non_null(strstr(err.message, "/nonexistent/dir"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
        T(what_was_pushed_is_pulled),
        T(a_second_push_sends_nothing),
        T(a_pulled_checkpoint_is_pushed_as_the_same_blobs),
        T(a_pull_may_choose_the_name),
        T(a_pull_by_digest_takes_that_manifest),
        T(a_push_to_a_digest_is_a_usage_error),
        T(a_registry_that_is_down_is_named_at_once),
        T(a_tag_that_is_not_there_is_not_found),
        T(a_missing_blob_is_not_found),
        T(a_server_that_is_no_registry_is_refused),
        T(a_container_image_is_refused),
        T(a_registry_that_is_busy_for_a_moment_is_waited_for),
        T(an_upload_that_breaks_off_is_done_again),
        T(a_download_that_breaks_off_goes_on_where_it_was),
        T(a_download_begins_anew_where_there_are_no_ranges),
        T(wrong_bytes_are_refused),
        T(blobs_of_another_length_are_refused),
        T(a_range_that_was_not_asked_for_is_refused),
        T(a_manifest_that_is_not_what_the_registry_says_is_refused),
        T(a_manifest_with_paths_for_digests_is_refused),
        T(a_manifest_with_absurd_sizes_is_refused_before_anything_is_fetched),
        T(layers_of_another_image_are_refused),
        T(an_image_without_a_layer_is_refused),
        T(an_upload_without_an_address_is_an_error),
        T(a_registry_that_is_full_gets_no_tag),
        T(a_push_the_user_stops_leaves_no_tag),
        T(a_pull_the_user_stops_leaves_nothing),
        T(progress_ends_at_the_total),
        T(basic_credentials_are_sent_when_asked_for),
        T(wrong_or_missing_credentials_say_how_to_log_in),
        T(a_bearer_token_is_fetched_where_one_is_wanted),
        T(the_token_server_gets_the_credentials),
        T(a_token_that_expires_is_renewed),
        T(a_redirect_is_followed_without_our_credentials),
        T(a_full_disk_is_an_error_that_says_so),
        T(a_temporary_directory_that_is_missing_is_named),
#undef T
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
