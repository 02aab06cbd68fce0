/* SPDX-License-Identifier: Apache-2.0 */
#include "fuse-mount/ext.h"

#include "base/bytes.h"
#include "base/cleanup.h"
#include "fuse-mount/ext_internal.h"

#include <errno.h>
#include <limits.h>
#include <sys/sysmacros.h>

#define SUPER_OFFSET 1024u
#define SUPER_SIZE 1024u
#define SUPER_MAGIC 0xef53u
#define GROUPS_MAX (1u << 20) /* 64 MiB of group descriptors; 128 TiB at 4 KiB blocks */
#define LINK_BYTES_MAX PATH_MAX

/* What sets ext4 apart from ext3: anything beyond what ext3 knows. */
#define EXT3_INCOMPAT                                                                              \
    (EXT2_FEATURE_INCOMPAT_FILETYPE | EXT3_FEATURE_INCOMPAT_RECOVER | EXT2_FEATURE_INCOMPAT_META_BG)
#define EXT3_RO_COMPAT                                                                             \
    (EXT2_FEATURE_RO_COMPAT_SPARSE_SUPER | EXT2_FEATURE_RO_COMPAT_LARGE_FILE |                     \
     0x0004 /* BTREE_DIR, never used */)

void ext_begin(struct ext *fs)
{
    pthread_mutex_lock(&fs->lock);
    fs->device.budget = EXT_CALL_BLOCKS_MAX;
    fs->device.error = 0;
}

static int errno_of(errcode_t e, int device_error)
{
    if (e == 0)
        return 0;
    if (e == EXT2_ET_SHORT_READ && device_error != 0)
        return device_error == -ERANGE ? -EUCLEAN : device_error;
    switch (e) {
    case EXT2_ET_FILE_NOT_FOUND:
        return -ENOENT;
    case EXT2_ET_NO_DIRECTORY:
        return -ENOTDIR;
    case EXT2_ET_NO_MEMORY:
        return -ENOMEM;
    default:
        return e > 0 && e < 256 ? -(int)e : -EUCLEAN;
    }
}

int ext_end(struct ext *fs, errcode_t error)
{
    int r = errno_of(error, fs->device.error);

    pthread_mutex_unlock(&fs->lock);
    return r;
}

/* ---- opening ---- */

bool ext_is_present(const struct source *src)
{
    uint8_t magic[2];

    return source_read(src, SUPER_OFFSET + 0x38, magic, sizeof(magic)) == 0 &&
           load_le16(magic) == SUPER_MAGIC;
}

/* What libext2fs takes on trust, because it would reserve memory for it. */
static int super_check(const struct source *src, struct error *err)
{
    uint8_t sb[SUPER_SIZE];
    uint32_t log_block_size, per_group;
    uint64_t blocks, bytes;
    int r = source_read(src, SUPER_OFFSET, sb, sizeof(sb));

    if (r < 0)
        return error_errno(err, -r, "cannot read the file system's superblock");
    log_block_size = load_le32(sb + 0x18);
    per_group = load_le32(sb + 0x20);
    blocks = load_le32(sb + 0x04);
    if (load_le32(sb + 0x60) & EXT4_FEATURE_INCOMPAT_64BIT)
        blocks |= (uint64_t)load_le32(sb + 0x150) << 32;
    if (load_le16(sb + 0x38) != SUPER_MAGIC || log_block_size > 6 || per_group == 0)
        return error_corrupt(err, "the file system's superblock is damaged");
    if (mul_overflows(blocks, UINT64_C(1024) << log_block_size, &bytes) || bytes > src->size_bytes)
        return error_corrupt(err, "the file system is larger than the partition it is on");
    if (blocks / per_group >= GROUPS_MAX)
        return error_corrupt(err, "the file system has more block groups than can be");
    return 0;
}

static int open_failed(const struct ext *fs, errcode_t e, struct error *err)
{
    int r = errno_of(e, fs->device.error);

    if (e == EXT2_ET_UNSUPP_FEATURE || e == EXT2_ET_RO_UNSUPP_FEATURE)
        return error_set(err, STATUS_FAILED, EPROTONOSUPPORT,
                         "the file system has features libext2fs does not know");
    if (r == -EUCLEAN)
        return error_corrupt(err, "the file system is damaged: %s", error_message(e));
    return error_errno(err, -r, "cannot read the file system");
}

/* Collects the journal's blocks. *count_out 0: it has none of its own. */
static errcode_t journal_locate(struct ext *fs, uint64_t **blocks_out, uint64_t *count_out)
{
    _cleanup_free_ uint64_t *blocks = NULL;
    _cleanup_free_ struct ext_run *runs = NULL;
    _cleanup_(ext_map_close) struct ext_map map = {0};
    uint32_t number = fs->fs->super->s_journal_inum;
    struct ext2_inode inode;
    uint64_t count;
    errcode_t e;

    if (number == 0)
        return 0;
    e = ext2fs_read_inode(fs->fs, number, &inode);
    if (e == 0)
        e = ext_map_open(fs, number, &inode, &map);
    if (e != 0)
        return e;
    count = min_u64(EXT2_I_SIZE(&inode) / fs->fs->blocksize, JOURNAL_BLOCKS_MAX);
    blocks = calloc(count + 1, sizeof(*blocks));
    runs = calloc(1024, sizeof(*runs));
    if (blocks == NULL || runs == NULL)
        return EXT2_ET_NO_MEMORY;
    for (uint64_t at = 0; at < count;) {
        size_t run_count = 0;

        e = ext_map_range(fs, &map, at, min_u64(1024, count - at), runs, &run_count);
        if (e != 0)
            return e;
        for (size_t i = 0; i < run_count; i++)
            for (uint64_t k = 0; k < runs[i].count; k++)
                blocks[at++] = runs[i].physical == 0 ? 0 : runs[i].physical + k;
    }
    *blocks_out = steal_pointer(blocks);
    *count_out = count;
    return 0;
}

/* Fills the overlay and opens the file system again through it. */
static int replay(struct ext *fs, struct error *err)
{
    _cleanup_free_ uint64_t *blocks = NULL;
    struct journal journal = {.fs = &fs->device.src,
                              .block_size = fs->fs->blocksize,
                              .fs_blocks = ext2fs_blocks_count(fs->fs->super)};
    errcode_t e = journal_locate(fs, &blocks, &journal.count);
    int r;

    if (e != 0)
        return open_failed(fs, e, err);
    if (journal.count == 0)
        return error_set(err, STATUS_FAILED, ENOTSUP,
                         "the file system needs its journal, which is on another device");
    journal.blocks = blocks;
    r = journal_replay(&journal, &fs->overlay, &fs->report, err);
    if (r < 0)
        return r;
    fs->has_report = true;
    ext2fs_close_free(&fs->fs);
    ext_device_clear(&fs->device); /* what it has cached is older than the overlay */
    fs->device.overlay = &fs->overlay;
    e = ext_device_open(&fs->device, 0, &fs->fs);
    return e != 0 ? open_failed(fs, e, err) : 0;
}

static void describe(struct ext *fs)
{
    const struct ext2_super_block *sb = fs->fs->super;

    if ((sb->s_feature_incompat & ~EXT3_INCOMPAT) || (sb->s_feature_ro_compat & ~EXT3_RO_COMPAT))
        fs->type = "ext4";
    else
        fs->type = sb->s_feature_compat & EXT3_FEATURE_COMPAT_HAS_JOURNAL ? "ext3" : "ext2";
    memcpy(fs->label, sb->s_volume_name, sizeof(sb->s_volume_name));
    for (char *p = fs->label; *p != '\0'; p++) /* it ends up on somebody's terminal */
        if ((unsigned char)*p < 0x20 || *p == 0x7f)
            *p = '?';
}

int ext_open(const struct source *src, struct ext **out, struct error *err)
{
    struct ext *fs;
    errcode_t e;
    int r = super_check(src, err);

    if (r < 0)
        return r;
    fs = calloc(1, sizeof(*fs));
    if (fs == NULL)
        return error_errno(err, ENOMEM, "cannot open a file system");
    pthread_mutex_init(&fs->lock, NULL);
    fs->device.src = *src;
    /* Before the replay the superblock may be half old, half new. */
    e = ext_device_open(&fs->device, EXT2_FLAG_IGNORE_CSUM_ERRORS, &fs->fs);
    if (e != 0)
        r = open_failed(fs, e, err);
    else if (ext2fs_has_feature_journal_needs_recovery(fs->fs->super))
        r = replay(fs, err);
    else
        fs->fs->flags &= ~EXT2_FLAG_IGNORE_CSUM_ERRORS;
    if (r < 0) {
        ext_close(fs);
        return r;
    }
    describe(fs);
    *out = fs;
    return 0;
}

void ext_close(struct ext *fs)
{
    if (fs == NULL)
        return;
    if (fs->fs != NULL)
        ext2fs_close_free(&fs->fs);
    ext_device_clear(&fs->device);
    overlay_clear(&fs->overlay);
    pthread_mutex_destroy(&fs->lock);
    free(fs);
}

const char *ext_type(const struct ext *fs)
{
    return fs->type;
}

const char *ext_label(const struct ext *fs)
{
    return fs->label;
}

const struct journal_report *ext_journal_report(const struct ext *fs)
{
    return fs->has_report ? &fs->report : NULL;
}

/* ---- inodes ---- */

/* Seconds are 32 bits, two more of them lie below the nanoseconds. */
static struct timespec time_of(const struct ext2_inode_large *inode, uint32_t seconds,
                               const uint32_t *extra_field)
{
    size_t extra_end = (size_t)((const char *)(extra_field + 1) - (const char *)inode);
    uint32_t extra = *extra_field;
    struct timespec t = {.tv_sec = (int32_t)seconds};

    if (extra_end <= EXT2_GOOD_OLD_INODE_SIZE + (size_t)inode->i_extra_isize) {
        t.tv_sec += (time_t)((uint64_t)(extra & 3) << 32);
        t.tv_nsec = extra >> 2;
        if (t.tv_nsec > 999999999)
            t.tv_nsec = 0;
    }
    return t;
}

static dev_t device_of(const struct ext2_inode *inode)
{
    uint32_t old = inode->i_block[0], new = inode->i_block[1];

    if (!S_ISCHR(inode->i_mode) && !S_ISBLK(inode->i_mode))
        return 0;
    if (old != 0)
        return makedev((old >> 8) & 0xff, old & 0xff);
    return makedev((new >> 8) & 0xfff, (new & 0xff) | ((new >> 12) & 0xfff00));
}

static void stat_fill(ext2_filsys fs, uint32_t number, struct ext2_inode_large *large,
                      struct stat *out)
{
    struct ext2_inode *inode = EXT2_INODE(large);

    *out = (struct stat){
        .st_ino = number,
        .st_mode = inode->i_mode,
        .st_nlink = inode->i_links_count,
        .st_uid = inode_uid(*inode),
        .st_gid = inode_gid(*inode),
        .st_rdev = device_of(inode),
        .st_size = (off_t)min_u64(EXT2_I_SIZE(inode), INT64_MAX),
        .st_blksize = fs->blocksize,
        .st_blocks = (blkcnt_t)(ext2fs_get_stat_i_blocks(fs, inode) & INT64_MAX),
        .st_atim = time_of(large, large->i_atime, &large->i_atime_extra),
        .st_mtim = time_of(large, large->i_mtime, &large->i_mtime_extra),
        .st_ctim = time_of(large, large->i_ctime, &large->i_ctime_extra),
    };
}

static bool type_is_known(uint32_t mode)
{
    switch (mode & S_IFMT) {
    case S_IFREG:
    case S_IFDIR:
    case S_IFLNK:
    case S_IFCHR:
    case S_IFBLK:
    case S_IFIFO:
    case S_IFSOCK:
        return true;
    default:
        return false;
    }
}

int ext_stat(struct ext *fs, uint32_t inode, struct stat *out)
{
    struct ext2_inode_large large = {0};
    errcode_t e;

    ext_begin(fs);
    e = ext2fs_read_inode_full(fs->fs, inode, EXT2_INODE(&large), sizeof(large));
    if (e == 0 && large.i_links_count == 0)
        e = EXT2_ET_FILE_NOT_FOUND;
    else if (e == 0 && !type_is_known(large.i_mode))
        e = EXT2_ET_BAD_INODE_NUM;
    if (e == 0)
        stat_fill(fs->fs, inode, &large, out);
    return ext_end(fs, e);
}

/* ---- directories ---- */

static bool name_is_dots(const char *name, size_t length)
{
    return (length == 1 && name[0] == '.') || (length == 2 && name[0] == '.' && name[1] == '.');
}

int ext_lookup(struct ext *fs, uint32_t directory, const char *name, uint32_t *inode_out)
{
    size_t length = strlen(name);
    ext2_ino_t inode = 0;
    errcode_t e;
    int r;

    if (name_is_dots(name, length) || length > EXT2_NAME_LEN)
        return -ENOENT;
    ext_begin(fs);
    e = ext2fs_check_directory(fs->fs, directory);
    if (e == 0)
        e = ext2fs_lookup(fs->fs, directory, name, (int)length, NULL, &inode);
    r = ext_end(fs, e);
    if (r == 0)
        *inode_out = inode;
    return r;
}

int ext_check_parent(struct ext *fs, uint32_t directory, uint32_t parent)
{
    ext2_ino_t up = 0;
    int r;

    ext_begin(fs);
    r = ext_end(fs, ext2fs_lookup(fs->fs, directory, "..", 2, NULL, &up));
    if (r == -ENOENT || (r == 0 && (up != parent || directory == EXT_ROOT_INODE)))
        r = -EUCLEAN;
    return r;
}

struct list_context {
    struct listing *list;
    int error;
};

static uint32_t mode_of_file_type(int type)
{
    static const uint32_t modes[] = {
        [EXT2_FT_REG_FILE] = S_IFREG, [EXT2_FT_DIR] = S_IFDIR,  [EXT2_FT_CHRDEV] = S_IFCHR,
        [EXT2_FT_BLKDEV] = S_IFBLK,   [EXT2_FT_FIFO] = S_IFIFO, [EXT2_FT_SOCK] = S_IFSOCK,
        [EXT2_FT_SYMLINK] = S_IFLNK,
    };

    return type > 0 && (size_t)type < ARRAY_LEN(modes) ? modes[type] : 0;
}

static int list_visit(ext2_ino_t dir, int entry, struct ext2_dir_entry *dirent, int offset,
                      int block_size, char *buf, void *context)
{
    struct list_context *c = context;
    size_t length = (size_t)ext2fs_dirent_name_len(dirent);

    (void)dir, (void)entry, (void)offset, (void)block_size, (void)buf;
    if (dirent->inode == 0 || length == 0 || name_is_dots(dirent->name, length) ||
        memchr(dirent->name, '/', length) != NULL || memchr(dirent->name, '\0', length) != NULL)
        return 0;
    c->error = listing_add(c->list, dirent->name, length, dirent->inode,
                           mode_of_file_type(ext2fs_dirent_file_type(dirent)));
    return c->error < 0 ? DIRENT_ABORT : 0;
}

int ext_list(struct ext *fs, uint32_t directory, struct listing *out)
{
    _cleanup_(listing_clear) struct listing list = {0};
    struct list_context context = {.list = &list};
    errcode_t e;
    int r;

    ext_begin(fs);
    e = ext2fs_dir_iterate2(fs->fs, directory, 0, NULL, list_visit, &context);
    r = ext_end(fs, e);
    if (r == 0)
        r = context.error;
    if (r < 0)
        return r;
    *out = list;
    list = (struct listing){0};
    return 0;
}

/* ---- symbolic links ---- */

static errcode_t link_load(struct ext *fs, uint32_t number, struct ext2_inode *inode, char *target,
                           size_t length)
{
    _cleanup_(ext_map_close) struct ext_map map = {0};
    size_t inline_length = 0, run_count = 0;
    struct ext_run run;
    uint64_t offset;
    errcode_t e;

    if (inode->i_flags & EXT4_INLINE_DATA_FL) {
        e = ext2fs_inline_data_size(fs->fs, number, &inline_length);
        if (e == 0 && (inline_length < length || inline_length > LINK_BYTES_MAX))
            e = EXT2_ET_SYMLINK_LOOP;
        return e != 0 ? e : ext2fs_inline_data_get(fs->fs, number, inode, target, &inline_length);
    }
    if (ext2fs_is_fast_symlink(inode)) {
        memcpy(target, inode->i_block, min_u64(length, sizeof(inode->i_block)));
        return 0;
    }
    e = ext_map_open(fs, number, inode, &map);
    if (e == 0)
        e = ext_map_range(fs, &map, 0, 1, &run, &run_count);
    if (e != 0 || run_count != 1 || run.physical == 0 || length > fs->fs->blocksize ||
        mul_overflows(run.physical, fs->fs->blocksize, &offset))
        return e != 0 ? e : EXT2_ET_CORRUPT_SUPERBLOCK;
    fs->device.error = overlay_read(&fs->device.src, &fs->overlay, offset, target, length);
    return fs->device.error < 0 ? EXT2_ET_SHORT_READ : 0;
}

int ext_readlink(struct ext *fs, uint32_t inode, char **out)
{
    _cleanup_free_ char *target = calloc(1, LINK_BYTES_MAX + 1);
    struct ext2_inode raw;
    uint64_t length = 0;
    bool is_link = false;
    errcode_t e;
    int r;

    if (target == NULL)
        return -ENOMEM;
    ext_begin(fs);
    e = ext2fs_read_inode(fs->fs, inode, &raw);
    if (e == 0) {
        is_link = LINUX_S_ISLNK(raw.i_mode);
        length = EXT2_I_SIZE(&raw);
        if (is_link && (length == 0 || length > LINK_BYTES_MAX))
            e = EXT2_ET_SYMLINK_LOOP;
        else if (is_link)
            e = link_load(fs, inode, &raw, target, length);
    }
    r = ext_end(fs, e);
    if (r == 0 && !is_link)
        r = -EINVAL;
    if (r == 0 && raw.i_flags & EXT4_ENCRYPT_FL)
        r = -ENOKEY;
    if (r < 0)
        return r;
    target[length] = '\0';
    *out = steal_pointer(target);
    return 0;
}
