// SPDX-License-Identifier: Apache-2.0
/*
 * Traffic over TCP with as little of its own cost as can be.
 *
 *   traffic CPU serve PORT                      echo; what the first byte of a connection asks for
 *   traffic CPU close PORT SECONDS ADDRESS...   32 connections at a time, each for one request
 *   traffic CPU keep  PORT SECONDS ADDRESS...   one request after the other on one connection
 *   traffic CPU bulk  PORT SECONDS ADDRESS...   as much as goes into one connection
 *
 * Addresses are taken in turn. Clients print one line of JSON: what they counted (connections, requests or bytes), what
 * failed, processor and wall time in nanoseconds, and the median and 99th percentile of what one request took.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

enum { REQUEST = 64, CHUNK = 1 << 17, WIDTH = 32, EVENTS = 128, SAMPLES = 1 << 22, DESCRIPTORS = 1 << 16 };
enum { KEEP = 'K', CLOSE = 'C', BULK = 'B' };

struct result {
	long count, errors;
	uint32_t *took; /* nanoseconds of the first SAMPLES requests */
};

struct targets {
	struct sockaddr_in *list;
	int count, next;
};

static char buffer[CHUNK];

static int64_t now(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

static int watch(int epoll, int fd, uint32_t events, int operation)
{
	struct epoll_event event = { .events = events, .data.fd = fd };

	return epoll_ctl(epoll, operation, fd, &event);
}

static void no_delay(int fd)
{
	int one = 1;

	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
}

static int listening(int port)
{
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons(port) };
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), one = 1;

	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(fd, (struct sockaddr *)&address, sizeof(address)) || listen(fd, 4096))
		fail("listen");
	return fd;
}

/* Bulk data is read and forgotten; a request is sent back, and ends the connection if it asks for that. */
static void answer(int fd, char *kind)
{
	ssize_t got = read(fd, buffer, sizeof(buffer));

	if (got > 0 && !*kind)
		*kind = buffer[0];
	if (got > 0 && *kind == BULK)
		return;
	if (got > 0 && write(fd, buffer, got) == got && *kind == KEEP)
		return;
	*kind = 0;
	close(fd);
}

static void take_in(int listener, int epoll)
{
	int fd;

	while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
		no_delay(fd);
		watch(epoll, fd, EPOLLIN, EPOLL_CTL_ADD);
	}
}

static int serve(int port)
{
	static char kinds[DESCRIPTORS];
	int epoll = epoll_create1(0), listener = listening(port);
	struct epoll_event events[EVENTS];

	watch(epoll, listener, EPOLLIN, EPOLL_CTL_ADD);
	puts("serves");
	fflush(stdout);
	for (;;) {
		int ready = epoll_wait(epoll, events, EVENTS, -1);

		for (int i = 0; i < ready; i++) {
			if (events[i].data.fd == listener)
				take_in(listener, epoll);
			else
				answer(events[i].data.fd, &kinds[events[i].data.fd % DESCRIPTORS]);
		}
	}
}

static struct sockaddr *next_target(struct targets *to)
{
	return (struct sockaddr *)&to->list[to->next++ % to->count];
}

static int connected(struct targets *to)
{
	struct timeval patience = { .tv_sec = 5 };
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
	if (connect(fd, next_target(to), sizeof(struct sockaddr_in)))
		fail("connect");
	no_delay(fd);
	return fd;
}

static void done(struct result *r, int64_t took)
{
	if (r->count < SAMPLES)
		r->took[r->count] = took;
	r->count++;
}

static void keep(struct targets *to, int64_t end, struct result *r)
{
	int fd = connected(to);
	int64_t start;

	memset(buffer, KEEP, REQUEST);
	while ((start = now(CLOCK_MONOTONIC)) < end && !r->errors) {
		if (write(fd, buffer, REQUEST) == REQUEST && recv(fd, buffer, REQUEST, MSG_WAITALL) == REQUEST)
			done(r, now(CLOCK_MONOTONIC) - start);
		else
			r->errors++;
	}
	close(fd);
}

/* Counts what the server has taken: it closes when it has read the end. */
static void bulk(struct targets *to, int64_t end, struct result *r)
{
	int fd = connected(to);

	memset(buffer, BULK, sizeof(buffer));
	while (now(CLOCK_MONOTONIC) < end && !r->errors) {
		ssize_t sent = write(fd, buffer, sizeof(buffer));

		if (sent > 0)
			r->count += sent;
		else
			r->errors++;
	}
	shutdown(fd, SHUT_WR);
	if (read(fd, buffer, 1) != 0)
		r->errors++;
	close(fd);
}

static int open_one(int epoll, struct targets *to, int64_t *started)
{
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);

	if (fd < 0)
		fail("socket");
	started[fd] = now(CLOCK_MONOTONIC);
	if (connect(fd, next_target(to), sizeof(struct sockaddr_in)) && errno != EINPROGRESS) {
		close(fd);
		return -1;
	}
	return watch(epoll, fd, EPOLLOUT, EPOLL_CTL_ADD);
}

/* One step of a connection: send the request, or read on. Returns 1 when it is over, -1 when it failed. */
static int step(int epoll, const struct epoll_event *event)
{
	int fd = event->data.fd;

	if (event->events & EPOLLERR)
		return -1;
	if (event->events & EPOLLOUT) {
		memset(buffer, CLOSE, REQUEST);
		return write(fd, buffer, REQUEST) == REQUEST ? watch(epoll, fd, EPOLLIN, EPOLL_CTL_MOD) : -1;
	}
	switch (read(fd, buffer, sizeof(buffer))) {
	case 0:
		return 1;
	case -1:
		return -1;
	default:
		return 0;
	}
}

static void close_each(struct targets *to, int64_t end, struct result *r)
{
	static int64_t started[DESCRIPTORS];
	struct epoll_event events[EVENTS];
	int epoll = epoll_create1(0), active = 0;

	for (;;) {
		while (active < WIDTH && now(CLOCK_MONOTONIC) < end) {
			if (open_one(epoll, to, started))
				r->errors++;
			else
				active++;
		}
		int ready = active ? epoll_wait(epoll, events, EVENTS, 3000) : 0;

		if (ready <= 0)
			break;
		for (int i = 0; i < ready; i++) {
			int fd = events[i].data.fd, over = step(epoll, &events[i]);

			if (!over)
				continue;
			if (over > 0)
				done(r, now(CLOCK_MONOTONIC) - started[fd]);
			else
				r->errors++;
			close(fd);
			active--;
		}
	}
	r->errors += active;
}

static int ascending(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return x < y ? -1 : x > y;
}

static void report(struct result *r, int64_t cpu, int64_t wall)
{
	long n = r->count < SAMPLES ? r->count : SAMPLES;

	qsort(r->took, n, sizeof(*r->took), ascending);
	printf("{\"count\": %ld, \"errors\": %ld, \"cpu_ns\": %lld, \"wall_ns\": %lld, \"p50_ns\": %u, \"p99_ns\": %u}\n",
	       r->count, r->errors, (long long)cpu, (long long)wall, n ? r->took[n / 2] : 0, n ? r->took[n * 99 / 100] : 0);
}

static int client(const char *what, int port, double seconds, int count, char **addresses)
{
	struct targets to = { .list = calloc(count, sizeof(*to.list)), .count = count };
	struct result r = { .took = calloc(SAMPLES, sizeof(*r.took)) };
	int64_t cpu, wall;

	for (int i = 0; i < count; i++) {
		to.list[i].sin_family = AF_INET;
		to.list[i].sin_port = htons(port);
		if (inet_pton(AF_INET, addresses[i], &to.list[i].sin_addr) != 1)
			fail(addresses[i]);
	}
	cpu = now(CLOCK_PROCESS_CPUTIME_ID);
	wall = now(CLOCK_MONOTONIC);
	if (!strcmp(what, "close"))
		close_each(&to, wall + (int64_t)(seconds * 1e9), &r);
	else if (!strcmp(what, "keep"))
		keep(&to, wall + (int64_t)(seconds * 1e9), &r);
	else
		bulk(&to, wall + (int64_t)(seconds * 1e9), &r);
	report(&r, now(CLOCK_PROCESS_CPUTIME_ID) - cpu, now(CLOCK_MONOTONIC) - wall);
	return 0;
}

int main(int count, char **words)
{
	cpu_set_t only;

	if (count < 4)
		return 2;
	CPU_ZERO(&only);
	CPU_SET(atoi(words[1]), &only);
	if (sched_setaffinity(0, sizeof(only), &only))
		fail("sched_setaffinity");
	signal(SIGPIPE, SIG_IGN);
	if (!strcmp(words[2], "serve"))
		return serve(atoi(words[3]));
	return count < 6 ? 2 : client(words[2], atoi(words[3]), atof(words[4]), count - 5, words + 5);
}
