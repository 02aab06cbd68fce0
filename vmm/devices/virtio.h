/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The virtio-mmio transport, version 2 (virtio 1.2, 4.2), and what a device
 * behind it is. The transport is a struct device on the MMIO bus; a kick arrives
 * by an eventfd, and whoever waits for that calls virtio_kick().
 */
#ifndef STASIS_VMM_DEVICES_VIRTIO_H
#define STASIS_VMM_DEVICES_VIRTIO_H

#include "imgfmt/manifest.h"
#include "vmm/counters.h"
#include "vmm/devices/device.h"
#include "vmm/devices/virtq.h"
#include "vmm/net/net.h"
#include "vmm/vsock/vsock.h"

#include <pthread.h>
#include <stdbool.h>

#define VIRTIO_QUEUES_MAX 4u
#define VIRTIO_QUEUE_NOTIFY 0x50u /* offset of the register that kicks */

enum virtio_device_id {
    VIRTIO_ID_NET = 1,
    VIRTIO_ID_BLOCK = 2,
    VIRTIO_ID_ENTROPY = 4,
    VIRTIO_ID_BALLOON = 5,
    VIRTIO_ID_VSOCK = 19,
};

struct virtio;

struct virtio_ops {
    const char *name;
    uint32_t device_id;
    uint64_t features; /* beside VERSION_1, INDIRECT_DESC and EVENT_IDX */
    unsigned queue_count;
    uint16_t queue_size_max;
    /* Has the device a use for the next chain of a queue now? If not, it stays in the
     * ring. May be NULL: always. */
    bool (*can_serve)(void *device, unsigned queue);
    /* Serves one chain of a queue and says how many bytes it wrote. -EPROTO: the
     * driver broke the device's protocol. */
    int (*serve)(void *device, unsigned queue, const struct virtq_chain *chain,
                 uint32_t *written_out);
    /* Little-endian configuration space; length bytes. May be NULL with 0. */
    void (*config)(void *device, uint8_t *out);
    size_t config_bytes;
    /* The driver writes into it; within config_bytes, size 1, 2 or 4. May be NULL. */
    void (*write_config)(void *device, uint64_t offset, unsigned size, uint32_t value);
    /* For devices that take chains themselves: waits until all are given back, and may let
     * go of the device lock meanwhile. No chain is taken until it has returned. Called
     * before queues change and before a reset. May be NULL. */
    void (*quiesce)(void *device);
    void (*reset)(void *device);
    void (*save)(void *device, uint16_t slot, struct state_writer *w);
    int (*restore)(void *device, uint16_t slot, const void *state, size_t length,
                   struct error *err);
    /* What the device has done since it was made. Any thread. May be NULL. */
    void (*counters)(const void *device, const struct counter_visitor *visitor);
    void (*destroy)(void *device);
};

/* Makes the transport in slot (its state instance) around a device, which it
 * then owns. Aborts only when memory is out. */
struct device *virtio_create(uint16_t slot, const struct virtio_ops *ops, void *device,
                             struct memory *mem, const struct irq_line *irq);

/* Serves what the driver has offered, a ring's worth of each queue at most. */
void virtio_kick(struct device *transport);

/* The eventfd (borrowed) that brings about a virtio_kick() later: for chains that one
 * call leaves, and for kicks that arrive in a thread that shall not serve queues. -1,
 * as at first: there is none, and such kicks are served at once. */
void virtio_set_kick_fd(struct device *transport, int fd);

/* For the device behind the transport: what virtio_create() was given, and telling
 * the driver to read the configuration again. */
void *virtio_device(const struct device *transport);
void virtio_config_changed(struct device *transport);
/* The features that the driver has taken. */
uint64_t virtio_driver_features(const struct device *transport);

/* For `stats`: the name of its kind, and what it has counted. Any thread. */
const char *virtio_name(const struct device *transport);
void virtio_counters(const struct device *transport, const struct counter_visitor *visitor);

/* Has the driver started the device, and not confused it? */
bool virtio_is_running(const struct device *transport);

/* How many chains the driver has offered on a queue so far, going round at 2^16; 0 if
 * the queue is not in use. */
uint16_t virtio_queue_offered(const struct device *transport, unsigned queue);
/* As virtq_watch(), for a queue that is being served. */
uint16_t virtio_queue_watch(struct device *transport, unsigned queue);

/*
 * For devices that serve chains in their own time and threads, whose can_serve() says
 * false. Device lock held for each; between take and give it need not be.
 */

/* Takes the next chain of a queue. False: there is none, and the driver will kick when
 * there is (or the driver has broken the queue, and was told). */
bool virtio_take(struct device *transport, unsigned queue, struct virtq_chain *out);

/* Asks the driver to kick for the next chain of any queue, though virtio_take() has not
 * said false. True: there is a chain already. */
bool virtio_arm(struct device *transport);

/* Gives a chain back. Returns how many of the queue the driver has not been told of. */
unsigned virtio_give(struct device *transport, unsigned queue, uint16_t head, uint32_t written);

/* Tells the driver of all that was given back, as far as it wants to know. */
void virtio_signal(struct device *transport);

/* The driver broke the device's protocol. */
void virtio_break(struct device *transport);

/* Brings about a kick, by the eventfd if there is one. */
void virtio_kick_later(struct device *transport);

/* ---- devices ---- */

struct disk;

/* A block device over disk (borrowed): virtio 1.2, 5.2. mem is borrowed. It has so many
 * queues, 1..VIRTIO_QUEUES_MAX. Whoever kicks it serves it. */
struct device *virtio_blk_create(uint16_t slot, struct disk *disk, unsigned queues,
                                 struct memory *mem, const struct irq_line *irq);

/* Has the device be served by threads that call virtio_blk_work(), any number at once:
 * each does requests as long as there are some, without the device lock for what takes
 * time. The device is held at first. device_lock is borrowed; the kick's eventfd was set
 * before. */
void virtio_blk_use_threads(struct device *transport, pthread_mutex_t *device_lock);
void virtio_blk_work(struct device *transport); /* device lock not held */

/* While a block device is held no request is begun; when this returns none is under way.
 * Device lock held, but not throughout. */
void virtio_blk_hold(struct device *transport, bool held);

/* An entropy source fed by getrandom(2): virtio 1.2, 5.4. */
struct device *virtio_rng_create(uint16_t slot, struct memory *mem, const struct irq_line *irq);

/* A network card: virtio 1.2, 5.1. Of backend, which is copied, it uses what is for
 * cards; NULL: its link is down. It is held at first. */
struct device *virtio_net_create(uint16_t slot, const uint8_t mac[MANIFEST_MAC_SIZE],
                                 const struct net_backend *backend, struct memory *mem,
                                 const struct irq_line *irq);

/* Takes a frame for the guest, or loses it. Device lock held. */
void virtio_net_receive(struct device *transport, const struct net_frame *frame);

/* While a card is held it writes nothing into the guest's memory by itself: frames
 * wait. One that was restored makes itself known when it is let go, if the guest does
 * not. Device lock held. */
void virtio_net_hold(struct device *transport, bool held);

/* A socket device whose guest has address cid: virtio 1.2, 5.10. It is held at first,
 * and the guest's packets wait until it is plugged. */
struct device *virtio_vsock_create(uint16_t slot, uint64_t cid, struct memory *mem,
                                   const struct irq_line *irq);

/* The host's end of its connections; backend is copied. Before the machine runs. */
void virtio_vsock_plug(struct device *transport, const struct vsock_backend *backend);

/* Takes a packet for the guest over. False: there is no driver. Device lock held. */
bool virtio_vsock_receive(struct device *transport, struct vsock_packet *packet);

/* The backend has room again for what the guest sends. Device lock held. */
void virtio_vsock_kick(struct device *transport);

/* While it is held it touches neither rings nor memory. Device lock held. */
void virtio_vsock_hold(struct device *transport, bool held);

#endif
