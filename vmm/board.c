/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/board.h"

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "vmm/boot/boot.h"
#include "vmm/devices/io_threads.h"
#include "vmm/devices/virtio.h"
#include "vmm/net/user.h"

#include <errno.h>
#include <stdio.h>
#include <sys/eventfd.h>

/* ---- buses ---- */

static void bus_add(struct bus *bus, uint64_t start, uint64_t length, struct device *device)
{
    if (bus->count == BOARD_BUS_RANGES_MAX)
        abort();
    bus->ranges[bus->count++] =
        (struct bus_range){.start = start, .length = length, .device = device};
}

static const struct bus_range *bus_find(const struct bus *bus, uint64_t address)
{
    for (unsigned i = 0; i < bus->count; i++)
        if (address - bus->ranges[i].start < bus->ranges[i].length)
            return &bus->ranges[i];
    return NULL;
}

/* Nobody there: reads are all ones, writes are lost, as on a real bus. */
static void bus_access(struct board *board, const struct bus *bus, bool is_write, uint64_t address,
                       unsigned size, uint8_t *data)
{
    const struct bus_range *range = bus_find(bus, address);
    uint64_t value = UINT64_MAX;

    if (size > sizeof(value))
        return;
    if (range == NULL) {
        if (!is_write)
            memcpy(data, &value, size);
        return;
    }
    struct device *device = range->device;
    uint64_t offset = address - range->start;
    pthread_mutex_lock(&board->device_lock);
    if (is_write) {
        value = 0;
        memcpy(&value, data, size);
        device->ops->write(device, offset, size, value);
    } else {
        value = device->ops->read(device, offset, size);
        memcpy(data, &value, size);
        if (device == board->serial)
            board->events.console_room(board->events.context);
    }
    pthread_mutex_unlock(&board->device_lock);
}

static void on_io(bool is_write, uint16_t port, unsigned size, uint8_t *data, void *context)
{
    struct board *board = context;

    bus_access(board, &board->io, is_write, port, size, data);
}

static void on_mmio(bool is_write, uint64_t gpa, unsigned size, uint8_t *data, void *context)
{
    struct board *board = context;

    bus_access(board, &board->mmio, is_write, gpa, size, data);
}

static void on_vcpu_stopped(enum vm_stop why, const char *message, void *context)
{
    struct board *board = context;

    board->events.stopped(why, message, board->events.context);
}

/* ---- platform devices ---- */

static void on_console_output(const uint8_t *bytes, size_t length, void *context)
{
    struct board *board = context;

    board->events.console_output(bytes, length, board->events.context);
}

static int64_t guest_wall_us(void *context)
{
    const struct board *board = context;

    return board->frozen ? board->frozen_wall_us : clock_wall_us() + board->wall_offset_us;
}

static void on_power_off(void *context)
{
    struct board *board = context;

    board->events.stopped(VM_STOP_POWER_OFF, NULL, board->events.context);
}

static void on_reset(void *context)
{
    struct board *board = context;

    board->events.stopped(VM_STOP_RESET, NULL, board->events.context);
}

static struct irq_line irq_of(struct board *board, uint32_t gsi)
{
    return (struct irq_line){.raise = vm_irq_raise, .context = board->vm, .gsi = gsi};
}

static void add_platform(struct board *board)
{
    struct irq_line serial_irq = irq_of(board, LAYOUT_COM1_IRQ);
    struct irq_line keyboard_irq = irq_of(board, LAYOUT_I8042_IRQ);
    struct irq_line event_irq = irq_of(board, LAYOUT_EVENT_IRQ);
    struct serial_backend backend = {.output = on_console_output, .context = board};

    board->serial = serial_create(&serial_irq, &backend);
    board->rtc = rtc_create(guest_wall_us, board);
    board->i8042 = i8042_create(&keyboard_irq, on_reset, board);
    board->acpi_pm = acpi_pm_create(on_power_off, on_reset, board);
    board->vmgenid = vmgenid_create(board->memory, LAYOUT_VMGENID, &event_irq);
    bus_add(&board->io, LAYOUT_COM1, 8, board->serial);
    bus_add(&board->io, LAYOUT_RTC, 2, board->rtc);
    /* From the data port to the status port; 0x61 between them is the PIT's and
     * answered in the kernel. */
    bus_add(&board->io, LAYOUT_I8042_DATA, LAYOUT_I8042_STATUS - LAYOUT_I8042_DATA + 1,
            board->i8042);
    bus_add(&board->io, LAYOUT_ACPI_PM, 3, board->acpi_pm);
}

/* ---- virtio devices ---- */

static int add_virtio(struct board *board, struct device *device, struct error *err)
{
    unsigned slot = board->virtio_count;
    uint64_t gpa = layout_virtio_gpa(slot);

    board->virtio[slot] = device;
    board->virtio_count++;
    board->kick_fds[slot] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (board->kick_fds[slot] < 0)
        return error_errno(err, errno, "cannot make an event for a device");
    virtio_set_kick_fd(device, board->kick_fds[slot]);
    bus_add(&board->mmio, gpa, LAYOUT_VIRTIO_STRIDE, device);
    return vm_ioeventfd(board->vm, gpa + VIRTIO_QUEUE_NOTIFY, board->kick_fds[slot], err);
}

static int open_disk(struct board *board, struct store *store, const struct manifest *m,
                     unsigned index, const char *dir, bool keep, struct error *err)
{
    char name[MANIFEST_SPACE_NAME_MAX + 1];
    struct space *base = NULL;

    snprintf(name, sizeof(name), "disk%u", index);
    const struct manifest_space *space = manifest_space_find(m, name);
    if (space == NULL)
        return error_corrupt(err, "the checkpoint has no space %s", name);
    int r = space_open(store, &space->root, space->size_bytes, &base, err);
    if (r < 0)
        return r;
    return disk_open(dir, index, base, m->config.disks[index].read_only, keep, &board->disks[index],
                     err);
}

/* A queue for each vCPU: they do not wait for each other to fill one. */
static unsigned disk_queues(const struct board *board)
{
    return board->config.vcpus < VIRTIO_QUEUES_MAX ? board->config.vcpus : VIRTIO_QUEUES_MAX;
}

static void on_disk_kick(void *context)
{
    virtio_blk_work(context);
}

static int serve_disk(struct board *board, struct device *device, unsigned slot, struct error *err)
{
    virtio_blk_use_threads(device, &board->device_lock);
    return io_threads_add(board->disk_threads, board->kick_fds[slot], on_disk_kick, device, err);
}

/* From the network's thread. */
static void on_frame(const struct net_frame *frame, void *context)
{
    struct board_net *net = context;

    pthread_mutex_lock(&net->board->device_lock);
    virtio_net_receive(net->card, frame);
    pthread_mutex_unlock(&net->board->device_lock);
}

static bool has_link(const struct board_net *net)
{
    return net->network.send != NULL;
}

/* What it is plugged into, if anything. */
static int plug_in(struct board_net *net, unsigned index, const struct net_settings *settings,
                   struct net_tap *tap, struct error *err)
{
    if (settings->mode == NET_MODE_USER)
        return net_user_create(index, settings->forwards, index == 0 ? settings->forward_count : 0,
                               &net->network, err);
    if (settings->mode == NET_MODE_TAP && index == 0)
        net->network = net_tap_backend(tap);
    return 0;
}

static int add_net(struct board *board, unsigned index, const struct net_settings *settings,
                   struct net_tap *tap, struct error *err)
{
    struct board_net *net = &board->nets[index];
    const unsigned slot = board->virtio_count;
    struct irq_line irq = irq_of(board, layout_virtio_gsi(slot));

    int r = plug_in(net, index, settings, tap, err);
    if (r < 0)
        return r;
    net->board = board;
    net->card = virtio_net_create((uint16_t)slot, board->config.nets[index].mac,
                                  has_link(net) ? &net->network : NULL, board->memory, &irq);
    return add_virtio(board, net->card, err);
}

static int add_nets(struct board *board, const struct net_settings *settings, struct net_tap *tap,
                    struct error *err)
{
    if (settings->mode == NET_MODE_TAP && board->config.net_count == 0) {
        error_set(err, STATUS_USAGE, ENODEV, "the machine has no network card for %s",
                  settings->tap);
        error_hint(err, "leave out --net, or make its image anew: import gives it a card");
        return -ENODEV;
    }
    if (settings->forward_count > 0 && board->config.net_count == 0) {
        error_set(err, STATUS_USAGE, ENODEV, "the machine has no network card to forward to");
        error_hint(err, "leave out -p, or make its image anew: import gives it a card");
        return -ENODEV;
    }
    for (unsigned i = 0; i < board->config.net_count; i++) {
        int r = add_net(board, i, settings, tap, err);
        if (r < 0)
            return r;
    }
    return 0;
}

static int add_rng(struct board *board, struct error *err)
{
    struct irq_line irq = irq_of(board, layout_virtio_gsi(board->virtio_count));

    return add_virtio(board, virtio_rng_create((uint16_t)board->virtio_count, board->memory, &irq),
                      err);
}

static int add_balloon(struct board *board, struct error *err)
{
    const unsigned slot = board->virtio_count;
    struct irq_line irq = irq_of(board, layout_virtio_gsi(slot));

    board->balloon = virtio_balloon_create((uint16_t)slot, board->memory, &irq);
    return add_virtio(board, board->balloon, err);
}

static int add_vsock(struct board *board, struct error *err)
{
    const unsigned slot = board->virtio_count;
    struct irq_line irq = irq_of(board, layout_virtio_gsi(slot));

    board->vsock = virtio_vsock_create((uint16_t)slot, BOARD_GUEST_CID, board->memory, &irq);
    return add_virtio(board, board->vsock, err);
}

/* From the sockets' thread. */
static bool on_vsock_packet(struct vsock_packet *packet, void *context)
{
    struct board *board = context;

    pthread_mutex_lock(&board->device_lock);
    const bool taken = virtio_vsock_receive(board->vsock, packet);
    pthread_mutex_unlock(&board->device_lock);
    return taken;
}

static void on_vsock_room(void *context)
{
    struct board *board = context;

    pthread_mutex_lock(&board->device_lock);
    virtio_vsock_kick(board->vsock);
    pthread_mutex_unlock(&board->device_lock);
}

int board_open_vsock(struct board *board, const char *path, struct error *err)
{
    if (board->vsock == NULL)
        return 0;
    int r = vsock_host_create(path, BOARD_GUEST_CID, &board->vsock_host, err);
    if (r < 0)
        return r;
    struct vsock_backend backend = vsock_host_backend(board->vsock_host);
    virtio_vsock_plug(board->vsock, &backend);
    return 0;
}

static int start_vsock(struct board *board, struct error *err)
{
    const struct vsock_card card = {
        .receive = on_vsock_packet, .kick = on_vsock_room, .context = board};

    return board->vsock_host == NULL ? 0 : vsock_host_start(board->vsock_host, &card, err);
}

/* Slots in order: the disks, the entropy source, the network cards, the balloon, the
 * sockets. */
static int add_devices(struct board *board, struct store *store, const struct manifest *m,
                       const char *dir, bool keep, const struct net_settings *net,
                       struct net_tap *tap, struct error *err)
{
    int r;

    for (unsigned i = 0; i < m->config.disk_count; i++) {
        if ((r = open_disk(board, store, m, i, dir, keep, err)) < 0)
            return r;
        struct irq_line irq = irq_of(board, layout_virtio_gsi(board->virtio_count));
        struct device *device = virtio_blk_create((uint16_t)board->virtio_count, board->disks[i],
                                                  disk_queues(board), board->memory, &irq);
        if ((r = add_virtio(board, device, err)) < 0 || (r = serve_disk(board, device, i, err)) < 0)
            return r;
    }
    if (m->config.rng && (r = add_rng(board, err)) < 0)
        return r;
    if ((r = add_nets(board, net, tap, err)) < 0)
        return r;
    if (m->config.balloon && (r = add_balloon(board, err)) < 0)
        return r;
    return m->config.vsock ? add_vsock(board, err) : 0;
}

/* ---- the whole ---- */

int board_create(struct store *store, const struct manifest *m, const char *dir, bool keep_overlays,
                 const struct net_settings *net, struct net_tap *tap,
                 const struct board_events *events, struct board **out, struct error *err)
{
    struct vm_exits exits = {.io = on_io, .mmio = on_mmio, .stopped = on_vcpu_stopped};
    struct board *board = calloc(1, sizeof(*board));
    if (board == NULL)
        return error_errno(err, ENOMEM, "cannot make a machine");
    board->config = m->config;
    board->events = *events;
    pthread_mutex_init(&board->device_lock, NULL);
    for (unsigned i = 0; i < LAYOUT_VIRTIO_SLOTS; i++)
        board->kick_fds[i] = -1;
    exits.context = board;

    int r = memory_create(m->config.memory_bytes, &board->memory, err);
    if (r == 0)
        r = vm_create(board->memory, m->config.vcpus, &exits, &board->vm, err);
    if (r == 0)
        r = io_threads_create(&board->disk_threads, err);
    if (r == 0) {
        add_platform(board);
        r = add_devices(board, store, m, dir, keep_overlays, net, tap, err);
    }
    if (r < 0) {
        board_free(board);
        return r;
    }
    *out = board;
    return 0;
}

static void destroy_device(struct device *device)
{
    if (device != NULL)
        device->ops->destroy(device);
}

/* Each network card that has a link. */
static void each_network(struct board *board, void (*visit)(const struct net_backend *network))
{
    for (unsigned i = 0; i < MANIFEST_NETS_MAX; i++)
        if (has_link(&board->nets[i]))
            visit(&board->nets[i].network);
}

static void stop_network(const struct net_backend *network)
{
    network->stop(network->context);
}

static void free_network(const struct net_backend *network)
{
    if (network->free != NULL)
        network->free(network->context);
}

static void turn_network_back(const struct net_backend *network)
{
    if (network->forget != NULL)
        network->forget(network->context);
}

void board_free(struct board *board)
{
    if (board == NULL)
        return;
    each_network(board, stop_network);  /* its thread raises interrupts in the VM */
    vsock_host_stop(board->vsock_host); /* and so does this one's */
    board_hold_disks(board);            /* or the guest could keep these busy */
    io_threads_stop(board->disk_threads);
    vm_free(board->vm); /* its threads use the rest */
    for (unsigned i = 0; i < board->virtio_count; i++) {
        destroy_device(board->virtio[i]);
        if (board->kick_fds[i] >= 0)
            close(board->kick_fds[i]);
    }
    each_network(board, free_network);
    vsock_host_free(board->vsock_host);
    io_threads_free(board->disk_threads);
    for (unsigned i = 0; i < MANIFEST_DISKS_MAX; i++)
        disk_close(board->disks[i]);
    destroy_device(board->serial);
    destroy_device(board->rtc);
    destroy_device(board->i8042);
    destroy_device(board->acpi_pm);
    destroy_device(board->vmgenid);
    memory_free(board->memory);
    pthread_mutex_destroy(&board->device_lock);
    free(board);
}

/* For checkpoints: it does not change while the machine runs. */
static int list_cpu_features(struct board *board, struct error *err)
{
    return vm_cpu_features(board->vm, board->cpu_features, sizeof(board->cpu_features), err);
}

int board_check_cpu(struct board *board, const struct manifest *m, struct error *err)
{
    return vm_cpu_check(board->vm, m->config.cpu, m->cpu_features, err);
}

/* Reads a whole space into memory. *out stays NULL if the manifest has none. */
static int read_space(struct store *store, const struct manifest *m, const char *name, void **out,
                      size_t *length_out, struct error *err)
{
    const struct manifest_space *entry = manifest_space_find(m, name);
    struct space *space = NULL;

    if (entry == NULL)
        return 0;
    if (entry->size_bytes > m->config.memory_bytes) {
        error_set(err, STATUS_FAILED, E2BIG, "the %s is larger than the machine's memory", name);
        error_hint(err, "give it more with --memory");
        return -E2BIG;
    }
    int r = space_open(store, &entry->root, entry->size_bytes, &space, err);
    if (r < 0)
        return r;
    _cleanup_free_ void *bytes = malloc(entry->size_bytes + 1);
    r = bytes == NULL ? error_errno(err, ENOMEM, "cannot read the %s", name)
                      : space_read(space, 0, bytes, entry->size_bytes, err);
    space_close(space);
    if (r < 0)
        return r;
    *length_out = entry->size_bytes;
    *out = steal_pointer(bytes);
    return 0;
}

int board_boot(struct board *board, struct store *store, const struct manifest *m,
               struct error *err)
{
    _cleanup_free_ void *kernel = NULL;
    _cleanup_free_ void *initrd = NULL;
    struct boot_config config = {
        .cmdline = m->config.cmdline,
        .vcpus = m->config.vcpus,
        .virtio_slots = (uint16_t)((1u << board->virtio_count) - 1),
    };
    struct boot_entry entry;
    struct kvm_regs regs = {0};
    struct kvm_sregs sregs;

    int r = board_check_cpu(board, m, err);
    if (r < 0 || (r = read_space(store, m, "kernel", &kernel, &config.kernel_bytes, err)) < 0)
        return r;
    if (kernel == NULL)
        return error_set(err, STATUS_FAILED, ENOEXEC, "the checkpoint has no kernel to boot");
    if ((r = read_space(store, m, "initrd", &initrd, &config.initrd_bytes, err)) < 0)
        return r;
    config.kernel = kernel;
    config.initrd = initrd;
    if ((r = boot_load(board->memory, &config, &entry, err)) < 0 ||
        (r = vm_get_sregs(board->vm, &sregs, err)) < 0)
        return r;
    board->vmgenid->ops->reset(board->vmgenid);
    boot_set_registers(&entry, &regs, &sregs);
    r = vm_prepare_boot(board->vm, board->config.cpu, &regs, &sregs, err);
    return r < 0 ? r : list_cpu_features(board, err);
}

/* One more than can be busy for the guest's sake, so that a request which waits for the
 * host's disk does not keep those that need not. */
static unsigned disk_thread_count(const struct board *board)
{
    unsigned busy = board->config.vcpus > board->config.disk_count ? board->config.vcpus
                                                                   : board->config.disk_count;

    return busy + 1 < IO_THREADS_MAX ? busy + 1 : IO_THREADS_MAX;
}

int board_start(struct board *board, struct error *err)
{
    int r = 0;

    for (unsigned i = 0; i < board->config.net_count && r == 0; i++)
        if (has_link(&board->nets[i]))
            r = board->nets[i].network.start(on_frame, &board->nets[i],
                                             board->nets[i].network.context, err);
    if (r == 0)
        r = start_vsock(board, err);
    if (r == 0 && board->config.disk_count > 0)
        r = io_threads_start(board->disk_threads, disk_thread_count(board), err);
    return r < 0 ? r : vm_start(board->vm, err);
}

/* Disks come first. */
static void hold_disks(struct board *board, bool held)
{
    pthread_mutex_lock(&board->device_lock);
    for (unsigned i = 0; i < board->config.disk_count && i < board->virtio_count; i++)
        virtio_blk_hold(board->virtio[i], held);
    pthread_mutex_unlock(&board->device_lock);
}

void board_hold_disks(struct board *board)
{
    hold_disks(board, true);
}

/* Networks and sockets go on while the machine stands still; what they have for it
 * waits. */
static void hold_devices(struct board *board, bool held)
{
    pthread_mutex_lock(&board->device_lock);
    for (unsigned i = 0; i < board->config.net_count; i++)
        virtio_net_hold(board->nets[i].card, held);
    if (board->vsock != NULL)
        virtio_vsock_hold(board->vsock, held);
    pthread_mutex_unlock(&board->device_lock);
}

void board_pause(struct board *board)
{
    hold_disks(board, true);
    vm_pause(board->vm);
    hold_devices(board, true);
}

bool board_is_kicked(const struct board *board, unsigned index)
{
    return index >= board->config.disk_count;
}

void board_kick(struct board *board, unsigned index)
{
    pthread_mutex_lock(&board->device_lock);
    virtio_kick(board->virtio[index]);
    pthread_mutex_unlock(&board->device_lock);
}

size_t board_console_input(struct board *board, const uint8_t *bytes, size_t length)
{
    pthread_mutex_lock(&board->device_lock);
    size_t taken = serial_input(board->serial, bytes, length);
    pthread_mutex_unlock(&board->device_lock);
    return taken;
}

int board_balloon_set(struct board *board, uint64_t bytes, struct error *err)
{
    if (board->balloon == NULL) {
        error_set(err, STATUS_FAILED, ENODEV, "the machine has no balloon");
        error_hint(err, "make its image anew: import gives it one");
        return -ENODEV;
    }
    if (bytes >= board->memory->size_bytes) {
        error_set(err, STATUS_USAGE, EINVAL, "a balloon of %llu MiB would take all memory",
                  (unsigned long long)(bytes >> 20));
        error_hint(err, "the machine has %llu MiB",
                   (unsigned long long)(board->memory->size_bytes >> 20));
        return -EINVAL;
    }
    pthread_mutex_lock(&board->device_lock);
    virtio_balloon_set_target(board->balloon, bytes);
    pthread_mutex_unlock(&board->device_lock);
    return 0;
}

bool board_balloon_status(struct board *board, bool poll, struct balloon_status *out)
{
    if (board->balloon == NULL)
        return false;
    pthread_mutex_lock(&board->device_lock);
    if (poll)
        virtio_balloon_poll(board->balloon);
    virtio_balloon_status(board->balloon, out);
    pthread_mutex_unlock(&board->device_lock);
    return true;
}

bool board_ask_to_stop(struct board *board)
{
    pthread_mutex_lock(&board->device_lock);
    bool asked = i8042_ctrl_alt_del(board->i8042);
    pthread_mutex_unlock(&board->device_lock);
    return asked;
}

/* ---- state ---- */

/* Calls fn for every device of the board; stops at the first failure. */
static int each_device(struct board *board, int (*fn)(struct device *device, void *context),
                       void *context)
{
    struct device *platform[] = {board->serial, board->rtc, board->i8042, board->acpi_pm,
                                 board->vmgenid};
    int r = 0;

    for (size_t i = 0; i < ARRAY_LEN(platform) && r == 0; i++)
        r = fn(platform[i], context);
    for (unsigned i = 0; i < board->virtio_count && r == 0; i++)
        r = fn(board->virtio[i], context);
    return r;
}

/* It may let go of the device lock. */
static int quiesce_device(struct device *device, void *context)
{
    (void)context;
    if (device->ops->quiesce != NULL)
        device->ops->quiesce(device);
    return 0;
}

static int save_device(struct device *device, void *context)
{
    device->ops->save(device, context);
    return 0;
}

int board_state_save(struct board *board, struct buffer *out, struct error *err)
{
    struct state_writer writer;

    state_writer_init(&writer);
    pthread_mutex_lock(&board->device_lock);
    /* Devices before the irqchip: quiescing one may raise its interrupt. */
    each_device(board, quiesce_device, NULL);
    each_device(board, save_device, &writer);
    int r = vm_state_save(board->vm, guest_wall_us(board), &writer, err);
    pthread_mutex_unlock(&board->device_lock);
    if (r == 0 && (r = state_writer_finish(&writer, out)) < 0)
        error_errno(err, -r, "cannot write the device state");
    state_writer_clear(&writer);
    return r;
}

struct restore {
    const void *bytes;
    size_t length;
    struct error *err;
};

static int restore_device(struct device *device, void *context)
{
    const struct restore *restore = context;

    return device->ops->restore(device, restore->bytes, restore->length, restore->err);
}

int board_state_restore(struct board *board, const void *bytes, size_t length, bool clock_host,
                        struct error *err)
{
    int64_t wall_us = 0;
    struct restore restore = {bytes, length, err};

    int r = state_check(bytes, length, err);
    if (r < 0)
        return r;
    each_network(board, turn_network_back);
    pthread_mutex_lock(&board->device_lock);
    if ((r = vm_state_restore(board->vm, bytes, length, &wall_us, err)) == 0)
        r = each_device(board, restore_device, &restore);
    if (r == 0)
        r = list_cpu_features(board, err);
    if (r == 0) {
        board->frozen = true;
        board->frozen_wall_us = wall_us;
        board->clock_host = clock_host;
        board->restored = true;
    }
    pthread_mutex_unlock(&board->device_lock);
    return r;
}

static int resume_device(struct device *device, void *context)
{
    (void)context;
    if (device->ops->resume != NULL)
        device->ops->resume(device);
    return 0;
}

int board_freeze(struct board *board, struct error *err)
{
    int64_t wall_us = guest_wall_us(board);

    int r = vm_clock_freeze(board->vm, err);
    if (r < 0 || board->frozen)
        return r;
    board->frozen = true;
    board->frozen_wall_us = wall_us;
    board->clock_host = false;
    return 0;
}

void board_set_clock(struct board *board, bool clock_host)
{
    board->clock_host = clock_host;
}

/* Guest time goes on from where it stood, or, as the policy may be, from the host's
 * wall clock if the guest's is behind that: never backwards. */
static void thaw(struct board *board)
{
    struct error err;
    int64_t host_us = clock_wall_us();
    int64_t behind_us = host_us - board->frozen_wall_us;
    int64_t advance_us = board->clock_host && behind_us > 0 ? behind_us : 0;

    if (!board->frozen)
        return;
    if (vm_clock_thaw(board->vm, (uint64_t)advance_us * 1000, &err) < 0)
        log_event("guest time jumps: %s", err.message);
    board->wall_offset_us = board->frozen_wall_us + advance_us - host_us;
    board->frozen = false;
}

void board_resume(struct board *board)
{
    if (board->restored) {
        pthread_mutex_lock(&board->device_lock);
        each_device(board, resume_device, NULL);
        pthread_mutex_unlock(&board->device_lock);
        board->restored = false;
    }
    hold_devices(board, false);
    hold_disks(board, false);
    thaw(board);
    vm_resume(board->vm);
}
