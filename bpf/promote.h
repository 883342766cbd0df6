/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* A half-open flow that has become established moves into the large table, both directions, counters and all. */
#ifndef LOX_PROMOTE_H
#define LOX_PROMOTE_H

#include "event.h"
#include "insert.h"
#include "state.h"
#include "work.h"

LOX_INLINE void lox_insert_of(const bool v6, const struct lox_flow *f, const struct lox_cold *cold, __u8 state,
			      struct lox_insert *in)
{
	if (v6) {
		const struct lox_flow6 *six = (const void *)f;

		in->key.saddr = six->saddr;
		in->key.daddr = six->daddr;
		in->new_saddr = six->new_saddr;
		in->new_daddr = six->new_daddr;
	} else {
		const struct lox_flow4 *four = (const void *)f;

		in->key.saddr.v4 = four->saddr;
		in->key.daddr.v4 = four->daddr;
		in->new_saddr.v4 = four->new_saddr;
		in->new_daddr.v4 = four->new_daddr;
	}
	in->key.sport = f->sport;
	in->key.dport = f->dport;
	in->key.proto = f->proto;
	in->new_sport = f->new_sport;
	in->new_dport = f->new_dport;
	in->flags = f->flags;
	in->state = state;
	in->next_hop = f->next_hop;
	in->generation = f->generation;
	in->window_scale = f->window_scale;
	in->sequence = f->sequence;
	in->cold = *cold;
}

/*
 * First half of a move: the flow enters the large table, with empty counters. A flow is one of its endpoint's live flows in
 * one place only: there it counts as closed until it has left the half-open table.
 */
LOX_INLINE int lox_enter(const bool v6, struct lox_insert *in, const struct lox_ref *half, __u8 state)
{
	lox_insert_of(v6, half->flow, half->cold, state, in);
	if (!(in->flags & LOX_FLOW_REPLY))
		in->flags |= LOX_FLOW_CLOSED;
	return lox_holds(half) ? lox_put_in(v6, LOX_MAIN, in) : LOX_PUT_EXISTS;
}

/* From now on the flow in the large table is the one that counts; if it has ended or closed meanwhile, it is taken off. */
LOX_INLINE void lox_count_here(const struct lox_ref *main, __u32 endpoint)
{
	lox_clear_flags(main->flow, LOX_FLOW_CLOSED);
	if (!lox_holds(main) || lox_over(main->flow->state))
		lox_leave_endpoint(main->flow, endpoint);
}

/* What happened to the flow in the half-open table while it moved happened to this one. The dead slot rests, so it is ours. */
LOX_INLINE void lox_inherit(struct lox_flow *half, const struct lox_ref *main, __u32 endpoint)
{
	__u8 late = lox_set_flags(half, LOX_FLOW_CLOSED), state = READ_ONCE(half->state);

	__sync_fetch_and_add(&main->flow->packets, half->packets);
	__sync_fetch_and_add(&main->flow->bytes, half->bytes);
	if (late & LOX_FLOW_FIN)
		lox_set_flags(main->flow, LOX_FLOW_FIN);
	if (state > main->flow->state)
		WRITE_ONCE(main->flow->state, state);
	if (!(late & (LOX_FLOW_CLOSED | LOX_FLOW_REPLY)))
		lox_count_here(main, endpoint);
}

/*
 * Second half: the flow leaves the half-open table. Whoever ends it there hands it over; where it gave way to another flow
 * instead, and was taken off the live ones for it, it is counted anew by who inserted it.
 */
LOX_INLINE void lox_depart(const bool v6, struct lox_insert *in, const struct lox_ref *half, int put)
{
	__u32 dead = (half->word & ~LOX_SLOT_MASK) | LOX_SLOT_DEAD, endpoint = in->cold.endpoint;
	bool killed = lox_kill(half, lox_now());
	struct lox_ref main;

	if (killed)
		lox_leave_half_open(half->flow, in->cold.rule);
	lox_look_up(v6, LOX_MAIN, &in->key, &main);
	if (killed && !main.flow)
		lox_retire(half->flow, endpoint);
	if (!main.flow)
		return;
	if (killed) {
		lox_inherit(half->flow, &main, endpoint);
	} else if (put == LOX_PUT_DONE && READ_ONCE(half->flow->word) != dead && !(in->flags & LOX_FLOW_REPLY)) {
		lox_count_flow(endpoint, 1);
		lox_count_here(&main, endpoint);
	}
	if (put == LOX_PUT_DONE)
		lox_report(v6, main.flow, &in->cold, LOX_EVENT_OPENED);
}

/* Move one direction; it can be found throughout. Returns false when the large table is full. */
LOX_INLINE bool lox_move(const bool v6, struct lox_insert *in, const struct lox_ref *half, __u8 state)
{
	int put;

	if (!half->cold)
		return false;
	put = lox_enter(v6, in, half, state);
	if (put != LOX_PUT_DONE && put != LOX_PUT_EXISTS)
		return false;
	lox_depart(v6, in, half, put);
	return true;
}

/*
 * The other direction has given way to a newer half-open flow: make it anew from this one, straight in the large table.
 * Returns false when that is full.
 */
LOX_INLINE bool lox_restore(const bool v6, struct lox_work *w, const struct lox_ref *own, __u8 state)
{
	int put;

	if (own->flow->flags & LOX_FLOW_DIRECT || !own->cold || lox_present(v6, LOX_MAIN, &w->reverse))
		return true;
	__builtin_memset(&w->in, 0, sizeof(w->in));
	w->in.key = w->reverse;
	w->in.new_saddr = w->p.tuple.daddr;
	w->in.new_daddr = w->p.tuple.saddr;
	w->in.new_sport = w->p.tuple.dport;
	w->in.new_dport = w->p.tuple.sport;
	w->in.flags = (own->flow->flags ^ LOX_FLOW_REPLY) & (LOX_FLOW_REPLY | LOX_FLOW_SOURCE);
	w->in.state = state;
	w->in.window_scale = LOX_SCALE_UNKNOWN;
	w->in.cold = *own->cold;
	put = lox_put_in(v6, LOX_MAIN, &w->in);
	if (put == LOX_PUT_DONE && !(w->in.flags & LOX_FLOW_REPLY))
		lox_count_flow(own->cold->endpoint, 1); /* taken off when the direction gave way */
	return put == LOX_PUT_DONE || put == LOX_PUT_EXISTS;
}

/* The large table took the other direction but not this one: that one is as before, though it stays there. */
LOX_INLINE void lox_put_back(const bool v6, struct lox_work *w, __u8 state)
{
	struct lox_ref peer;

	lox_look_up(v6, LOX_MAIN, &w->reverse, &peer);
	if (peer.flow)
		WRITE_ONCE(peer.flow->state, state);
}

/*
 * Move both directions, the other one first. When the large table is full the flow stays what it is, and this returns
 * false.
 */
LOX_INLINE bool lox_promote(const bool v6, __u8 state)
{
	struct lox_work *w = lox_work();
	struct lox_ref own, peer;
	__u8 before;

	if (!w)
		return false;
	lox_look_up(v6, LOX_HALF, &w->p.tuple, &own);
	if (!own.flow)
		return true;
	before = own.flow->state;
	lox_look_up(v6, LOX_HALF, &w->reverse, &peer);
	if (!(peer.flow ? lox_move(v6, &w->in, &peer, state) : lox_restore(v6, w, &own, state)))
		return false;
	if (lox_move(v6, &w->in, &own, state))
		return true;
	lox_put_back(v6, w, before);
	return false;
}

__noinline int lox_promote4(__u32 state)
{
	return lox_promote(false, state);
}

__noinline int lox_promote6(__u32 state)
{
	return lox_promote(true, state);
}

#endif
