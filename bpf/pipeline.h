/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * The pipeline, alike on both hooks: parse, flow lookup, on a hit rewrite and send; otherwise the slow path: service,
 * endpoint, flow, state, route. The steps of a hook (steps_xdp.h or steps_tc.h) must be included before this file.
 */
#ifndef LOX_PIPELINE_H
#define LOX_PIPELINE_H

#include "open.h"
#include "promote.h"
#include "rewrite.h"
#include "verdict.h"

#define LOX_NOT_PLAIN (-1)

LOX_INLINE void lox_account(struct lox_flow *f, __u32 bytes)
{
	__u32 now = lox_now();

	if (f->last != now)
		WRITE_ONCE(f->last, now);
	__sync_fetch_and_add(&f->packets, 1);
	__sync_fetch_and_add(&f->bytes, bytes);
}

LOX_INLINE bool lox_plain(const struct lox_packet *p, const struct lox_flow *f)
{
	return !(p->tcp_flags & (LOX_TCP_SYN | LOX_TCP_FIN | LOX_TCP_RST)) && p->ttl > 1 && f->next_hop &&
	       !(f->flags & (LOX_FLOW_EXTENDED | LOX_FLOW_ENDED));
}

/* Read a cached next hop; false when it was overwritten meanwhile. */
LOX_INLINE bool lox_cached_way(const struct lox_flow *f, __u16 generation, struct lox_way *way)
{
	__u32 at = f->next_hop, word;
	struct lox_next_hop *hop;

	if (f->generation != generation || !at)
		return false;
	hop = bpf_map_lookup_elem(&next_hops, &at);
	if (!hop)
		return false;
	word = READ_ONCE(hop->word);
	__builtin_memcpy(&way->macs, hop->dmac, sizeof(way->macs));
	way->ifindex = hop->ifindex;
	way->peer = hop->peer;
	way->mtu = hop->mtu;
	BARRIER();
	return (word & LOX_SLOT_MASK) == LOX_SLOT_LIVE && READ_ONCE(hop->word) == word;
}

LOX_INLINE bool lox_too_big(lox_ctx *ctx, const struct lox_packet *p, __u32 mtu)
{
	return p->bytes > mtu && lox_length(ctx, p) > mtu;
}

/* The plain path: an established flow with a known next hop. LOX_NOT_PLAIN sends the packet to the slow path. */
LOX_INLINE int lox_established(lox_ctx *ctx, const bool v6, struct lox_packet *p, const struct lox_ref *ref)
{
	struct lox_runtime *rt = lox_runtime();
	struct lox_rewrite rw;
	struct lox_way way;

	if (!rt || !lox_plain(p, ref->flow) || !lox_cached_way(ref->flow, rt->generation, &way) ||
	    lox_too_big(ctx, p, way.mtu))
		return LOX_NOT_PLAIN;
	lox_copy(v6, ref->flow, &rw);
	if (!lox_holds(ref))
		return lox_leave(LOX_DROP, LOX_DROP_FLOW_MOVED);
	lox_account(ref->flow, p->bytes);
	lox_note_window(p, ref->flow);
	if (lox_rewrite(ctx, v6, p, &rw, &way.macs))
		return lox_leave(LOX_DROP, LOX_DROP_WRITE);
	lox_count(LOX_FORWARD_ESTABLISHED);
	return lox_send(ctx, way.ifindex, way.peer);
}

/*
 * Rule of the service this packet is addressed to; 0 when there is none. A service for packets of its mark comes before the
 * one for any packet. Where there are such services XDP, which knows no marks, gets LOX_LISTENER_MARKED.
 */
LOX_INLINE __u32 lox_listener(lox_ctx *ctx, const bool v6, const struct lox_packet *p)
{
	bool echo = p->tuple.proto == IPPROTO_ICMP || p->tuple.proto == IPPROTO_ICMPV6;
	__be16 port = echo ? 0 : p->tuple.dport;
	__u32 any, marked = 0;

	if ((echo && p->echo_reply) || !lox_maybe_served(v6, &p->tuple.daddr))
		return 0;
	any = lox_listener_at(v6, &p->tuple.daddr, port, p->tuple.proto, 0);
	if (any & LOX_LISTENER_MARKED) {
		if (LOX_HOOK_IS_XDP)
			return LOX_LISTENER_MARKED;
		if (lox_mark(ctx))
			marked = lox_listener_at(v6, &p->tuple.daddr, port, p->tuple.proto, lox_mark(ctx));
	}
	return (marked ? marked : any) & LOX_LISTENER_RULE;
}

#include "slow.h"

/* Off the plain path. `rule` is that of the service when both tables have been searched in vain, else 0. */
LOX_INLINE int lox_go_slow(lox_ctx *ctx, const bool v6, __u32 rule)
{
	struct lox_work *w = lox_work();

	if (w) {
		w->rule = rule;
		w->fragments = LOX_NO_FRAGMENT;
		bpf_tail_call(ctx, &LOX_STEPS, v6 ? LOX_STEP_SLOW6 : LOX_STEP_SLOW4);
	}
	return lox_leave(LOX_DROP, LOX_DROP_BUSY);
}

LOX_INLINE int lox_ip(lox_ctx *ctx, const bool v6, struct lox_packet *p)
{
	__u32 hash = lox_hash(v6, &p->tuple), rule = 0;
	struct lox_ref ref = {};
	int verdict;

	/* A SYN rarely belongs to an established flow: a look at one bit first. */
	if (p->tcp_flags != LOX_TCP_SYN || !lox_vacant(v6, hash))
		lox_find(v6, LOX_MAIN, &p->tuple, hash, &ref);
	if (ref.flow) {
		verdict = lox_established(ctx, v6, p, &ref);
		return verdict == LOX_NOT_PLAIN ? lox_go_slow(ctx, v6, 0) : verdict;
	}
	lox_find(v6, LOX_HALF, &p->tuple, hash, &ref);
	if (!ref.flow) {
		rule = lox_listener(ctx, v6, p);
		if (!rule)
			return lox_leave(LOX_PASS, LOX_PASS_NOT_SERVICE);
		if (LOX_HOOK_IS_XDP && rule == LOX_LISTENER_MARKED)
			return lox_leave(LOX_PASS, LOX_PASS_TO_TC);
	}
	return lox_go_slow(ctx, v6, rule);
}

LOX_INLINE int lox_frame(lox_ctx *ctx)
{
	void *data, *end;
	struct lox_packet p;
	struct ethhdr *eth;
	int reason;

	lox_reach(ctx, LOX_L3 + sizeof(struct ipv6hdr) + sizeof(struct tcphdr));
	data = lox_data(ctx);
	end = lox_end(ctx);
	eth = data;
	if ((void *)(eth + 1) > end)
		return lox_leave(LOX_PASS, LOX_PASS_MALFORMED);
	if (!lox_for_us(ctx, eth))
		return lox_leave(LOX_PASS, LOX_PASS_OTHER_HOST);
	if (eth->h_proto == bpf_htons(ETH_P_IP)) {
		reason = lox_parse4(data, end, &p, LOX_NO_FRAGMENT);
		return reason ? lox_special(ctx, false, reason) : lox_ip(ctx, false, &p);
	}
	if (eth->h_proto == bpf_htons(ETH_P_IPV6)) {
		reason = lox_parse6(data, end, &p, LOX_NO_FRAGMENT);
		return reason ? lox_special(ctx, true, reason) : lox_ip(ctx, true, &p);
	}
	return lox_leave(LOX_PASS, LOX_PASS_NOT_IP);
}

#endif
