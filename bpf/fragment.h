/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Fragments, on TC. The first one, which has the ports, goes the way of a whole packet and leaves its ports behind; the
 * others find the flow by them and have their addresses translated. One that comes before its first, or would overwrite
 * part of it, is dropped where it could be a flow's.
 */
#ifndef LOX_FRAGMENT_H
#define LOX_FRAGMENT_H

#include "pipeline.h"

#define LOX_FRAGMENT_LIFE 8192 /* jiffies a record lives: about half a minute at 250 Hz */

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1);
	__type(key, struct lox_fragment_key);
	__type(value, struct lox_fragment);
} fragments SEC(".maps");

/* Where in its datagram a fragment lies, in bytes. */
struct lox_piece {
	struct lox_fragment_key key;
	__u32 offset;
	__u32 length;
	bool more;
};

/* Read the fragment's place; its header is parsed into w->p. Returns 0 or the reason to pass. */
LOX_INLINE int lox_read_piece(lox_ctx *ctx, const bool v6, struct lox_work *w, struct lox_piece *piece)
{
	void *data, *end;
	__be16 word;
	int reason;

	lox_reach(ctx, LOX_REACH);
	data = lox_data(ctx);
	end = lox_end(ctx);
	reason = v6 ? lox_parse6(data, end, &w->p, LOX_FIRST_FRAGMENT) : lox_parse4(data, end, &w->p, LOX_FIRST_FRAGMENT);
	if (v6) {
		__be16 *header = data + ((w->p.l4 - 8) & 0xff);

		if ((void *)(header + 4) > end)
			return LOX_PASS_MALFORMED;
		word = bpf_ntohs(header[1]);
		piece->offset = word & 0xfff8;
		piece->more = word & 1;
		piece->key.saddr = w->p.tuple.saddr;
		piece->key.daddr = w->p.tuple.daddr;
		piece->key.id = *(__u32 *)(header + 2);
	} else {
		struct iphdr *ip = data + LOX_L3;

		if ((void *)(ip + 1) > end)
			return LOX_PASS_MALFORMED;
		word = bpf_ntohs(ip->frag_off);
		piece->offset = (word & 0x1fff) * 8;
		piece->more = word & 0x2000;
		piece->key.saddr.v4 = ip->saddr;
		piece->key.daddr.v4 = ip->daddr;
		piece->key.id = ip->id;
	}
	piece->key.proto = w->p.tuple.proto;
	piece->length = w->p.bytes + LOX_L3 - w->p.l4;
	return piece->offset ? 0 : reason;
}

/* A fragment that belongs to no flow we know: pass it, unless it may belong to one. */
LOX_INLINE int lox_stray(lox_ctx *ctx, const bool v6, const struct lox_work *w)
{
	if (!LOX_HOOK_IS_EGRESS && (lox_host(v6, &w->p.tuple.daddr) || lox_host(v6, &w->p.tuple.saddr)))
		return lox_discard(ctx, LOX_DROP_FRAGMENT);
	return lox_leave(LOX_PASS, LOX_PASS_FRAGMENT);
}

/* Bytes of the datagram's first fragment: the most, should it come twice. Other ports: another datagram. */
LOX_INLINE __u32 lox_first_length(const struct lox_fragment *now, const struct lox_fragment_key *key)
{
	struct lox_fragment *before = bpf_map_lookup_elem(&fragments, key);

	if (!before || now->last - before->last > LOX_FRAGMENT_LIFE || before->sport != now->sport ||
	    before->dport != now->dport || before->first < now->first)
		return now->first;
	return before->first;
}

/* The first fragment of a datagram. */
LOX_INLINE int lox_first_fragment(lox_ctx *ctx, const bool v6, struct lox_work *w, const struct lox_piece *piece)
{
	struct lox_fragment fragment = {
		.sport = w->p.tuple.sport,
		.dport = w->p.tuple.dport,
		.first = piece->length,
		.last = lox_now(),
	};
	struct lox_ref ref;

	w->rule = 0;
	w->fragments = LOX_FIRST_FRAGMENT;
	lox_find_any(v6, &w->p.tuple, &ref);
	if (!ref.flow)
		w->rule = lox_listener(ctx, v6, &w->p);
	fragment.first = lox_first_length(&fragment, &piece->key);
	bpf_map_update_elem(&fragments, &piece->key, &fragment, BPF_ANY);
	if (!ref.flow && !w->rule)
		return lox_leave(LOX_PASS, LOX_PASS_FRAGMENT);
	bpf_tail_call(ctx, &LOX_STEPS, v6 ? LOX_STEP_SLOW6 : LOX_STEP_SLOW4);
	return lox_discard(ctx, LOX_DROP_BUSY);
}

/* Translate the addresses of a fragment without ports. Returns 0 or -1. */
LOX_INLINE int lox_rewrite_addresses(lox_ctx *ctx, const bool v6, struct lox_work *w)
{
	void *data = lox_data(ctx);
	__u64 diff;

	if (data + LOX_L3 + (v6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr)) > lox_end(ctx))
		return -1;
	if (lox_macs_of(&w->way))
		__builtin_memcpy(data, &w->way.macs, sizeof(w->way.macs));
	diff = v6 ? lox_write6(data + LOX_L3, &w->rw) : lox_write4(data + LOX_L3, &w->rw);
	if (v6) /* nothing in this fragment makes up for the change */
		bpf_csum_update(ctx, lox_csum_wrap(diff));
	return 0;
}

/* A fragment behind the first, of a known flow. */
LOX_INLINE int lox_next_fragment(lox_ctx *ctx, const bool v6, struct lox_work *w, struct lox_ref *ref)
{
	struct lox_runtime *rt = lox_runtime();
	int reason;

	if (!rt)
		return lox_discard(ctx, LOX_DROP_BUSY);
	lox_copy(v6, ref->flow, &w->rw);
	lox_find_way(ctx, v6, w, ref, rt->generation);
	reason = lox_hop_check(ctx, w);
	if (reason && v6) /* the sender is told of every fragment, of IPv4 only of the first (RFC 1812 section 4.3.2.7) */
		return lox_refuse(ctx, v6, reason);
	if (reason)
		return lox_discard(ctx, reason);
	lox_account(ref->flow, w->p.bytes);
	if (lox_is_kernels(&w->way))
		w->rw.flags |= LOX_KEEP_TTL;
	if (lox_rewrite_addresses(ctx, v6, w))
		return lox_discard(ctx, LOX_DROP_WRITE);
	if (lox_is_kernels(&w->way))
		return lox_hand_over(&w->way);
	if (w->way.route == LOX_ROUTE_NEIGHBOUR)
		return lox_leave(lox_send_unresolved(v6, &w->fib), LOX_FORWARD_RESOLVE);
	lox_count(LOX_FORWARD_FRAGMENT);
	return lox_send(ctx, w->way.ifindex, w->way.peer);
}

LOX_INLINE int lox_fragment(lox_ctx *ctx, const bool v6)
{
	struct lox_work *w = lox_work();
	struct lox_piece piece = {};
	struct lox_fragment *first;
	struct lox_ref ref;
	__u32 least;
	int reason;

	if (!lox_serves(v6))
		return lox_leave(LOX_PASS, LOX_PASS_PROTOCOL);
	if (!w)
		return lox_discard(ctx, LOX_DROP_BUSY);
	reason = lox_read_piece(ctx, v6, w, &piece);
	least = piece.offset ? 1 : lox_header_length(w->p.tuple.proto); /* too short for its ports? */
	if (reason || !lox_complete_frame(ctx, &w->p, least))
		return reason && piece.offset ? lox_leave(LOX_PASS, reason) : lox_stray(ctx, v6, w);
	if (!piece.offset)
		return lox_first_fragment(ctx, v6, w, &piece);
	first = bpf_map_lookup_elem(&fragments, &piece.key);
	if (!first || lox_now() - first->last > LOX_FRAGMENT_LIFE)
		return lox_stray(ctx, v6, w);
	if (piece.offset < first->first)
		return lox_discard(ctx, LOX_DROP_FRAGMENT);
	w->p.tuple.sport = first->sport;
	w->p.tuple.dport = first->dport;
	lox_find_any(v6, &w->p.tuple, &ref);
	if (ref.flow)
		return lox_next_fragment(ctx, v6, w, &ref);
	if (lox_listener(ctx, v6, &w->p))
		return lox_discard(ctx, LOX_DROP_FRAGMENT); /* the first one did not get through */
	return lox_leave(LOX_PASS, LOX_PASS_FRAGMENT);
}

#endif
