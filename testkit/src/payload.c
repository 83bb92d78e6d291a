/* SPDX-License-Identifier: Apache-2.0
 * A container's whole user land in one static program, for machines on which nothing is installed but a C compiler.
 * Each word is a command, by the name it is called with or as its first argument; see payload.rs for the list. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

static int fail(const char *what) {
    fprintf(stderr, "payload: %s: %s\n", what, strerror(errno));
    return 1;
}

static void end_quietly(int number) { _exit(number == SIGTERM ? 0 : 128 + number); }

static int hold(void) {
    signal(SIGTERM, end_quietly);
    signal(SIGINT, end_quietly);
    puts("ready");
    fflush(stdout);
    while (pause() == -1) {}
    return 0;
}

static int copy(int from) {
    char buffer[65536];
    ssize_t got;
    while ((got = read(from, buffer, sizeof buffer)) > 0)
        if (write(1, buffer, (size_t)got) != got) return fail("writing");
    return got < 0 ? fail("reading") : 0;
}

static int cat(char **names) {
    if (!*names) return copy(0);
    for (; *names; names++) {
        int from = open(*names, O_RDONLY);
        if (from < 0 || copy(from)) return fail(*names);
        close(from);
    }
    return 0;
}

static int list(char **names) {
    struct dirent **entries;
    int count = scandir(*names ? *names : ".", &entries, NULL, alphasort);
    if (count < 0) return fail(*names ? *names : ".");
    for (int i = 0; i < count; i++)
        if (strcmp(entries[i]->d_name, ".") && strcmp(entries[i]->d_name, "..")) puts(entries[i]->d_name);
    return 0;
}

static int show(char **names) {
    for (; *names; names++) {
        struct stat s;
        if (lstat(*names, &s)) return fail(*names);
        printf("%06o %u %u %lld %s\n", (unsigned)s.st_mode, s.st_uid, s.st_gid, (long long)s.st_size, *names);
    }
    return 0;
}

static int put(char **words) {
    int to = words[0] ? open(words[0], O_WRONLY | O_CREAT | O_TRUNC, 0644) : -1;
    if (to < 0 || !words[1]) return fail(words[0] ? words[0] : "write FILE TEXT");
    size_t length = strlen(words[1]);
    return write(to, words[1], length) == (ssize_t)length && !close(to) ? 0 : fail(words[0]);
}

/* A process that has left its parent's ids, session and family: what a careless engine leaves behind. */
static int scatter(const char *id) {
    unsigned number = id ? (unsigned)atoi(id) : 1;
    if (setgid(number) || setuid(number)) return fail("setuid");
    for (int i = 0; i < 2; i++) {
        pid_t child = fork();
        if (child < 0) return fail("fork");
        if (child == 0) {
            setsid();
            if (fork() == 0) for (;;) pause();
            _exit(0);
        }
        waitpid(child, NULL, 0);
    }
    return hold();
}

/* Makes each call, written NUMBER[,ARGUMENT...], in a process of its own, and prints its errno, or the signal it died of. */
static int calls(char **words) {
    for (; *words; words++) {
        pid_t child = fork();
        if (child < 0) return fail("fork");
        if (child == 0) {
            unsigned long word[7] = {0};
            char *at = *words;
            for (int i = 0; i < 7 && *at; i++) {
                word[i] = strtoul(at, &at, 0);
                if (*at == ',') at++;
            }
            _exit(syscall((long)word[0], word[1], word[2], word[3], word[4], word[5], word[6]) == -1 ? errno : 0);
        }
        int status;
        if (waitpid(child, &status, 0) < 0) return fail("wait");
        if (WIFSIGNALED(status)) printf("%s signal %d\n", *words, WTERMSIG(status));
        else printf("%s %d\n", *words, WEXITSTATUS(status));
    }
    return 0;
}

int main(int count, char **words) {
    const char *slash = strrchr(words[0], '/'), *name = slash ? slash + 1 : words[0];
    char **rest = words + 1;
    if (!strcmp(name, "payload") && count > 1) name = *rest++;
    if (!strcmp(name, "true")) return 0;
    if (!strcmp(name, "false")) return 1;
    if (!strcmp(name, "exit")) return *rest ? atoi(*rest) : 0;
    if (!strcmp(name, "cat")) return cat(rest);
    if (!strcmp(name, "ls")) return list(rest);
    if (!strcmp(name, "stat")) return show(rest);
    if (!strcmp(name, "write")) return put(rest);
    if (!strcmp(name, "rm")) return *rest && !unlink(*rest) ? 0 : fail("rm");
    if (!strcmp(name, "hold")) return hold();
    if (!strcmp(name, "scatter")) return scatter(*rest);
    if (!strcmp(name, "stubborn")) return signal(SIGTERM, SIG_IGN), puts("ready"), fflush(stdout), pause(), 1;
    if (!strcmp(name, "sleep")) return *rest ? (int)sleep((unsigned)atoi(*rest)) : 0;
    if (!strcmp(name, "syscall")) return calls(rest);
    if (!strcmp(name, "id")) return printf("uid=%u gid=%u\n", getuid(), getgid()) < 0;
    if (!strcmp(name, "pwd")) return puts(getcwd((char[4096]){0}, 4096)) < 0;
    if (!strcmp(name, "env")) {
        for (char **one = environ; *one; one++) puts(*one);
        return 0;
    }
    if (!strcmp(name, "echo")) {
        for (; *rest; rest++) printf("%s%s", *rest, rest[1] ? " " : "");
        return puts("") < 0;
    }
    fprintf(stderr, "payload: no command %s\n", name);
    return 127;
}
