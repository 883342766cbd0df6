/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * ICMP errors about packets of a flow, on TC (RFC 5508 section 4). The error quotes a packet as it left here; the flow that
 * would carry the answer to that packet is the one whose rewrite, turned round, undoes the quote. So the sender gets an
 * error about the packet it sent, which makes path MTU discovery and traceroute work through every mode.
 */
#ifndef LOX_ICMP_H
#define LOX_ICMP_H

#include "pipeline.h"

#define LOX_QUOTE_REACH 0x100 /* more than headers, options included, take up to the quoted checksum */

/* Offsets in the frame. */
struct lox_quote {
	__u32 icmp;
	__u32 ip; /* of the quoted packet */
	__u32 l4;
	__u32 proto;
};

LOX_INLINE bool lox_quoted_ports(__u32 proto)
{
	return proto == IPPROTO_TCP || proto == IPPROTO_UDP;
}

/*
 * Find the transport header behind the extension headers of a quoted packet; a first fragment has one, too. Returns its
 * protocol and, shifted by 8, its offset; or -1.
 */
__noinline int lox_walk_quote(lox_ctx *ctx, __u32 proto, __u32 l4)
{
	void *data = lox_data(ctx), *end = lox_end(ctx);
	__be16 *header;

	if (!lox_walk_extensions(data, end, &proto, &l4))
		return -1;
	if (proto == IPPROTO_FRAGMENT) {
		header = data + (l4 & 0xff);
		if ((void *)(header + 4) > end || header[1] & bpf_htons(0xfff8))
			return -1;
		proto = *(__u8 *)header;
		l4 += 8;
	}
	return (l4 & 0xff) << 8 | (proto & 0xff);
}

/* Find what is quoted, and its key turned round: the tuple an answer to it would have. Returns 0, or -1. */
LOX_INLINE int lox_read_quote(lox_ctx *ctx, const bool v6, struct lox_quote *q, struct lox_tuple *t)
{
	void *data, *end;
	__be16 *ports;
	bool echo, reply;
	int walked;

	q->ip = q->icmp + 8;
	data = lox_data(ctx);
	end = lox_end(ctx);
	if (v6) {
		struct ipv6hdr *ip = data + (q->ip & 0xff);

		if ((void *)(ip + 1) > end)
			return -1;
		__builtin_memcpy(&t->saddr, &ip->daddr, 16);
		__builtin_memcpy(&t->daddr, &ip->saddr, 16);
		walked = lox_walk_quote(ctx, ip->nexthdr, q->ip + sizeof(*ip));
		OPAQUE(walked); /* clang 19 knows its range and drops the masks below, which the verifier needs */
		if (walked < 0)
			return -1;
		q->proto = walked & 0xff;
		q->l4 = walked >> 8 & 0xff;
	} else {
		struct iphdr *ip = data + (q->ip & 0xff);

		if ((void *)(ip + 1) > end || ip->ihl < 5 || ip->frag_off & bpf_htons(0x1fff))
			return -1;
		t->saddr.v4 = ip->daddr;
		t->daddr.v4 = ip->saddr;
		q->proto = ip->protocol;
		q->l4 = q->ip + ip->ihl * 4;
	}
	ports = data + (q->l4 & 0xff);
	if ((void *)(ports + 4) > end)
		return -1;
	echo = q->proto == (v6 ? IPPROTO_ICMPV6 : IPPROTO_ICMP);
	reply = echo && *(__u8 *)ports == (v6 ? LOX_ICMP6_ECHO_REPLY : LOX_ICMP_ECHO_REPLY);
	if (echo ? !reply && *(__u8 *)ports != (v6 ? LOX_ICMP6_ECHO : LOX_ICMP_ECHO) : !lox_quoted_ports(q->proto))
		return -1;
	t->proto = q->proto;
	t->sport = !echo ? ports[1] : reply ? ports[2] : 0;
	t->dport = !echo ? ports[0] : reply ? 0 : ports[2];
	return 0;
}

/* Write the quoted packet's addresses back to what its sender wrote; returns the change of the ICMP message's sum. */
LOX_INLINE __u64 lox_undo_addresses(const bool v6, void *at, const struct lox_rewrite *rw)
{
	if (v6) {
		struct ipv6hdr *ip = at;
		__u64 diff = lox_csum_diff128((void *)&ip->saddr, &rw->daddr) + lox_csum_diff128((void *)&ip->daddr, &rw->saddr);

		__builtin_memcpy(&ip->saddr, &rw->daddr, 16);
		__builtin_memcpy(&ip->daddr, &rw->saddr, 16);
		return diff;
	} else {
		struct iphdr *ip = at;
		__u64 diff = lox_csum_diff32(ip->saddr, rw->daddr.v4) + lox_csum_diff32(ip->daddr, rw->saddr.v4);
		__u16 before = ip->check;

		ip->saddr = rw->daddr.v4;
		ip->daddr = rw->saddr.v4;
		ip->check = lox_csum_apply(before, diff);
		return diff + lox_csum_diff16(before, ip->check);
	}
}

/* The same for ports and, where it is quoted, the checksum. */
LOX_INLINE __u64 lox_undo_ports(lox_ctx *ctx, const bool v6, const struct lox_quote *q, const struct lox_rewrite *rw,
				__u64 addresses)
{
	void *l4 = lox_data(ctx) + (q->l4 & 0xff), *end = lox_end(ctx);
	__be16 *ports = l4, *check;
	__u64 diff;

	if (l4 + 8 > end)
		return 0;
	if (!lox_quoted_ports(q->proto)) {
		__be16 id = rw->dport ? rw->dport : rw->sport; /* the side that answers has no identifier of its own */

		diff = lox_csum_diff16(ports[2], id);
		ports[2] = id;
		check = l4 + 2;
		if (!v6)
			addresses = 0;
	} else {
		diff = lox_csum_diff16(ports[0], rw->dport) + lox_csum_diff16(ports[1], rw->sport);
		ports[0] = rw->dport;
		ports[1] = rw->sport;
		check = l4 + (q->proto == IPPROTO_TCP ? 16 : 6);
	}
	if ((void *)(check + 1) <= end && (*check || q->proto == IPPROTO_TCP)) {
		__u16 before = *check;

		*check = lox_csum_apply(before, addresses + diff);
		diff += lox_csum_diff16(before, *check);
	}
	return diff;
}

/*
 * Addresses of the error itself: to the sender of what it quotes. Where the flow hides its source the error hides its own,
 * too (RFC 5508 sections 4.2 and 4.3).
 */
LOX_INLINE void lox_outer(const bool v6, const struct lox_work *w, struct lox_rewrite *outer)
{
	const union lox_addr *source = &w->reverse.saddr;
	bool same = v6 ? lox_equal6(source, &w->rw.saddr) : source->v4 == w->rw.saddr.v4;

	outer->daddr = w->rw.daddr;
	outer->saddr = same ? w->p.tuple.saddr : w->rw.saddr;
	outer->flags = LOX_FLOW_REPLY | LOX_FLOW_SOURCE;
}

/* Translate the error in place. Returns 0, or -1 when it cannot be written. */
LOX_INLINE int lox_translate(lox_ctx *ctx, const bool v6, const struct lox_quote *q, const struct lox_rewrite *rw,
			     const struct lox_rewrite *outer, const struct lox_macs *macs)
{
	void *data = lox_data(ctx), *end = lox_end(ctx), *quoted = data + (q->ip & 0xff);
	__be16 *check = data + (q->icmp & 0xff) + 2;
	__u64 addresses, diff = 0;

	if (data + LOX_L3 + sizeof(struct ipv6hdr) > end || quoted + (v6 ? 40 : 20) > end || (void *)(check + 1) > end)
		return -1;
	addresses = v6 ? lox_csum_diff128((void *)&((struct ipv6hdr *)quoted)->saddr, &rw->daddr) +
				 lox_csum_diff128((void *)&((struct ipv6hdr *)quoted)->daddr, &rw->saddr) :
			 lox_csum_diff32(((struct iphdr *)quoted)->saddr, rw->daddr.v4) +
				 lox_csum_diff32(((struct iphdr *)quoted)->daddr, rw->saddr.v4);
	diff += lox_undo_addresses(v6, quoted, rw);
	diff += lox_undo_ports(ctx, v6, q, rw, addresses);
	OPAQUE(macs); /* else its test may become one of another variable, which the verifier of 6.1 does not follow */
	if (macs)
		__builtin_memcpy(data, macs, sizeof(*macs));
	if (v6)
		diff += lox_write6(data + LOX_L3, outer);
	else
		lox_write4(data + LOX_L3, outer);
	*check = lox_csum_apply(*check, diff);
	return 0;
}

/* Translate and forward an ICMP error about a flow; one about something else goes on to the kernel. */
LOX_INLINE int lox_icmp_forward(lox_ctx *ctx, const bool v6, struct lox_work *w, struct lox_quote *q)
{
	struct lox_runtime *rt = lox_runtime();
	struct lox_rewrite outer = {};
	struct lox_ref ref;
	int lost;

	lox_find_any(v6, &w->reverse, &ref);
	if (!rt || !ref.flow || w->p.ttl <= 1)
		return lox_leave(LOX_PASS, LOX_PASS_ICMP_ERROR);
	lox_copy(v6, ref.flow, &w->rw);
	lox_outer(v6, w, &outer);
	w->p.tuple.proto = v6 ? IPPROTO_ICMPV6 : IPPROTO_ICMP;
	lox_find_way(ctx, v6, w, &ref, rt->generation);
	lost = lox_no_way(&w->way);
	if (lost)
		return lox_discard(ctx, lost);
	if (w->way.route == LOX_ROUTE_LOCAL)
		outer.flags |= LOX_KEEP_TTL;
	if (lox_translate(ctx, v6, q, &w->rw, &outer, w->way.route == LOX_ROUTE_READY ? &w->way.macs : NULL))
		return lox_discard(ctx, LOX_DROP_WRITE);
	if (w->way.route == LOX_ROUTE_LOCAL)
		return lox_leave(LOX_PASS, LOX_FORWARD_LOCAL);
	lox_count(LOX_FORWARD_ICMP_ERROR);
	if (w->way.route == LOX_ROUTE_NEIGHBOUR)
		return lox_send_unresolved(v6, &w->fib);
	return lox_send(ctx, w->way.ifindex, w->way.peer);
}

LOX_INLINE int lox_icmp_error(lox_ctx *ctx, const bool v6)
{
	struct lox_work *w = lox_work();
	struct lox_quote q = {};
	int reason;

	if (!lox_serves(v6))
		return lox_leave(LOX_PASS, LOX_PASS_PROTOCOL);
	if (!w)
		return lox_discard(ctx, LOX_DROP_BUSY);
	lox_reach(ctx, LOX_QUOTE_REACH);
	reason = v6 ? lox_parse6(lox_data(ctx), lox_end(ctx), &w->p, LOX_NO_FRAGMENT) : lox_parse4(lox_data(ctx), lox_end(ctx), &w->p, LOX_NO_FRAGMENT);
	q.icmp = w->p.l4;
	if (reason != LOX_PASS_ICMP_ERROR || lox_read_quote(ctx, v6, &q, &w->reverse))
		return lox_leave(LOX_PASS, LOX_PASS_ICMP_ERROR);
	return lox_icmp_forward(ctx, v6, w, &q);
}

#endif
