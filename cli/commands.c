/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/command.h"
#include "cli/verbs/verbs.h"

static const struct command *const machines[] = {
    &command_run,   &command_ls,     &command_console, &command_logs,
    &command_pause, &command_resume, &command_stop,    &command_kill,
    &command_wait,  &command_rm,     &command_balloon, NULL,
};

static const struct command *const watching[] = {
    &command_top,
    &command_events,
    &command_inspect,
    NULL,
};

static const struct command *const checkpoints[] = {
    &command_save, &command_restore, &command_clone, &command_history, &command_diff, NULL,
};

static const struct command *const images[] = {
    &command_import, &command_images, &command_tag,     &command_untag, &command_push,
    &command_pull,   &command_send,   &command_receive, NULL,
};

static const struct command *const guests[] = {
    &command_exec,
    &command_shell,
    &command_cp,
    NULL,
};

static const struct command *const inside[] = {
    &command_cat,    &command_tree, &command_find_files, &command_mount, &command_umount,
    &command_export, NULL,
};

static const struct command *const store[] = {
    &command_df, &command_gc, &command_verify, &command_repair, &command_doctor, NULL,
};

static const struct command *const program[] = {
    &command_completion,      &command_help,     &command_version,
    &command_machine_process, &command_complete, NULL,
};

const struct command_group command_groups[] = {
    {"Machines", machines},       {"Inside machines", guests}, {"Watching", watching},
    {"Checkpoints", checkpoints}, {"Images", images},          {"Looking inside", inside},
    {"Store and host", store},    {"This program", program},   {NULL, NULL},
};
