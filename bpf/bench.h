/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Measuring the pipeline with BPF_PROG_TEST_RUN. The kernel does not restore the packet between repetitions, so each
 * one first copies the headers back from a template and, if asked, varies the source to walk over many flows.
 */
#ifndef LOX_BENCH_H
#define LOX_BENCH_H

#include "packet.h"

enum lox_bench_vary { LOX_BENCH_FIXED, LOX_BENCH_NEXT, LOX_BENCH_RANDOM };

struct lox_bench {
	__u8 headers[64]; /* IPv4 or IPv6 header and 20 bytes of what follows */
	__u32 vary;
	__u32 flows;
	__u32 sequence;
	__u32 pad;
};

LOX_ARRAY(bench, struct lox_bench, 0);

/* Flow number n: source port 1024 and up, then the next source address. */
LOX_INLINE void lox_bench_source(void *l3, const bool v6, __u32 n)
{
	__be16 *port = l3 + (v6 ? 40 : 20);
	__u16 *low = l3 + (v6 ? 22 : 14); /* the last two bytes of the source address */

	*port = bpf_htons(1024 + n % 60000);
	*low = bpf_htons(bpf_ntohs(*low) + n / 60000);
}

LOX_INLINE int lox_bench_restore(void *data, void *end, const bool v6)
{
	__u32 zero = 0, length = v6 ? 60 : 40;
	struct lox_bench *b = bpf_map_lookup_elem(&bench, &zero);
	__u16 *to = data + LOX_L3;

	if (!b || data + LOX_L3 + length > end)
		return -1;
	for (__u32 i = 0; i < length / 2; i++)
		to[i] = ((__u16 *)b->headers)[i];
	if (b->vary == LOX_BENCH_NEXT)
		lox_bench_source(to, v6, b->sequence++);
	else if (b->vary == LOX_BENCH_RANDOM)
		lox_bench_source(to, v6, bpf_get_prandom_u32() % (b->flows | !b->flows));
	return 0;
}

#endif
