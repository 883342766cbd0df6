/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* A new flow: choose an endpoint, allocate the source port, insert both directions as half-open. */
#ifndef LOX_OPEN_H
#define LOX_OPEN_H

#include "service.h"
#include "state.h"
#include "work.h"

#define LOX_FIRST_PORT 1024
#define LOX_PORTS (65536 - LOX_FIRST_PORT)

/* Source port number `try`: the client's own first, then others from a random start. */
LOX_INLINE __be16 lox_candidate(__be16 own, __u32 start, __u32 try)
{
	return try ? bpf_htons(LOX_FIRST_PORT + (start + try * 7919) % LOX_PORTS) : own;
}

/* The direction from the endpoint: arrives for (source, port), becomes what the client expects. */
LOX_INLINE void lox_reply_of(const struct lox_tuple *t, const struct lox_choice *choice, struct lox_insert *in)
{
	bool echo = t->proto == IPPROTO_ICMP || t->proto == IPPROTO_ICMPV6;

	in->key.saddr = choice->endpoint->addr;
	in->key.sport = echo ? 0 : choice->endpoint->port;
	in->key.proto = t->proto;
	in->new_saddr = t->daddr;
	in->new_daddr = t->saddr;
	in->new_sport = t->dport;
	in->new_dport = t->sport;
	in->flags = LOX_FLOW_REPLY;
}

/* Turn the inserted reply direction into the forward one. */
LOX_INLINE void lox_forward_of(const struct lox_tuple *t, struct lox_insert *in)
{
	in->new_saddr = in->key.daddr;
	in->new_daddr = in->key.saddr;
	in->new_sport = in->key.dport;
	in->new_dport = in->key.sport;
	in->key = *t;
	in->flags &= ~LOX_FLOW_REPLY;
}

/* Take back what was inserted at `at`. */
LOX_INLINE void lox_abandon(const bool v6, struct lox_tuple *key, __u32 at)
{
	struct lox_ref ref;

	lox_look_up(v6, LOX_HALF, key, &ref);
	if (ref.flow && ref.at == at)
		lox_kill(&ref, lox_now());
}

/* Insert the reply direction under the first free source port. Returns 0 or the reason to drop. */
LOX_INLINE int lox_open_reply(const bool v6, const struct lox_tuple *t, struct lox_insert *in)
{
	__u32 start = 0;

	for (__u32 try = 0; try < LOX_PORT_TRIES; try++) {
		int put;

		if (try == 1) {
			start = bpf_get_prandom_u32();
			in->flags |= LOX_FLOW_SOURCE;
		}
		in->key.dport = lox_candidate(t->sport, start, try);
		put = lox_put_in(v6, LOX_HALF, in);
		if (put == LOX_PUT_EXISTS)
			continue;
		if (put != LOX_PUT_DONE)
			return put == LOX_PUT_BUSY ? LOX_DROP_BUSY : LOX_DROP_TABLE_FULL;
		/* A flow enters the large table before it leaves the half-open one: to miss it in both, look here last. */
		if (!lox_present(v6, LOX_MAIN, &in->key))
			return 0;
		lox_abandon(v6, &in->key, in->at);
	}
	return LOX_DROP_NO_PORT;
}

/* Source the endpoint sees, which the reply comes back to. Returns 0 or the reason to drop. */
LOX_INLINE int lox_source(const bool v6, const struct lox_tuple *t, const struct lox_choice *choice,
			  struct lox_insert *in)
{
	const union lox_addr *source = &choice->endpoint->source;

	if (choice->mode == LOX_MODE_DEFAULT) {
		in->key.daddr = t->saddr;
		return 0;
	}
	in->key.daddr = *source;
	in->flags |= LOX_FLOW_SOURCE;
	if (v6 ? !(source->half[0] | source->half[1]) : !source->v4)
		return LOX_DROP_NO_SOURCE;
	return 0;
}

/*
 * Insert the forward direction. When another CPU has opened the flow meanwhile, its endpoint stands and the reply
 * direction inserted here ends. Returns 0 or the reason to drop.
 */
LOX_INLINE int lox_open_forward(const bool v6, struct lox_work *w)
{
	__u32 reply_at = w->in.at;
	int put;

	w->reverse = w->in.key;
	lox_forward_of(&w->p.tuple, &w->in);
	put = lox_put_in(v6, LOX_HALF, &w->in);
	if (put == LOX_PUT_DONE && !lox_present(v6, LOX_MAIN, &w->in.key))
		return 0;
	if (put == LOX_PUT_DONE)
		lox_abandon(v6, &w->in.key, w->in.at);
	lox_abandon(v6, &w->reverse, reply_at);
	if (put == LOX_PUT_DONE || put == LOX_PUT_EXISTS)
		return 0;
	return put == LOX_PUT_BUSY ? LOX_DROP_BUSY : LOX_DROP_TABLE_FULL;
}

/*
 * Open a flow to one of the rule's endpoints. Returns 0 when it is in the half-open table (or a twin, opened by another
 * CPU at the same moment, is in either table), else the reason to drop.
 */
LOX_INLINE int lox_open(const bool v6, __u32 rule_id)
{
	struct lox_work *w = lox_work();
	struct lox_choice choice;
	int reason;

	if (!w)
		return LOX_DROP_BUSY;
	reason = lox_choose(v6, rule_id, &w->p.tuple, &choice);
	if (reason)
		return reason;
	__builtin_memset(&w->in, 0, sizeof(w->in));
	lox_reply_of(&w->p.tuple, &choice, &w->in);
	reason = lox_source(v6, &w->p.tuple, &choice, &w->in);
	if (reason)
		return reason;
	w->in.state = w->p.tuple.proto == IPPROTO_TCP ? LOX_STATE_SYN_SENT : LOX_STATE_ONE_WAY;
	w->in.cold.created = lox_now();
	w->in.cold.rule = choice.rule_id;
	w->in.cold.endpoint = choice.endpoint_id;
	reason = lox_open_reply(v6, &w->p.tuple, &w->in);
	if (reason)
		return reason;
	return lox_open_forward(v6, w);
}

__noinline int lox_open4(__u32 rule_id)
{
	return lox_open(false, rule_id);
}

__noinline int lox_open6(__u32 rule_id)
{
	return lox_open(true, rule_id);
}

#endif
