/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/guest.h"

#include "agent/tree.h"
#include "base/cleanup.h"
#include "cli/machines.h"

#include <errno.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

enum { ENTROPY_SIZE = 64, MACHINE_ID_BYTES = 16, QUICK_MS = 3000, ANSWER_MS = 30000 };

/* ---- connecting ---- */

static int paused(const char *machine, struct error *err)
{
    error_set(err, STATUS_FAILED, EAGAIN, "%s is paused, so nothing can be done in it", machine);
    error_hint(err, "stasis resume %s", machine);
    return -EAGAIN;
}

/* What a failure means to somebody who wants something done in the guest. */
static void explain(const char *machine, int r, struct error *err)
{
    if (r == -EPROTO) {
        error_prefix(err, "%s", machine);
        return;
    }
    if (r == -ECONNREFUSED || r == -ENOENT) {
        error_set(err, STATUS_NOT_FOUND, -r, "%s runs no agent", machine);
        error_hint(err,
                   "stasis-agent has to be started in the guest (docs/agent.md); if it just "
                   "boots, try again. Else: stasis console %s",
                   machine);
        return;
    }
    error_prefix(err, "%s", machine);
    if (r == -ETIMEDOUT)
        error_hint(err, "is it busy, or does it hang? stasis console %s shows", machine);
    if (r == -EBADMSG)
        error_hint(err, "has something else than stasis-agent taken its port 1024 of vsock? "
                        "docs/agent.md says what belongs there");
}

static int connect_to(struct cli *cli, const char *machine, int patience_ms, struct channel *out,
                      struct error *err)
{
    _cleanup_free_ char *path = home_machine_vsock(&cli->home, machine);

    return agent_connect(path, patience_ms, out, err);
}

static bool is_paused(struct cli *cli, const char *machine)
{
    _cleanup_json_ json_t *status = machines_status(cli, machine);

    return strcmp(machines_state(cli, machine, status), "paused") == 0;
}

int guest_connect(struct cli *cli, const char *machine, int patience_ms, struct channel *out,
                  struct error *err)
{
    int r = machines_require_running(cli, machine, err);
    if (r < 0)
        return r;
    if (is_paused(cli, machine))
        return paused(machine, err);
    r = connect_to(cli, machine, patience_ms, out, err);
    if (r < 0)
        explain(machine, r, err);
    return r;
}

bool guest_connect_if(struct cli *cli, const char *machine, struct channel *out)
{
    struct error ignored;

    return cli_home(cli, &ignored) >= 0 && !is_paused(cli, machine) &&
           connect_to(cli, machine, QUICK_MS, out, &ignored) >= 0;
}

/* ---- shutting down ---- */

int guest_shut_down(struct cli *cli, const char *machine, struct error *err)
{
    static const uint8_t power_off[4] = {AGENT_SHUTDOWN_POWER_OFF};
    const struct buffer payload = {.data = (uint8_t *)power_off, .length = sizeof(power_off)};
    struct channel ch;

    if (!guest_connect_if(cli, machine, &ch))
        return -ENOENT;
    ch.patience_ms = ANSWER_MS;
    int r = agent_request(&ch, AGENT_SHUTDOWN, &payload, err);
    if (r == 0)
        r = agent_await_done(&ch, NULL, NULL, err);
    channel_clear(&ch);
    return r;
}

/* ---- identity ---- */

struct identity {
    bool clock;            /* set its wall clock to ours */
    bool renew;            /* a machine id of its own, and its addresses anew */
    const char *host_name; /* NULL: as it is */
};

struct remarks {
    const struct cli *cli;
    const char *machine;
};

static void print_remark(const char *text, void *context)
{
    const struct remarks *remarks = context;

    cli_note(remarks->cli, "%s: %s", remarks->machine, text);
}

static void random_hex(char out[2 * MACHINE_ID_BYTES + 1])
{
    uint8_t bytes[MACHINE_ID_BYTES];

    (void)!getrandom(bytes, sizeof(bytes), 0);
    /* systemd's ids are UUIDs of version 4. */
    bytes[6] = (uint8_t)((bytes[6] & 0x0f) | 0x40);
    bytes[8] = (uint8_t)((bytes[8] & 0x3f) | 0x80);
    for (int i = 0; i < MACHINE_ID_BYTES; i++)
        snprintf(out + 2 * i, 3, "%02x", bytes[i]);
}

static int encode(const struct identity *identity, struct buffer *out)
{
    char machine_id[2 * MACHINE_ID_BYTES + 1] = "";
    uint8_t entropy[ENTROPY_SIZE];
    struct timespec now;
    struct agent_identity m = {
        .flags = (identity->clock ? AGENT_IDENTITY_CLOCK : 0u) |
                 (identity->renew ? AGENT_IDENTITY_DHCP : 0u),
        .entropy = entropy,
        .entropy_length = sizeof(entropy),
        .host_name = identity->host_name != NULL ? identity->host_name : "",
        .machine_id = machine_id,
    };

    (void)!getrandom(entropy, sizeof(entropy), 0);
    if (identity->renew)
        random_hex(machine_id);
    clock_gettime(CLOCK_REALTIME, &now);
    if (identity->clock) {
        m.clock_s = now.tv_sec;
        m.clock_ns = (uint32_t)now.tv_nsec;
    }
    int r = agent_identity_encode(&m, out);
    explicit_bzero(entropy, sizeof(entropy));
    return r;
}

static int tell(struct cli *cli, const char *machine, struct channel *ch,
                const struct identity *identity, struct error *err)
{
    _cleanup_(buffer_clear) struct buffer payload = {0};
    struct remarks remarks = {.cli = cli, .machine = machine};

    int r = encode(identity, &payload);
    if (r < 0)
        return error_errno(err, -r, "cannot ask");
    ch->patience_ms = ANSWER_MS;
    r = agent_request(ch, AGENT_IDENTITY, &payload, err);
    return r < 0 ? r : agent_await_done(ch, print_remark, &remarks, err);
}

static int identify(struct cli *cli, const char *machine, const struct identity *identity,
                    struct error *err)
{
    struct channel ch;

    int r = guest_connect(cli, machine, AGENT_HANDSHAKE_MS, &ch, err);
    if (r == 0) {
        r = tell(cli, machine, &ch, identity, err);
        channel_clear(&ch);
    }
    if (r < 0)
        error_prefix(err, "%s runs, but is not a machine of its own", machine);
    return r;
}

int guest_check_identity(const struct arguments *args, uint64_t count, struct error *err)
{
    const bool named = arguments_has(args, "hostname");
    const bool asked = named || arguments_has(args, "identity");

    if (named && !home_name_is_valid(arguments_text(args, "hostname", "")))
        return error_set(err, STATUS_USAGE, EINVAL, "'%s' cannot be a host name",
                         arguments_text(args, "hostname", ""));
    if (named && count > 1) {
        error_set(err, STATUS_USAGE, EINVAL, "several machines cannot have one host name");
        error_hint(err, "--identity gives each its machine's name");
        return -EINVAL;
    }
    if (asked && arguments_has(args, "paused"))
        return error_set(err, STATUS_USAGE, EINVAL, "a paused guest cannot be given an identity");
    return 0;
}

int guest_settle(struct cli *cli, const char *machine, const struct arguments *args,
                 const struct machine_start *start, struct error *err)
{
    const bool own = args != NULL && arguments_has(args, "identity");
    const struct identity identity = {
        .clock = start->clock == MACHINE_CLOCK_HOST,
        .renew = own,
        .host_name = args != NULL ? arguments_text(args, "hostname", own ? machine : NULL) : NULL,
    };
    struct error ignored;
    struct channel ch;

    if (start->paused)
        return 0;
    if (identity.host_name != NULL)
        return identify(cli, machine, &identity, err);
    if (guest_connect_if(cli, machine, &ch)) {
        tell(cli, machine, &ch, &identity, &ignored);
        channel_clear(&ch);
    }
    return 0;
}
