// SPDX-License-Identifier: Apache-2.0
/*
 * Traffic over TCP with as little of its own cost as can be.
 *
 *   traffic CPU serve PORT                      echo; what the first byte of a connection asks for
 *   traffic CPU close PORT SECONDS ADDRESS...   32 connections at a time, each for one request
 *   traffic CPU keep  PORT SECONDS ADDRESS...   one request after the other on one connection
 *   traffic CPU bulk  PORT SECONDS ADDRESS...   as much as goes into one connection
 *   traffic CPU open  PORT SECONDS ADDRESS...   one connection after the other, each for one request
 *
 * SECONDS/RATE: at most so many requests (keep), connections (open) or pieces of 128 KiB (bulk) a second. SIGTERM ends a
 * client early. Addresses are taken in turn, of either IP version.
 *
 * Clients print one line of JSON: what they counted (connections, requests or bytes), what failed, how many of these by a
 * reset, processor and wall time in nanoseconds, the median and 99th percentile of what one request took, and the longest
 * time without any progress, which for bulk is data that the other end acknowledges. What waits for two seconds has
 * failed; what the end interrupts has failed when it had waited for one.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

enum { REQUEST = 64, CHUNK = 1 << 17, WIDTH = 32, EVENTS = 128, SAMPLES = 1 << 22, DESCRIPTORS = 1 << 16 };
enum { KEEP = 'K', CLOSE = 'C', BULK = 'B' };
enum { PATIENCE_S = 2, LATE_NS = 1000000000 };

struct result {
	long count, errors, resets, samples;
	int64_t progress, longest; /* time of the latest progress, longest time without */
	uint32_t *took; /* nanoseconds of the first requests, SAMPLES at most */
};

struct targets {
	struct sockaddr_storage *list;
	int count, next;
	double rate; /* a second; 0: no limit */
};

static char buffer[CHUNK];
static volatile sig_atomic_t over;

static void end_early(int number)
{
	over = number;
}

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

static int listening(int family, int port)
{
	struct sockaddr_in four = { .sin_family = AF_INET, .sin_port = htons(port) };
	struct sockaddr_in6 six = { .sin6_family = AF_INET6, .sin6_port = htons(port) };
	int fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK, 0), one = 1;

	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (family == AF_INET6)
		setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof(one));
	if (bind(fd, family == AF_INET ? (struct sockaddr *)&four : (struct sockaddr *)&six,
		 family == AF_INET ? sizeof(four) : sizeof(six)) || listen(fd, 4096))
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

static _Noreturn void serve(int port)
{
	static char kinds[DESCRIPTORS];
	int epoll = epoll_create1(0), four = listening(AF_INET, port), six = listening(AF_INET6, port);
	struct epoll_event events[EVENTS];

	watch(epoll, four, EPOLLIN, EPOLL_CTL_ADD);
	watch(epoll, six, EPOLLIN, EPOLL_CTL_ADD);
	puts("serves");
	fflush(stdout);
	for (;;) {
		int ready = epoll_wait(epoll, events, EVENTS, -1);

		for (int i = 0; i < ready; i++) {
			if (events[i].data.fd == four || events[i].data.fd == six)
				take_in(events[i].data.fd, epoll);
			else
				answer(events[i].data.fd, &kinds[events[i].data.fd % DESCRIPTORS]);
		}
	}
}

static socklen_t length_of(const struct sockaddr *address)
{
	return address->sa_family == AF_INET ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6);
}

static struct sockaddr *next_target(struct targets *to)
{
	return (struct sockaddr *)&to->list[to->next++ % to->count];
}

/* Close what failed; errno stays that of the failure. */
static int given_up(int fd)
{
	int error = errno;

	close(fd);
	errno = error;
	return -1;
}

static int connected(struct targets *to)
{
	struct timeval patience = { .tv_sec = PATIENCE_S };
	struct sockaddr *target = next_target(to);
	int fd = socket(target->sa_family, SOCK_STREAM, 0);

	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
	if (connect(fd, target, length_of(target)))
		return given_up(fd);
	no_delay(fd);
	return fd;
}

/* What the end of the measurement interrupts has not failed, unless it should have been done long before. */
static void failed(struct result *r, int64_t started, int error)
{
	if (over && error == EINTR && now(CLOCK_MONOTONIC) - started < LATE_NS)
		return;
	r->errors++;
	r->resets += error == ECONNRESET;
}

/* Count the time since the latest progress: when there is some, and at the end, where none may come any more. */
static void waited(struct result *r, int64_t at)
{
	if (at - r->progress > r->longest)
		r->longest = at - r->progress;
}

static void progress(struct result *r, int64_t at)
{
	waited(r, at);
	r->progress = at;
}

static void done(struct result *r, int64_t started)
{
	int64_t at = now(CLOCK_MONOTONIC);

	if (r->samples < SAMPLES)
		r->took[r->samples++] = at - started;
	r->count++;
	progress(r, at);
}

/* Sleep until the next one is due; those that were due before are left out. */
static void pace(const struct targets *to, int64_t *due)
{
	int64_t at = now(CLOCK_MONOTONIC);
	struct timespec until;

	if (!to->rate)
		return;
	*due = *due + 1e9 / to->rate < at ? at : *due + 1e9 / to->rate;
	until.tv_sec = *due / 1000000000;
	until.tv_nsec = *due % 1000000000;
	clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL);
}

/* One request and its answer. Returns 0, or what was wrong; EPIPE when the other end closes too early. */
static int exchange(int fd, char kind)
{
	memset(buffer, kind, REQUEST);
	errno = 0;
	if (write(fd, buffer, REQUEST) == REQUEST && recv(fd, buffer, REQUEST, MSG_WAITALL) == REQUEST)
		return 0;
	return errno ? errno : EPIPE;
}

/* The other end closes, without anything more. Returns 0, or what was wrong. */
static int closed(int fd)
{
	ssize_t got = read(fd, buffer, 1);

	return got < 0 ? errno : got ? EPROTO : 0;
}

/* The connection of a stream; -1 where the end of the measurement came before it. */
static int stream(struct targets *to)
{
	int fd = connected(to);

	if (fd < 0 && !(over && errno == EINTR))
		fail("connect");
	return fd;
}

static void keep(struct targets *to, int64_t end, struct result *r)
{
	int fd = stream(to), error;
	int64_t start, due = 0;

	if (fd < 0)
		return;
	while ((start = now(CLOCK_MONOTONIC)) < end && !r->errors && !over) {
		error = exchange(fd, KEEP);
		if (error)
			failed(r, start, error);
		else
			done(r, start);
		pace(to, &due);
	}
	waited(r, now(CLOCK_MONOTONIC));
	close(fd);
}

/* One request on a connection of its own; the server closes it. Returns 0, or what was wrong. */
static int asked(struct targets *to)
{
	int fd = connected(to), error;

	if (fd < 0)
		return errno;
	error = exchange(fd, CLOSE);
	if (!error)
		error = closed(fd);
	close(fd);
	return error;
}

static void open_each(struct targets *to, int64_t end, struct result *r)
{
	int64_t start, due = 0;
	int error;

	while ((start = now(CLOCK_MONOTONIC)) < end && !over) {
		error = asked(to);
		if (error)
			failed(r, start, error);
		else
			done(r, start);
		pace(to, &due);
	}
	waited(r, now(CLOCK_MONOTONIC));
}

/* How much of what was written the other end has acknowledged: the rest is still in the socket's buffer, see tcp(7). */
static int64_t acknowledged(int fd, int64_t written)
{
	int waiting = 0;

	if (ioctl(fd, SIOCOUTQ, &waiting))
		fail("SIOCOUTQ");
	return written - waiting;
}

/* Counts what the server has taken: it closes when it has read the end. */
static void bulk(struct targets *to, int64_t end, struct result *r)
{
	int fd = stream(to), error;
	int64_t start, due = 0, before = 0, reached;

	if (fd < 0)
		return;
	memset(buffer, BULK, sizeof(buffer));
	while ((start = now(CLOCK_MONOTONIC)) < end && !r->errors && !over) {
		ssize_t sent = write(fd, buffer, sizeof(buffer));

		if (sent > 0)
			r->count += sent;
		else
			failed(r, start, errno);
		reached = acknowledged(fd, r->count);
		if (reached > before)
			progress(r, now(CLOCK_MONOTONIC));
		before = reached;
		pace(to, &due);
	}
	start = now(CLOCK_MONOTONIC);
	waited(r, start);
	shutdown(fd, SHUT_WR);
	error = r->errors ? 0 : closed(fd);
	if (error)
		failed(r, start, error);
	close(fd);
}

static int open_one(int epoll, struct targets *to, int64_t *started)
{
	struct sockaddr *target = next_target(to);
	int fd = socket(target->sa_family, SOCK_STREAM | SOCK_NONBLOCK, 0);

	if (fd < 0)
		fail("socket");
	started[fd] = now(CLOCK_MONOTONIC);
	if (connect(fd, target, length_of(target)) && errno != EINPROGRESS)
		return given_up(fd);
	return watch(epoll, fd, EPOLLOUT, EPOLL_CTL_ADD);
}

/* What the socket was told, such as a reset. */
static int error_of(int fd)
{
	int error = 0;
	socklen_t size = sizeof(error);

	getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size);
	return error ? error : EPIPE;
}

/* One step of a connection: send the request, or read on. Returns 1 at its end, a negative error number when it failed.
 * answered: bytes of the answer so far, by descriptor. */
static int step(int epoll, const struct epoll_event *event, ssize_t *answered)
{
	int fd = event->data.fd;
	ssize_t got;

	if (event->events & EPOLLERR)
		return -error_of(fd);
	if (event->events & EPOLLOUT) {
		memset(buffer, CLOSE, REQUEST);
		answered[fd] = 0;
		return write(fd, buffer, REQUEST) < 0 ? -errno : watch(epoll, fd, EPOLLIN, EPOLL_CTL_MOD);
	}
	got = read(fd, buffer, sizeof(buffer));
	if (!got)
		return answered[fd] == REQUEST ? 1 : -EPIPE;
	answered[fd] += got;
	return got < 0 ? -errno : 0;
}

static void close_each(struct targets *to, int64_t end, struct result *r)
{
	static int64_t started[DESCRIPTORS];
	static ssize_t answered[DESCRIPTORS];
	struct epoll_event events[EVENTS];
	int epoll = epoll_create1(0), active = 0;

	for (;;) {
		while (active < WIDTH && now(CLOCK_MONOTONIC) < end && !over) {
			if (open_one(epoll, to, started))
				failed(r, now(CLOCK_MONOTONIC), errno);
			else
				active++;
		}
		int ready = active ? epoll_wait(epoll, events, EVENTS, 3000) : 0;

		if (ready < 0 && errno == EINTR)
			continue;
		if (ready <= 0)
			break;
		for (int i = 0; i < ready; i++) {
			int fd = events[i].data.fd, ended = step(epoll, &events[i], answered);

			if (!ended)
				continue;
			if (ended > 0)
				done(r, started[fd]);
			else
				failed(r, started[fd], -ended);
			close(fd);
			active--;
		}
	}
	waited(r, now(CLOCK_MONOTONIC));
	r->errors += active;
}

static int ascending(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return x < y ? -1 : x > y;
}

static void report(struct result *r, int64_t cpu, int64_t wall)
{
	long n = r->samples;

	qsort(r->took, n, sizeof(*r->took), ascending);
	printf("{\"count\": %ld, \"errors\": %ld, \"resets\": %ld, \"cpu_ns\": %lld, \"wall_ns\": %lld, ", r->count, r->errors,
	       r->resets, (long long)cpu, (long long)wall);
	printf("\"p50_ns\": %u, \"p99_ns\": %u, \"stall_ns\": %lld}\n", n ? r->took[n / 2] : 0,
	       n ? r->took[n * 99 / 100] : 0, (long long)r->longest);
}

static void read_address(const char *text, int port, struct sockaddr_storage *to)
{
	struct sockaddr_in *four = (struct sockaddr_in *)to;
	struct sockaddr_in6 *six = (struct sockaddr_in6 *)to;

	four->sin_port = htons(port); /* at the same place in both */
	to->ss_family = strchr(text, ':') ? AF_INET6 : AF_INET;
	if (inet_pton(to->ss_family, text, to->ss_family == AF_INET ? (void *)&four->sin_addr : &six->sin6_addr) != 1)
		fail(text);
}

static int client(const char *what, int port, char *limits, int count, char **addresses)
{
	struct targets to = { .list = calloc(count, sizeof(*to.list)), .count = count };
	struct result r = { .took = calloc(SAMPLES, sizeof(*r.took)) };
	double seconds = strtod(limits, &limits);
	int64_t cpu, wall;

	to.rate = *limits == '/' ? atof(limits + 1) : 0;
	for (int i = 0; i < count; i++)
		read_address(addresses[i], port, &to.list[i]);
	signal(SIGTERM, end_early); /* also ends what waits: calls on sockets with a timeout are not restarted, signal(7) */
	cpu = now(CLOCK_PROCESS_CPUTIME_ID);
	wall = r.progress = now(CLOCK_MONOTONIC);
	if (!strcmp(what, "close"))
		close_each(&to, wall + (int64_t)(seconds * 1e9), &r);
	else if (!strcmp(what, "open"))
		open_each(&to, wall + (int64_t)(seconds * 1e9), &r);
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
		serve(atoi(words[3]));
	return count < 6 ? 2 : client(words[2], atoi(words[3]), words[4], count - 5, words + 5);
}
