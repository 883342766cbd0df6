// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/* A source of live frames, and sinks that count those which arrive translated. */
#include <linux/pkt_cls.h>
#include <linux/udp.h>

#include "bench.h"

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} arrived SEC(".maps");

/* Frames are recycled with whatever the far end wrote into them, so the addresses of the link are written too. */
SEC("xdp")
int generate(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct lox_bench *b = lox_bench();

	if (!b || lox_bench_restore(data, end, false, b))
		return XDP_ABORTED;
	__builtin_memcpy(data, b->macs, sizeof(b->macs));
	return bpf_redirect(b->ifindex, 0);
}

LOX_INLINE void lox_bench_count(void *data, void *end)
{
	struct lox_bench *b = lox_bench();
	struct iphdr *ip = data + ETH_HLEN;
	struct udphdr *udp = (void *)(ip + 1);
	__u32 zero = 0;
	__u64 *n = bpf_map_lookup_elem(&arrived, &zero);

	if (b && n && (void *)(udp + 1) <= end && ip->daddr == b->sink && udp->dest == b->sink_port)
		(*n)++;
}

SEC("xdp")
int sink_xdp(struct xdp_md *ctx)
{
	lox_bench_count((void *)(long)ctx->data, (void *)(long)ctx->data_end);
	return XDP_DROP;
}

SEC("tc")
int sink_tc(struct __sk_buff *ctx)
{
	lox_bench_count((void *)(long)ctx->data, (void *)(long)ctx->data_end);
	return TC_ACT_SHOT;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
