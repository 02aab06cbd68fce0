/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Checkpoints leaving a store and entering another: what send, receive, push and
 * pull have in common. The sender's words are not believed: the importer
 * computes every key and every SHA-256 itself.
 */
#ifndef STASIS_STORE_TRANSFER_H
#define STASIS_STORE_TRANSFER_H

#include "store/ingest.h"
#include "store/store.h"

/* ---- leaving: everything one checkpoint needs, each thing once ---- */

struct transfer_visitor {
    /* Map nodes, children before parents. `bytes` is the encoded node. */
    int (*node)(const struct digest *digest, const void *bytes, size_t length, void *context);
    /* Distinct non-zero pages in the order of the spaces (memory first) and of
     * page numbers within each. */
    int (*page)(struct page_ref ref, const void *bytes, void *context);
    int (*blob)(const struct digest *digest, const void *data, size_t length, void *context);
    void *context;
};

/* Any callback may be NULL (its things are then not read). A non-zero return
 * stops the walk and is returned. */
int transfer_export(struct store *store, const struct digest *checkpoint,
                    const struct transfer_visitor *visitor, struct error *err);

/* ---- entering ---- */

struct transfer_import;

int transfer_import_begin(struct store *store, struct transfer_import **out, struct error *err);
void transfer_import_free(struct transfer_import *im); /* abandons what was not finished */

/* A page the sender calls `sender_ref`. Refused (-EBADMSG) when its key is not
 * that of the bytes. Where this store gives it another variant, maps are
 * rewritten at the end. */
int transfer_import_page(struct transfer_import *im, struct page_ref sender_ref, const void *bytes,
                         struct error *err);
/* A node with this SHA-256, in any order. Checked. */
int transfer_import_node(struct transfer_import *im, const void *bytes, size_t length,
                         struct error *err);
/* At most one, as a checkpoint has. */
int transfer_import_blob(struct transfer_import *im, const void *data, size_t length,
                         struct error *err);

/*
 * Ends with the manifest's canonical bytes: checks that all it reaches has
 * arrived or was here, and commits. The checkpoint's id is the sender's unless
 * variants had to change. image and tag may be NULL.
 */
int transfer_import_finish(struct transfer_import *im, const char *manifest, size_t length,
                           const char *image, const char *tag, bool replace_tag,
                           struct digest *id_out, struct error *err);

#endif
