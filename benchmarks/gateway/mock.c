/* An OpenAI-like upstream that costs nearly nothing: one thread, epoll.
 *
 * usage: mock PORT
 *
 * Answers every request that carries a content-length: with one small chat
 * completion, or, when the body holds "stream":true, with server-sent events,
 * chunked, as many and as far apart as the prompt says: [[d=MS,c=COUNT]], numbered.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define MAX_FD 16384
#define BUFFER 65536

struct connection {
    char *in;
    int used, chunks, sent, delay_ms;
    long body_left;
    int streaming, wants_stream;
    double next;
};

static struct connection *table[MAX_FD];
static int active[MAX_FD], active_count;

static const char PLAIN[] =
    "{\"id\":\"chatcmpl-0123456789abcdef0123456789abcdef\",\"object\":\"chat.completion\","
    "\"created\":1763900000,\"model\":\"mock\",\"choices\":[{\"index\":0,\"message\":{"
    "\"role\":\"assistant\",\"content\":\"The quick brown fox jumps over the lazy dog, and "
    "then the dog gets up and follows the fox through the wood to see where it lives, what "
    "it eats, and whether it would like some company on the long way home again.\","
    "\"refusal\":null,\"annotations\":null,\"audio\":null,\"function_call\":null,"
    "\"tool_calls\":[]},\"logprobs\":null,\"finish_reason\":\"stop\",\"stop_reason\":null}],"
    "\"service_tier\":null,\"usage\":{\"prompt_tokens\":40,\"total_tokens\":90,"
    "\"completion_tokens\":50}}";
static const char ROLE[] =
    "data: {\"id\":\"chatcmpl-0123456789abcdef\",\"object\":\"chat.completion.chunk\","
    "\"created\":1763900000,\"model\":\"mock\",\"choices\":[{\"index\":0,\"delta\":{"
    "\"role\":\"assistant\",\"content\":\"\"},\"finish_reason\":null}]}\n\n";
static const char DELTA[] =
    "data: {\"id\":\"chatcmpl-0123456789abcdef\",\"object\":\"chat.completion.chunk\","
    "\"created\":1763900000,\"model\":\"mock\",\"choices\":[{\"index\":0,\"delta\":{"
    "\"content\":\" %06d\"},\"finish_reason\":null}]}\n\n";
static const char LAST[] =
    "data: {\"id\":\"chatcmpl-0123456789abcdef\",\"object\":\"chat.completion.chunk\","
    "\"created\":1763900000,\"model\":\"mock\",\"choices\":[],\"usage\":{"
    "\"prompt_tokens\":40,\"total_tokens\":90,\"completion_tokens\":50}}\n\n"
    "data: [DONE]\n\n";

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e3 + t.tv_nsec / 1e6;
}

static void drop(int fd) {
    free(table[fd]->in);
    free(table[fd]);
    table[fd] = NULL;
    close(fd);
}

static int put(int fd, const char *data, int size) {
    /* Small answers always fit the socket's buffer; a reader that is so slow
     * that they do not is not what is measured here. */
    return write(fd, data, size) == size ? 0 : -1;
}

static int event(char *out, const char *data, int size) {
    int head = sprintf(out, "%x\r\n", size);
    memcpy(out + head, data, size);
    memcpy(out + head + size, "\r\n", 2);
    return head + size + 2;
}

static int begin_stream(int fd, struct connection *c) {
    static const char head[] = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; "
                               "charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n";
    char out[2048];
    int size = sizeof head - 1;
    memcpy(out, head, size);
    size += event(out + size, ROLE, sizeof ROLE - 1);
    c->streaming = 1;
    c->next = now() + c->delay_ms;
    active[active_count++] = fd;
    return put(fd, out, size);
}

static int tick(int fd, struct connection *c, double at) {
    char out[4096];
    int size = 0;
    if (c->delay_ms && at < c->next) return 0;
    if (c->chunks > 0) {
        c->chunks--;
        c->next += c->delay_ms;
        char piece[sizeof DELTA + 16];
        size = event(out, piece, sprintf(piece, DELTA, c->sent++));
    } else {
        size = event(out, LAST, sizeof LAST - 1);
        memcpy(out + size, "0\r\n\r\n", 5);
        size += 5;
        c->streaming = 0;
    }
    return put(fd, out, size);
}

static int answer(int fd, struct connection *c) {
    static char out[2048];
    static int size;
    if (c->wants_stream) return begin_stream(fd, c);
    if (!size)
        size = sprintf(out, "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
                            "content-length: %zu\r\n\r\n%s", sizeof PLAIN - 1, PLAIN);
    return put(fd, out, size);
}

static int readable(int fd, struct connection *c) {
    int got = read(fd, c->in + c->used, BUFFER - 1 - c->used);
    if (got <= 0) return got < 0 && errno == EAGAIN ? 0 : -1;
    if (c->body_left > 0) { /* the rest of a body that did not come at once */
        c->in[c->used + got] = 0;
        c->body_left -= got;
        c->used = 0;
        return c->body_left > 0 ? 0 : answer(fd, c);
    }
    c->used += got;
    c->in[c->used] = 0;
    char *end = memmem(c->in, c->used, "\r\n\r\n", 4);
    if (!end) return c->used == BUFFER - 1 ? -1 : 0;
    char *field = strcasestr(c->in, "\r\ncontent-length:");
    long body = field && field < end ? atol(field + 17) : 0;
    char *mark = strstr(end, "[[d=");
    c->wants_stream = strstr(end, "\"stream\":true") != NULL;
    c->chunks = 1;
    c->sent = c->delay_ms = 0;
    if (mark) sscanf(mark, "[[d=%d,c=%d]]", &c->delay_ms, &c->chunks);
    c->body_left = body - (c->used - (end + 4 - c->in));
    c->used = 0;
    return c->body_left > 0 ? 0 : answer(fd, c);
}

static void accept_all(int poll, int listening) {
    int fd, one = 1;
    while ((fd = accept4(listening, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
        struct epoll_event e = {.events = EPOLLIN, .data.fd = fd};
        if (fd >= MAX_FD) { close(fd); continue; }
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        table[fd] = calloc(1, sizeof **table);
        table[fd]->in = malloc(BUFFER);
        epoll_ctl(poll, EPOLL_CTL_ADD, fd, &e);
    }
}

int main(int argc, char **argv) {
    struct sockaddr_in where = {.sin_family = AF_INET, .sin_port = htons(argc > 1 ? atoi(argv[1]) : 0),
                                .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int listening = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), one = 1;
    signal(SIGPIPE, SIG_IGN);
    setsockopt(listening, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listening, (void *)&where, sizeof where) || listen(listening, 4096)) {
        perror("mock");
        return 1;
    }
    int poll = epoll_create1(0);
    struct epoll_event e = {.events = EPOLLIN, .data.fd = listening}, events[256];
    epoll_ctl(poll, EPOLL_CTL_ADD, listening, &e);
    for (;;) {
        int count = epoll_wait(poll, events, 256, active_count ? 1 : -1);
        for (int i = 0; i < count; i++) {
            int fd = events[i].data.fd;
            if (fd == listening) accept_all(poll, listening);
            else if (readable(fd, table[fd])) {
                if (!table[fd]->streaming) drop(fd);
                else epoll_ctl(poll, EPOLL_CTL_DEL, fd, NULL), table[fd]->chunks = -1;
            }
        }
        double at = now();
        for (int i = 0; i < active_count; i++) {
            int fd = active[i];
            struct connection *c = table[fd];
            if (c->chunks < 0 || tick(fd, c, at)) {
                active[i--] = active[--active_count];
                drop(fd);
            } else if (!c->streaming) active[i--] = active[--active_count];
        }
    }
}
