/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/net/settings.h"

#include "base/cleanup.h"
#include "base/io.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/random.h>

enum { FILE_MAX = 64 << 10 };

const char *const net_mode_names[] = {"user", "tap", "none", NULL};

/* ---- forwards ---- */

/* Digits up to `end`, 1 to 65535. Returns what follows `end`, or NULL. */
static const char *parse_port(const char *text, char end, uint16_t *out)
{
    unsigned port = 0;

    if (*text < '0' || *text > '9')
        return NULL;
    for (; *text >= '0' && *text <= '9'; text++)
        if ((port = port * 10 + (unsigned)(*text - '0')) > UINT16_MAX)
            return NULL;
    if (port == 0 || *text != end)
        return NULL;
    *out = (uint16_t)port;
    return end == '\0' ? text : text + 1;
}

/* An address before the two ports. */
static const char *parse_bind(const char *text, struct in_addr *out)
{
    char address[INET_ADDRSTRLEN];
    const char *last = strrchr(text, ':');
    const char *colon = strchr(text, ':');

    out->s_addr = htonl(INADDR_LOOPBACK);
    if (colon == last)
        return text;
    size_t length = (size_t)(colon - text);
    if (length >= sizeof(address))
        return NULL;
    memcpy(address, text, length);
    address[length] = '\0';
    return inet_pton(AF_INET, address, out) == 1 ? colon + 1 : NULL;
}

static bool parse_protocol(char *text, bool *udp_out)
{
    char *slash = strchr(text, '/');

    *udp_out = false;
    if (slash == NULL)
        return true;
    *slash = '\0';
    *udp_out = strcmp(slash + 1, "udp") == 0;
    return *udp_out || strcmp(slash + 1, "tcp") == 0;
}

int net_forward_parse(const char *text, struct net_forward *out, struct error *err)
{
    char copy[NET_FORWARD_TEXT_SIZE];
    struct net_forward forward = {0};
    const char *rest = copy;

    bool good = (size_t)snprintf(copy, sizeof(copy), "%s", text) < sizeof(copy) &&
                parse_protocol(copy, &forward.udp) &&
                (rest = parse_bind(rest, &forward.bind)) != NULL &&
                (rest = parse_port(rest, ':', &forward.host_port)) != NULL &&
                parse_port(rest, '\0', &forward.guest_port) != NULL;
    if (!good) {
        error_set(err, STATUS_USAGE, EINVAL, "'%.60s' says no ports to forward", text);
        error_hint(err, "use HOST:GUEST, like 8080:80 or 0.0.0.0:5353:53/udp");
        return -EINVAL;
    }
    *out = forward;
    return 0;
}

const char *net_forward_text(const struct net_forward *forward, char text[NET_FORWARD_TEXT_SIZE])
{
    char address[INET_ADDRSTRLEN];

    snprintf(text, NET_FORWARD_TEXT_SIZE, "%s:%u:%u/%s",
             inet_ntop(AF_INET, &forward->bind, address, sizeof(address)), forward->host_port,
             forward->guest_port, forward->udp ? "udp" : "tcp");
    return text;
}

/* ---- tap devices ---- */

/* The kernel's rules for names (dev_valid_name()); and it would put a number for %d. */
static bool is_device_name(const char *name)
{
    if (name[0] == '\0' || strlen(name) >= IFNAMSIZ || strcmp(name, ".") == 0 ||
        strcmp(name, "..") == 0)
        return false;
    for (; *name != '\0'; name++)
        if (*name <= ' ' || *name > '~' || strchr("/:%", *name) != NULL)
            return false;
    return true;
}

int net_settings_set_tap(struct net_settings *settings, const char *name, struct error *err)
{
    if (!is_device_name(name)) {
        error_set(err, STATUS_USAGE, EINVAL, "'%.60s' cannot be the name of a tap device", name);
        error_hint(err, "name one that is there, like --net tap=tap0; ip tuntap lists them");
        return -EINVAL;
    }
    settings->mode = NET_MODE_TAP;
    memcpy(settings->tap, name, strlen(name) + 1);
    return 0;
}

/* ---- addresses ---- */

enum { MAC_GROUP = 1, MAC_LOCAL = 2 };

void net_mac_make(uint8_t mac[MANIFEST_MAC_SIZE])
{
    if (getrandom(mac, MANIFEST_MAC_SIZE, 0) != MANIFEST_MAC_SIZE)
        memset(mac, 0, MANIFEST_MAC_SIZE); /* each machine's network is its own anyway */
    mac[0] = (uint8_t)((mac[0] & ~MAC_GROUP) | MAC_LOCAL);
}

void net_settings_apply(const struct net_settings *settings, struct machine_config *config)
{
    for (uint32_t i = 0; settings->has_mac && i < config->net_count; i++) {
        memcpy(config->nets[i].mac, settings->mac, MANIFEST_MAC_SIZE);
        config->nets[i].mac[MANIFEST_MAC_SIZE - 1] += (uint8_t)i;
    }
}

/* ---- the file ---- */

json_t *net_settings_to_json(const struct net_settings *settings)
{
    char text[NET_FORWARD_TEXT_SIZE];
    char mac[MANIFEST_MAC_TEXT_SIZE];
    json_t *forwards = json_array();

    for (size_t i = 0; i < settings->forward_count; i++)
        json_array_append_new(forwards,
                              json_string(net_forward_text(&settings->forwards[i], text)));
    return json_pack("{s:s, s:o, s:s*, s:s*}", "mode", net_mode_names[settings->mode], "forwards",
                     forwards, "tap", settings->mode == NET_MODE_TAP ? settings->tap : NULL, "mac",
                     settings->has_mac ? manifest_mac_text(settings->mac, mac) : NULL);
}

static int from_json(json_t *json, struct net_settings *out)
{
    const char *mode = json_string_value(json_object_get(json, "mode"));
    const json_t *forwards = json_object_get(json, "forwards");
    struct net_settings settings = {0};
    struct error ignored;

    if (mode == NULL || json_array_size(forwards) > NET_FORWARDS_MAX)
        return -EBADMSG;
    while (net_mode_names[settings.mode] != NULL &&
           strcmp(net_mode_names[settings.mode], mode) != 0)
        settings.mode++;
    if (net_mode_names[settings.mode] == NULL)
        return -EBADMSG;
    const char *tap = json_string_value(json_object_get(json, "tap"));
    if (settings.mode == NET_MODE_TAP &&
        (tap == NULL || net_settings_set_tap(&settings, tap, &ignored) < 0))
        return -EBADMSG;
    for (size_t i = 0; i < json_array_size(forwards); i++) {
        const char *text = json_string_value(json_array_get(forwards, i));
        if (text == NULL || net_forward_parse(text, &settings.forwards[i], &ignored) < 0)
            return -EBADMSG;
        settings.forward_count++;
    }
    const json_t *mac = json_object_get(json, "mac");
    settings.has_mac = mac != NULL;
    if (mac != NULL && (!manifest_mac_parse(json_string_value(mac), settings.mac) ||
                        (settings.mac[0] & MAC_GROUP) != 0))
        return -EBADMSG;
    *out = settings;
    return 0;
}

int net_settings_write(const char *machine_dir, const struct net_settings *settings,
                       struct error *err)
{
    _cleanup_free_ char *path = io_format("%s/net.json", machine_dir);
    _cleanup_json_ json_t *json = net_settings_to_json(settings);
    _cleanup_free_ char *text = json_dumps(json, JSON_COMPACT | JSON_SORT_KEYS);

    int r = text == NULL ? -ENOMEM : io_write_file(AT_FDCWD, path, text, strlen(text), 0600);
    return r < 0 ? error_errno(err, -r, "cannot write %s", path) : 0;
}

int net_settings_read(const char *machine_dir, struct net_settings *out, struct error *err)
{
    _cleanup_free_ char *path = io_format("%s/net.json", machine_dir);
    _cleanup_free_ char *text = NULL;
    size_t length;

    int r = io_read_file(AT_FDCWD, path, FILE_MAX, &text, &length);
    if (r == -ENOENT) {
        *out = (struct net_settings){0};
        return 0;
    }
    if (r < 0)
        return error_errno(err, -r, "cannot read %s", path);
    _cleanup_json_ json_t *json = json_loadb(text, length, 0, NULL);
    if (from_json(json, out) < 0)
        return error_corrupt(err, "%s is damaged", path);
    return 0;
}
