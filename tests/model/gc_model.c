/* SPDX-License-Identifier: Apache-2.0 */
#include "gc_model.h"

#include <stddef.h>

enum writer_step { W_IDLE, W_BEGUN, W_READY, W_WROTE, W_KEPT, W_DONE };
enum reader_step { R_IDLE, R_PINNED, R_DONE };
enum collector_step { C_IDLE, C_MARKED, C_PLANNED, C_CONDEMNED, C_DELETING };

#define COPY (1u << (PACKS - 1))

const char *rule_name(unsigned rule)
{
    static const char *const names[RULE_COUNT] = {
        "waiting for leases",   "the lease before the view",
        "condemned is missing", "keeping",
        "looking at the epoch", "marking again",
        "pins are roots",       "copies in one transaction",
        "rows before files",    "leases of the dead end",
    };

    for (unsigned i = 0; i < RULE_COUNT; i++)
        if (rule == 1u << i)
            return names[i];
    return "none";
}

struct state model_start(void)
{
    return (struct state){.epoch = 1, .listed = 1, .files = 1, .checkpoints = 1, .runs = 3};
}

static unsigned live(const struct state *s)
{
    return s->listed & ~(unsigned)s->condemned;
}

static unsigned lowest(unsigned set)
{
    return set & -set;
}

/* ---- the search's side ---- */

struct out {
    void (*visit)(const struct state *next, const char *what, void *context);
    void *context;
    unsigned rules;
};

static void next(const struct out *out, const struct state *s, const char *what)
{
    out->visit(s, what, out->context);
}

static bool has(const struct out *out, enum rule rule)
{
    return (out->rules & rule) != 0;
}

/* ---- writers ---- */

static void take_lease(struct state *s, struct writer *w)
{
    w->lease = (uint8_t)(s->epoch + 1);
}

static void take_view(const struct out *out, struct state *s, struct writer *w)
{
    w->view = (uint8_t)(has(out, RULE_MISS) ? live(s) : s->listed);
}

/* The lease, then the view; or the other way round. */
static void writer_begin(const struct out *out, struct state s, unsigned n)
{
    struct writer *w = &s.writers[n];
    bool lease = (w->step == W_IDLE) == has(out, RULE_LEASE_FIRST);

    if (lease)
        take_lease(&s, w);
    else
        take_view(out, &s, w);
    w->step++;
    next(out, &s, lease ? "a writer takes its lease" : "a writer takes its view");
}

static void writer_write(const struct out *out, struct state s, unsigned n)
{
    struct writer *w = &s.writers[n];

    w->step = W_WROTE;
    /* Building on a checkpoint, it looks for nothing. */
    if (s.checkpoints != 0)
        next(out, &s, "a writer builds on a checkpoint");
    if (w->view == 0) {
        w->own = 1;
        s.files |= (uint8_t)(2u << n);
    }
    next(out, &s, w->own ? "a writer stores the page" : "a writer finds the page");
}

/* As ingest_keep(): only where packs were condemned is there anything to look at. */
static void writer_keep(const struct out *out, struct state s, unsigned n)
{
    struct writer *w = &s.writers[n];
    bool look = s.condemned != 0 || s.epoch + 1 != w->lease;

    w->step = W_KEPT;
    w->kept_epoch = s.epoch;
    w->revive = 0;
    if (look && !w->own && has(out, RULE_KEEP) && live(&s) == 0) {
        w->revive = (uint8_t)lowest(s.listed);
        s.lost |= s.listed == 0;
    }
    next(out, &s, "a writer looks what it must keep");
}

static void writer_commit(const struct out *out, struct state s, unsigned n)
{
    struct writer *w = &s.writers[n];

    if (w->kept_epoch != s.epoch && has(out, RULE_EPOCH)) {
        w->step = W_WROTE;
        next(out, &s, "a writer must look again");
        return;
    }
    s.condemned &= (uint8_t)~w->revive;
    s.epoch = (uint8_t)(s.epoch + (w->revive != 0));
    s.listed |= (uint8_t)(w->own ? 2u << n : 0);
    s.checkpoints |= (uint8_t)(2u << n);
    *w = (struct writer){.step = W_DONE};
    next(out, &s, "a writer commits");
}

/* Or gives up, which is the same. */
static void writer_die(const struct out *out, struct state s, unsigned n)
{
    struct writer *w = &s.writers[n];
    uint8_t lease = has(out, RULE_THE_DEAD) ? 0 : w->lease;

    if (w->own)
        s.files &= (uint8_t) ~(2u << n);
    *w = (struct writer){.step = W_DONE, .lease = lease};
    next(out, &s, "a writer dies");
}

static void writer_steps(const struct out *out, const struct state *s, unsigned n)
{
    static void (*const steps[])(const struct out *out, struct state s, unsigned n) = {
        writer_begin, writer_begin, writer_write, writer_keep, writer_commit,
    };
    unsigned step = s->writers[n].step;

    if (step == W_DONE)
        return;
    steps[step](out, *s, n);
    if (step != W_IDLE)
        writer_die(out, *s, n);
}

/* ---- names and readers ---- */

static void remover_steps(const struct out *out, const struct state *s)
{
    for (unsigned set = s->checkpoints; set != 0; set &= set - 1) {
        struct state t = *s;

        t.checkpoints &= (uint8_t)~lowest(set);
        next(out, &t, "a checkpoint is removed");
    }
}

static void reader_steps(const struct out *out, const struct state *s)
{
    struct state t = *s;

    if (s->reader == R_IDLE) {
        t.reader = R_PINNED;
        for (unsigned set = s->checkpoints; set != 0; set &= set - 1) {
            t.pin = (uint8_t)lowest(set);
            next(out, &t, "a reader pins a checkpoint");
        }
    } else if (s->reader == R_PINNED) {
        t.reader = R_DONE;
        t.pin = 0;
        next(out, &t, "a reader ends");
    }
}

/* ---- the collector ---- */

static unsigned roots(const struct state *s, unsigned rules)
{
    return s->checkpoints | ((rules & RULE_PINS) != 0 ? s->pin : 0u);
}

static void collector_mark(const struct out *out, struct state s)
{
    if (s.runs == 0)
        return;
    s.runs--;
    s.collector = C_MARKED;
    s.marked = (uint8_t)roots(&s, out->rules);
    s.old = (uint8_t)live(&s);
    next(out, &s, "the collector marks");
}

/* Dead packs go; of those with the page, any may be sparse. */
static void collector_plan(const struct out *out, struct state s)
{
    s.collector = C_PLANNED;
    s.victims = s.marked == 0 ? s.old : 0;
    next(out, &s, "the collector plans what is dead");
    for (unsigned set = s.marked != 0 ? s.old : 0; set != 0; set &= set - 1) {
        struct state t = s;

        t.victims = (uint8_t)lowest(set);
        if ((s.old & ~(unsigned)t.victims) == 0) {
            if (((s.files | s.listed) & COPY) != 0)
                continue; /* there is one pack for that */
            t.copy = 1;
            t.files |= COPY;
        }
        next(out, &t, "the collector copies a sparse pack");
    }
}

static void collector_condemn(const struct out *out, struct state s)
{
    unsigned now = roots(&s, out->rules);

    if ((now & ~(unsigned)s.marked) != 0 && has(out, RULE_MARK_AGAIN)) {
        /* Packs that were dead are not. What was copied was marked before. */
        if (s.marked == 0)
            s.victims = 0;
        s.marked |= (uint8_t)now;
        next(out, &s, "the collector marks what came meanwhile");
        return;
    }
    s.epoch++;
    for (unsigned i = 0; i < PACKS; i++)
        if ((s.victims >> i & 1) != 0 && (s.condemned >> i & 1) == 0)
            s.condemned_at[i] = s.epoch;
    s.condemned |= (uint8_t)(s.victims & s.listed);
    if (s.copy == 1 && has(out, RULE_TOGETHER)) {
        s.copy = 2;
        s.listed |= COPY;
    }
    s.collector = C_CONDEMNED;
    next(out, &s, "the collector condemns");
}

static unsigned deletable(const struct state *s, unsigned rules)
{
    unsigned set = s->condemned;

    for (unsigned i = 0; i < PACKS; i++)
        for (unsigned n = 0; n < WRITERS; n++)
            if (s->writers[n].lease != 0 && s->writers[n].lease - 1 < s->condemned_at[i] &&
                (rules & RULE_LEASE_WAIT) != 0)
                set &= ~(1u << i);
    return set;
}

static void delete_rows(struct state *s, unsigned set)
{
    s->listed &= (uint8_t)~set;
    s->condemned &= (uint8_t)~set;
    s->epoch = (uint8_t)(s->epoch + (set != 0));
    for (unsigned i = 0; i < PACKS; i++)
        if ((set >> i & 1) != 0)
            s->condemned_at[i] = 0;
}

static void collector_delete(const struct out *out, struct state s)
{
    s.doomed = (uint8_t)deletable(&s, out->rules);
    s.collector = C_DELETING;
    if (has(out, RULE_ROWS_FIRST))
        delete_rows(&s, s.doomed);
    else
        s.files &= (uint8_t)~s.doomed;
    next(out, &s,
         has(out, RULE_ROWS_FIRST) ? "the collector deletes rows" : "the collector unlinks files");
}

static void collector_rest(struct state *s)
{
    s->collector = C_IDLE;
    s->marked = s->old = s->victims = s->copy = s->doomed = 0;
}

static void collector_end(const struct out *out, struct state s)
{
    if (has(out, RULE_ROWS_FIRST))
        s.files &= (uint8_t)~s.doomed;
    else
        delete_rows(&s, s.doomed);
    if (s.copy == 1)
        s.listed |= COPY;
    collector_rest(&s);
    next(out, &s,
         has(out, RULE_ROWS_FIRST) ? "the collector unlinks files" : "the collector deletes rows");
}

/* Whoever opens the store next removes files that nobody lists and nobody locks. */
static void collector_die(const struct out *out, struct state s)
{
    unsigned locked = 0;

    for (unsigned n = 0; n < WRITERS; n++)
        locked |= s.writers[n].own ? 2u << n : 0;
    s.files &= (uint8_t)(s.listed | locked);
    collector_rest(&s);
    next(out, &s, "the collector dies");
}

static void collector_steps(const struct out *out, const struct state *s)
{
    static void (*const steps[])(const struct out *out, struct state s) = {
        collector_mark, collector_plan, collector_condemn, collector_delete, collector_end,
    };

    steps[s->collector](out, *s);
    if (s->collector != C_IDLE)
        collector_die(out, *s);
}

void model_steps(const struct state *s, unsigned rules,
                 void (*visit)(const struct state *next, const char *what, void *context),
                 void *context)
{
    const struct out out = {visit, context, rules};

    for (unsigned n = 0; n < WRITERS; n++)
        writer_steps(&out, s, n);
    remover_steps(&out, s);
    reader_steps(&out, s);
    collector_steps(&out, s);
}

/* ---- what must hold ---- */

static bool at_rest(const struct state *s)
{
    for (unsigned n = 0; n < WRITERS; n++)
        if (s->writers[n].step != W_IDLE && s->writers[n].step != W_DONE)
            return false;
    return s->reader != R_PINNED && s->collector == C_IDLE;
}


static void keep_last(const struct state *s, const char *what, void *context)
{
    (void)what;
    *(struct state *)context = *s;
}

/* One undisturbed collection of what nobody needs. */
static bool garbage_stays(struct state s, unsigned rules)
{
    static void (*const steps[])(const struct out *out, struct state s) = {
        collector_mark, collector_plan, collector_condemn, collector_delete, collector_end,
    };
    const struct out out = {keep_last, &s, rules};

    s.runs = 1;
    for (unsigned i = 0; i < sizeof(steps) / sizeof(steps[0]); i++)
        steps[i](&out, s);
    return s.listed != 0 || s.files != 0;
}

const char *model_wrong(const struct state *s, unsigned rules)
{
    if (s->lost)
        return "a writer has lost what it relied on";
    if ((s->listed & ~(unsigned)s->files) != 0)
        return "a pack of the catalogue has no file";
    if ((s->checkpoints | s->pin) != 0 && (s->listed & s->files) == 0)
        return "a checkpoint or pin has lost its page";
    if (at_rest(s) && s->checkpoints == 0 && garbage_stays(*s, rules))
        return "garbage stays for ever";
    return NULL;
}
