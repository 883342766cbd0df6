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
	if (!own.flow || own.flow->flags & LOX_FLOW_REPLY)
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

/* Ask the FIB where a packet of this flow goes, and remember the answer in its slot. */
LOX_INLINE void lox_resolve(lox_ctx *ctx, const bool v6, struct lox_work *w, struct lox_flow *f, __u32 generation)
{
	w->way.route = lox_route(ctx, v6, lox_ifindex(ctx), &w->rw.saddr, &w->rw.daddr, w->p.tuple.proto, &w->fib);
	w->way.ifindex = w->fib.ifindex;
	if (w->way.route != LOX_ROUTE_READY)
		return;
	__builtin_memcpy(w->way.macs.dmac, w->fib.dmac, 6);
	__builtin_memcpy(w->way.macs.smac, w->fib.smac, 6);
	w->way.peer = lox_peer_of(w->fib.ifindex);
	/* Index and generation change together. */
	WRITE_ONCE(*(__u32 *)&f->next_hop, lox_hop_index(&w->fib, generation) | generation << 16);
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

/* Move the flow's state on. Returns the state a half-open flow is to move to the large table with, else 0. */
LOX_INLINE int lox_advance(const bool v6)
{
	struct lox_work *w = lox_work();
	struct lox_ref own, peer;
	__u8 state;

	if (!w)
		return 0;
	lox_find_pair(v6, w, &own, &peer);
	if (!own.flow)
		return 0;
	state = lox_next_state(&w->p, own.flow, peer.flow && peer.flow->flags & LOX_FLOW_FIN);
	lox_set_state(own.flow, peer.flow, state, w->p.tcp_flags & LOX_TCP_FIN);
	return own.table == LOX_HALF && lox_matures(own.flow, state) ? state : 0;
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

	if (state && !(v6 ? lox_promote6(state) : lox_promote4(state)))
		return LOX_DROP_TABLE_FULL;
	lox_find_any(v6, &w->p.tuple, ref);
	return ref->flow ? 0 : LOX_DROP_FLOW_MOVED;
}

/* Open a flow for this packet if it may. Returns 0 or the reason to drop. */
LOX_INLINE int lox_open_for(const bool v6, struct lox_work *w, __u32 rule_id, struct lox_ref *ref)
{
	int reason;

	if (!lox_opens(&w->p))
		return LOX_DROP_NOT_SYN;
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
LOX_INLINE int lox_flow_of(const bool v6, struct lox_work *w, __u32 rule_id, struct lox_ref *ref,
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
	*forward = LOX_FORWARD_NEW;
	if (!ref->flow)
		return lox_open_for(v6, w, rule_id ? rule_id : lox_listener(v6, &w->p), ref);
	*forward = ref->table == LOX_HALF ? LOX_FORWARD_HALF_OPEN : LOX_FORWARD_ESTABLISHED;
	return 0;
}

/* Write the packet and let it go. */
LOX_INLINE int lox_finish(lox_ctx *ctx, const bool v6, struct lox_work *w, enum lox_reason forward)
{
	bool ready = w->way.route == LOX_ROUTE_READY;

	if (lox_rewrite(ctx, v6, &w->p, &w->rw, ready ? &w->way.macs : NULL))
		return lox_leave(LOX_DROP, LOX_DROP_WRITE);
	if (w->way.route == LOX_ROUTE_LOCAL)
		return lox_leave(LOX_PASS, LOX_FORWARD_LOCAL);
	if (!ready)
		return lox_leave(lox_send_unresolved(v6, &w->fib), LOX_FORWARD_RESOLVE);
	lox_count(forward);
	return lox_send(ctx, w->way.ifindex, w->way.peer);
}

/* Find or open the flow and its way. 0, or the reason to drop. */
LOX_INLINE int lox_prepare(lox_ctx *ctx, const bool v6, struct lox_work *w, __u32 rule_id, struct lox_ref *ref,
			   enum lox_reason *forward)
{
	struct lox_runtime *rt = lox_runtime();
	__u16 generation;
	int reason;

	if (!rt || w->p.ttl <= 1)
		return LOX_DROP_TTL;
	generation = rt->generation;
	reason = lox_flow_of(v6, w, rule_id, ref, forward);
	if (reason)
		return reason;
	lox_copy(v6, ref->flow, &w->rw);
	w->way.route = LOX_ROUTE_READY;
	if (!lox_cached_way(ref->flow, generation, &w->way))
		lox_resolve(ctx, v6, w, ref->flow, generation);
	return w->way.route == LOX_ROUTE_NONE ? LOX_DROP_NO_ROUTE : 0;
}

LOX_INLINE int lox_slow(lox_ctx *ctx, const bool v6, struct lox_work *w, __u32 rule_id)
{
	enum lox_reason forward;
	struct lox_ref ref;
	int reason = lox_prepare(ctx, v6, w, rule_id, &ref, &forward);

	if (reason)
		return lox_leave(LOX_DROP, reason);
	if (LOX_HOOK_IS_XDP && w->way.route != LOX_ROUTE_READY)
		return lox_leave(LOX_PASS, LOX_PASS_TO_TC);
	if (forward != LOX_FORWARD_NEW)
		reason = lox_progress(v6, w, &ref);
	if (reason)
		return lox_leave(LOX_DROP, reason);
	lox_account(ref.flow, w->p.bytes);
	return lox_finish(ctx, v6, w, forward);
}

__noinline int lox_slow4(lox_ctx *ctx, __u32 rule_id)
{
	struct lox_work *w = lox_work();

	if (!w || lox_parse4(lox_data(ctx), lox_end(ctx), &w->p))
		return lox_leave(LOX_DROP, LOX_DROP_BUSY);
	return lox_slow(ctx, false, w, rule_id);
}

__noinline int lox_slow6(lox_ctx *ctx, __u32 rule_id)
{
	struct lox_work *w = lox_work();

	if (!w || lox_parse6(lox_data(ctx), lox_end(ctx), &w->p))
		return lox_leave(LOX_DROP, LOX_DROP_BUSY);
	return lox_slow(ctx, true, w, rule_id);
}

#endif
