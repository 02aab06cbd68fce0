/* SPDX-License-Identifier: Apache-2.0 */
/* Memory that runs out: defines malloc() and its like for the program and all its
 * libraries. */
#ifndef STASIS_TESTS_CRASH_OOM_H
#define STASIS_TESTS_CRASH_OOM_H

#include <stdbool.h>
#include <stdint.h>

/* From now on the `at`th request for memory fails; 0: none. Starts counting anew. */
void oom_fail(uint64_t at);
/* Has it failed? */
bool oom_failed(void);
/* This thread's requests do not count meanwhile. */
void oom_pause(void);
void oom_resume(void);

#endif
