/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Packets for measuring. The kernel does not restore a packet between repetitions of BPF_PROG_TEST_RUN, so each
 * repetition first copies the headers back from a template and, if asked, varies the client to walk over many flows.
 *
 * Words are stored as wide as the pipeline loads them: a load that spans two fresh stores waits for both, which no
 * packet off a device makes it do.
 */
#ifndef LOX_BENCH_H
#define LOX_BENCH_H

#include "base.h"

enum lox_bench_vary { LOX_BENCH_FIXED, LOX_BENCH_NEXT, LOX_BENCH_RANDOM };

#define LOX_BENCH_PORTS 60000

struct lox_bench {
	__u64 headers[8]; /* IPv4 or IPv6 header and 20 bytes of what follows */
	__u32 vary;       /* enum lox_bench_vary */
	__u32 flows;      /* LOX_BENCH_RANDOM: choose among so many */
	__u32 sequence;   /* LOX_BENCH_NEXT: the next flow */
	__u32 reply;      /* the client is the destination */
	__u8 macs[12];    /* destination and source; of generated frames only */
	__u32 ifindex;    /* generated frames leave here */
	__be32 sink;      /* the sink counts frames to this address and port */
	__be16 sink_port;
	__u16 pad;
};

LOX_ARRAY(bench, struct lox_bench, 0);

LOX_INLINE struct lox_bench *lox_bench(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&bench, &zero);
}

/* Write client number n over `port` and `address` (its last word): port 1024 and up, then the next address. */
LOX_INLINE void lox_bench_client(__be16 *port, __be32 *address, __u32 n)
{
	*port = bpf_htons(1024 + n % LOX_BENCH_PORTS);
	*address = bpf_htonl(bpf_ntohl(*address) + n / LOX_BENCH_PORTS);
}

LOX_INLINE void lox_bench_vary(void *l3, const bool v6, struct lox_bench *b)
{
	void *l4 = l3 + (v6 ? 40 : 20);
	__u32 n;

	if (b->vary == LOX_BENCH_FIXED)
		return;
	if (b->vary == LOX_BENCH_NEXT)
		n = b->sequence++;
	else
		n = bpf_get_prandom_u32() % (b->flows | !b->flows);
	if (b->reply)
		lox_bench_client(l4 + 2, l4 - 4, n);
	else
		lox_bench_client(l4, l3 + (v6 ? 20 : 12), n);
}

/* Restore the packet from the IP header on. Returns 0, or -1 when it is too short. */
LOX_INLINE int lox_bench_restore(void *data, void *end, const bool v6, struct lox_bench *b)
{
	void *l3 = data + ETH_HLEN, *l4 = l3 + (v6 ? 40 : 20);
	const void *from = b->headers;

	if (l4 + 20 > end)
		return -1;
	for (__u32 i = 0; v6 && i < 5; i++)
		((__u64 *)l3)[i] = ((const __u64 *)from)[i];
	for (__u32 i = 0; !v6 && i < 5; i++)
		((__u32 *)l3)[i] = ((const __u32 *)from)[i];
	from += v6 ? 40 : 20;
	for (__u32 i = 0; i < 5; i++)
		((__u32 *)l4)[i] = ((const __u32 *)from)[i];
	lox_bench_vary(l3, v6, b);
	return 0;
}

#endif
