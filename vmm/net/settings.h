/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How a machine's network cards are connected: the host's matter, kept in the
 * machine's directory (net.json) and in no checkpoint.
 */
#ifndef STASIS_VMM_NET_SETTINGS_H
#define STASIS_VMM_NET_SETTINGS_H

#include "base/error.h"
#include "imgfmt/manifest.h"

#include <jansson.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define NET_FORWARDS_MAX 64
#define NET_FORWARD_TEXT_SIZE 40 /* "255.255.255.255:65535:65535/tcp" and its NUL */

enum net_mode {
    NET_MODE_USER, /* a network of the machine's own, with the host as its router */
    NET_MODE_TAP,  /* a tap device of the host's; the first card's, further ones have no link */
    NET_MODE_NONE, /* no link */
};

extern const char *const net_mode_names[]; /* by enum net_mode; ends with NULL */

/* What comes to a port of the host goes to one of the guest. */
struct net_forward {
    bool udp;
    struct in_addr bind; /* the host's address */
    uint16_t host_port;
    uint16_t guest_port;
};

/* All zero: user mode, nothing forwarded, addresses as in the checkpoint. */
struct net_settings {
    enum net_mode mode;
    char tap[IFNAMSIZ]; /* NET_MODE_TAP: its name */
    size_t forward_count;
    struct net_forward forwards[NET_FORWARDS_MAX];
    bool has_mac;                   /* the machine has addresses of its own, */
    uint8_t mac[MANIFEST_MAC_SIZE]; /* whatever checkpoint it goes on from: its first card's */
};

/* Takes the name of a tap device. STATUS_USAGE for what cannot be one. */
int net_settings_set_tap(struct net_settings *settings, const char *name, struct error *err);

/* Makes up an address: of a single station, administered locally. */
void net_mac_make(uint8_t mac[MANIFEST_MAC_SIZE]);

/* Gives the cards of a config the machine's own addresses, if it has such: further
 * cards have those behind the first one's. */
void net_settings_apply(const struct net_settings *settings, struct machine_config *config);

/* Reads [BIND:]HOST:GUEST[/tcp|/udp]; without BIND it is 127.0.0.1. STATUS_USAGE. */
int net_forward_parse(const char *text, struct net_forward *out, struct error *err);
/* The same in full; returns text. */
const char *net_forward_text(const struct net_forward *forward, char text[NET_FORWARD_TEXT_SIZE]);

/* {"mode", "forwards"}, and "tap" and "mac" if it has such; a new reference, NULL if out of memory.
 */
json_t *net_settings_to_json(const struct net_settings *settings);

int net_settings_write(const char *machine_dir, const struct net_settings *settings,
                       struct error *err);
/* All zero if none were ever written. */
int net_settings_read(const char *machine_dir, struct net_settings *out, struct error *err);

#endif
