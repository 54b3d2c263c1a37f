/*
 * The heap wrapper of `tagvisor record`: puts heap events into the recorded program's own access stream.
 *
 * What it does. valgrind's lackey prints every load and store of a program, in order, but knows nothing of its heap.
 * This library, preloaded, tells it: each malloc-family call also stores single bytes into a WINDOW of addresses that
 * nothing else uses. The address of such a store is the message, so heap events and accesses share one ordered stream:
 *
 *     lane = (address - WINDOW) >> 16        payload = (address - WINDOW) & 0xffff
 *     lane 0        commit: the payload is the operation; it takes the registers filled so far and clears them
 *     lane 1..3     register `pointer`, 16 bits each, lowest first
 *     lane 4..7     register `size`, likewise
 *     lane 8..10    register `old pointer`, likewise (realloc only)
 *
 * A zero chunk is not sent. Everything between an opening commit (BEGIN, FREE) and a closing one (MALLOC, REALLOC, END)
 * is the allocator's own bookkeeping; the importer leaves it out, because replay puts another allocator in its place.
 *
 * The heap's layout is made to look like Scudo's: requests are rounded up to whole 16-byte granules, so with glibc's
 * 16 bytes of chunk header each payload is followed by one granule that belongs to nobody's data. The size that was
 * asked for is kept in that granule, for malloc_usable_size. Memory is never given back to the kernel and never mapped
 * apart, so an address that was heap once is heap for ever.
 *
 * String functions. x86's read whole vectors and run past the end of a string, into granules that are not the
 * caller's; Arm's, built for tagged memory, do not. So that an overread of the C library is not taken for one of the
 * program, plain ones stand in for them: valgrind redirects functions whose replacement carries a name of its form, also
 * where the C library calls itself. (memcheck does the same for the same reason.)
 *
 * What it leaves out. Statically linked programs (nothing to preload into), programs that bring their own malloc, C
 * libraries other than glibc (whose __libc_* entry points are used because a search by dlsym would itself allocate).
 *
 * Invariant. One mutex is held from the opening to the closing commit, so events of several threads do not mix and an
 * address is never handed out again before its release is in the stream. A call made from inside the wrapper by the
 * same thread goes straight through. Outside valgrind (a child that the program starts) the wrapper is inert.
 */
#define _GNU_SOURCE
#include <ctype.h>
#include <dlfcn.h>
#include <errno.h>
#include <malloc.h>
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/mman.h>
#include <unistd.h>
#include <wchar.h>

#define WINDOW ((uintptr_t)TAGVISOR_WINDOW) /* from the command line: one definition, in the importer */
#define LANES 11
#define GRANULE ((size_t)16)
#define API __attribute__((visibility("default")))

enum op { HELLO = 1, BEGIN = 2, MALLOC = 3, FREE = 4, REALLOC = 5, END = 6 };
enum lane { COMMIT = 0, POINTER = 1, SIZE = 4, OLD_POINTER = 8 };

extern void *__libc_malloc(size_t);
extern void *__libc_calloc(size_t, size_t);
extern void *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t);
extern void __libc_free(void *);

enum state { UNKNOWN, INERT, ACTIVE };

static enum state state = UNKNOWN;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static size_t (*real_usable_size)(void *);
/* initial-exec: the general model may allocate the thread's block, which would call this wrapper. */
static __thread int depth __attribute__((tls_model("initial-exec")));

/* valgrind's RUNNING_ON_VALGRIND client request, x86-64 encoding: a sequence that does nothing on a processor. */
static uint64_t running_on_valgrind(void)
{
    volatile uint64_t request[6] = {0x1001, 0, 0, 0, 0, 0};
    uint64_t result = 0;
    __asm__ volatile("rolq $3, %%rdi; rolq $13, %%rdi; rolq $61, %%rdi; rolq $51, %%rdi; xchgq %%rbx, %%rbx"
                     : "=d"(result)
                     : "a"(&request[0]), "0"(result)
                     : "cc", "memory");
    return result;
}

static void send(unsigned lane, uint16_t payload)
{
    *(volatile unsigned char *)(WINDOW + ((uintptr_t)lane << 16) + payload) = 1;
}

static void send_wide(unsigned first_lane, unsigned lanes, uint64_t value)
{
    for (unsigned i = 0; i < lanes; i++, value >>= 16)
        if (value & 0xffff)
            send(first_lane + i, (uint16_t)value);
}

static void commit(enum op op, const void *pointer, size_t size, const void *old)
{
    send_wide(POINTER, 3, (uintptr_t)pointer);
    send_wide(SIZE, 4, size);
    send_wide(OLD_POINTER, 3, (uintptr_t)old);
    send(COMMIT, op);
}

static void before_fork(void) { pthread_mutex_lock(&lock); }
static void after_fork(void) { pthread_mutex_unlock(&lock); }

static void die(const char *why)
{
    static const char head[] = "tagvisor record: ";
    if (write(2, head, sizeof head - 1) < 0 || write(2, why, strlen(why)) < 0)
        _exit(120);
    _exit(120);
}

/* The first call of the process decides; it comes from the dynamic loader or a constructor, before any thread. */
static void initialise(void)
{
    depth++;
    state = INERT;
    if (running_on_valgrind()) {
        void *at = mmap((void *)WINDOW, (size_t)LANES << 16, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
        if (at != (void *)WINDOW)
            die("the program occupies the addresses that heap events are sent to\n");
        *(void **)&real_usable_size = dlsym(RTLD_NEXT, "malloc_usable_size");
        if (!real_usable_size)
            die("the C library has no malloc_usable_size (is it glibc?)\n");
        mallopt(M_ARENA_MAX, 1);
        mallopt(M_MMAP_MAX, 0);
        mallopt(M_TRIM_THRESHOLD, -1);
        pthread_atfork(before_fork, after_fork, after_fork);
        state = ACTIVE;
        commit(HELLO, NULL, 0, NULL);
    }
    depth--;
}

__attribute__((constructor)) static void at_start(void)
{
    if (state == UNKNOWN)
        initialise();
}

/* True when this call is to be recorded; then the lock is held until leave(). */
static int enter(void)
{
    if (depth)
        return 0;
    if (state == UNKNOWN)
        initialise();
    if (state != ACTIVE)
        return 0;
    depth = 1;
    pthread_mutex_lock(&lock);
    return 1;
}

static void leave(void)
{
    pthread_mutex_unlock(&lock);
    depth = 0;
}

/* 0 when the size is too large to round; malloc is then asked for the impossible and says ENOMEM itself. */
static size_t rounded(size_t size)
{
    if (size > PTRDIFF_MAX - 4 * GRANULE)
        return PTRDIFF_MAX;
    return size ? (size + GRANULE - 1) & ~(GRANULE - 1) : GRANULE;
}

static size_t *size_slot(void *pointer)
{
    return (size_t *)((char *)pointer + real_usable_size(pointer) - sizeof(size_t));
}

static void *allocated(void *pointer, size_t size)
{
    if (pointer) {
        *size_slot(pointer) = size;
        commit(MALLOC, pointer, size, NULL);
    } else {
        commit(END, NULL, 0, NULL);
    }
    leave();
    return pointer;
}

API void *malloc(size_t size)
{
    if (!enter())
        return __libc_malloc(size);
    commit(BEGIN, NULL, 0, NULL);
    return allocated(__libc_malloc(rounded(size)), size);
}

API void *calloc(size_t count, size_t each)
{
    size_t size;
    if (!enter())
        return __libc_calloc(count, each);
    commit(BEGIN, NULL, 0, NULL);
    if (__builtin_mul_overflow(count, each, &size))
        size = SIZE_MAX;
    return allocated(__libc_calloc(1, rounded(size)), size);
}

API void free(void *pointer)
{
    if (!pointer || !enter()) {
        __libc_free(pointer);
        return;
    }
    /* Sent before the call: a double free ends the process inside it, and the trace should say why. */
    commit(FREE, pointer, 0, NULL);
    __libc_free(pointer);
    commit(END, NULL, 0, NULL);
    leave();
}

API void *realloc(void *old, size_t size)
{
    void *pointer;
    if (!old)
        return malloc(size);
    if (!size) {
        free(old);
        return NULL;
    }
    if (!enter())
        return __libc_realloc(old, size);
    commit(BEGIN, NULL, 0, NULL);
    pointer = __libc_realloc(old, rounded(size));
    if (pointer) {
        *size_slot(pointer) = size;
        commit(REALLOC, pointer, size, old);
    } else {
        commit(END, NULL, 0, NULL);
    }
    leave();
    return pointer;
}

API void *reallocarray(void *old, size_t count, size_t each)
{
    size_t size;
    if (__builtin_mul_overflow(count, each, &size)) {
        errno = ENOMEM;
        return NULL;
    }
    return realloc(old, size);
}

API void *memalign(size_t alignment, size_t size)
{
    if (!enter())
        return __libc_memalign(alignment, size);
    commit(BEGIN, NULL, 0, NULL);
    return allocated(__libc_memalign(alignment, rounded(size)), size);
}

API void *aligned_alloc(size_t alignment, size_t size) { return memalign(alignment, size); }

API int posix_memalign(void **result, size_t alignment, size_t size)
{
    void *pointer;
    int saved = errno;
    if (alignment % sizeof(void *) || !alignment || (alignment & (alignment - 1)))
        return EINVAL;
    pointer = memalign(alignment, size);
    errno = saved;
    if (!pointer)
        return ENOMEM;
    *result = pointer;
    return 0;
}

API void *valloc(size_t size) { return memalign((size_t)sysconf(_SC_PAGESIZE), size); }

API void *pvalloc(size_t size)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    return memalign(page, (size + page - 1) & ~(page - 1));
}

/* What was asked for, as Scudo answers: a program that uses all it is told it has stays inside its tags. */
API size_t malloc_usable_size(void *pointer)
{
    size_t room, size;
    if (!pointer)
        return 0;
    if (state != ACTIVE) {
        if (!real_usable_size)
            *(void **)&real_usable_size = dlsym(RTLD_NEXT, "malloc_usable_size");
        return real_usable_size ? real_usable_size(pointer) : 0;
    }
    room = real_usable_size(pointer) - sizeof(size_t);
    size = *size_slot(pointer);
    return size <= room ? size : room & ~(GRANULE - 1);
}

/* valgrind's name for "instead of `function` in libc.so*": class 2007, priority 0, soname encoded, function plain. */
#define INSTEAD_OF(function, result, name, ...)                                                                       \
    API result name(__VA_ARGS__) __asm__("_vgr20070ZU_libcZdsoZa_" #function);                                        \
    API result name(__VA_ARGS__)

INSTEAD_OF(strlen, size_t, plain_strlen, const char *s)
{
    size_t n = 0;
    while (s[n])
        n++;
    return n;
}

INSTEAD_OF(strnlen, size_t, plain_strnlen, const char *s, size_t max)
{
    size_t n = 0;
    while (n < max && s[n])
        n++;
    return n;
}

INSTEAD_OF(strchrnul, char *, plain_strchrnul, const char *s, int c)
{
    while (*s && *s != (char)c)
        s++;
    return (char *)s;
}

static char *find_char(const char *s, int c)
{
    for (; *s != (char)c; s++)
        if (!*s)
            return NULL;
    return (char *)s;
}

INSTEAD_OF(strchr, char *, plain_strchr, const char *s, int c) { return find_char(s, c); }
INSTEAD_OF(index, char *, plain_index, const char *s, int c) { return find_char(s, c); }

static char *find_last_char(const char *s, int c)
{
    const char *found = NULL;
    do {
        if (*s == (char)c)
            found = s;
    } while (*s++);
    return (char *)found;
}

INSTEAD_OF(strrchr, char *, plain_strrchr, const char *s, int c) { return find_last_char(s, c); }
INSTEAD_OF(rindex, char *, plain_rindex, const char *s, int c) { return find_last_char(s, c); }

INSTEAD_OF(memchr, void *, plain_memchr, const void *memory, int c, size_t n)
{
    for (const unsigned char *p = memory; n--; p++)
        if (*p == (unsigned char)c)
            return (void *)p;
    return NULL;
}

INSTEAD_OF(memrchr, void *, plain_memrchr, const void *memory, int c, size_t n)
{
    const unsigned char *p = memory;
    while (n--)
        if (p[n] == (unsigned char)c)
            return (void *)(p + n);
    return NULL;
}

INSTEAD_OF(rawmemchr, void *, plain_rawmemchr, const void *memory, int c)
{
    const unsigned char *p = memory;
    while (*p != (unsigned char)c)
        p++;
    return (void *)p;
}

static int compare_memory(const unsigned char *a, const unsigned char *b, size_t n)
{
    for (; n; n--, a++, b++)
        if (*a != *b)
            return *a - *b;
    return 0;
}

INSTEAD_OF(memcmp, int, plain_memcmp, const void *a, const void *b, size_t n) { return compare_memory(a, b, n); }
INSTEAD_OF(__memcmpeq, int, plain_memcmpeq, const void *a, const void *b, size_t n) { return compare_memory(a, b, n); }
INSTEAD_OF(bcmp, int, plain_bcmp, const void *a, const void *b, size_t n) { return compare_memory(a, b, n); }

static char *copy_string(char *to, const char *from)
{
    while ((*to = *from++))
        to++;
    return to;
}

INSTEAD_OF(stpcpy, char *, plain_stpcpy, char *to, const char *from) { return copy_string(to, from); }
INSTEAD_OF(__stpcpy, char *, plain_stpcpy2, char *to, const char *from) { return copy_string(to, from); }

INSTEAD_OF(strcpy, char *, plain_strcpy, char *to, const char *from)
{
    copy_string(to, from);
    return to;
}

static char *copy_padded(char *to, const char *from, size_t n)
{
    char *end;
    for (; n && *from; n--)
        *to++ = *from++;
    for (end = to; n; n--)
        *to++ = 0;
    return end;
}

INSTEAD_OF(stpncpy, char *, plain_stpncpy, char *to, const char *from, size_t n) { return copy_padded(to, from, n); }

INSTEAD_OF(strncpy, char *, plain_strncpy, char *to, const char *from, size_t n)
{
    copy_padded(to, from, n);
    return to;
}

INSTEAD_OF(strcat, char *, plain_strcat, char *to, const char *from)
{
    char *end = to;
    while (*end)
        end++;
    copy_string(end, from);
    return to;
}

INSTEAD_OF(strncat, char *, plain_strncat, char *to, const char *from, size_t n)
{
    char *end = to;
    while (*end)
        end++;
    for (; n && *from; n--)
        *end++ = *from++;
    *end = 0;
    return to;
}

static int compare(const char *a, const char *b, size_t n)
{
    for (; n && *a && *a == *b; n--)
        a++, b++;
    return n ? (unsigned char)*a - (unsigned char)*b : 0;
}

INSTEAD_OF(strcmp, int, plain_strcmp, const char *a, const char *b) { return compare(a, b, SIZE_MAX); }
INSTEAD_OF(strncmp, int, plain_strncmp, const char *a, const char *b, size_t n) { return compare(a, b, n); }

/* The locale's letters, as the C library's own: tolower looks into a table and calls none of these functions. */
static int compare_folded(const char *a, const char *b, size_t n)
{
    int difference = 0;
    for (; n; n--, a++, b++) {
        difference = tolower((unsigned char)*a) - tolower((unsigned char)*b);
        if (difference || !*a)
            break;
    }
    return difference;
}

INSTEAD_OF(strcasecmp, int, plain_strcasecmp, const char *a, const char *b) { return compare_folded(a, b, SIZE_MAX); }
INSTEAD_OF(strncasecmp, int, plain_strncasecmp, const char *a, const char *b, size_t n)
{
    return compare_folded(a, b, n);
}

static size_t span(const char *s, const char *set, int wanted)
{
    size_t n = 0;
    while (s[n] && !!find_char(set, s[n]) == wanted)
        n++;
    return n;
}

INSTEAD_OF(strspn, size_t, plain_strspn, const char *s, const char *set) { return span(s, set, 1); }
INSTEAD_OF(strcspn, size_t, plain_strcspn, const char *s, const char *set) { return span(s, set, 0); }

INSTEAD_OF(strpbrk, char *, plain_strpbrk, const char *s, const char *set)
{
    s += span(s, set, 0);
    return *s ? (char *)s : NULL;
}

INSTEAD_OF(strstr, char *, plain_strstr, const char *haystack, const char *needle)
{
    size_t at;
    for (;; haystack++) {
        for (at = 0; needle[at] && haystack[at] == needle[at]; at++)
            ;
        if (!needle[at])
            return (char *)haystack;
        if (!*haystack)
            return NULL;
    }
}

INSTEAD_OF(wcslen, size_t, plain_wcslen, const wchar_t *s)
{
    size_t n = 0;
    while (s[n])
        n++;
    return n;
}

INSTEAD_OF(wcsnlen, size_t, plain_wcsnlen, const wchar_t *s, size_t max)
{
    size_t n = 0;
    while (n < max && s[n])
        n++;
    return n;
}

INSTEAD_OF(wcschr, wchar_t *, plain_wcschr, const wchar_t *s, wchar_t c)
{
    for (; *s != c; s++)
        if (!*s)
            return NULL;
    return (wchar_t *)s;
}

INSTEAD_OF(wmemchr, wchar_t *, plain_wmemchr, const wchar_t *s, wchar_t c, size_t n)
{
    for (; n; n--, s++)
        if (*s == c)
            return (wchar_t *)s;
    return NULL;
}

INSTEAD_OF(wcscmp, int, plain_wcscmp, const wchar_t *a, const wchar_t *b)
{
    for (; *a && *a == *b; a++, b++)
        ;
    return (*a > *b) - (*a < *b);
}
