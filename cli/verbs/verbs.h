/* SPDX-License-Identifier: Apache-2.0 */
/* All verbs; each is in the file of its name. */
#ifndef STASIS_CLI_VERBS_VERBS_H
#define STASIS_CLI_VERBS_VERBS_H

#include "cli/app.h"
#include "cli/command.h"

extern const struct command command_balloon;
extern const struct command command_cat;
extern const struct command command_clone;
extern const struct command command_complete;
extern const struct command command_completion;
extern const struct command command_console;
extern const struct command command_cp;
extern const struct command command_df;
extern const struct command command_diff;
extern const struct command command_doctor;
extern const struct command command_events;
extern const struct command command_exec;
extern const struct command command_export;
extern const struct command command_find_files;
extern const struct command command_gc;
extern const struct command command_help;
extern const struct command command_history;
extern const struct command command_images;
extern const struct command command_import;
extern const struct command command_inspect;
extern const struct command command_kill;
extern const struct command command_logs;
extern const struct command command_ls;
extern const struct command command_machine_process;
extern const struct command command_mount;
extern const struct command command_pause;
extern const struct command command_pull;
extern const struct command command_push;
extern const struct command command_receive;
extern const struct command command_restore;
extern const struct command command_resume;
extern const struct command command_rm;
extern const struct command command_run;
extern const struct command command_save;
extern const struct command command_send;
extern const struct command command_shell;
extern const struct command command_stop;
extern const struct command command_tag;
extern const struct command command_top;
extern const struct command command_tree;
extern const struct command command_umount;
extern const struct command command_untag;
extern const struct command command_verify;
extern const struct command command_repair;
extern const struct command command_version;
extern const struct command command_wait;

#endif
