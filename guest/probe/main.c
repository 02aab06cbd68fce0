/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The main loop: looks at the serial line now and then, counts in between, and
 * answers commands. README.md describes every command.
 */
#include "guest/probe/clock.h"
#include "guest/probe/cpu.h"
#include "guest/probe/genid.h"
#include "guest/probe/io.h"
#include "guest/probe/layout.h"
#include "guest/probe/memory.h"
#include "guest/probe/pattern.h"
#include "guest/probe/serial.h"
#include "guest/probe/text.h"
#include "guest/probe/virtio.h"

#define WORDS_MAX 8
#define SECTOR_SIZE 512
#define BUFFER_SECTORS (VIRTIO_BUFFER_SIZE / SECTOR_SIZE)

/* Turns of the counting loop between two looks at the line: a look is an exit.
 * Within a line the next byte is near. */
#define TURNS_IDLE 131072
#define TURNS_IN_LINE 256

struct args {
    unsigned count;          /* words after the command's name */
    char *word[WORDS_MAX];   /* [0] is the first of them */
    uint64_t num[WORDS_MAX]; /* their values */
    bool is_num[WORDS_MAX];
};

struct command {
    const char *name;
    const char *usage;
    unsigned min, max;  /* arguments */
    unsigned first_num; /* from this argument on all must be numbers */
    void (*run)(const struct args *args);
};

extern struct probe_shared probe_shared;
extern void *start_info;
extern uint64_t exception_vector, exception_error, exception_rip, exception_cr2, exception_cs;

void probe_main(void);
void probe_exception(void);
void probe_sleep(void); /* until the next interrupt */

static volatile uint64_t *const counter = &probe_shared.counter;
static volatile uint64_t idle_counter;
static bool counting;
static bool idling;

static uint64_t tick_ns, tick_next;
static struct {
    bool on;
    uint64_t start, count, burst, written;
} churn;
static uint64_t fpu_seed;

static char line[256];
static unsigned line_used;
static bool line_too_long;

/* ---- replies ---- */

static void ok(void)
{
    out_line("ok");
}

static void fail(const char *why)
{
    out_text("error ");
    out_line(why);
}

static void end(void)
{
    out_line("");
}

static void ok_or_fail(const char *why)
{
    if (why == NULL)
        ok();
    else
        fail(why);
}

/* ---- memory ---- */

static void do_ping(const struct args *args)
{
    (void)args;
    ok();
}

static void do_info(const struct args *args)
{
    (void)args;
    out_text("ok");
    out_field("pages", memory_pages());
    out_field("varying", PROBE_VARYING / PROBE_PAGE_SIZE);
    out_field("free", PROBE_FREE / PROBE_PAGE_SIZE);
    out_field("disks", virtio_blk_count());
    out_field("kvmclock", clock_has_kvmclock());
    out_text(" cmdline=");
    out_line(memory_cmdline());
}

static bool range_is_free(uint64_t page, uint64_t count)
{
    if (memory_is_free(page, count))
        return true;
    fail("these pages are not free memory");
    return false;
}

static void do_fill(const struct args *args)
{
    if (!range_is_free(args->num[0], args->num[1]))
        return;
    memory_fill(args->num[0], args->num[1], args->num[2]);
    out_text("ok");
    out_field("pages", args->num[1]);
    end();
}

static void reply_sum(uint64_t pages, uint64_t sum)
{
    out_text("ok");
    out_field("pages", pages);
    out_field_hex("sum", sum);
    end();
}

static void do_sum(const struct args *args)
{
    if (!memory_is_ram(args->num[0], args->num[1]))
        fail("these pages are not memory");
    else
        reply_sum(args->num[1], memory_sum(args->num[0], args->num[1]));
}

static void do_sumall(const struct args *args)
{
    uint64_t pages, sum = memory_sum_all(&pages);

    (void)args;
    reply_sum(pages, sum);
}

static bool word_index_fits(const struct args *args, unsigned at)
{
    if (args->count <= at || args->num[at] < PROBE_WORDS_PER_PAGE)
        return true;
    fail("a page has 512 words");
    return false;
}

static void do_write(const struct args *args)
{
    uint64_t index = args->count > 2 ? args->num[2] : 0;

    if (!word_index_fits(args, 2) || !range_is_free(args->num[0], 1))
        return;
    ((volatile uint64_t *)memory_address(args->num[0]))[index] = args->num[1];
    ok();
}

static void do_read(const struct args *args)
{
    uint64_t index = args->count > 1 ? args->num[1] : 0;

    if (!word_index_fits(args, 1))
        return;
    if (!memory_is_ram(args->num[0], 1)) {
        fail("this page is not memory");
        return;
    }
    out_text("ok");
    out_field_hex("value", ((volatile uint64_t *)memory_address(args->num[0]))[index]);
    end();
}

static bool spread_is_free(uint64_t start, uint64_t count, uint64_t stride)
{
    uint64_t span;

    if (__builtin_mul_overflow(count, stride, &span)) {
        fail("these pages are not free memory");
        return false;
    }
    return range_is_free(start, count == 0 ? 0 : span - stride + 1);
}

static void do_dirty(const struct args *args)
{
    uint64_t count = args->num[0], stride = args->num[1], seed = args->num[2];
    uint64_t start = args->count > 3 ? args->num[3] : PROBE_FREE / PROBE_PAGE_SIZE;

    if (!spread_is_free(start, count, stride))
        return;
    for (uint64_t i = 0; i < count; i++) {
        uint64_t page = start + i * stride;
        uint64_t value = probe_word(seed, page);

        ((volatile uint64_t *)memory_address(page))[value % PROBE_WORDS_PER_PAGE] = value;
    }
    out_text("ok");
    out_field("pages", count);
    end();
}

/* ---- things that go on between commands ---- */

static void reply_count(void)
{
    out_text("ok");
    out_field("count", *counter);
    out_field("running", counting);
    end();
}

static void do_count(const struct args *args)
{
    if (text_equal(args->word[0], "start"))
        counting = true;
    else if (text_equal(args->word[0], "stop"))
        counting = false;
    else if (!text_equal(args->word[0], "get")) {
        fail("count start, count stop or count get");
        return;
    }
    reply_count();
}

/* Sleeps between commands instead of spinning, unless there is work. */
static void do_idle(const struct args *args)
{
    if (text_equal(args->word[0], "on"))
        idling = true;
    else if (text_equal(args->word[0], "off"))
        idling = false;
    else {
        fail("idle on or idle off");
        return;
    }
    serial_set_interrupt(idling);
    ok();
}

static void do_tick(const struct args *args)
{
    uint64_t now = clock_now_ns();

    if (text_equal(args->word[0], "off")) {
        tick_ns = 0;
    } else if (!text_equal(args->word[0], "on") || args->count < 2 || args->num[1] == 0 ||
               args->num[1] > 3600000) {
        fail("tick on MS (1 to 3600000) or tick off");
        return;
    } else if (now == 0) {
        fail("there is no clock to tick by");
        return;
    } else {
        tick_ns = args->num[1] * 1000000;
        tick_next = now + tick_ns;
    }
    ok();
}

static void tick(void)
{
    uint64_t now;

    if (tick_ns == 0)
        return;
    now = clock_now_ns();
    if (now < tick_next)
        return;
    out_text("tick");
    out_field("count", *counter);
    out_field("ns", now);
    end();
    tick_next += tick_ns;
    if (tick_next < now) /* a pause is not made up for */
        tick_next = now + tick_ns;
}

static volatile uint64_t *churn_word(uint64_t n)
{
    return (volatile uint64_t *)memory_address(churn.start + n % churn.count);
}

static void churn_step(void)
{
    for (uint64_t i = 0; churn.on && i < churn.burst; i++) {
        *churn_word(churn.written + 1) = churn.written + 1;
        churn.written++;
    }
}

/* The last `count` writes must all be there, and nothing newer. */
static void churn_check(void)
{
    for (uint64_t i = 0; i < churn.count && i < churn.written; i++) {
        uint64_t wanted = churn.written - i;

        if (*churn_word(wanted) == wanted)
            continue;
        out_text("error a page is not of this moment");
        out_field("page", churn.start + wanted % churn.count);
        out_field("wanted", wanted);
        out_field("found", *churn_word(wanted));
        end();
        return;
    }
    out_text("ok");
    out_field("written", churn.written);
    out_field("running", churn.on);
    end();
}

static void churn_start(const struct args *args)
{
    if (args->count < 4 || args->num[2] == 0 || args->num[3] == 0) {
        fail("churn start START COUNT BURST");
        return;
    }
    if (!range_is_free(args->num[1], args->num[2]))
        return;
    churn.start = args->num[1];
    churn.count = args->num[2];
    churn.burst = args->num[3];
    churn.written = 0;
    churn.on = true;
    ok();
}

static void do_churn(const struct args *args)
{
    if (text_equal(args->word[0], "start")) {
        churn_start(args);
    } else if (text_equal(args->word[0], "stop")) {
        churn.on = false;
        ok();
    } else if (text_equal(args->word[0], "check")) {
        churn_check();
    } else {
        fail("churn start, churn stop or churn check");
    }
}

/* ---- disks and entropy ---- */

static void blk_info(unsigned disk)
{
    struct virtio_blk_info info;
    const char *why = virtio_blk_info(disk, &info);

    if (why != NULL) {
        fail(why);
        return;
    }
    out_text("ok");
    out_field("sectors", info.sectors);
    out_field("flush", info.has_flush);
    out_field("discard", info.has_discard);
    out_field("readonly", info.read_only);
    out_text(" serial=");
    out_line(info.serial);
}

static uint32_t piece_of(uint64_t sectors)
{
    return (uint32_t)(sectors < BUFFER_SECTORS ? sectors : BUFFER_SECTORS);
}

static const char *blk_sum(unsigned disk, uint64_t lba, uint64_t count, uint64_t *sum_out)
{
    *sum_out = 0;
    while (count > 0) {
        uint32_t n = piece_of(count);
        const char *why = virtio_blk_read(disk, lba, virtio_buffer, n * SECTOR_SIZE);

        if (why != NULL)
            return why;
        *sum_out += probe_sum_words(lba * PROBE_WORDS_PER_SECTOR, virtio_buffer,
                                    n * PROBE_WORDS_PER_SECTOR);
        lba += n;
        count -= n;
    }
    return NULL;
}

/* The device writes into RAM: pages change that no instruction touched. */
static const char *blk_load(unsigned disk, uint64_t lba, uint64_t count, uint64_t page)
{
    const uint64_t per_page = PROBE_PAGE_SIZE / SECTOR_SIZE;

    while (count > 0) {
        uint64_t n = piece_of(count);
        uint64_t room = memory_contiguous(page, (n + per_page - 1) / per_page) * per_page;
        const char *why;

        if (n > room)
            n = room;
        why = virtio_blk_read(disk, lba, (void *)memory_address(page), (uint32_t)n * SECTOR_SIZE);
        if (why != NULL)
            return why;
        lba += n;
        count -= n;
        page += n / per_page;
    }
    return NULL;
}

static const char *blk_write(unsigned disk, uint64_t lba, uint64_t count, uint64_t seed)
{
    while (count > 0) {
        uint32_t n = piece_of(count);
        const char *why;

        for (uint64_t i = 0; i < n * PROBE_WORDS_PER_SECTOR; i++)
            virtio_buffer[i] = probe_word(seed, lba * PROBE_WORDS_PER_SECTOR + i);
        why = virtio_blk_write(disk, lba, virtio_buffer, n * SECTOR_SIZE);
        if (why != NULL)
            return why;
        lba += n;
        count -= n;
    }
    return NULL;
}

static void reply_sectors(const char *why, uint64_t sectors)
{
    if (why != NULL) {
        fail(why);
        return;
    }
    out_text("ok");
    out_field("sectors", sectors);
    end();
}

static void reply_blk_sum(unsigned disk, const struct args *args)
{
    uint64_t sum;
    const char *why = blk_sum(disk, args->num[1], args->num[2], &sum);

    if (why != NULL) {
        fail(why);
        return;
    }
    out_text("ok");
    out_field("sectors", args->num[2]);
    out_field_hex("sum", sum);
    end();
}

static void blk_read(unsigned disk, const struct args *args)
{
    const uint64_t per_page = PROBE_PAGE_SIZE / SECTOR_SIZE;
    uint64_t count = args->num[2];

    if (args->count == 3) {
        reply_blk_sum(disk, args);
        return;
    }
    if (range_is_free(args->num[3], count / per_page + (count % per_page != 0)))
        reply_sectors(blk_load(disk, args->num[1], count, args->num[3]), count);
}

static bool blk_range(const struct args *args)
{
    if (args->count >= 3 && args->num[2] <= 1ull << 40)
        return true;
    fail("LBA and COUNT are needed");
    return false;
}

static void blk_on(unsigned disk, const struct args *args)
{
    const char *verb = args->word[0];

    if (text_equal(verb, "info"))
        blk_info(disk);
    else if (text_equal(verb, "flush"))
        ok_or_fail(virtio_blk_flush(disk));
    else if (!blk_range(args))
        return;
    else if (text_equal(verb, "read"))
        blk_read(disk, args);
    else if (text_equal(verb, "sum"))
        reply_blk_sum(disk, args);
    else if (text_equal(verb, "write") && args->count > 3)
        reply_sectors(blk_write(disk, args->num[1], args->num[2], args->num[3]), args->num[2]);
    else if (text_equal(verb, "discard"))
        reply_sectors(virtio_blk_discard(disk, args->num[1], (uint32_t)args->num[2]), args->num[2]);
    else if (text_equal(verb, "zero"))
        reply_sectors(virtio_blk_zero(disk, args->num[1], (uint32_t)args->num[2]), args->num[2]);
    else
        fail("blk info, read, write, sum, flush, discard or zero");
}

static void do_blk(const struct args *args)
{
    static unsigned disk;

    if (!text_equal(args->word[0], "use")) {
        blk_on(disk, args);
    } else if (args->count == 2 && args->num[1] < virtio_blk_count()) {
        disk = (unsigned)args->num[1];
        ok();
    } else {
        fail("no such disk");
    }
}

static void do_rng(const struct args *args)
{
    const uint8_t *bytes = (const uint8_t *)virtio_buffer;
    uint64_t count = args->num[0];
    const char *why;

    if (count == 0 || count > 64) {
        fail("1 to 64 bytes");
        return;
    }
    why = virtio_rng_read(virtio_buffer, (uint32_t)count);
    if (why != NULL) {
        fail(why);
        return;
    }
    out_text("ok bytes=");
    for (uint64_t i = 0; i < count; i++)
        out_hex(bytes[i], 2);
    end();
}

static void do_genid(const struct args *args)
{
    const volatile uint8_t *id = genid_find();

    (void)args;
    if (id == NULL) {
        fail("the tables tell of no generation id");
        return;
    }
    out_text("ok id=");
    for (unsigned i = 0; i < GENID_SIZE; i++)
        out_hex(id[i], 2);
    end();
}

/* ---- time and processor ---- */

static void do_tsc(const struct args *args)
{
    (void)args;
    out_text("ok");
    out_field("tsc", rdtsc());
    end();
}

static void do_kvmclock(const struct args *args)
{
    uint8_t flags;
    uint64_t ns;
    uint32_t sec, nsec;

    (void)args;
    if (!clock_has_kvmclock()) {
        fail("no kvmclock here");
        return;
    }
    ns = clock_kvmclock_ns(&flags);
    clock_kvm_wall(&sec, &nsec);
    out_text("ok");
    out_field("ns", ns);
    out_field("flags", flags);
    out_field("boot_sec", sec);
    out_field("boot_nsec", nsec);
    end();
}

static void out_two_digits(char before, unsigned value)
{
    const char text[4] = {before, (char)('0' + value / 10 % 10), (char)('0' + value % 10), '\0'};

    out_text(text);
}

static void do_time(const struct args *args)
{
    struct rtc_time now;

    (void)args;
    if (!clock_rtc(&now)) {
        fail("no clock chip answers");
        return;
    }
    out_text("ok rtc=");
    out_number(now.year);
    out_two_digits('-', now.month);
    out_two_digits('-', now.day);
    out_two_digits('T', now.hour);
    out_two_digits(':', now.minute);
    out_two_digits(':', now.second);
    out_line("Z");
}

static void do_regs(const struct args *args)
{
    uint64_t turns = args->count > 0 ? args->num[0] : 100000000;
    uint64_t changed = cpu_check_registers(turns);

    if (changed == 0) {
        ok();
        return;
    }
    out_text("error a register changed");
    out_field("register", changed);
    end();
}

static void do_fpu(const struct args *args)
{
    fpu_seed = args->num[0] & 0xffffffffffff; /* an x87 register set to 53 bits keeps it */
    cpu_fpu_set(fpu_seed);
    ok();
}

static void do_fpucheck(const struct args *args)
{
    uint64_t changed = cpu_fpu_check(fpu_seed);

    (void)args;
    if (changed == 0) {
        ok();
        return;
    }
    out_text("error floating point state changed");
    out_field_hex("mask", changed);
    end();
}

/* ---- the end ---- */

static void power_off(void)
{
    outb(0x600, 0x34);   /* ACPI sleep control: S5, enable */
    outw(0x604, 0x2000); /* the same for QEMU's PC */
    outb(0x501, 0);      /* isa-debug-exit, where it is usual */
    outb(0xf4, 0);
    for (;;)
        cpu_relax();
}

static void do_off(const struct args *args)
{
    (void)args;
    ok();
    power_off();
}

static void do_reset(const struct args *args)
{
    (void)args;
    ok();
    outb(0x64, 0xfe);
    for (;;)
        cpu_relax();
}

static void do_crash(const struct args *args)
{
    (void)args;
    __asm__ volatile("ud2");
}

void probe_exception(void)
{
    out_text("error exception");
    out_field("vector", exception_vector);
    out_field("cpl", exception_cs & 3);
    out_field_hex("code", exception_error);
    out_field_hex("rip", exception_rip);
    out_field_hex("cr2", exception_cr2);
    end();
    power_off();
}

/* ---- commands ---- */

static const struct command commands[] = {
    {"ping", "ping", 0, 0, 0, do_ping},
    {"info", "info", 0, 0, 0, do_info},
    {"fill", "fill START COUNT SEED", 3, 3, 0, do_fill},
    {"sum", "sum START COUNT", 2, 2, 0, do_sum},
    {"sumall", "sumall", 0, 0, 0, do_sumall},
    {"write", "write PAGE VALUE [INDEX]", 2, 3, 0, do_write},
    {"read", "read PAGE [INDEX]", 1, 2, 0, do_read},
    {"dirty", "dirty COUNT STRIDE SEED [START]", 3, 4, 0, do_dirty},
    {"count", "count start|stop|get", 1, 1, 1, do_count},
    {"idle", "idle on|off", 1, 1, 1, do_idle},
    {"tick", "tick on MS|off", 1, 2, 1, do_tick},
    {"churn", "churn start START COUNT BURST|stop|check", 1, 4, 1, do_churn},
    {"blk", "blk use|info|read|write|sum|flush|discard|zero ...", 1, 4, 1, do_blk},
    {"rng", "rng COUNT", 1, 1, 0, do_rng},
    {"genid", "genid", 0, 0, 0, do_genid},
    {"tsc", "tsc", 0, 0, 0, do_tsc},
    {"kvmclock", "kvmclock", 0, 0, 0, do_kvmclock},
    {"time", "time", 0, 0, 0, do_time},
    {"regs", "regs [TURNS]", 0, 1, 0, do_regs},
    {"fpu", "fpu SEED", 1, 1, 0, do_fpu},
    {"fpucheck", "fpucheck", 0, 0, 0, do_fpucheck},
    {"crash", "crash", 0, 0, 0, do_crash},
    {"reset", "reset", 0, 0, 0, do_reset},
    {"off", "off", 0, 0, 0, do_off},
};

static const struct command *find_command(const char *name)
{
    for (unsigned i = 0; i < sizeof(commands) / sizeof(commands[0]); i++) {
        if (text_equal(commands[i].name, name))
            return &commands[i];
    }
    return NULL;
}

static bool parse_args(const struct command *command, char **words, unsigned count,
                       struct args *out)
{
    out->count = count;
    for (unsigned i = 0; i < count; i++) {
        const char *rest;

        out->word[i] = words[i];
        out->num[i] = 0;
        out->is_num[i] = text_number(words[i], &out->num[i], &rest) && *rest == '\0';
        if (i >= command->first_num && !out->is_num[i])
            return false;
    }
    return count >= command->min && count <= command->max;
}

static void run_line(void)
{
    char *words[WORDS_MAX + 1];
    unsigned count = text_split(line, words, WORDS_MAX + 1);
    const struct command *command;
    struct args args;

    if (count == 0)
        return;
    probe_shared.commands++;
    command = find_command(words[0]);
    if (command == NULL) {
        fail("no such command");
    } else if (!parse_args(command, words + 1, count - 1, &args)) {
        out_text("error usage: ");
        out_line(command->usage);
    } else {
        command->run(&args);
    }
}

static void take_char(char c)
{
    if (c != '\n' && c != '\r') {
        if (line_used < sizeof(line) - 1)
            line[line_used++] = c;
        else
            line_too_long = true;
        return;
    }
    line[line_used] = '\0';
    if (line_too_long)
        fail("line too long");
    else
        run_line();
    line_used = 0;
    line_too_long = false;
}

static void turn(unsigned turns)
{
    volatile uint64_t *target = counting ? counter : &idle_counter;

    for (unsigned i = 0; i < turns; i++)
        ++*target;
    ((volatile struct probe_shared *)&probe_shared)->polls++;
}

void probe_main(void)
{
    bool found = memory_init(start_info);
    char c;

    probe_shared.magic = PROBE_SHARED_MAGIC;
    serial_init();
    if (!found) {
        fail("no PVH start info with a memory map");
        power_off();
    }
    virtio_init(memory_cmdline());
    out_text("stasis-probe 1 ready mem=");
    out_number(memory_pages() * PROBE_PAGE_SIZE);
    end();
    for (;;) {
        if (idling && !counting && !churn.on && tick_ns == 0)
            probe_sleep();
        else
            turn(line_used > 0 ? TURNS_IN_LINE : TURNS_IDLE);
        churn_step();
        tick();
        while (serial_get(&c))
            take_char(c);
    }
}
