// SPDX-License-Identifier: Apache-2.0
// Walks a directory without leaving its file system mount and prints one line for each name, the directory itself first:
//   PATH TYPE MODE UID GID SECONDS NANOSECONDS INODE SIZE CONTENT XATTRS
// PATH, CONTENT (a link's target; a file's SHA-256; a device's numbers) and XATTRS (name=value,...) are hexadecimal, "-"
// where empty. Any failure is said on standard error and ends the walk with status 1.
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#ifndef STATX_MNT_ID
#define STATX_MNT_ID 0x1000U
#endif

static void fail(const char *what, const char *path) {
    fprintf(stderr, "walk: %s %s: %s\n", what, path, strerror(errno));
    exit(1);
}

static void hex(const unsigned char *bytes, size_t length) {
    if (length == 0) putchar('-');
    for (size_t i = 0; i < length; i++) printf("%02x", bytes[i]);
}

// FIPS 180-4, section 6.2.
static const uint32_t K[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5, 0xd807aa98, 0x12835b01,
    0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174, 0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc,
    0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da, 0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147,
    0x06ca6351, 0x14292967, 0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070, 0x19a4c116, 0x1e376c08,
    0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3, 0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208,
    0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

static uint32_t turn(uint32_t x, int n) { return x >> n | x << (32 - n); }

static void block(uint32_t h[8], const unsigned char *p) {
    uint32_t w[64], v[8];
    for (int i = 0; i < 16; i++)
        w[i] = (uint32_t)p[4 * i] << 24 | (uint32_t)p[4 * i + 1] << 16 | (uint32_t)p[4 * i + 2] << 8 | p[4 * i + 3];
    for (int i = 16; i < 64; i++)
        w[i] = w[i - 16] + w[i - 7] + (turn(w[i - 15], 7) ^ turn(w[i - 15], 18) ^ w[i - 15] >> 3) +
               (turn(w[i - 2], 17) ^ turn(w[i - 2], 19) ^ w[i - 2] >> 10);
    memcpy(v, h, sizeof v);
    for (int i = 0; i < 64; i++) {
        uint32_t one = v[7] + (turn(v[4], 6) ^ turn(v[4], 11) ^ turn(v[4], 25)) + ((v[4] & v[5]) ^ (~v[4] & v[6])) + K[i] + w[i];
        uint32_t two = (turn(v[0], 2) ^ turn(v[0], 13) ^ turn(v[0], 22)) + ((v[0] & v[1]) ^ (v[0] & v[2]) ^ (v[1] & v[2]));
        memmove(v + 1, v, 7 * sizeof *v);
        v[4] += one;
        v[0] = one + two;
    }
    for (int i = 0; i < 8; i++) h[i] += v[i];
}

static void print_digest(int fd, const char *path) {
    uint32_t h[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    static unsigned char buffer[1 << 16];
    size_t kept = 0;
    uint64_t total = 0;
    for (;;) {
        ssize_t got = read(fd, buffer + kept, sizeof buffer - kept - 128);
        if (got < 0) fail("reading", path);
        if (got == 0) break;
        total += (uint64_t)got;
        kept += (size_t)got;
        size_t done = 0;
        for (; kept - done >= 64; done += 64) block(h, buffer + done);
        memmove(buffer, buffer + done, kept - done);
        kept -= done;
    }
    buffer[kept++] = 0x80;
    size_t end = kept <= 56 ? 64 : 128;
    memset(buffer + kept, 0, end - kept);
    for (int i = 0; i < 8; i++) buffer[end - 1 - i] = (unsigned char)(total * 8 >> (8 * i));
    for (size_t at = 0; at < end; at += 64) block(h, buffer + at);
    for (int i = 0; i < 8; i++) printf("%08x", h[i]);
}

static int by_name(const void *one, const void *other) { return strcmp(*(char *const *)one, *(char *const *)other); }

// Prints all attributes of an open O_PATH descriptor, by way of /proc (or of its own path, where that is all there is).
static void print_xattrs(const char *link, const char *path) {
    static char names[1 << 16];
    static unsigned char value[1 << 16];
    char *sorted[1024];
    size_t count = 0;
    ssize_t length = llistxattr(link, names, sizeof names);
    if (length < 0 && errno != ENOTSUP) fail("listing attributes of", path);
    for (ssize_t at = 0; at < length; at += (ssize_t)strlen(names + at) + 1) sorted[count++] = names + at;
    qsort(sorted, count, sizeof *sorted, by_name);
    if (count == 0) putchar('-');
    for (size_t i = 0; i < count; i++) {
        ssize_t got = lgetxattr(link, sorted[i], value, sizeof value);
        if (got < 0) fail("reading an attribute of", path);
        if (i > 0) putchar(',');
        hex((unsigned char *)sorted[i], strlen(sorted[i]));
        putchar('=');
        hex(value, (size_t)got);
    }
}

static void walk(int parent, const char *name, const char *path, uint64_t mount) {
    struct statx st;
    if (statx(parent, name, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT, STATX_BASIC_STATS | STATX_MNT_ID, &st) != 0) fail("looking at", path);
    // Calls by name from the parent's directory: paths may be longer than one call takes.
    if (fchdir(parent) != 0) fail("entering the parent of", path);
    if (mount != 0 && st.stx_mnt_id != mount) return;
    hex((const unsigned char *)path, strlen(path));
    static const char types[] = "?pc?d?b?-?l?s???";
    printf(" %c %o %u %u %lld %u %llu ", types[st.stx_mode >> 12], st.stx_mode & 07777, st.stx_uid, st.stx_gid,
           (long long)st.stx_mtime.tv_sec, st.stx_mtime.tv_nsec, (unsigned long long)st.stx_ino);
    int is_directory = S_ISDIR(st.stx_mode);
    printf("%llu ", S_ISREG(st.stx_mode) ? (unsigned long long)st.stx_size : 0);
    if (S_ISREG(st.stx_mode)) {
        int fd = openat(parent, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
        if (fd < 0) fail("opening", path);
        print_digest(fd, path);
        close(fd);
    } else if (S_ISLNK(st.stx_mode)) {
        static char target[4096];
        ssize_t length = readlinkat(parent, name, target, sizeof target);
        if (length < 0) fail("reading", path);
        hex((unsigned char *)target, (size_t)length);
    } else if (S_ISCHR(st.stx_mode) || S_ISBLK(st.stx_mode)) {
        char numbers[32];
        int length = snprintf(numbers, sizeof numbers, "%u:%u", st.stx_rdev_major, st.stx_rdev_minor);
        hex((unsigned char *)numbers, (size_t)length);
    } else {
        putchar('-');
    }
    putchar(' ');
    print_xattrs(name, path);
    putchar('\n');
    if (!is_directory) return;
    int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0) fail("opening", path);
    DIR *directory = fdopendir(fd);
    if (directory == NULL) fail("reading", path);
    for (;;) {
        errno = 0;
        struct dirent *entry = readdir(directory);
        if (entry == NULL) break;
        if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..")) continue;
        char *below = NULL;
        if (asprintf(&below, "%s%s%s", path, *path ? "/" : "", entry->d_name) < 0) fail("naming", path);
        walk(fd, entry->d_name, below, st.stx_mnt_id);
        free(below);
    }
    if (errno != 0) fail("reading", path);
    closedir(directory);
}

int main(int argc, char **argv) {
    const char *root = argc > 1 ? argv[1] : "/";
    int fd = open(root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) fail("opening", root);
    walk(fd, ".", "", 0);
    if (fflush(stdout) != 0) fail("writing", "the walk");
    return 0;
}
