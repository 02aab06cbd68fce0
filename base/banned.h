/* SPDX-License-Identifier: Apache-2.0 */
/* Calls that overrun buffers, hide errors or are not thread-safe do not
 * compile. Force-included into every C file of the project (CMakeLists.txt). */
#ifndef STASIS_BASE_BANNED_H
#define STASIS_BASE_BANNED_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#pragma GCC poison strcpy strcat strncpy strncat sprintf vsprintf gets strtok strtok_r
#pragma GCC poison atoi atol atoll atof system popen tmpnam mktemp asctime ctime gmtime localtime

#endif
