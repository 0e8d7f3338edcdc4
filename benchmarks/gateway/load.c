/* A load generator: one thread, epoll, bounded, loopback only.
 *
 * usage: load PORT SECONDS CONNECTIONS RATE PATH KEY BODY_FILE [CHUNKS [FIELDS]]
 *
 * RATE 0: closed loop, every connection asks again as soon as it is answered.
 * RATE n: open loop, n requests a second with Poisson arrivals; latency counts
 * from the time a request was meant to be sent, so a stall cannot hide. A
 * stream's first byte of content (its second event) is timed as well.
 *
 * CHUNKS n: each stream must hold the pieces 0 to n - 1, each once and in order,
 * as the mock numbers them; what is not so counts as lost. FIELDS are more lines of
 * the request's head, each with its CRLF.
 *
 * Prints one line of JSON.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <math.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define BUFFER 131072
#define MAX_SAMPLES 4000000

struct connection {
    int fd, busy, head, status, used, events;
    int matched, digits, number, next; /* of the numbered pieces */
    long left; /* of the body; -1: chunked, until the last chunk */
    double meant, first;
    char in[BUFFER];
};

static char *request;
static int request_size, port, rate, pieces;
static struct connection *all;
static int connections;
static float *latency, *first;
static long done, failed, chunks, samples, firsts, lost;
static const char MARK[] = "\"content\":\" ";

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static int open_one(int poll, struct connection *c) {
    struct sockaddr_in where = {.sin_family = AF_INET, .sin_port = htons(port),
                                .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int one = 1;
    c->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(c->fd, (void *)&where, sizeof where)) return -1;
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = c};
    return epoll_ctl(poll, EPOLL_CTL_ADD, c->fd, &e);
}

static void ask(struct connection *c, double meant) {
    c->busy = 1;
    c->meant = meant;
    c->head = c->used = c->events = 0;
    c->matched = c->digits = c->number = c->next = 0;
    if (write(c->fd, request, request_size) != request_size) failed++;
}

/* Numbers may be cut anywhere, so they are read a byte at a time. */
static void check_order(struct connection *c, const char *data, long size) {
    for (long i = 0; i < size; i++) {
        if (c->matched < (int)sizeof MARK - 1) {
            c->matched = data[i] == MARK[c->matched] ? c->matched + 1 : data[i] == '"';
            continue;
        }
        c->number = c->number * 10 + data[i] - '0';
        if (++c->digits < 6) continue;
        if (c->number != c->next++) lost++;
        c->matched = c->digits = c->number = 0;
    }
}

static void answered(struct connection *c, double at) {
    if (pieces && c->next != pieces) lost++;
    if (c->status == 200) done++;
    else failed++;
    if (samples < MAX_SAMPLES) latency[samples++] = at - c->meant;
    if (c->events && firsts < MAX_SAMPLES) first[firsts++] = c->first - c->meant;
    c->busy = 0;
}

static void count_events(struct connection *c, const char *data, long size, double at) {
    const char *end = data + size;
    while ((data = memmem(data, end - data, "data: ", 6))) {
        if (++c->events == 2) c->first = at;
        chunks++;
        data += 6;
    }
}

/* Returns -1 when the connection is of no more use. */
static int readable(struct connection *c) {
    int got = read(c->fd, c->in + c->used, BUFFER - 1 - c->used);
    double at = now();
    if (got <= 0) return -1;
    if (!c->busy) return -1;
    char *fresh = c->in + c->used;
    c->used += got;
    c->in[c->used] = 0;
    if (!c->head) {
        char *end = memmem(c->in, c->used, "\r\n\r\n", 4);
        if (!end) return c->used == BUFFER - 1 ? -1 : 0;
        char *field = strcasestr(c->in, "\r\ncontent-length:");
        c->head = end + 4 - c->in;
        c->status = atoi(c->in + 9);
        c->left = field && field < end ? atol(field + 17) : -1;
        fresh = c->in + c->head;
    }
    long size = c->in + c->used - fresh;
    if (c->left >= 0) {
        c->left -= size;
        c->used = c->head; /* a plain body is counted, not kept */
        if (c->left <= 0) answered(c, at);
    } else {
        count_events(c, fresh, size, at);
        if (pieces) check_order(c, fresh, size);
        int whole = c->used >= 5 && !memcmp(c->in + c->used - 5, "0\r\n\r\n", 5);
        if (c->used > 16) { /* keep enough to see the end when it comes in parts */
            memmove(c->in, c->in + c->used - 16, 16);
            c->used = 16;
        }
        if (whole) answered(c, at);
    }
    return 0;
}

static int by_value(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return x < y ? -1 : x > y;
}

static double quantile(float *values, long count, double q) {
    return count ? values[(long)(q * (count - 1))] * 1e3 : 0;
}

static void print_one(const char *name, float *values, long count) {
    qsort(values, count, sizeof *values, by_value);
    printf(",\"%s_p50_ms\":%.3f,\"%s_p99_ms\":%.3f", name, quantile(values, count, .5),
           name, quantile(values, count, .99));
}

static void read_request(const char *path, const char *key, const char *file,
                         const char *fields) {
    FILE *f = fopen(file, "r");
    char *body = malloc(1 << 22);
    size_t size = f ? fread(body, 1, 1 << 22, f) : 0;
    request = malloc(size + strlen(fields) + 2048);
    request_size = sprintf(request,
        "POST %s HTTP/1.1\r\nHost: gateway\r\nAccept: application/json\r\n"
        "Content-Type: application/json\r\nUser-Agent: OpenAI/Python 3.54.0\r\n"
        "Authorization: Bearer %s\r\nX-Stainless-Lang: python\r\n"
        "%sContent-Length: %zu\r\n\r\n", path, key, fields, size);
    memcpy(request + request_size, body, size);
    request_size += size;
    free(body);
}

static void send_due(double at, double *due) {
    for (int i = 0; i < connections && *due <= at; i++)
        if (!all[i].busy) {
            ask(&all[i], *due);
            *due += -log(1 - drand48()) / rate;
        }
}

int main(int argc, char **argv) {
    if (argc < 8) return 2;
    pieces = argc > 8 ? atoi(argv[8]) : 0;
    signal(SIGPIPE, SIG_IGN);
    port = atoi(argv[1]);
    double seconds = atof(argv[2]);
    connections = atoi(argv[3]);
    rate = atoi(argv[4]);
    read_request(argv[5], argv[6], argv[7], argc > 9 ? argv[9] : "");
    all = calloc(connections, sizeof *all);
    latency = malloc(MAX_SAMPLES * sizeof *latency);
    first = malloc(MAX_SAMPLES * sizeof *first);
    int poll = epoll_create1(0);
    for (int i = 0; i < connections; i++)
        if (open_one(poll, &all[i])) return perror("load"), 1;
    double begin = now(), end = begin + seconds, due = begin;
    if (!rate) for (int i = 0; i < connections; i++) ask(&all[i], now());
    struct epoll_event events[256];
    for (double at = begin; at < end; at = now()) {
        if (rate) send_due(at, &due);
        int wait_ms = rate ? (due - at > 0.002 ? 1 : 0) : 100;
        int count = epoll_wait(poll, events, 256, wait_ms);
        for (int i = 0; i < count; i++) {
            struct connection *c = events[i].data.ptr;
            if (readable(c)) {
                if (c->busy) failed++;
                close(c->fd);
                c->busy = 0;
                if (open_one(poll, c)) failed++, c->busy = 1; /* out of the game */
            }
            if (!c->busy && !rate) ask(c, now());
        }
    }
    printf("{\"seconds\":%.3f,\"done\":%ld,\"failed\":%ld,\"chunks\":%ld,\"lost\":%ld",
           now() - begin, done, failed, chunks, lost);
    print_one("latency", latency, samples);
    print_one("first", first, firsts);
    printf("}\n");
    return 0;
}
