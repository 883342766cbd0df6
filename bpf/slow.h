/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* Everything but the plain path: new flows, handshakes, closing flows, next hops to resolve. Part of pipeline.h. */
#ifndef LOX_SLOW_H
#define LOX_SLOW_H

/* Find a flow in either table. */
LOX_INLINE void lox_find_any(const bool v6, struct lox_tuple *t, struct lox_ref *ref)
{
	lox_look_up(v6, LOX_MAIN, t, ref);
	if (!ref->flow)
		lox_look_up(v6, LOX_HALF, t, ref);
}

/* Find the packet's flow and the other direction of it. Both may be missing. */
LOX_INLINE void lox_find_pair(const bool v6, struct lox_work *w, struct lox_ref *own, struct lox_ref *peer)
{
	lox_find_any(v6, &w->p.tuple, own);
	peer->flow = NULL;
	if (!own->flow)
		return;
	lox_reverse(v6, own->flow, &w->reverse);
	lox_find_any(v6, &w->reverse, peer);
}

/* End the flow of this packet, both directions. */
LOX_INLINE int lox_end_flow(const bool v6)
{
	struct lox_work *w = lox_work();
	struct lox_ref own, peer;

	if (!w)
		return 0;
	lox_find_pair(v6, w, &own, &peer);
	if (peer.flow)
		lox_drop(v6, &w->reverse, &peer);
	if (own.flow)
		lox_drop(v6, &w->p.tuple, &own);
	return 0;
}

__noinline int lox_end_flow4(void)
{
	return lox_end_flow(false);
}

__noinline int lox_end_flow6(void)
{
	return lox_end_flow(true);
}

/*
 * Has this packet's half-open flow lost its other direction, which gave way to a newer flow? Then replies would find no
 * way back: the client's next packet opens it anew. The large table is searched last, since a flow enters it before it
 * leaves the half-open one.
 */
LOX_INLINE int lox_halved(const bool v6)
{
	struct lox_work *w = lox_work();
	struct lox_ref own;

	if (!w || !lox_opens(&w->p))
		return 0;
	lox_look_up(v6, LOX_HALF, &w->p.tuple, &own);
	if (!own.flow || own.flow->flags & (LOX_FLOW_REPLY | LOX_FLOW_DIRECT))
		return 0;
	lox_reverse(v6, own.flow, &w->reverse);
	return !lox_present(v6, LOX_HALF, &w->reverse) && !lox_present(v6, LOX_MAIN, &w->reverse);
}

__noinline int lox_halved4(void)
{
	return lox_halved(false);
}

__noinline int lox_halved6(void)
{
	return lox_halved(true);
}

/* Where a packet of this flow is routed to: what it is rewritten to, or the endpoint that shares our address. */
LOX_INLINE const union lox_addr *lox_target(const struct lox_ref *ref, const struct lox_rewrite *rw)
{
	struct lox_endpoint *e;
	__u32 id;

	if (!(rw->flags & LOX_FLOW_DIRECT) || !ref->cold)
		return &rw->daddr;
	id = ref->cold->endpoint;
	e = bpf_map_lookup_elem(&endpoints, &id);
	return e ? &e->addr : &rw->daddr;
}

/*
 * Ask the FIB where a packet of this flow goes, and remember the answer in its slot. It says the same of an address of this
 * host and of one that no route leads to; an endpoint on this host is known.
 */
LOX_INLINE void lox_resolve(lox_ctx *ctx, const bool v6, struct lox_work *w, const struct lox_ref *ref,
			    __u32 generation)
{
	const union lox_addr *target = lox_target(ref, &w->rw);

	w->way.route = lox_route(ctx, v6, lox_ifindex(ctx), &w->rw.saddr, target, w->p.tuple.proto, &w->fib);
	if (w->way.route == LOX_ROUTE_LOCAL && !(ref->flow->flags & LOX_FLOW_REPLY) &&
	    lox_host(v6, target) != LOX_HOST_LOCAL)
		w->way.route = LOX_ROUTE_NONE;
	w->way.ifindex = w->fib.ifindex;
	w->way.mtu = lox_mtu_of(&w->fib);
	if (w->way.route != LOX_ROUTE_READY)
		return;
	__builtin_memcpy(w->way.macs.dmac, w->fib.dmac, 6);
	__builtin_memcpy(w->way.macs.smac, w->fib.smac, 6);
	w->way.peer = lox_peer_of(w->fib.ifindex);
	/* The first answer to datagrams, which makes theirs a flow both ways, must come here: an error about it may be first. */
	if (ref->flow->state == LOX_STATE_ONE_WAY && ref->flow->flags & LOX_FLOW_REPLY)
		return;
	/* Index and generation change together. */
	WRITE_ONCE(*(__u32 *)&ref->flow->next_hop, lox_hop_index(&w->fib, generation) | generation << 16);
}

/* The way of a packet of this flow, into w->way. One that this host's own stack sends is on its way already. */
LOX_INLINE void lox_find_way(lox_ctx *ctx, const bool v6, struct lox_work *w, const struct lox_ref *ref,
			     __u16 generation)
{
	w->way.route = LOX_HOOK_IS_EGRESS ? LOX_ROUTE_LOCAL : LOX_ROUTE_READY;
	if (!LOX_HOOK_IS_EGRESS && !lox_cached_way(ref->flow, generation, &w->way))
		lox_resolve(ctx, v6, w, ref, generation);
}

/* Let the kernel resolve the neighbour and send the packet then. */
LOX_INLINE int lox_send_unresolved(const bool v6, const struct bpf_fib_lookup *fib)
{
	struct bpf_redir_neigh to = { .nh_family = v6 ? LOX_AF_INET6 : LOX_AF_INET };

	if (v6)
		__builtin_memcpy(to.ipv6_nh, fib->ipv6_dst, sizeof(to.ipv6_nh));
	else
		to.ipv4_nh = fib->ipv4_dst;
	return lox_send_neigh(fib->ifindex, &to);
}

/* A connection that has closed burdens its endpoint no more, though it is remembered for a while. */
LOX_INLINE void lox_close(const struct lox_ref *own, const struct lox_ref *peer)
{
	const struct lox_ref *forward = own->flow->flags & LOX_FLOW_REPLY ? peer : own;

	if (forward->flow && forward->cold)
		lox_leave_endpoint(forward->flow, forward->cold->endpoint);
}

/*
 * Move the flow's state on. Returns 0, the negative reason to drop, or the state a half-open flow is to move to the large
 * table with: it has that only when it is there.
 */
LOX_INLINE int lox_advance(const bool v6)
{
	struct lox_work *w = lox_work();
	struct lox_ref own, peer;
	__u8 state;
	bool fin;

	if (!w)
		return 0;
	lox_find_pair(v6, w, &own, &peer);
	if (!own.flow)
		return 0;
	state = lox_next_state(w, own.flow, peer.flow, &fin);
	if (!state)
		return -LOX_DROP_RST;
	if (own.table == LOX_HALF && lox_matures(own.flow, state))
		return state;
	if (w->p.tuple.proto == IPPROTO_TCP)
		lox_note_segment(w, own.flow, peer.flow, state);
	lox_set_state(own.flow, peer.flow, state, fin);
	if (lox_over(state))
		lox_close(&own, &peer);
	return 0;
}

__noinline int lox_advance4(void)
{
	return lox_advance(false);
}

__noinline int lox_advance6(void)
{
	return lox_advance(true);
}

/* What a packet of a flow that was there before changes in the tables. Returns 0 or the reason to drop. */
LOX_INLINE int lox_progress(const bool v6, struct lox_work *w, struct lox_ref *ref)
{
	int state = v6 ? lox_advance6() : lox_advance4();

	if (state < 0)
		return -state;
	if (state && !(v6 ? lox_promote6(state) : lox_promote4(state)))
		return LOX_DROP_TABLE_FULL;
	if (state && w->p.tuple.proto == IPPROTO_TCP) { /* only now it counts what the segment says */
		if (v6)
			lox_advance6();
		else
			lox_advance4();
	}
	lox_find_any(v6, &w->p.tuple, ref);
	return ref->flow ? 0 : LOX_DROP_FLOW_MOVED;
}

/* Open a flow for this packet if it may. Returns 0 or the reason to drop. */
LOX_INLINE int lox_open_for(const bool v6, struct lox_work *w, __u32 rule_id, struct lox_ref *ref)
{
	int reason;

	if (v6 ? lox_martian6(&w->p.tuple.saddr) : lox_martian4(w->p.tuple.saddr.v4))
		return LOX_DROP_MARTIAN;
	reason = v6 ? lox_open6(rule_id) : lox_open4(rule_id);
	if (reason)
		return reason;
	lox_look_up(v6, LOX_HALF, &w->p.tuple, ref);
	if (!ref->flow) /* opened by another CPU, and established meanwhile */
		lox_look_up(v6, LOX_MAIN, &w->p.tuple, ref);
	return ref->flow ? 0 : LOX_DROP_FLOW_MOVED;
}

/*
 * Find the flow of this packet, opening one if it may. `rule_id`, if not 0, is that of the packet's service, and says that
 * both tables have been searched in vain just now. Returns 0 or the reason to drop.
 */
LOX_INLINE int lox_flow_of(lox_ctx *ctx, const bool v6, struct lox_work *w, __u32 rule_id, struct lox_ref *ref,
			   enum lox_reason *forward)
{
	ref->flow = NULL;
	if (!rule_id)
		lox_find_any(v6, &w->p.tuple, ref);
	if (ref->flow && (lox_reopens(&w->p, ref->flow) ||
			  (ref->table == LOX_HALF && (v6 ? lox_halved6() : lox_halved4())))) {
		if (v6)
			lox_end_flow6();
		else
			lox_end_flow4();
		ref->flow = NULL;
	}
	if (ref->flow && ref->flow->flags & LOX_FLOW_ENDED)
		return LOX_DROP_NOT_SYN;
	*forward = LOX_FORWARD_NEW;
	if (!ref->flow && LOX_HOOK_IS_EGRESS)
		return LOX_PASS_NOT_SERVICE;
	if (!ref->flow)
		return lox_open_for(v6, w, rule_id ? rule_id : lox_listener(ctx, v6, &w->p), ref);
	*forward = ref->table == LOX_HALF ? LOX_FORWARD_HALF_OPEN : LOX_FORWARD_ESTABLISHED;
	return 0;
}

LOX_INLINE bool lox_is_kernels(const struct lox_way *way)
{
	return way->route == LOX_ROUTE_LOCAL || way->route == LOX_ROUTE_LOOPBACK;
}

/* MACs to write, if any. */
LOX_INLINE const struct lox_macs *lox_macs_of(const struct lox_way *way)
{
	return way->route == LOX_ROUTE_READY || way->route == LOX_ROUTE_LOOPBACK ? &way->macs : NULL;
}

/* Give the rewritten packet to the kernel. */
LOX_INLINE int lox_hand_over(const struct lox_way *way)
{
	if (way->route == LOX_ROUTE_LOOPBACK)
		return lox_leave(lox_send_up(), LOX_FORWARD_LOOPBACK);
	return lox_leave(LOX_PASS, LOX_FORWARD_LOCAL);
}

/* Write the packet and let it go. */
LOX_INLINE int lox_finish(lox_ctx *ctx, const bool v6, struct lox_work *w, enum lox_reason forward)
{
	if (lox_is_kernels(&w->way))
		w->rw.flags |= LOX_KEEP_TTL;
	if (lox_rewrite(ctx, v6, &w->p, &w->rw, lox_macs_of(&w->way)))
		return lox_discard(ctx, LOX_DROP_WRITE);
	if (lox_is_kernels(&w->way))
		return lox_hand_over(&w->way);
	if (w->way.route == LOX_ROUTE_NEIGHBOUR)
		return lox_leave(lox_send_unresolved(v6, &w->fib), LOX_FORWARD_RESOLVE);
	lox_count(forward);
	return lox_send(ctx, w->way.ifindex, w->way.peer);
}

/* Have the kernel forward the packet of IPv4, which it fragments. */
LOX_INLINE void lox_leave_to_kernel(struct lox_work *w)
{
	bool ours = w->rw.saddr.v4 != w->p.tuple.saddr.v4; /* not where the port alone is another */

	w->way.route = ours ? LOX_ROUTE_LOOPBACK : LOX_ROUTE_LOCAL;
	__builtin_memset(&w->way.macs, 0, sizeof(w->way.macs)); /* of the loopback */
}

/*
 * May the packet take this hop? Returns 0 or the reason to drop. One that may be fragmented is left to the kernel, but for
 * direct server return: to the kernel its destination is this host.
 */
LOX_INLINE int lox_hop_check(lox_ctx *ctx, struct lox_work *w)
{
	bool direct = w->rw.flags & LOX_FLOW_DIRECT;
	int lost = lox_no_way(&w->way);

	if (lost)
		return lost;
	if (w->way.route == LOX_ROUTE_LOCAL)
		return 0;
	if (w->p.ttl <= 1 && !direct)
		return LOX_DROP_TTL;
	if (!lox_too_big(ctx, &w->p, w->way.mtu))
		return 0;
	w->mtu = w->way.mtu;
	if (w->p.df)
		return LOX_DROP_TOO_BIG;
	if (!direct)
		lox_leave_to_kernel(w);
	return 0;
}

/* Find or open the flow and its way. 0, or the reason to drop. */
LOX_INLINE int lox_prepare(lox_ctx *ctx, const bool v6, struct lox_work *w, __u32 rule_id, struct lox_ref *ref,
			   enum lox_reason *forward)
{
	struct lox_runtime *rt = lox_runtime();
	__u16 generation;
	int reason;

	if (!rt)
		return LOX_DROP_BUSY;
	generation = rt->generation;
	reason = lox_flow_of(ctx, v6, w, rule_id, ref, forward);
	if (reason)
		return reason;
	lox_copy(v6, ref->flow, &w->rw);
	lox_find_way(ctx, v6, w, ref, generation);
	return lox_hop_check(ctx, w);
}

/* Window scale option of a SYN (RFC 7323 section 2.2), with LOX_SCALE_OFFERED; 0 without one. */
LOX_INLINE __u8 lox_window_scale(lox_ctx *ctx, const struct lox_packet *p)
{
	void *tcp = lox_data(ctx) + (p->l4 & 0xff), *options = tcp + sizeof(struct tcphdr), *end = lox_end(ctx);
	__u32 at = 0, length;

	if (options > end)
		return 0;
	length = (((__u8 *)tcp)[12] >> 4) * 4 - sizeof(struct tcphdr);
	for (int i = 0; i < 12; i++) {
		__u8 *option = options + (at & 0x3f);

		if (at + 3 > length || (void *)(option + 3) > end || option[0] == 0)
			return 0;
		if (option[0] == 3)
			return LOX_SCALE_OFFERED | (option[2] < LOX_SCALE_UNKNOWN ? option[2] : LOX_SCALE_UNKNOWN);
		at += option[0] == 1 ? 1 : option[1];
		OPAQUE(at);
	}
	return 0;
}

/* Read what only the handshake and the end of a connection need. */
__noinline int lox_read_segment(lox_ctx *ctx)
{
	struct lox_work *w = lox_work();
	__u32 headers;
	__u8 *tcp;

	if (!w)
		return 0;
	tcp = lox_data(ctx) + (w->p.l4 & 0xff);
	w->payload = w->scale = 0;
	if (w->p.tuple.proto != IPPROTO_TCP || (void *)(tcp + sizeof(struct tcphdr)) > lox_end(ctx))
		return 0;
	headers = w->p.l4 - LOX_L3 + (tcp[12] >> 4) * 4;
	if (w->p.bytes > headers)
		w->payload = w->p.bytes - headers;
	if (w->p.tcp_flags & LOX_TCP_SYN)
		w->scale = lox_window_scale(ctx, &w->p);
	return 0;
}

LOX_INLINE int lox_slow(lox_ctx *ctx, const bool v6, struct lox_work *w, __u32 rule_id)
{
	enum lox_reason forward;
	struct lox_ref ref;
	int reason;

	lox_read_segment(ctx);
	reason = lox_prepare(ctx, v6, w, rule_id, &ref, &forward);
	if (reason)
		return lox_refuse(ctx, v6, reason);
	if (LOX_HOOK_IS_XDP && w->way.route != LOX_ROUTE_READY)
		return lox_leave(LOX_PASS, LOX_PASS_TO_TC);
	if (forward != LOX_FORWARD_NEW)
		reason = lox_progress(v6, w, &ref);
	if (reason)
		return lox_discard(ctx, reason);
	lox_account(ref.flow, w->p.bytes);
	return lox_finish(ctx, v6, w, forward);
}

/*
 * The slow path is a program of its own, reached by tail call: the plain path keeps its registers, and the slow one has
 * the whole stack. The packet is parsed again, into the record that has room for it.
 */
LOX_INLINE int lox_slow_frame(lox_ctx *ctx, const bool v6)
{
	struct lox_work *w = lox_work();
	void *data = lox_data(ctx), *end = lox_end(ctx);
	int reason;

	if (!lox_serves(v6))
		return lox_leave(LOX_PASS, LOX_PASS_PROTOCOL);
	if (!w)
		return lox_discard(ctx, LOX_DROP_BUSY);
	reason = v6 ? lox_parse6(data, end, &w->p, w->fragments) : lox_parse4(data, end, &w->p, w->fragments);
	if (reason)
		return lox_discard(ctx, LOX_DROP_BUSY);
	if (!lox_complete_frame(ctx, &w->p, lox_header_length(w->p.tuple.proto)))
		return lox_leave(LOX_PASS, LOX_PASS_MALFORMED);
	return lox_slow(ctx, v6, w, w->rule);
}

#endif
