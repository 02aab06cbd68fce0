/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The machine's hardware, put together: RAM, vCPUs, buses, devices, disks, as a
 * checkpoint's manifest describes them. Knows how to boot, freeze and restore
 * itself; knows nothing of processes, sockets or names.
 */
#ifndef STASIS_VMM_BOARD_H
#define STASIS_VMM_BOARD_H

#include "imgfmt/manifest.h"
#include "store/store.h"
#include "vmm/devices/device.h"
#include "vmm/devices/disk.h"
#include "vmm/devices/platform.h"
#include "vmm/devices/virtio_balloon.h"
#include "vmm/kvm/kvm.h"
#include "vmm/layout.h"
#include "vmm/memory.h"
#include "vmm/net/settings.h"
#include "vmm/net/tap.h"
#include "vmm/vsock/host.h"

#include <pthread.h>
#include <stdbool.h>

#define BOARD_BUS_RANGES_MAX 24
#define BOARD_GUEST_CID 3u /* in a world of its own: host and guest */

struct bus_range {
    uint64_t start;
    uint64_t length;
    struct device *device;
};

struct bus {
    unsigned count;
    struct bus_range ranges[BOARD_BUS_RANGES_MAX];
};

/* What the board tells the process around it; called from vCPU threads or from
 * whoever drives a device, with the device lock held where said. */
struct board_events {
    /* Bytes the guest printed. Device lock held; must not block. */
    void (*console_output)(const uint8_t *bytes, size_t length, void *context);
    /* The guest took input from the serial port: there may be room again. Device
     * lock held. */
    void (*console_room)(void *context);
    /* The machine cannot or shall not run on. message may be NULL. */
    void (*stopped)(enum vm_stop why, const char *message, void *context);
    void *context;
};

/* A network card: one of the virtio devices, and what it is plugged into. */
struct board_net {
    struct board *board;
    struct device *card;
    struct net_backend network; /* all zero: no link */
};

struct board {
    struct machine_config config;
    struct board_events events;
    struct memory *memory;
    struct kvm_vm *vm;
    pthread_mutex_t device_lock;
    struct bus io;
    struct bus mmio;
    struct device *serial;
    struct device *rtc;
    struct device *i8042;
    struct device *acpi_pm;
    struct device *vmgenid;
    struct device *balloon; /* one of the virtio devices, or NULL */
    unsigned virtio_count;
    struct device *virtio[LAYOUT_VIRTIO_SLOTS];
    int kick_fds[LAYOUT_VIRTIO_SLOTS]; /* eventfds, signalled by the guest's kicks */
    struct disk *disks[MANIFEST_DISKS_MAX];
    struct io_threads *disk_threads; /* serve the kicks of the first disk_count devices */
    struct board_net nets[MANIFEST_NETS_MAX];
    char cpu_features[MANIFEST_CPU_FEATURES_MAX + 1]; /* what the guest was told of */
    struct device *vsock;                             /* or NULL */
    struct vsock_host *vsock_host;                    /* or NULL: nobody at the other end */
    int64_t wall_offset_us;                           /* guest's wall clock minus the host's */
    bool frozen;                                      /* guest time stands still */
    int64_t frozen_wall_us;                           /* where the guest's wall clock does then */
    bool clock_host; /* where time goes on: from the host's, not from there */
    bool restored;   /* device state was put back and has not run since */
};

/*
 * Builds the hardware of manifest m; disks have their overlays in dir (kept or
 * removed); its network cards are connected as net says (borrowed; the first one has
 * the forwards, or tap, which is borrowed until board_free()). No vCPU runs yet, RAM is zero,
 * devices are in power-on state.
 */
int board_create(struct store *store, const struct manifest *m, const char *dir, bool keep_overlays,
                 const struct net_settings *net, struct net_tap *tap,
                 const struct board_events *events, struct board **out, struct error *err);
void board_free(struct board *board);

/* Connects the socket device, if there is one, to UNIX sockets named after path
 * (vmm/vsock/host.h). Before anything runs. */
int board_open_vsock(struct board *board, const char *path, struct error *err);

/* STATUS_HOST_CANNOT, with their names, if this host lacks CPU features that a machine
 * needs that goes on from m. */
int board_check_cpu(struct board *board, const struct manifest *m, struct error *err);

/* Loads the kernel of the manifest and sets the first vCPU to it. */
int board_boot(struct board *board, struct store *store, const struct manifest *m,
               struct error *err);

/* Starts the vCPU threads, parked; then board_resume() and board_pause(), as
 * vm_resume() and vm_pause(). Event loop thread only. */
int board_start(struct board *board, struct error *err);
void board_pause(struct board *board);
void board_resume(struct board *board);

/*
 * Begins no request of a disk any more, and waits for those under way, which can take
 * long, while the guest runs. board_pause() does that, too: called before it, it keeps
 * that time out of the pause. Until board_resume().
 */
void board_hold_disks(struct board *board);

/* Are the kicks of the virtio device in this place of the table for board_kick()? */
bool board_is_kicked(const struct board *board, unsigned index);

/* Time stands still for a machine that is parked, until board_resume(): for a pause
 * that somebody will end some day. */
int board_freeze(struct board *board, struct error *err);

/* Where the time of a machine goes on that stands still: from there (the default after
 * board_freeze(); after a restore, what was asked for), or from the host's wall clock. */
void board_set_clock(struct board *board, bool clock_host);

/* Serves the queues of the virtio device in this place of the table. */
void board_kick(struct board *board, unsigned index);

/* Offers console input; returns how much was taken. */
size_t board_console_input(struct board *board, const uint8_t *bytes, size_t length);

/* Asks the guest to give up that much of its memory, or to take it back. -ENODEV for a
 * machine without a balloon; -EINVAL for all of its memory. */
int board_balloon_set(struct board *board, uint64_t bytes, struct error *err);

/* What the balloon's driver said last; asks it for more if poll. False if there is no
 * balloon. */
bool board_balloon_status(struct board *board, bool poll, struct balloon_status *out);

/* Asks the guest's system to end, by Ctrl-Alt-Del. False if it has no keyboard. */
bool board_ask_to_stop(struct board *board);

/* All device and vCPU state; vCPUs are parked. */
int board_state_save(struct board *board, struct buffer *out, struct error *err);

/* Puts devices and vCPUs to that state; vCPUs are parked or not started. */
int board_state_restore(struct board *board, const void *bytes, size_t length, bool clock_host,
                        struct error *err);

#endif
