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
 * Move one direction. Inserted with empty counters first, so the flow can be found throughout; then the old slot dies
 * and what it counted is added. Returns false when the large table is full.
 */
LOX_INLINE bool lox_move(const bool v6, struct lox_insert *in, const struct lox_ref *half, __u8 state)
{
	struct lox_ref main;
	int put;

	if (!half->cold)
		return false;
	lox_insert_of(v6, half->flow, half->cold, state, in);
	if (!lox_holds(half))
		return true;
	put = lox_put_in(v6, LOX_MAIN, in);
	if (put != LOX_PUT_DONE && put != LOX_PUT_EXISTS)
		return false;
	lox_look_up(v6, LOX_MAIN, &in->key, &main);
	if (!lox_kill(half, lox_now()))
		return true;
	lox_leave_half_open(half->flow, half->cold->rule);
	if (!main.flow)
		return true;
	__sync_fetch_and_add(&main.flow->packets, half->flow->packets);
	__sync_fetch_and_add(&main.flow->bytes, half->flow->bytes);
	if (put == LOX_PUT_DONE)
		lox_report(v6, main.flow, &in->cold, LOX_EVENT_OPENED);
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

/* Move both directions, the other one first. */
LOX_INLINE bool lox_promote(const bool v6, __u8 state)
{
	struct lox_work *w = lox_work();
	struct lox_ref own, peer;

	if (!w)
		return false;
	lox_look_up(v6, LOX_HALF, &w->p.tuple, &own);
	if (!own.flow)
		return true;
	lox_look_up(v6, LOX_HALF, &w->reverse, &peer);
	if (!(peer.flow ? lox_move(v6, &w->in, &peer, state) : lox_restore(v6, w, &own, state)))
		return false;
	return lox_move(v6, &w->in, &own, state);
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
