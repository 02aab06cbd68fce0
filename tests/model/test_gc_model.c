/* SPDX-License-Identifier: Apache-2.0 */
/* All states that the model can reach, breadth first: what is found first is a
 * shortest way there. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "gc_model.h"

#include <stdlib.h>
#include <string.h>

struct found {
    struct state state;
    uint32_t from; /* number of the state before */
    const char *what;
};

struct search {
    unsigned rules;
    struct found *list; /* in the order they were found */
    uint32_t count, capacity;
    uint32_t *table; /* number + 1, by hash */
    uint32_t table_size;
    uint32_t current;
    const char *wrong;
    uint32_t wrong_at;
};

static uint32_t hash_of(const struct state *s)
{
    const uint8_t *bytes = (const uint8_t *)s;
    uint64_t h = UINT64_C(0xcbf29ce484222325);

    for (size_t i = 0; i < sizeof(*s); i++)
        h = (h ^ bytes[i]) * UINT64_C(0x100000001b3);
    return (uint32_t)(h ^ h >> 32);
}

/* The slot of that state, or the empty one where it belongs. */
static uint32_t *slot_of(const struct search *search, const struct state *s)
{
    uint32_t i = hash_of(s) & (search->table_size - 1);

    while (search->table[i] != 0 &&
           memcmp(&search->list[search->table[i] - 1].state, s, sizeof(*s)) != 0)
        i = (i + 1) & (search->table_size - 1);
    return &search->table[i];
}

static void grow(struct search *search)
{
    search->capacity = search->capacity == 0 ? 1 << 16 : search->capacity * 2;
    search->table_size = search->capacity * 2;
    search->list = realloc(search->list, search->capacity * sizeof(*search->list));
    free(search->table);
    search->table = calloc(search->table_size, sizeof(*search->table));
    assert_non_null(search->list);
    assert_non_null(search->table);
    for (uint32_t i = 0; i < search->count; i++)
        *slot_of(search, &search->list[i].state) = i + 1;
}

static void add(const struct state *s, const char *what, void *context)
{
    struct search *search = context;
    uint32_t *slot;

    if (search->count == search->capacity)
        grow(search);
    slot = slot_of(search, s);
    if (*slot != 0)
        return;
    search->list[search->count++] = (struct found){*s, search->current, what};
    *slot = search->count;
    if (search->wrong == NULL) {
        search->wrong = model_wrong(s, search->rules);
        search->wrong_at = search->count - 1;
    }
}

static void explore(struct search *search)
{
    struct state start = model_start();

    add(&start, "start", search);
    for (; search->current < search->count && search->wrong == NULL; search->current++) {
        struct state s = search->list[search->current].state;

        model_steps(&s, search->rules, add, search);
    }
}

static unsigned trace(const struct search *search, uint32_t at, bool print)
{
    unsigned steps = at == 0 ? 0 : 1 + trace(search, search->list[at].from, print);

    if (print && at != 0)
        print_message("  %2u  %s\n", steps, search->list[at].what);
    return steps;
}

static void search_clear(struct search *search)
{
    free(search->list);
    free(search->table);
}

static void with_all_rules_nothing_goes_wrong(void **state)
{
    struct search search = {.rules = ALL_RULES};

    (void)state;
    explore(&search);
    if (search.wrong != NULL)
        trace(&search, search.wrong_at, true);
    print_message("%u states\n", search.count);
    if (search.wrong != NULL)
        fail_msg("%s", search.wrong);
    assert_true(search.count > 100000);
    search_clear(&search);
}

static void without_any_one_of_them_something_does(void **state)
{
    bool print = getenv("MODEL_TRACE") != NULL;

    (void)state;
    for (unsigned i = 0; i < RULE_COUNT; i++) {
        struct search search = {.rules = ALL_RULES & ~(1u << i)};

        explore(&search);
        if (search.wrong == NULL)
            fail_msg("all is well without \"%s\"", rule_name(1u << i));
        if (print)
            print_message("\n");
        print_message("without \"%s\": %s, after %u steps\n", rule_name(1u << i), search.wrong,
                      trace(&search, search.wrong_at, print));
        search_clear(&search);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(with_all_rules_nothing_goes_wrong),
        cmocka_unit_test(without_any_one_of_them_something_does),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
