/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Replies of an endpoint on this host. They never pass an ingress hook, so they are translated where they leave; the
 * kernel has routed them already. Attached only while there is such an endpoint.
 */
#ifndef LOX_EGRESS_H
#define LOX_EGRESS_H

#include "pipeline.h"

LOX_INLINE int lox_leaving_ip(lox_ctx *ctx, const bool v6, struct lox_packet *p)
{
	__u32 hash = lox_hash(v6, &p->tuple);
	struct lox_ref ref = {};

	lox_find(v6, LOX_MAIN, &p->tuple, hash, &ref);
	if (!ref.flow)
		lox_find(v6, LOX_HALF, &p->tuple, hash, &ref);
	if (!ref.flow || !(ref.flow->flags & LOX_FLOW_REPLY))
		return LOX_PASS;
	return lox_go_slow(ctx, v6, 0);
}

/* A packet that has an interface it came in by is forwarded, and has been looked at there. */
LOX_INLINE int lox_leaving(lox_ctx *ctx)
{
	struct lox_packet p;
	struct ethhdr *eth;
	void *data, *end;
	int reason;

	if (ctx->ingress_ifindex || ctx->vlan_present)
		return LOX_PASS;
	lox_reach(ctx, LOX_L3 + sizeof(struct ipv6hdr) + sizeof(struct tcphdr));
	data = lox_data(ctx);
	end = lox_end(ctx);
	eth = data;
	if ((void *)(eth + 1) > end)
		return LOX_PASS;
	if (eth->h_proto == bpf_htons(ETH_P_IP)) {
		reason = lox_parse4(data, end, &p, LOX_NO_FRAGMENT);
		return reason ? lox_special(ctx, false, reason) : lox_leaving_ip(ctx, false, &p);
	}
	if (eth->h_proto == bpf_htons(ETH_P_IPV6)) {
		reason = lox_parse6(data, end, &p, LOX_NO_FRAGMENT);
		return reason ? lox_special(ctx, true, reason) : lox_leaving_ip(ctx, true, &p);
	}
	return LOX_PASS;
}

#endif
