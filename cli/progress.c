/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/progress.h"

#include "base/clock.h"
#include "cli/interrupt.h"
#include "cli/text.h"
#include "imgfmt/page.h"

#include <unistd.h>

enum { NS_PER_US = 1000, NS_PER_S = 1000000000, REDRAW_NS = 200000000 };

void progress_begin(struct progress *p, const char *what, uint64_t total)
{
    *p = (struct progress){
        .what = what,
        .total = total,
        .started_ns = clock_monotonic_ns(),
        .terminal = isatty(STDERR_FILENO) == 1,
    };
    interrupt_catch();
}

void progress_end(struct progress *p)
{
    if (p->shown_ns != 0)
        fputs("\r\033[K", stderr);
    p->shown_ns = 0;
}

char *progress_format(const char *what, uint64_t done, uint64_t total, uint64_t elapsed_ns,
                      char out[160])
{
    char a[TEXT_SIZE];
    char b[TEXT_SIZE];
    const double seconds = (double)elapsed_ns / NS_PER_S;
    const double rate = seconds > 0 ? (double)done / seconds : 0;

    int used = snprintf(out, 160, "%s  %s", what, text_bytes(done, a));
    if (total > 0 && done <= total)
        used += snprintf(out + used, 160 - (size_t)used, " of %s, %u%%", text_bytes(total, b),
                         (unsigned)((double)done * 100 / (double)total));
    used += snprintf(out + used, 160 - (size_t)used, ", %s/s", text_bytes((uint64_t)rate, a));
    if (total > done && rate >= 1)
        snprintf(out + used, 160 - (size_t)used, ", %s left",
                 text_span((int64_t)((double)(total - done) / rate * 1e6), b));
    return out;
}

int progress_step(struct progress *p, uint64_t done)
{
    char line[160];
    const uint64_t now = clock_monotonic_ns();

    if (interrupt_pending())
        return 1;
    if (!p->terminal || now - p->started_ns < NS_PER_S || now - p->shown_ns < REDRAW_NS)
        return 0;
    fprintf(stderr, "\r%.79s\033[K",
            progress_format(p->what, done, p->total, now - p->started_ns, line));
    fflush(stderr);
    p->shown_ns = now;
    return 0;
}

int progress_bytes(uint64_t done_bytes, void *context)
{
    return progress_step(context, done_bytes);
}

int progress_pages(uint64_t done_pages, void *context)
{
    return progress_step(context, done_pages << STASIS_PAGE_SHIFT);
}

int progress_bytes_of(uint64_t done_bytes, uint64_t total_bytes, void *context)
{
    struct progress *p = context;

    p->total = total_bytes;
    return progress_step(p, done_bytes);
}

int progress_what(const char *what, uint64_t done_bytes, uint64_t total_bytes, void *context)
{
    struct progress *p = context;

    p->what = what;
    return progress_bytes_of(done_bytes, total_bytes, context);
}
