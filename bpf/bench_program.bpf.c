// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/*
 * The programs as they are attached, and empty ones, each behind the same restored packet. The harness calls them by
 * tail call, so what is measured is the very code that forwards.
 */
#include <linux/pkt_cls.h>

#include "bench.h"

enum { LOX_BENCH_EMPTY, LOX_BENCH_PIPELINE, LOX_BENCH_CALLS };

#define LOX_CALLS(_name)                                                                                               \
	struct {                                                                                                       \
		__uint(type, BPF_MAP_TYPE_PROG_ARRAY);                                                                 \
		__uint(max_entries, LOX_BENCH_CALLS);                                                                  \
		__type(key, __u32);                                                                                    \
		__type(value, __u32);                                                                                  \
	} _name SEC(".maps")

LOX_CALLS(calls_xdp);
LOX_CALLS(calls_tc);

#define LOX_HARNESS(_hook, _ctx, _name, _v6, _call, _drop)                                                             \
	SEC(#_hook)                                                                                                    \
	int _hook##_##_name(struct _ctx *ctx)                                                                          \
	{                                                                                                              \
		void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;                              \
		struct lox_bench *b = lox_bench();                                                                     \
                                                                                                                       \
		if (b && !lox_bench_restore(data, end, _v6, b))                                                        \
			bpf_tail_call(ctx, &calls_##_hook, _call);                                                     \
		return _drop;                                                                                          \
	}

LOX_HARNESS(xdp, xdp_md, empty4, false, LOX_BENCH_EMPTY, XDP_ABORTED)
LOX_HARNESS(xdp, xdp_md, empty6, true, LOX_BENCH_EMPTY, XDP_ABORTED)
LOX_HARNESS(xdp, xdp_md, pipeline4, false, LOX_BENCH_PIPELINE, XDP_ABORTED)
LOX_HARNESS(xdp, xdp_md, pipeline6, true, LOX_BENCH_PIPELINE, XDP_ABORTED)
LOX_HARNESS(tc, __sk_buff, empty4, false, LOX_BENCH_EMPTY, TC_ACT_SHOT)
LOX_HARNESS(tc, __sk_buff, empty6, true, LOX_BENCH_EMPTY, TC_ACT_SHOT)
LOX_HARNESS(tc, __sk_buff, pipeline4, false, LOX_BENCH_PIPELINE, TC_ACT_SHOT)
LOX_HARNESS(tc, __sk_buff, pipeline6, true, LOX_BENCH_PIPELINE, TC_ACT_SHOT)

SEC("xdp")
int xdp_empty(struct xdp_md *ctx)
{
	return XDP_PASS;
}

SEC("tc")
int tc_empty(struct __sk_buff *ctx)
{
	return TC_ACT_OK;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
