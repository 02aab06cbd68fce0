/* SPDX-License-Identifier: Apache-2.0 */
/* What CMocka wants included, in its order. */
#ifndef STASIS_TESTS_CLI_TEST_H
#define STASIS_TESTS_CLI_TEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#endif
